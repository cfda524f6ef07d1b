//! Another process, as the engine here sees it: its descriptors and its memory, asked for when they are needed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use swiommu_abi::Errno;
use swiommu_engine::door::Process;
use swiommu_engine::service::{Head, Wire, connect, op};
use swiommu_mem::{UserAddr, Window};

use super::share::Run;
use crate::config;

/// How long a process may take to hand something over. One that is stopped counts as gone after that.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process. The connection is made while it calls: whatever process has its id later is another one.
pub(super) struct Peer {
    pid: u32,
    wire: Mutex<Wire>,
}

impl Peer {
    /// The process that calls just now.
    ///
    /// # Errors
    /// When it cannot be reached: it then has neither descriptors nor memory.
    pub(super) fn new(pid: u32) -> Result<Peer, Errno> {
        let config = config::get().ok_or(Errno::ENODEV)?;
        let wire = connect(Path::new(&config.run), pid)?;
        wire.wait_at_most(PATIENCE);
        Ok(Peer {
            pid,
            wire: Mutex::new(wire),
        })
    }

    fn wire(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.wire
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A descriptor of it, by its number there.
    ///
    /// # Errors
    /// `EBADF`.
    pub(super) fn fetch(&self, number: i32) -> Result<OwnedFd, Errno> {
        let number = u64::try_from(number).map_err(|_| Errno::EBADF)?;
        let head = Head {
            op: op::FETCH,
            args: [number, 0, 0, 0],
            ..Head::default()
        };
        let answer = self.wire().ask(&head, &[], &[]);
        answer
            .ok()
            .and_then(|mut answer| answer.fds.pop())
            .ok_or(Errno::EBADF)
    }
}

impl Peer {
    /// Gives it a descriptor: the number it has there.
    ///
    /// # Errors
    /// `EMFILE`; `ENODEV` when it is gone.
    pub(super) fn give(&self, object: BorrowedFd<'_>) -> Result<i32, Errno> {
        let head = Head {
            op: op::GIVE,
            ..Head::default()
        };
        let answer = self.wire().ask(&head, &[], &[object])?;
        i32::try_from(answer.head.args[0]).map_err(|_| Errno::ENODEV)
    }
}

impl Process for Peer {
    fn id(&self) -> u32 {
        self.pid
    }

    fn pin(
        &self,
        first: UserAddr,
        bytes: u64,
        write: bool,
        window: &Window,
        offset: u64,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes {
            let head = Head {
                op: op::PIN,
                args: [first.0 + done, bytes - done, u64::from(write), 0],
                ..Head::default()
            };
            let answer = self
                .wire()
                .ask(&head, &[], &[])
                .map_err(|errno| match errno {
                    Errno::ENODEV => Errno::EFAULT,
                    other => other,
                })?;
            let mut covered = 0;
            for run in Run::all(&answer.body) {
                let fits = run.bytes != 0 && run.bytes <= bytes - done - covered;
                if !fits {
                    return Err(Errno::EFAULT);
                }
                let place = offset + done + covered;
                match answer.fds.get(run.fd as usize) {
                    Some(file) => window.show(place, run.bytes, file.as_fd(), run.at),
                    None => {
                        let here = super::share::find_here(&run).ok_or(Errno::EFAULT)?;
                        window.alias(place, run.bytes, here)
                    }
                }
                .map_err(|_| Errno::EFAULT)?;
                covered += run.bytes;
            }
            if covered == 0 {
                return Err(Errno::EFAULT);
            }
            done += covered;
        }
        Ok(())
    }
}
