//! Waiting for writes to an eventfd of the client, as `drivers/vfio/virqfd.c` does from within the kernel.

use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::ReadWriteFlags;
use swiommu_abi::Errno;

use crate::fd::{Hidden, dup_client_fd, is_eventfd, owns};
use crate::raw::errno;

/// What `wait` is told apart by.
const WRITTEN: u64 = 0;
const STOPPED: u64 = 1;

/// A reference of our own to an eventfd of the client, and a way to sleep until somebody writes to it.
#[derive(Debug)]
pub struct EventWatch {
    event: Hidden,
    /// The kernel's number of the eventfd; all eventfds share one inode.
    id: u64,
    epoll: Hidden,
    stop: Hidden,
}

impl EventWatch {
    /// Takes a reference. The flag says whether the counter was not zero: such writes are not waited for.
    ///
    /// # Errors
    /// `EBADF` if the number is not open, `EINVAL` if it is not an eventfd, `EMFILE` without numbers of our own.
    pub fn of_client(fd: i32) -> Result<(EventWatch, bool), Errno> {
        let event = dup_client_fd(fd, 0)?;
        if !is_eventfd(event.as_fd()) {
            return Err(Errno::EINVAL);
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno)?;
        let watch = EventWatch {
            id: eventfd_id(event.as_raw_fd()).unwrap_or(0),
            event: Hidden::new(event)?,
            epoll: Hidden::new(epoll)?,
            stop: Hidden::new(stop)?,
        };
        // Edge-triggered: it is the writes that count, whatever the client itself reads.
        let written = epoll::EventData::new_u64(WRITTEN);
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&watch.epoll, &watch.event, written, edge).map_err(errno)?;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let pending = watch.next(Some(&now)) == Some(WRITTEN);
        let stopped = epoll::EventData::new_u64(STOPPED);
        epoll::add(&watch.epoll, &watch.stop, stopped, epoll::EventFlags::IN).map_err(errno)?;
        Ok((watch, pending))
    }

    fn next(&self, timeout: Option<&Timespec>) -> Option<u64> {
        let mut room = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 2];
        loop {
            match epoll::wait(&self.epoll, &mut room[..], timeout) {
                Ok(count) => return room[..count].iter().map(|event| event.data.u64()).max(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sleeps until the client has written. `false`: [`EventWatch::stop`] was called.
    pub fn wait(&self) -> bool {
        self.next(None) == Some(WRITTEN)
    }

    /// Takes what was written out of the counter. Never sleeps.
    pub fn drain(&self) {
        let mut count = [0; 8];
        let to = &mut [std::io::IoSliceMut::new(&mut count)];
        let _ = rustix::io::preadv2(&self.event, to, u64::MAX, ReadWriteFlags::NOWAIT);
    }

    /// Lets whoever waits go, for good.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Whether the client still has a descriptor of the eventfd. Looks through all of them.
    pub fn is_open(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(numbers) =
            rustix::fs::open("/proc/self/fd", flags, Mode::empty()).and_then(rustix::fs::Dir::new)
        else {
            return true;
        };
        numbers
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
            .any(|number: i32| !owns(number) && eventfd_id(number) == Some(self.id))
    }
}

/// The number by which the kernel tells an eventfd from others, `None` if the descriptor is none.
fn eventfd_id(fd: i32) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{fd}");
    let info = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 512];
    let bytes = rustix::io::read(info, &mut text).ok()?;
    let text = std::str::from_utf8(&text[..bytes]).ok()?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("eventfd-id:"))?;
    id.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn event(flags: EventfdFlags) -> OwnedFd {
        eventfd(0, flags | EventfdFlags::CLOEXEC).unwrap()
    }

    fn write(fd: &OwnedFd) {
        rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
    }

    fn count(fd: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(fd, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    #[test]
    fn every_write_wakes_the_watch_and_draining_takes_it() {
        for flags in [EventfdFlags::NONBLOCK, EventfdFlags::empty()] {
            let fd = event(flags);
            let (watch, pending) = EventWatch::of_client(fd.as_raw_fd()).unwrap();
            assert!(!pending);
            for _ in 0..3 {
                write(&fd);
                assert!(watch.wait());
                watch.drain();
                watch.drain();
            }
            watch.stop();
            assert!(!watch.wait() && !watch.wait());
        }
    }

    #[test]
    fn what_was_written_before_is_told_and_left_and_the_next_write_wakes() {
        let fd = event(EventfdFlags::NONBLOCK);
        write(&fd);
        let (watch, pending) = EventWatch::of_client(fd.as_raw_fd()).unwrap();
        assert!(pending);
        write(&fd);
        assert!(watch.wait());
        assert_eq!(count(&fd), 2);
    }

    #[test]
    fn a_stopped_watch_does_not_wake_again_for_a_write() {
        let fd = event(EventfdFlags::NONBLOCK);
        let (watch, _) = EventWatch::of_client(fd.as_raw_fd()).unwrap();
        write(&fd);
        watch.stop();
        assert!(!watch.wait());
        assert_eq!(count(&fd), 1);
    }

    #[test]
    fn an_eventfd_is_open_while_the_client_has_a_number_for_it() {
        let (fd, other) = (event(EventfdFlags::NONBLOCK), event(EventfdFlags::NONBLOCK));
        let (watch, _) = EventWatch::of_client(fd.as_raw_fd()).unwrap();
        let twin = rustix::io::dup(&fd).unwrap();
        drop(fd);
        assert!(watch.is_open());
        drop(twin);
        assert!(!watch.is_open());
        drop(other);
    }

    #[test]
    fn only_an_eventfd_can_be_watched() {
        let file = crate::fd::memfd("x", 4096).unwrap();
        let refused = |fd| EventWatch::of_client(fd).unwrap_err();
        assert_eq!(refused(file.as_raw_fd()), Errno::EINVAL);
        assert_eq!(refused(i32::MAX), Errno::EBADF);
        assert_eq!(refused(-1), Errno::EBADF);
    }
}
