//! Something the client can poll: a real kernel object that is readable while there is something to read.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, epoll, eventfd};
use swiommu_abi::Errno;
use swiommu_mem::fd::{Hidden, duplicate};

/// The readiness of one queue. Its owner changes it under the lock of the queue.
#[derive(Debug)]
pub struct Readiness {
    /// An eventfd that holds 1 while there is something to read.
    counter: Hidden,
    readable: bool,
}

/// Whether the client may poll for writing, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Always ready.
    Always,
    /// Never.
    Never,
}

impl Readiness {
    /// Not ready, and the descriptor for the client. An eventfd can always be written; where the kernel's file never can,
    /// the client gets an epoll descriptor with the eventfd in it, which is readable when that is.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn new(writable: Writable) -> Result<(Readiness, OwnedFd), Errno> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC).map_err(errno)?;
        let object = match writable {
            Writable::Always => duplicate(&counter)?,
            Writable::Never => {
                let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno)?;
                let data = epoll::EventData::new_u64(0);
                epoll::add(&set, &counter, data, epoll::EventFlags::IN).map_err(errno)?;
                set
            }
        };
        let readiness = Readiness {
            counter: Hidden::new(counter)?,
            readable: false,
        };
        Ok((readiness, object))
    }

    /// There is something to read, or not.
    pub fn set(&mut self, readable: bool) {
        if self.readable == readable {
            return;
        }
        self.readable = readable;
        // Neither can block: the counter goes from 0 to 1 and back, under the owner's lock.
        let done = match readable {
            true => rustix::io::write(&self.counter, &1u64.to_ne_bytes()),
            false => rustix::io::read(&self.counter, &mut [0u8; 8]),
        };
        debug_assert_eq!(done, Ok(8), "the counter is changed by nobody else");
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn polled(object: &OwnedFd) -> PollFlags {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(object, PollFlags::IN | PollFlags::OUT)];
        poll(&mut ready, Some(&now)).unwrap();
        ready[0].revents()
    }

    #[test]
    fn it_is_readable_exactly_while_there_is_something_to_read() {
        for (writable, always) in [
            (Writable::Always, PollFlags::OUT),
            (Writable::Never, PollFlags::empty()),
        ] {
            let (mut readiness, object) = Readiness::new(writable).unwrap();
            assert_eq!(polled(&object), always);
            readiness.set(true);
            readiness.set(true);
            assert_eq!(polled(&object), always | PollFlags::IN);
            readiness.set(false);
            assert_eq!(polled(&object), always);
        }
    }

    #[test]
    fn a_duplicate_of_the_descriptor_is_readable_with_it() {
        let (mut readiness, object) = Readiness::new(Writable::Never).unwrap();
        let copy = duplicate(&object).unwrap();
        drop(object);
        readiness.set(true);
        assert_eq!(polled(&copy), PollFlags::IN);
    }
}
