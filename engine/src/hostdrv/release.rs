//! A function stops being VFIO's: new opens are refused, and whoever has it open is asked to let it go
//! (`vfio_unregister_group_dev`).

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use swiommu_abi::Errno;

use super::lock::{self, Lock};
use super::{Host, damaged, group_lock, owner_lock, vfio_lock};
use crate::machine::Bdf;
use crate::service::{self, kind};

/// How long the kernel waits before it asks again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often we look where the kernel cannot tell us that a file was closed.
const BLIND: Duration = Duration::from_millis(10);

impl Host {
    /// Takes a function away from VFIO. Waits, without end, until the client that has it open closes it.
    pub(super) fn unregister(&self, index: usize) -> Result<(), Errno> {
        let function = &self.functions[index];
        let name = vfio_lock(function.bdf);
        let closed = Closed::of(&self.run.join("locks").join(&name));
        let in_use = Lock::to_remove(&self.run, &name);
        lock::remove(&self.run, &name);
        if let Some(mut in_use) = in_use {
            while !in_use.is_free() {
                self.request(function.bdf);
                closed.wait(|| in_use.is_free());
            }
        }
        let _host = self.lock()?;
        self.tree
            .remove_device_node(&self.machine, function)
            .map_err(damaged)?;
        if self.is_last_of_group(index) {
            // an open file of the group lives on, without the group: what it owned is free
            lock::remove(&self.run, &group_lock(function.group));
            lock::remove(&self.run, &owner_lock(function.group));
            self.tree
                .remove_group_node(&self.machine, function.group)
                .map_err(damaged)?;
        }
        Ok(())
    }

    /// Asks whoever has a function open to let it go. Who cannot be asked has ended.
    fn request(&self, bdf: Bdf) {
        let bdf = bdf.to_string();
        for engine in service::processes(&self.run) {
            let _ = service::ask(&self.run, engine, kind::DEVICE_REQUESTED, bdf.as_bytes());
        }
    }

    /// Has its group no other function that is VFIO's?
    fn is_last_of_group(&self, index: usize) -> bool {
        let group = self.functions[index].group;
        let mut members = self.functions.iter();
        !members.any(|function| {
            let path = self.run.join("locks").join(vfio_lock(function.bdf));
            function.group == group && path.exists()
        })
    }
}

/// Tells when a file was closed somewhere.
struct Closed(Option<std::os::fd::OwnedFd>);

impl Closed {
    fn of(path: &std::path::Path) -> Closed {
        let watch = || {
            let events = inotify::init(inotify::CreateFlags::CLOEXEC).ok()?;
            inotify::add_watch(&events, path, inotify::WatchFlags::CLOSE).ok()?;
            Some(events)
        };
        Closed(watch())
    }

    /// Until `done`, or for as long as the kernel would wait.
    fn wait(&self, mut done: impl FnMut() -> bool) {
        let Some(events) = &self.0 else {
            let times = PATIENCE.as_millis() / BLIND.as_millis();
            for _ in 0..times {
                if done() {
                    return;
                }
                std::thread::sleep(BLIND);
            }
            return;
        };
        let mut ready = [PollFd::new(events, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        if poll(&mut ready, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            let mut events_read = [std::mem::MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(events, &mut events_read);
            // the event itself says nothing more
            let _ = reader.next();
        }
    }
}
