//! A file whose engine is in another process: every operation is a question to it.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use swiommu_abi::Errno;
use swiommu_engine::door::{Answer, Call, CharDevice, File, Mmio, NewFile, Span};
use swiommu_engine::service::{Head, Packet, Wire, connect, op};
use swiommu_mem::UserAddr;
use swiommu_mem::fd::{Hidden, dup_client_fd};

use super::{registry, service, takeover};
use crate::lock::Quiet;
use crate::{config, sys};

/// Connections that no thread is using, with the process they lead to.
pub(super) static IDLE: Quiet<Vec<(u32, Wire)>> = Quiet::new(Vec::new());
static TOLD: AtomicBool = AtomicBool::new(false);

/// How long an owner may take to notice that a file was closed; the client does not hang on one that is stopped.
const CLOSING: Duration = Duration::from_secs(1);

/// The file.
pub struct RemoteFile {
    owner: u32,
    key: u64,
    /// A descriptor of our own: the file is open as long as a mapping of it is, whatever the client closes.
    object: Option<Hidden>,
    /// What tells the owner that the file is open here, where the object cannot.
    lifeline: Option<Hidden>,
    link: String,
    device: Option<CharDevice>,
    stream: bool,
    /// Memory of other objects that was mapped through it.
    others: Mutex<Vec<Hidden>>,
}

impl RemoteFile {
    /// A file that nobody answers for, opened by `path`.
    pub(super) fn of_nobody(owner: u32, key: u64, object: OwnedFd, path: &str) -> RemoteFile {
        RemoteFile::described(
            owner,
            key,
            object,
            &Packet {
                body: path.as_bytes().to_vec(),
                ..Packet::default()
            },
        )
    }

    /// A file of process `owner`: asks what it is.
    ///
    /// # Errors
    /// `ENODEV` when the process is gone or does not know the file.
    pub(super) fn ask_for(owner: u32, key: u64, object: OwnedFd) -> Result<RemoteFile, Errno> {
        let head = Head {
            op: op::DESCRIBE,
            file: key,
            ..Head::default()
        };
        let described = ask(owner, &head)?;
        Ok(RemoteFile::described(owner, key, object, &described))
    }

    fn described(owner: u32, key: u64, object: OwnedFd, answer: &Packet) -> RemoteFile {
        let [major, minor, device, _] = answer.head.args;
        RemoteFile {
            owner,
            key,
            object: Hidden::kept(object).ok(),
            lifeline: None,
            link: String::from_utf8_lossy(&answer.body).into_owned(),
            stream: device & 2 != 0,
            others: Mutex::default(),
            device: (device & 1 != 0).then_some(CharDevice {
                major: major as u32,
                minor: minor as u32,
            }),
        }
    }

    /// The file as a remote one, if it is.
    pub fn of(file: &Arc<dyn File>) -> Option<&RemoteFile> {
        (&**file as &dyn Any).downcast_ref()
    }

    fn ask(&self, call: &Call<'_>, op: u32, args: [u64; 4]) -> Result<Packet, Errno> {
        let head = Head {
            op,
            thread: call.thread,
            site: call.site,
            file: self.key,
            args,
        };
        // The engine asks back for descriptors and memory.
        service::start();
        ask(self.owner, &head)
    }

    /// Asks, or goes on with the file that has taken the place of this one, with `then`.
    fn ask_or<T>(
        &self,
        call: &Call<'_>,
        (op, args): (u32, [u64; 4]),
        then: impl FnOnce(&dyn File) -> Result<T, Errno>,
        answered: impl FnOnce(Packet) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match self.ask(call, op, args) {
            Err(Errno::ENODEV) => then(&*self.heir().ok_or(Errno::ENODEV)?),
            answer => answered(answer?),
        }
    }

    /// What this file is now if the process that answered for it does no longer: this process or another one has taken
    /// it over. From then on its numbers lead there.
    pub fn heir(&self) -> Option<Arc<dyn File>> {
        let keeps = Head {
            op: op::KEEPS,
            file: self.key,
            ..Head::default()
        };
        if ask(self.owner, &keeps).is_ok() {
            return None;
        }
        let object = self.object.as_ref()?;
        let heir = crate::guard::enter(|| takeover::find(object.as_fd()));
        match &heir {
            Some(heir) => crate::files::replace((&raw const *self).cast(), heir),
            None if TOLD.swap(true, Ordering::Relaxed) => {}
            None => sys::stderr(&[
                "swiommu: the process that opened ",
                &self.link,
                " is gone: it answers ENODEV\n",
            ]),
        }
        heir
    }
}

/// Asks a process over a connection that is free, or a new one.
fn ask(owner: u32, head: &Head) -> Result<Packet, Errno> {
    let config = config::get().ok_or(Errno::ENODEV)?;
    let idle = IDLE.with(|idle| {
        let at = idle.iter().position(|(to, _)| *to == owner)?;
        Some(idle.swap_remove(at).1)
    });
    let wire = match idle {
        Some(wire) => wire,
        None => connect(Path::new(&config.run), owner).map_err(|_| Errno::ENODEV)?,
    };
    let answer = wire.ask(head, &[], &[]);
    if answer.as_ref().err() != Some(&Errno::ENODEV) {
        IDLE.with(|idle| idle.push((owner, wire)));
    }
    answer
}

impl RemoteFile {
    /// What an ioctl answered, perhaps a new descriptor.
    fn opened(&self, mut answer: Packet) -> Result<Answer, Errno> {
        let mut fds = std::mem::take(&mut answer.fds).into_iter();
        let Some(object) = fds.next() else {
            return Ok(Answer::Value(answer.head.args[0] as i32));
        };
        let ours = swiommu_mem::fd::duplicate(&object)?;
        let mut file = RemoteFile::described(self.owner, answer.head.file, ours, &answer);
        file.lifeline = fds.next().and_then(|lifeline| Hidden::kept(lifeline).ok());
        let file = Arc::new(file);
        match answer.head.args[3] {
            0 => Ok(Answer::Open(NewFile { object, file })),
            // The number was given, and the client told, during the call.
            given => {
                crate::files::put((given - 1) as i32, file);
                Ok(Answer::Value(0))
            }
        }
    }

    /// The spans of a mapping of `bytes` bytes.
    fn spans(&self, answer: Packet, bytes: u64) -> Result<Vec<(u64, Span)>, Errno> {
        let word = |at: &[u8]| at.try_into().map(u64::from_le_bytes).unwrap_or(0);
        let mut objects = answer.fds.into_iter();
        let mut spans = Vec::new();
        for words in answer.body.chunks_exact(24) {
            let span = match word(&words[8..16]) {
                0 => Span::Memory,
                1 => Span::Trap,
                _ => {
                    let object = Hidden::kept(objects.next().ok_or(Errno::EIO)?)?;
                    let number = object.as_fd().as_raw_fd();
                    self.others
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .push(object);
                    Span::Elsewhere {
                        object: number,
                        offset: word(&words[16..]),
                    }
                }
            };
            spans.push((word(&words[..8]), span));
        }
        let whole = spans
            .iter()
            .try_fold(0u64, |sum, (bytes, _)| sum.checked_add(*bytes));
        if whole == Some(bytes) {
            Ok(spans)
        } else {
            Err(Errno::EIO)
        }
    }
}

impl File for RemoteFile {
    fn link(&self) -> String {
        self.link.clone()
    }

    fn char_device(&self) -> Option<CharDevice> {
        self.device
    }

    // Of a file that is elsewhere it is said there.
    fn is_fresh(&self) -> bool {
        true
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        self.ask_or(
            call,
            (op::IOCTL, [u64::from(cmd), arg, 0, 0]),
            |file| file.ioctl(call, cmd, arg),
            |answer| self.opened(answer),
        )
    }

    fn is_stream(&self) -> bool {
        self.stream
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.ask_or(
            call,
            (op::PREAD, [to.0, bytes, offset, 0]),
            |file| file.pread(call, to, bytes, offset),
            |answer| Ok(answer.head.args[0]),
        )
    }

    fn pwrite(
        &self,
        call: &Call<'_>,
        from: UserAddr,
        bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        self.ask_or(
            call,
            (op::PWRITE, [from.0, bytes, offset, 0]),
            |file| file.pwrite(call, from, bytes, offset),
            |answer| Ok(answer.head.args[0]),
        )
    }

    fn mmap(
        &self,
        call: &Call<'_>,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        self.ask_or(
            call,
            (op::MMAP, [offset, bytes, u64::from(write), 0]),
            |file| file.mmap(call, offset, bytes, write),
            |answer| self.spans(answer, bytes),
        )
    }

    fn mmio(&self, call: &Call<'_>, offset: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let (write, value) = match access {
            Mmio::Read => (0, 0),
            Mmio::Write(value) => (1, value),
        };
        let args = [offset, u64::from(bytes), write, value];
        let gone = if write == 1 { 0 } else { u64::MAX };
        match self.ask(call, op::MMIO, args) {
            Ok(answer) => Some(answer.head.args[0]),
            Err(Errno::EFAULT) => None,
            Err(_) => Some(gone),
        }
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        let closed = Head {
            op: op::CLOSED,
            file: self.key,
            ..Head::default()
        };
        drop((self.object.take(), self.lifeline.take()));
        // As with the kernel, what the last close ends has ended when it returns.
        let Some(config) = config::get() else { return };
        if let Ok(wire) = connect(Path::new(&config.run), self.owner) {
            wire.wait_at_most(CLOSING);
            let _ = wire.ask(&closed, &[], &[]);
        }
    }
}

/// What a child of fork has instead of the parent's files: each once, however many numbers and mappings lead to it.
pub struct Inherited {
    parent: u32,
    made: Vec<(*const (), Arc<dyn File>)>,
}

impl Inherited {
    /// Nothing yet.
    pub fn new(parent: u32) -> Inherited {
        Inherited {
            parent,
            made: Vec::new(),
        }
    }

    /// The file behind a number.
    pub fn behind(&mut self, number: i32, file: &Arc<dyn File>) -> Arc<dyn File> {
        self.stand_in(file, dup_client_fd(number, 0).ok())
    }

    /// The file of a mapping; those of numbers come first.
    pub fn mapped(&mut self, file: &Arc<dyn File>) -> Arc<dyn File> {
        self.stand_in(file, None)
    }

    fn stand_in(&mut self, file: &Arc<dyn File>, object: Option<OwnedFd>) -> Arc<dyn File> {
        if RemoteFile::of(file).is_some() {
            return Arc::clone(file);
        }
        let which = Arc::as_ptr(file).cast();
        let made = self.made.iter().find(|(of, _)| *of == which);
        if let Some((_, made)) = made {
            return Arc::clone(made);
        }
        // A file that was opened in another thread while this one forked has no key, and nobody answers for it.
        let key = registry::key_of(file).unwrap_or(0);
        let new: Arc<dyn File> = Arc::new(RemoteFile {
            owner: self.parent,
            key,
            object: object.and_then(|object| Hidden::kept(object).ok()),
            lifeline: registry::lifeline(file).and_then(|lifeline| Hidden::kept(lifeline).ok()),
            link: file.link(),
            device: file.char_device(),
            stream: file.is_stream(),
            others: Mutex::default(),
        });
        self.made.push((which, Arc::clone(&new)));
        new
    }
}

/// In the child of a fork: the connections are the parent's.
pub(super) fn forget() {
    IDLE.with(|idle| std::mem::forget(std::mem::take(idle)));
    TOLD.store(false, Ordering::Relaxed);
}
