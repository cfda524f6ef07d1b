//! Mapping, copying, unmapping and splitting as iommufd does.

use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_iommu::{Iova, Prot};
use swiommu_mem::{PAGE, UserAddr};

use super::super::account::Account;
use super::super::inject;
use super::super::pages::{Pages, Source};
use super::{Area, Backing, Ioas, Origin};
use crate::calls::CallRecord;

/// What is to be mapped: a slice of a set of pages.
#[derive(Clone)]
pub struct Slice {
    pages: Arc<Pages>,
    /// First byte in the set.
    first: u64,
    bytes: u64,
    /// Client address of the first byte, for reports.
    va: UserAddr,
}

/// What to do next for an unmap.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmapping {
    /// Done; so many bytes in all.
    Done(u64),
    /// Whoever accesses this range by processor must let it go first; then go on from its start.
    Notify {
        /// First address.
        first: u64,
        /// Bytes.
        bytes: u64,
    },
}

impl Ioas {
    /// Maps client memory to `iova`, or where there is room. Returns the device address.
    ///
    /// # Errors
    /// As IOMMU_IOAS_MAP; nothing has changed then.
    pub fn map_user(
        &mut self,
        iova: Option<u64>,
        va: UserAddr,
        bytes: u64,
        prot: Prot,
        account: Account,
        mapped: CallRecord,
    ) -> Result<u64, Errno> {
        va.0.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
        if bytes == 0 || bytes > u64::MAX - PAGE {
            return Err(Errno::EINVAL);
        }
        // one for the set of pages, one for the area
        if inject::fails() || inject::fails() {
            return Err(Errno::ENOMEM);
        }
        let iova = self.place(iova, va.0, bytes)?;
        self.check_offset(va.0)?;
        let mut area = Area::of_client(iova + (bytes - 1), va, prot, mapped, account);
        self.fill(iova, &mut area)?;
        self.areas.insert(iova, area);
        Ok(iova)
    }

    /// Maps a new set of pages, of which `bytes` bytes from `first` on, to `iova`, or where there is room. `source` is what
    /// the found address is aligned to.
    ///
    /// # Errors
    /// As IOMMU_IOAS_MAP_FILE; nothing has changed then.
    pub(in super::super) fn map_pages(
        &mut self,
        iova: Option<u64>,
        pages: Pages,
        (first, bytes): (u64, u64),
        source: u64,
        prot: Prot,
        mapped: CallRecord,
    ) -> Result<u64, Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        let slice = Slice {
            va: UserAddr(pages.base.0 + first),
            pages: Arc::new(pages),
            first,
            bytes,
        };
        self.insert(iova, &[slice], bytes, source, prot, mapped)
    }

    /// The slices that lie behind `iova..iova+bytes`: they are shared from here on.
    ///
    /// # Errors
    /// EINVAL for no bytes, EOVERFLOW, ENOENT where nothing is mapped.
    pub fn slices(&mut self, iova: u64, bytes: u64) -> Result<Vec<Slice>, Errno> {
        let less = bytes.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
        let firsts = self.contiguous(iova, last).ok_or(Errno::ENOENT)?;
        let slice = |(at, area, pages): (u64, &Area, Arc<Pages>)| {
            let from = iova.max(at);
            Slice {
                first: area.pinned.0 - pages.base.0 + (from - at),
                va: UserAddr(area.va.0 + (from - at)),
                bytes: last.min(area.last) - from + 1,
                pages,
            }
        };
        let mut slices = Vec::new();
        for at in firsts {
            if inject::fails() {
                return Err(Errno::ENOMEM);
            }
            let pages = self.share(at);
            slices.push(slice((at, &self.areas[&at], pages)));
        }
        Ok(slices)
    }

    /// The set of pages of an area, shared from here on.
    pub(super) fn share(&mut self, at: u64) -> Arc<Pages> {
        let filled = !self.tables.is_empty();
        let area = self.areas.get_mut(&at).expect("the caller found it");
        let own = match &area.backing {
            Backing::Shared(pages) => return pages.clone(),
            Backing::Own(own) => *own,
        };
        let base = UserAddr(area.pinned.0 & !(PAGE - 1));
        let last = area.pinned.0 + (area.last - at) - base.0;
        let held = filled.then_some(last / PAGE);
        let writable = area.prot.contains(Prot::WRITE);
        let account = *area.origin.account();
        let pages = Arc::new(Pages::of_area(own.id, base, writable, account, held));
        area.backing = Backing::Shared(pages.clone());
        pages
    }

    /// Maps slices one behind the other to `iova`, or where there is room. Returns the device address.
    ///
    /// # Errors
    /// As IOMMU_IOAS_COPY; nothing has changed then.
    pub fn copy_in(
        &mut self,
        iova: Option<u64>,
        slices: &[Slice],
        bytes: u64,
        prot: Prot,
        mapped: CallRecord,
    ) -> Result<u64, Errno> {
        let head = &slices[0];
        let source = match &head.pages.source {
            Source::Client => head.pages.base.0,
            Source::File(file) => file.start(),
            Source::Other(other) => other.there().0,
            Source::DmaBuf { start, .. } => *start,
        };
        self.insert(iova, slices, bytes, source + head.first, prot, mapped)
    }

    fn insert(
        &mut self,
        iova: Option<u64>,
        slices: &[Slice],
        bytes: u64,
        source: u64,
        prot: Prot,
        mapped: CallRecord,
    ) -> Result<u64, Errno> {
        if slices.iter().any(|_| inject::fails()) {
            return Err(Errno::ENOMEM);
        }
        let iova = self.place(iova, source, bytes)?;
        for slice in slices {
            if prot.contains(Prot::WRITE) && !slice.pages.writable {
                return Err(Errno::EPERM);
            }
            self.check_offset(slice.first)?;
        }
        let account = None;
        let origin = Arc::new(Origin { mapped, account });
        let mut areas: Vec<(u64, Area)> = Vec::with_capacity(slices.len());
        let mut at = iova;
        for slice in slices {
            let last = at + (slice.bytes - 1);
            let backing = Backing::Shared(slice.pages.clone());
            let mut area = Area::behind(last, slice.va, prot, origin.clone(), backing);
            area.pinned = UserAddr(slice.pages.base.0 + slice.first);
            if let Err(error) = self.fill(at, &mut area) {
                for (first, area) in &areas {
                    self.take_out(*first, area);
                }
                return Err(error);
            }
            areas.push((at, area));
            at = last.wrapping_add(1);
        }
        self.areas.extend(areas);
        Ok(iova)
    }

    /// Where `bytes` bytes go: at `iova` if that is free, else where there is room.
    fn place(&self, iova: Option<u64>, source: u64, bytes: u64) -> Result<u64, Errno> {
        if bytes == 0 || bytes & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let Some(iova) = iova else {
            return self.iovas.find(&self.areas, source, bytes, self.alignment);
        };
        if iova & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let last = iova.checked_add(bytes - 1).ok_or(Errno::EOVERFLOW)?;
        if !self.iovas.is_usable(iova, last) {
            return Err(Errno::EINVAL);
        }
        if !self.is_free(iova, last) {
            return Err(Errno::EEXIST);
        }
        Ok(iova)
    }

    fn check_offset(&self, first: u64) -> Result<(), Errno> {
        if (first % PAGE) & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Takes an area out of all tables and gives its pages up.
    fn take_out(&self, first: u64, area: &Area) {
        for table in &self.tables {
            table.unmap(Iova(first), Iova(area.last));
        }
        self.let_go(first, area);
    }

    /// Unmaps the areas in `first..=last`, from `first` on, as far as it goes without others; `done` bytes are gone
    /// already.
    ///
    /// # Errors
    /// ENOENT where the range cuts an area; EBUSY where one is locked. What was unmapped before stays so.
    pub fn unmap_range(
        &mut self,
        first: u64,
        last: u64,
        done: u64,
        unmapped: &CallRecord,
    ) -> (u64, Result<Unmapping, Errno>) {
        let mut doomed: Vec<u64> = Vec::new();
        let mut stop = None;
        for (at, area) in self.overlapping(first, last) {
            if area.locks > 0 {
                stop = Some(Err(Errno::EBUSY));
            } else if at < first || area.last > last {
                stop = Some(Err(Errno::ENOENT));
            } else if area.accesses > 0 {
                let bytes = (area.last - at).wrapping_add(1);
                stop = Some(Ok(Unmapping::Notify { first: at, bytes }));
            }
            if stop.is_some() {
                break;
            }
            doomed.push(at);
        }
        let done = match &doomed[..] {
            [] => done,
            firsts => done + self.unmap(firsts, unmapped),
        };
        if let Some(Ok(Unmapping::Notify { first, .. })) = stop {
            let area = self.areas.get_mut(&first).expect("it was just found");
            area.leaving = true;
        }
        (done, stop.unwrap_or(Ok(Unmapping::Done(done))))
    }

    /// Splits the area that contains `iova` behind it, unless it ends there (VFIO_TYPE1_IOMMU on an iommufd).
    ///
    /// # Errors
    /// EINVAL: large pages may have been used, the processor accesses it, or the cut is not aligned. EBUSY: it is being
    /// unmapped. EOPNOTSUPP: it is memory of a device.
    pub fn cut_behind(&mut self, iova: u64) -> Result<(), Errno> {
        let Some((first, area)) = self.overlapping(iova, iova).next() else {
            return Ok(());
        };
        let last = area.last;
        if iova == first || iova == last {
            return Ok(());
        }
        if area.leaving {
            return Err(Errno::EBUSY);
        }
        if matches!(&area.backing, Backing::Shared(pages) if pages.is_device_memory()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let offset = iova + 1 - first;
        if ((iova + 1) | (area.pinned.0 + offset)) & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        if inject::fails() || inject::fails() {
            return Err(Errno::ENOMEM);
        }
        if area.accesses > 0 || (!self.tables.is_empty() && self.large_pages) {
            return Err(Errno::EINVAL);
        }
        self.split(first, iova);
        Ok(())
    }

    fn split(&mut self, first: u64, at: u64) {
        let pages = self.share(first);
        let mut right = self.areas[&first].clone();
        let offset = at + 1 - first;
        let bytes = right.last - first + 1;
        if !self.tables.is_empty() {
            let (from, to) = right.slice(&pages, bytes);
            pages.split_hold(from, from + offset - 1, to);
            let mut still = self.ground.pins.still();
            still.unpin(&self.targets, first, right.pinned, bytes);
        }
        right.va.0 += offset;
        right.pinned.0 += offset;
        let left = self.areas.get_mut(&first).expect("the caller found it");
        left.last = at;
        self.areas.insert(at + 1, right);
        if !self.tables.is_empty() {
            let mut still = self.ground.pins.still();
            for iova in [first, at + 1] {
                self.keep(&mut still, iova, &self.areas[&iova]);
            }
        }
    }

    /// The sets of pages of its areas, if all are of files, which is what another process can take over.
    ///
    /// # Errors
    /// EINVAL: one is not.
    pub(in super::super) fn files(&self) -> Result<Vec<Arc<Pages>>, Errno> {
        let of_file = |area: &Area| match &area.backing {
            Backing::Shared(pages) if pages.is_file() => Ok(pages.clone()),
            _ => Err(Errno::EINVAL),
        };
        self.areas.values().map(of_file).collect()
    }
}
