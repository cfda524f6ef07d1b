//! The type1 IOMMU of a container: GET_INFO, MAP_DMA, UNMAP_DMA (`drivers/vfio/vfio_iommu_type1.c`).
//!
//! Version 1 and version 2 differ in unmap alone. v1: a range that begins inside a mapping unmaps nothing, one that
//! covers the first address of a mapping unmaps the whole mapping. v2: a range that cuts a mapping in two is EINVAL.

use std::collections::BTreeMap;
use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_iommu::Prot;
use swiommu_mem::{UserAddr, Window};
use zerocopy::IntoBytes;

use super::argsz::{Chain, copy_in, copy_out, through};
use super::dirty;
use crate::calls::CallRecord;
use crate::door::{Answer, Call};
use crate::iommufd::Ioas;
use crate::iommufd::account::{Account, Charged, Mode};
use crate::report::Note;
use crate::run::Run;

/// A container's type1 state.
pub struct Type1 {
    v2: bool,
    /// The address space.
    pub ioas: Ioas,
    /// What shows memory of other processes here, by first device address; goes after the mappings.
    windows: BTreeMap<u64, Window>,
    /// Dirty tracking is on.
    pub(super) tracking: bool,
    available: u32,
}

/// CHECK_EXTENSION.
pub fn check_extension(extension: u64, has_iommu: bool) -> i32 {
    match extension {
        vfio::TYPE1_IOMMU | vfio::TYPE1V2_IOMMU | vfio::UNMAP_ALL => 1,
        // the modelled IOMMUs snoop, and no mapping is a driver's own
        vfio::DMA_CC_IOMMU | vfio::UPDATE_VADDR => i32::from(has_iommu),
        _ => 0,
    }
}

const MAP_FLAGS: u32 =
    vfio::DMA_MAP_FLAG_READ | vfio::DMA_MAP_FLAG_WRITE | vfio::DMA_MAP_FLAG_VADDR;
const UNMAP_FLAGS: u32 =
    vfio::DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | vfio::DMA_UNMAP_FLAG_ALL | vfio::DMA_UNMAP_FLAG_VADDR;

impl Type1 {
    /// An empty address space with a domain of its own.
    pub fn new(run: &Arc<Run>, v2: bool) -> Type1 {
        let ioas = Ioas::over(run.ground(), run.iommu.domain(), run.usable_iovas());
        Type1 {
            v2,
            ioas,
            windows: BTreeMap::new(),
            tracking: false,
            available: run.dma_entry_limit(),
        }
    }

    /// A call that the container itself does not know.
    ///
    /// # Errors
    /// As the kernel.
    pub fn ioctl(
        &mut self,
        run: &Arc<Run>,
        call: &Call<'_>,
        cmd: u32,
        arg: u64,
    ) -> Result<Answer, Errno> {
        match cmd {
            vfio::IOMMU_GET_INFO => self.get_info(run, call, arg),
            vfio::IOMMU_MAP_DMA => self.map_dma(run, call, arg),
            vfio::IOMMU_UNMAP_DMA => self.unmap_dma(run, call, arg),
            vfio::IOMMU_DIRTY_PAGES => self.dirty_pages(call, arg),
            _ => Err(Errno::ENOTTY),
        }
        .map(|()| Answer::Value(0))
    }

    fn get_info(&self, run: &Run, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::IommuType1Info, iova_pgsizes);
        let mut info: vfio::IommuType1Info = copy_in(call, arg, minsz)?;
        if (info.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        let answer = (info.argsz as usize).min(size_of::<vfio::IommuType1Info>());
        info.flags = vfio::IOMMU_INFO_PGSIZES | vfio::IOMMU_INFO_CAPS;
        info.iova_pgsizes = run.iommu.page_sizes() & !0xfff;
        let (argsz, cap_offset) = self.capabilities(info.iova_pgsizes).place(
            call,
            arg,
            size_of::<vfio::IommuType1Info>(),
            info.argsz,
        )?;
        info.argsz = argsz;
        info.cap_offset = cap_offset;
        copy_out(call, arg, &info, answer)
    }

    fn capabilities(&self, page_sizes: u64) -> Chain {
        let mut chain = Chain::default();
        // struct vfio_iommu_type1_info_cap_migration: flags, page size of the bitmap, its largest size
        let mut migration = Vec::new();
        migration.extend_from_slice(0u64.as_bytes());
        migration.extend_from_slice((1u64 << page_sizes.trailing_zeros()).as_bytes());
        migration.extend_from_slice(dirty::BITMAP_BYTES_MAX.as_bytes());
        chain.add(vfio::IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, &migration);
        chain.add(
            vfio::IOMMU_TYPE1_INFO_DMA_AVAIL,
            1,
            self.available.as_bytes(),
        );
        let mut ranges = Vec::new();
        ranges.extend_from_slice((self.ioas.usable().len() as u64).as_bytes());
        for &(start, end) in self.ioas.usable() {
            ranges.extend_from_slice(vfio::IovaRange { start, end }.as_bytes());
        }
        chain.add(vfio::IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, &ranges);
        chain
    }

    fn map_dma(&mut self, run: &Run, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::DmaMap, size);
        let map: vfio::DmaMap = copy_in(call, arg, minsz)?;
        if (map.argsz as usize) < minsz || map.flags & !MAP_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let size_less_one = map.size.wrapping_sub(1);
        let wraps = |first: u64| map.size != 0 && first.checked_add(size_less_one).is_none();
        if wraps(map.iova) || wraps(map.vaddr) {
            return Err(Errno::EOVERFLOW);
        }
        let mut prot = Prot::empty();
        prot.set(Prot::READ, map.flags & vfio::DMA_MAP_FLAG_READ != 0);
        prot.set(Prot::WRITE, map.flags & vfio::DMA_MAP_FLAG_WRITE != 0);
        let vaddr_update = map.flags & vfio::DMA_MAP_FLAG_VADDR != 0;
        if prot.is_empty() != vaddr_update {
            return Err(Errno::EINVAL);
        }
        if map.size == 0 || (map.size | map.iova | map.vaddr) & 0xfff != 0 {
            return Err(Errno::EINVAL);
        }
        if vaddr_update {
            return self.ioas.set_vaddr(map.iova, map.size, UserAddr(map.vaddr));
        }
        let last = map.iova + size_less_one;
        if !self.ioas.is_free(map.iova, last) {
            run.reports.note(
                call,
                Note::MapOverlaps {
                    iova: map.iova,
                    last,
                },
                &self.ioas,
            );
            return Err(Errno::EEXIST);
        }
        if self.available == 0 {
            return Err(Errno::ENOSPC);
        }
        let record = CallRecord::new(call, "VFIO_IOMMU_MAP_DMA", &run.options);
        let window = window(call, &map)?;
        let va = window
            .as_ref()
            .map_or(UserAddr(map.vaddr), |window| window.base());
        let process = call.client.process();
        let account = Account {
            mode: Mode::Process,
            limit: run.memlock(process),
            pinned: false,
            process: process.map(Charged::of),
        };
        self.ioas
            .map(map.iova, va, map.size, prot, account, record)
            .map_err(|error| error.errno())?;
        if let Some(window) = window {
            self.windows.insert(map.iova, window);
        }
        self.available -= 1;
        Ok(())
    }

    fn unmap_dma(&mut self, run: &Run, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::DmaUnmap, size);
        let mut unmap: vfio::DmaUnmap = copy_in(call, arg, minsz)?;
        if (unmap.argsz as usize) < minsz || unmap.flags & !UNMAP_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let bitmap = unmap.flags & vfio::DMA_UNMAP_FLAG_GET_DIRTY_BITMAP != 0;
        let all = unmap.flags & vfio::DMA_UNMAP_FLAG_ALL != 0;
        let vaddr = unmap.flags & vfio::DMA_UNMAP_FLAG_VADDR != 0;
        if bitmap && (all || vaddr) {
            return Err(Errno::EINVAL);
        }
        let last = self.check_unmap(&unmap, all);
        let bitmap = if bitmap {
            Some(self.unmap_bitmap(call, arg, &unmap)?)
        } else {
            None
        };
        let last = last?;
        if bitmap.is_some() && !self.tracking {
            return Err(Errno::EINVAL);
        }
        let whole = [unmap.iova];
        let several;
        let firsts: &[u64] = if self.ioas.is_area(unmap.iova, last) {
            &whole
        } else {
            several = self.doomed(unmap.iova, last);
            &several
        };
        if vaddr {
            unmap.size = self.ioas.invalidate_vaddr(firsts)?;
            return copy_out(call, arg, &unmap, minsz);
        }
        if let Some(bitmap) = &bitmap {
            for (first, area) in self.ioas.overlapping(unmap.iova, last) {
                dirty::mark(call, bitmap, first, area.last)?;
            }
        }
        let record = CallRecord::new(call, "VFIO_IOMMU_UNMAP_DMA", &run.options);
        let asked = unmap.size;
        unmap.size = self.ioas.unmap(firsts, &record);
        if !self.windows.is_empty() {
            for first in firsts {
                self.windows.remove(first);
            }
        }
        self.available += firsts.len() as u32;
        if unmap.size == 0 && !all {
            run.reports.note(
                call,
                Note::UnmapOfNothing {
                    iova: unmap.iova,
                    bytes: asked,
                    v2: self.v2,
                },
                &self.ioas,
            );
        }
        copy_out(call, arg, &unmap, minsz)
    }

    /// The last address of a legal request.
    fn check_unmap(&self, unmap: &vfio::DmaUnmap, all: bool) -> Result<u64, Errno> {
        if unmap.iova & 0xfff != 0 {
            return Err(Errno::EINVAL);
        }
        if all {
            return if unmap.iova == 0 && unmap.size == 0 {
                Ok(u64::MAX)
            } else {
                Err(Errno::EINVAL)
            };
        }
        if unmap.size == 0 || unmap.size & 0xfff != 0 {
            return Err(Errno::EINVAL);
        }
        let last = unmap
            .iova
            .checked_add(unmap.size - 1)
            .ok_or(Errno::EOVERFLOW)?;
        if self.v2 && !self.ioas.is_area(unmap.iova, last) && self.cuts(unmap.iova, last) {
            return Err(Errno::EINVAL);
        }
        Ok(last)
    }

    /// The bitmap behind an unmap that wants one.
    fn unmap_bitmap(
        &self,
        call: &Call<'_>,
        arg: u64,
        unmap: &vfio::DmaUnmap,
    ) -> Result<dirty::Checked, Errno> {
        let minsz = through!(vfio::DmaUnmap, size);
        if (unmap.argsz as usize - minsz) < size_of::<vfio::Bitmap>() {
            return Err(Errno::EINVAL);
        }
        let bitmap: vfio::Bitmap = call
            .client
            .read_obj(UserAddr(arg + minsz as u64))
            .map_err(|_| Errno::EFAULT)?;
        let checked = dirty::check(unmap.iova, unmap.size, &bitmap)?;
        if bitmap.pgsize == 4096 {
            Ok(checked)
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Whether a range cuts a mapping in two.
    pub(super) fn cuts(&self, first: u64, last: u64) -> bool {
        let at_first = self.ioas.overlapping(first, first).next();
        let at_last = self.ioas.overlapping(last, last).next();
        at_first.is_some_and(|(at, _)| at != first)
            || at_last.is_some_and(|(_, area)| area.last != last)
    }

    /// type1v2 rather than type1.
    pub(super) fn is_v2(&self) -> bool {
        self.v2
    }

    /// The areas that an unmap takes away. In v1 an area that began before the range ends the walk.
    fn doomed(&self, first: u64, last: u64) -> Vec<u64> {
        self.ioas
            .overlapping(first, last)
            .map(|(at, _)| at)
            .take_while(|at| self.v2 || *at >= first)
            .collect()
    }
}

/// Memory of another process, which maps its own, as it appears here; `None` for a call of this process.
fn window(call: &Call<'_>, map: &vfio::DmaMap) -> Result<Option<Window>, Errno> {
    let Some(process) = call.files.process() else {
        return Ok(None);
    };
    let window = Window::reserve(map.size)?;
    let write = map.flags & vfio::DMA_MAP_FLAG_WRITE != 0;
    process.pin(UserAddr(map.vaddr), map.size, write, &window, 0)?;
    Ok(Some(window))
}
