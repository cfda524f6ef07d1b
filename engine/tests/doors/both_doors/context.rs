//! The model's iommufds: their objects and what they answer.

use std::collections::{BTreeMap, BTreeSet};

use swiommu_abi::vfio::{TYPE1_IOMMU, TYPE1V2_IOMMU};
use swiommu_abi::{Errno, iommufd, vfio};

use super::attach::Attachment;
use crate::model_space::{Area, P, Space};

/// An open /dev/iommu, or one whose file is closed and whose devices are not.
#[derive(Default)]
pub struct Iommufd {
    pub objects: BTreeMap<u32, Object>,
    pub vfio_ioas: Option<u32>,
    /// What groups go through.
    pub attachments: BTreeMap<u32, Attachment>,
}

/// An object of an iommufd.
pub enum Object {
    Device,
    Ioas(Space),
    Hwpt(Hwpt),
}

/// A page table.
pub struct Hwpt {
    pub ioas: u32,
    pub auto: bool,
    /// It can track.
    pub tracks: bool,
    pub tracking: bool,
    /// Device pages that were written while it tracked.
    pub dirty: BTreeSet<u64>,
}

impl Iommufd {
    fn next_id(&self) -> u32 {
        (1..)
            .find(|id| !self.objects.contains_key(id))
            .expect("ids are many")
    }

    pub fn add(&mut self, object: Object) -> u32 {
        let id = self.next_id();
        self.objects.insert(id, object);
        id
    }

    pub fn ioas(&mut self, id: u32) -> Result<&mut Space, Errno> {
        match self.objects.get_mut(&id) {
            Some(Object::Ioas(space)) => Ok(space),
            _ => Err(Errno::ENOENT),
        }
    }

    pub fn hwpt(&mut self, id: u32) -> Result<&mut Hwpt, Errno> {
        match self.objects.get_mut(&id) {
            Some(Object::Hwpt(hwpt)) => Ok(hwpt),
            _ => Err(Errno::ENOENT),
        }
    }

    /// What the address space of a page table has.
    pub fn areas_of(&self, hwpt: u32) -> Option<&BTreeMap<u64, Area>> {
        let Object::Hwpt(hwpt) = self.objects.get(&hwpt)? else {
            return None;
        };
        match self.objects.get(&hwpt.ioas)? {
            Object::Ioas(space) => Some(&space.areas),
            _ => None,
        }
    }

    /// Whether a page table may have entries of several pages.
    pub fn has_large_pages(&self, hwpt: u32) -> bool {
        let Some(Object::Hwpt(hwpt)) = self.objects.get(&hwpt) else {
            return false;
        };
        matches!(self.objects.get(&hwpt.ioas), Some(Object::Ioas(space)) if !space.small_pages)
    }

    /// The address space of the VFIO calls.
    pub fn compat(&mut self) -> Result<u32, Errno> {
        self.vfio_ioas.ok_or(Errno::ENODEV)
    }

    /// A group has left a page table, or come to another: one that was made for an attachment goes with its last, and
    /// devices keep their window out of the address spaces that they go through.
    pub fn settle(&mut self, left: Option<u32>) {
        let used = |id: u32| {
            self.attachments
                .values()
                .any(|attachment| attachment.hwpt == id)
        };
        if let Some(id) = left.filter(|id| !used(*id))
            && self.hwpt(id).is_ok_and(|hwpt| hwpt.auto)
        {
            self.remove(id);
        }
        let through: Vec<u32> = self
            .attachments
            .values()
            .map(|attachment| attachment.hwpt)
            .collect();
        let through: Vec<u32> = through
            .iter()
            .map(|id| self.hwpt(*id).expect("it is attached").ioas)
            .collect();
        for (id, object) in &mut self.objects {
            if let Object::Ioas(space) = object {
                space.window = through.contains(id);
            }
        }
    }

    /// HWPT_ALLOC.
    pub fn new_hwpt(
        &mut self,
        ioas: u32,
        tracks: bool,
        auto: bool,
        hole: u64,
    ) -> Result<u32, Errno> {
        let id = self.next_id();
        let space = self.ioas(ioas)?;
        if space.reaches(hole) {
            return Err(Errno::EFAULT);
        }
        space.hwpts.push(id);
        let (tracking, dirty) = (false, BTreeSet::new());
        let hwpt = Hwpt {
            ioas,
            auto,
            tracks,
            tracking,
            dirty,
        };
        self.objects.insert(id, Object::Hwpt(hwpt));
        Ok(id)
    }

    /// An object goes; who uses it was looked at.
    pub fn remove(&mut self, id: u32) {
        if let Some(Object::Hwpt(hwpt)) = self.objects.remove(&id) {
            let space = self.ioas(hwpt.ioas).expect("it outlives its page tables");
            space.hwpts.retain(|hwpt| *hwpt != id);
        }
        self.vfio_ioas = self.vfio_ioas.filter(|ioas| *ioas != id);
    }

    /// DESTROY.
    pub fn destroy(&mut self, id: u32) -> Result<(), Errno> {
        let attached = self
            .attachments
            .values()
            .any(|attachment| attachment.hwpt == id);
        let used = match self.objects.get(&id).ok_or(Errno::ENOENT)? {
            Object::Device => true,
            Object::Ioas(space) => !space.hwpts.is_empty(),
            Object::Hwpt(_) => attached,
        };
        if used {
            return Err(Errno::EBUSY);
        }
        self.remove(id);
        Ok(())
    }

    /// What was dirty in pages that are mapped no more is forgotten.
    fn forget_unmapped(&mut self, ioas: u32) {
        let areas: Vec<(u64, u64)> = match self.ioas(ioas) {
            Ok(space) => space
                .areas
                .iter()
                .map(|(at, area)| (*at, area.last))
                .collect(),
            Err(_) => return,
        };
        for object in self.objects.values_mut() {
            if let Object::Hwpt(hwpt) = object
                && hwpt.ioas == ioas
            {
                let mapped = |at: &u64| areas.iter().any(|(first, last)| first <= at && at <= last);
                hwpt.dirty.retain(mapped);
            }
        }
    }

    /// IOAS_UNMAP; `None` for all.
    pub fn unmap(&mut self, ioas: u32, range: Option<(u64, u64)>) -> Result<u64, Errno> {
        let (first, last) = range.unwrap_or((0, u64::MAX));
        let answer = match self.ioas(ioas)?.unmap(first, last) {
            (_, Err(error)) => Err(error),
            (0, Ok(())) if range.is_some() => Err(Errno::ENOENT),
            (bytes, Ok(())) => Ok(bytes),
        };
        self.forget_unmapped(ioas);
        answer
    }

    /// IOAS_COPY to a fixed address.
    pub fn copy(
        &mut self,
        (from, first): (u32, u64),
        bytes: u64,
        (to, at): (u32, u64),
        prot: u32,
        hole: u64,
    ) -> Result<u64, Errno> {
        let slices = self.ioas(from)?.slices(first, first + (bytes - 1));
        self.ioas(to)?
            .insert(Some(at), &slices.ok_or(Errno::ENOENT)?, prot, hole)
    }

    /// VFIO_IOMMU_UNMAP_DMA.
    pub fn compat_unmap(&mut self, first: u64, last: u64) -> Result<u64, Errno> {
        let ioas = self.compat()?;
        let space = self.ioas(ioas)?;
        if space.small_pages {
            space.cut(last);
            space.cut(first - 1);
        }
        let (bytes, result) = space.unmap(first, last);
        self.forget_unmapped(ioas);
        result.map(|()| bytes)
    }

    /// VFIO_SET_IOMMU.
    pub fn set_iommu(&mut self, kind: u64) -> Result<(), Errno> {
        if !matches!(kind, TYPE1_IOMMU | TYPE1V2_IOMMU) {
            return Err(Errno::EINVAL);
        }
        let ioas = self.compat()?;
        let space = self.ioas(ioas)?;
        if kind == TYPE1_IOMMU && !space.small_pages {
            if !space.hwpts.is_empty() && !space.areas.is_empty() {
                return Err(Errno::EINVAL);
            }
            space.small_pages = true;
        }
        Ok(())
    }

    /// HWPT_SET_DIRTY_TRACKING.
    pub fn track(&mut self, hwpt: u32, on: bool) -> Result<(), Errno> {
        let hwpt = self.hwpt(hwpt)?;
        if !hwpt.tracks {
            return Err(Errno::EOPNOTSUPP);
        }
        if on {
            hwpt.dirty.clear();
        }
        hwpt.tracking = on;
        Ok(())
    }

    /// HWPT_GET_DIRTY_BITMAP of a range, which is mapped as a whole: the numbers of the pages, which are forgotten.
    pub fn dirty(&mut self, hwpt: u32, first: u64, bytes: u64) -> Result<Vec<u64>, Errno> {
        let hwpt = self.hwpt(hwpt)?;
        if !hwpt.tracks {
            return Err(Errno::EOPNOTSUPP);
        }
        let within = |at: &u64| (first..first + bytes).contains(at);
        let told = hwpt.dirty.iter().copied().filter(within);
        let told: Vec<u64> = told.filter(|_| hwpt.tracking).collect();
        hwpt.dirty.retain(|at| !told.contains(at));
        Ok(told.iter().map(|at| (at - first) / P).collect())
    }
}

/// What the flags of IOAS_MAP make of what a device may do.
pub fn ioas_flags(prot: u32, fixed: bool) -> u32 {
    let flag = |yes: bool, flag: u32| if yes { flag } else { 0 };
    flag(
        prot & vfio::DMA_MAP_FLAG_READ != 0,
        iommufd::IOAS_MAP_READABLE,
    ) | flag(
        prot & vfio::DMA_MAP_FLAG_WRITE != 0,
        iommufd::IOAS_MAP_WRITEABLE,
    ) | flag(fixed, iommufd::IOAS_MAP_FIXED_IOVA)
}
