//! Address spaces as objects, and who accesses them by processor.

use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::Errno;
use swiommu_iommu::Pa;

use super::ioas::{Ioas, Pinned, Space, UnmapNotice, Unmapping};
use super::object::{Kind, Object, Ref};
use crate::calls::CallRecord;

/// An address space in a [`Context`](super::context::Context).
pub struct IoasObject {
    ioas: Mutex<Ioas>,
    /// The ids of its page tables in the order they were made. Held while one is made, until it is published.
    pub hwpts: Mutex<Vec<u32>>,
}

/// How often an access may be told of an unmap before that is given up.
const TRIES: u32 = 100;

impl IoasObject {
    /// Wraps an address space.
    pub fn new(ioas: Ioas) -> IoasObject {
        IoasObject {
            ioas: Mutex::new(ioas),
            hwpts: Mutex::default(),
        }
    }

    /// The address space, locked.
    pub fn lock(&self) -> MutexGuard<'_, Ioas> {
        self.ioas.lock().unwrap()
    }

    /// Unmaps all areas in `first..=last`; whoever accesses them by processor is told first. Returns the bytes that were
    /// unmapped, and whether it came to the end.
    ///
    /// # Errors
    /// As IOMMU_IOAS_UNMAP, with what was unmapped before.
    pub fn unmap(&self, first: u64, last: u64, record: &CallRecord) -> (u64, Result<(), Errno>) {
        let (mut from, mut done, mut tries) = (first, 0, 0);
        loop {
            let mut ioas = self.lock();
            let (now, step) = ioas.unmap_range(from, last, done, record);
            done = now;
            let (first, bytes) = match step {
                Ok(Unmapping::Done(_)) => return (done, Ok(())),
                Err(error) => return (done, Err(error)),
                Ok(Unmapping::Notify { first, bytes }) => (first, bytes),
            };
            if first != from {
                (from, tries) = (first, 0);
            }
            let users = ioas.users();
            drop(ioas);
            for user in users {
                let _telling = user.telling.lock().unwrap();
                if let Some(notice) = &user.notice {
                    notice.unmap(first, bytes);
                }
            }
            tries += 1;
            if tries > TRIES {
                return (done, Err(Errno::EDEADLK));
            }
        }
    }
}

impl Object for IoasObject {
    fn kind(&self) -> Kind {
        Kind::Ioas
    }
}

impl Space for IoasObject {
    fn show(&self, look: &mut dyn FnMut(&Ioas)) {
        look(&self.lock());
    }
}

/// Access by the processor to one address space at a time (`struct iommufd_access`).
///
/// Locks: this one before that of the address space. While it is told of an unmap no lock is held but the one that
/// [`Access::close`] waits for.
pub struct Access {
    alignment: u64,
    /// What it pins cannot be unmapped.
    locks: bool,
    user: Arc<Pinned>,
    /// Where pins go, and where they come from: the latter stays while the former is replaced.
    ioas: Mutex<Attached>,
}

#[derive(Default)]
struct Attached {
    current: Option<Ref<IoasObject>>,
    unpin: Option<Ref<IoasObject>>,
}

impl Access {
    /// One that needs `alignment` (4096 to pin pages, 1 to read and write) and is told of unmaps.
    pub fn new(alignment: u64, notice: Option<Arc<dyn UnmapNotice>>) -> Access {
        Access::with(alignment, notice, false)
    }

    /// One of the kernel's own: what it pins cannot be unmapped.
    pub fn internal() -> Access {
        Access::with(4096, None, true)
    }

    fn with(alignment: u64, notice: Option<Arc<dyn UnmapNotice>>, locks: bool) -> Access {
        let telling = Mutex::default();
        Access {
            alignment,
            locks,
            user: Arc::new(Pinned { notice, telling }),
            ioas: Mutex::default(),
        }
    }

    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.ioas.lock().unwrap()
    }

    /// Attaches it to an address space, or to none. What it pinned in another one is taken from it: it is told that all
    /// is unmapped.
    ///
    /// # Errors
    /// EADDRINUSE: an area is not aligned for it. EBUSY while another thread changes it.
    pub fn attach(&self, ioas: Option<&Ref<IoasObject>>) -> Result<(), Errno> {
        let mut attached = self.attached();
        if attached.current.is_none() && attached.unpin.is_some() {
            return Err(Errno::EBUSY);
        }
        match (&attached.current, ioas) {
            (Some(current), Some(new)) if current.is(new) => return Ok(()),
            (None, None) => return Ok(()),
            _ => {}
        }
        if let Some(new) = ioas {
            new.lock().add_user(&self.user, self.alignment)?;
        }
        // From here on nothing is pinned in the old space; what is, is given up by whoever is told.
        let old = attached.current.take();
        if let (Some(_), Some(notice)) = (&old, &self.user.notice) {
            drop(attached);
            notice.unmap(0, u64::MAX);
            attached = self.attached();
        }
        let new = ioas.map(Ref::hold);
        attached.unpin = new.as_ref().map(Ref::hold);
        attached.current = new;
        drop(attached);
        if let Some(old) = old {
            old.lock().remove_user(&self.user);
        }
        Ok(())
    }

    /// Attaches it to another address space than the one it is attached to.
    ///
    /// # Errors
    /// ENOENT: it is attached to none. As [`Access::attach`].
    pub fn replace(&self, ioas: &Ref<IoasObject>) -> Result<(), Errno> {
        if self.attached().current.is_none() {
            return Err(Errno::ENOENT);
        }
        self.attach(Some(ioas))
    }

    /// Detaches it.
    pub fn detach(&self) {
        // Only another thread in the middle of a change would have it busy; it then ends detached or attached anew.
        let _ = self.attach(None);
    }

    /// The id of the address space it is attached to.
    pub fn ioas_id(&self) -> Option<u32> {
        self.attached().current.as_ref().map(Ref::id)
    }

    /// Pins the pages behind `iova..iova+bytes` and says where each is.
    ///
    /// # Errors
    /// ENOENT: it is attached to nothing, or nothing is mapped there. EINVAL, EOVERFLOW, EPERM, EFAULT, ENOMEM.
    pub fn pin(&self, iova: u64, bytes: u64, write: bool) -> Result<Vec<Pa>, Errno> {
        let less = bytes.checked_sub(1).ok_or(Errno::EINVAL)?;
        iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
        let attached = self.attached();
        let ioas = attached.current.as_ref().ok_or(Errno::ENOENT)?;
        ioas.lock().pin_pages(iova, bytes, write, self.locks)
    }

    /// Gives up what [`Access::pin`] pinned with the same arguments.
    pub fn unpin(&self, iova: u64, bytes: u64) {
        let attached = self.attached();
        if let Some(ioas) = &attached.unpin {
            ioas.lock().unpin_pages(iova, bytes, self.locks);
        }
    }

    /// Copies from (or, with `write`, to) what is mapped at `iova`.
    ///
    /// # Errors
    /// ENOENT: it is attached to nothing, or nothing is mapped there. EINVAL, EOVERFLOW, EPERM, EFAULT.
    pub fn rw(&self, iova: u64, data: &mut [u8], write: bool) -> Result<(), Errno> {
        let attached = self.attached();
        let ioas = attached.current.as_ref().ok_or(Errno::ENOENT)?;
        ioas.lock().read_write(iova, data, write)
    }

    /// Detaches it for good: on return nothing tells it of an unmap any more.
    pub fn close(&self) {
        self.detach();
        drop(self.user.telling.lock().unwrap());
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.close();
    }
}
