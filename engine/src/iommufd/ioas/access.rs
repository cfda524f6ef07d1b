//! Access to an address space by the processor: pages that a driver in the kernel pins, reads and writes.

use std::sync::{Arc, Mutex};

use swiommu_abi::Errno;
use swiommu_iommu::{Pa, Prot};
use swiommu_mem::{PAGE, UserAddr};

use super::super::inject;
use super::{Area, Backing, Ioas};

/// Told what the client unmaps: whoever has pinned a part of it gives that up before this returns.
pub trait UnmapNotice: Send + Sync {
    /// `bytes` bytes at `iova` are being unmapped. No lock of the address space is held.
    fn unmap(&self, iova: u64, bytes: u64);
}

/// Somebody who may access an address space by processor.
pub struct Pinned {
    pub(in super::super) notice: Option<Arc<dyn UnmapNotice>>,
    /// One is told at a time, and its owner waits for that before it goes.
    pub(in super::super) telling: Mutex<()>,
}

impl Ioas {
    /// Somebody may access the space from here on; all that is mapped must be aligned for it.
    ///
    /// # Errors
    /// EADDRINUSE: an area is not.
    pub(in super::super) fn add_user(
        &mut self,
        user: &Arc<Pinned>,
        alignment: u64,
    ) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        self.users.push((alignment, Arc::downgrade(user)));
        self.realign().inspect_err(|_| drop(self.users.pop()))
    }

    /// Somebody accesses the space no longer.
    pub(in super::super) fn remove_user(&mut self, user: &Arc<Pinned>) {
        let pointer = Arc::as_ptr(user);
        let at = self
            .users
            .iter()
            .position(|(_, other)| other.as_ptr() == pointer);
        if let Some(at) = at {
            self.users.remove(at);
            self.alignment = self.needed_alignment();
        }
    }

    /// Who must be told of an unmap.
    pub(in super::super) fn users(&self) -> Vec<Arc<Pinned>> {
        let alive = self.users.iter().filter_map(|(_, user)| user.upgrade());
        alive.filter(|user| user.notice.is_some()).collect()
    }

    /// Pins the pages behind `iova..iova+bytes` and says where each is. With `lock` the client cannot unmap them.
    ///
    /// # Errors
    /// EINVAL for no bytes, bytes that do not begin and end with a page, or what is being unmapped; EOVERFLOW; EPERM
    /// where the mapping does not allow it; ENOENT where there is none; what pinning answers. Then nothing is pinned.
    pub(in super::super) fn pin_pages(
        &mut self,
        iova: u64,
        bytes: u64,
        write: bool,
        lock: bool,
    ) -> Result<Vec<Pa>, Errno> {
        let less = bytes.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
        let (mut at, mut pages) = (iova, Vec::new());
        let result = loop {
            let Some(first) = self.area_at(at) else {
                break Err(Errno::ENOENT);
            };
            let to = self.areas[&first].last.min(last);
            match self.pin_part(first, at, to, last, write, lock) {
                Ok(places) => pages.extend(places),
                Err(error) => break Err(error),
            }
            if to == last {
                break Ok(pages);
            }
            at = to + 1;
        };
        if result.is_err() && at > iova {
            self.unpin_pages(iova, at - iova, lock);
        }
        result
    }

    fn area_at(&self, iova: u64) -> Option<u64> {
        self.overlapping(iova, iova).next().map(|(first, _)| first)
    }

    /// Pins `at..=to`, a part of the area at `first`.
    fn pin_part(
        &mut self,
        first: u64,
        at: u64,
        to: u64,
        last: u64,
        write: bool,
        lock: bool,
    ) -> Result<Vec<Pa>, Errno> {
        let area = &self.areas[&first];
        let byte = |iova: u64| area.pinned.0 + (iova - first);
        let ends_inside = to != last && byte(area.last) % PAGE != PAGE - 1;
        if area.leaving || byte(at) % PAGE != 0 || ends_inside {
            return Err(Errno::EINVAL);
        }
        allows(area, write)?;
        if matches!(&area.backing, Backing::Shared(pages) if write && !pages.writable) {
            return Err(Errno::EPERM);
        }
        if matches!(&area.backing, Backing::Shared(pages) if pages.is_device_memory()) {
            return Err(Errno::EINVAL);
        }
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        let (va, bytes) = (UserAddr(byte(at)), to - at + 1);
        let pages = self.share(first);
        let from = va.0 - pages.base.0;
        let slice = (from, from + (bytes - 1));
        pages.hold(slice.0, slice.1, self.ground.pinning())?;
        let mut still = self.ground.pins.still();
        let mut list = Vec::new();
        for place in still.places(pages.id, va, bytes).as_slice() {
            let first = place.pa.map_or(va.0 + place.offset, |pa| pa.0);
            list.extend(
                (0..place.bytes)
                    .step_by(PAGE as usize)
                    .map(|at| Pa(first + at)),
            );
        }
        // Pages without a table move, too, when the client takes their address away.
        still.pin_for_access(va, bytes, pages.id);
        drop(still);
        let area = self.areas.get_mut(&first).expect("it was just found");
        area.accesses += 1;
        area.locks += u32::from(lock);
        Ok(list)
    }

    /// Gives up what [`Ioas::pin_pages`] pinned with the same arguments.
    pub(in super::super) fn unpin_pages(&mut self, iova: u64, bytes: u64, lock: bool) {
        let last = iova + (bytes - 1);
        let mut at = iova;
        while let Some(first) = self.area_at(at) {
            let area = self.areas.get_mut(&first).expect("it was just found");
            let to = area.last.min(last);
            let va = UserAddr(area.pinned.0 + (at - first));
            area.accesses -= 1;
            area.locks -= u32::from(lock);
            if let Backing::Shared(pages) = &area.backing {
                let bytes = to - at + 1;
                let from = va.0 - pages.base.0;
                let mut still = self.ground.pins.still();
                still.unpin_for_access(va, bytes, pages.id);
                drop(still);
                pages.release(from, from + (bytes - 1), self.ground.pinning());
            }
            if to == last {
                return;
            }
            at = to + 1;
        }
    }

    /// Reads or writes what is mapped at `iova`.
    ///
    /// # Errors
    /// EINVAL for no bytes, what is being unmapped or memory of a device; EOVERFLOW; EPERM where the mapping does not
    /// allow it; ENOENT where there is none; EFAULT. What was copied before stays.
    pub(in super::super) fn read_write(
        &mut self,
        iova: u64,
        data: &mut [u8],
        write: bool,
    ) -> Result<(), Errno> {
        let less = (data.len() as u64).checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
        let (mut at, mut data) = (iova, data);
        loop {
            let Some((first, area)) = self.overlapping(at, at).next() else {
                return Err(Errno::ENOENT);
            };
            if area.leaving {
                return Err(Errno::EINVAL);
            }
            allows(area, write)?;
            let to = area.last.min(last);
            let (part, rest) = data.split_at_mut((to - at + 1) as usize);
            self.copy(area, UserAddr(area.pinned.0 + (at - first)), part, write)?;
            if to == last {
                return Ok(());
            }
            (at, data) = (to + 1, rest);
        }
    }

    fn copy(&self, area: &Area, at: UserAddr, data: &mut [u8], write: bool) -> Result<(), Errno> {
        let mut elsewhere = None;
        if let Backing::Shared(pages) = &area.backing {
            if write && !pages.writable {
                return Err(Errno::EPERM);
            }
            if pages.is_device_memory() {
                return Err(Errno::EINVAL);
            }
            elsewhere = pages.is_elsewhere().then_some(pages);
        }
        let span = elsewhere.map(|pages| {
            let from = at.0 - pages.base.0;
            (pages, from, from + (data.len() as u64 - 1))
        });
        let with = self.ground.pinning();
        if let Some((pages, from, to)) = span {
            pages.hold(from, to, with)?;
        } else if inject::fails() {
            return Err(Errno::EINVAL);
        }
        let copied = match write {
            true => with.client.write(at, data),
            false => with.client.read(at, data),
        };
        if let Some((pages, from, to)) = span {
            pages.release(from, to, with);
        }
        copied.map_err(|_| Errno::EFAULT)
    }
}

/// Whether the mapping lets the processor do it.
fn allows(area: &Area, write: bool) -> Result<(), Errno> {
    let needed = if write { Prot::WRITE } else { Prot::READ };
    if area.prot.contains(needed) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}
