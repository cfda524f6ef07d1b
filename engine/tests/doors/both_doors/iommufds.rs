//! The steps that are about objects of an iommufd.

use swiommu_abi::{Errno, iommufd};

use super::context::{Object, ioas_flags};
use super::step::{Nth, Step};
use super::{Pair, iova, nth, open, range};
use crate::model_space::P;
use crate::support::iommufd::Iommu;
use crate::support::memory::address_of;

impl Pair {
    /// Runs a step on the iommufd that it means.
    pub(super) fn run_on_iommufd(&mut self, step: &Step) -> Option<()> {
        let which = match *step {
            Step::NewIoas(iommu) | Step::Destroy(iommu, _) => iommu,
            Step::NewHwpt { iommu, .. } | Step::Track { iommu, .. } | Step::Dirty { iommu, .. } => {
                iommu
            }
            Step::MapIoas { iommu, .. }
            | Step::Copy { iommu, .. }
            | Step::UnmapIoas { iommu, .. } => iommu,
            _ => unreachable!("it is about no iommufd"),
        };
        let which = *nth(&open(&self.iommus), which)?;
        let iommu = self.iommus[which].take().expect("it is open");
        self.run_on(&iommu, which, step);
        self.iommus[which] = Some(iommu);
        Some(())
    }

    fn run_on(&mut self, iommu: &Iommu, which: usize, step: &Step) {
        let is_hwpt = |object: &Object| matches!(object, Object::Hwpt(_));
        match *step {
            Step::NewIoas(_) => {
                let id = self.model.iommus[which].add(Object::Ioas(Default::default()));
                assert_eq!(iommu.ioas(), id);
            }
            Step::Destroy(_, object) => {
                let id = self.object(which, object, |_| true);
                assert_eq!(
                    iommu.destroy(id).map(drop),
                    self.model.iommus[which].destroy(id)
                );
            }
            Step::NewHwpt {
                device,
                ioas,
                tracks,
                ..
            } => {
                let device = self.object(which, device, |object| matches!(object, Object::Device));
                let (ioas, hole) = (self.ioas(which, ioas), self.model.hole);
                let flags = if tracks {
                    iommufd::HWPT_ALLOC_DIRTY_TRACKING
                } else {
                    0
                };
                let model = &mut self.model.iommus[which];
                let expected = match () {
                    () if !model.objects.contains_key(&device) => Err(Errno::ENOENT),
                    () if !model.objects.contains_key(&ioas) => Err(Errno::EINVAL),
                    () => model.new_hwpt(ioas, tracks, false, hole),
                };
                assert_eq!(iommu.hwpt(device, ioas, flags), expected);
            }
            Step::Track { hwpt, on, .. } => {
                let hwpt_id = self.object(which, hwpt, is_hwpt);
                let (size, flags, reserved) = (16, u32::from(on), 0);
                let mut cmd = iommufd::HwptSetDirtyTracking {
                    size,
                    flags,
                    hwpt_id,
                    reserved,
                };
                let answer = iommu.run(iommufd::HWPT_SET_DIRTY_TRACKING, &mut cmd);
                assert_eq!(
                    answer.map(drop),
                    self.model.iommus[which].track(hwpt_id, on)
                );
            }
            Step::Dirty { hwpt, mapping, .. } => {
                let id = self.object(which, hwpt, is_hwpt);
                self.dirty(iommu, which, id, mapping);
            }
            Step::MapIoas {
                ioas,
                at,
                page,
                pages,
                prot,
                ..
            } => {
                let (ioas, at) = (self.ioas(which, ioas), at.map(iova));
                let memory = (self.memory.base() + page * P, pages * P);
                let flags = ioas_flags(prot, at.is_some());
                let answer = iommu.map(ioas, flags, at.unwrap_or(0), memory.0, memory.1);
                assert_eq!(answer, self.model.map_ioas(which, ioas, at, memory, prot));
            }
            Step::Copy {
                from,
                mapping,
                to,
                at,
                prot,
                ..
            } => {
                let (from, to, at) = (self.ioas(which, from), self.ioas(which, to), iova(at));
                let (hole, model) = (self.model.hole, &mut self.model.iommus[which]);
                let (first, bytes) = range(
                    model.ioas(from).ok().map(|space| &space.areas),
                    mapping,
                    0,
                    0,
                );
                let expected = model.copy((from, first), bytes, (to, at), prot, hole);
                let answer = iommu.copy((from, first), (to, at), bytes, ioas_flags(prot, true));
                assert_eq!(answer, expected);
            }
            Step::UnmapIoas {
                ioas,
                mapping,
                off,
                pages,
                ..
            } => {
                let id = self.ioas(which, ioas);
                let model = &mut self.model.iommus[which];
                let areas = model.ioas(id).ok().map(|space| &space.areas);
                let (first, bytes) = range(areas, mapping, off, pages);
                let expected = model.unmap(id, Some((first, first + (bytes - 1))));
                assert_eq!(iommu.unmap(id, first, bytes), expected);
            }
            _ => unreachable!("it is about no iommufd"),
        }
    }

    /// HWPT_GET_DIRTY_BITMAP of one mapping.
    fn dirty(&mut self, iommu: &Iommu, which: usize, hwpt_id: u32, mapping: Nth) {
        let model = &mut self.model.iommus[which];
        let ioas = model.hwpt(hwpt_id).map_or(99, |hwpt| hwpt.ioas);
        let (iova, length) = range(
            model.ioas(ioas).ok().map(|space| &space.areas),
            mapping,
            0,
            0,
        );
        let mut bits = 0u64;
        let mut cmd = iommufd::HwptGetDirtyBitmap {
            size: 48,
            hwpt_id,
            iova,
            length,
            page_size: P,
            data: address_of(&mut bits),
            ..Default::default()
        };
        let answer = iommu.run(iommufd::HWPT_GET_DIRTY_BITMAP, &mut cmd);
        let told: Vec<u64> = (0..64).filter(|bit| bits >> bit & 1 == 1).collect();
        assert_eq!(answer.map(|_| told), model.dirty(hwpt_id, iova, length));
    }
}
