//! Dirty pages: what a device wrote through a page table, as a bitmap.

use swiommu_abi::{Errno, iommufd};
use swiommu_engine::iommufd::hwpt::Hwpt;
use swiommu_engine::iommufd::object::Ref;
use swiommu_iommu::{Access, Iova, StreamId};

use crate::support::iommufd::{FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x4000_0000;
const PAGES: u64 = 256;
const NONE: [u64; 0] = [];
const TRACKS: u32 = iommufd::HWPT_ALLOC_DIRTY_TRACKING;
const NO_CLEAR: u32 = iommufd::HWPT_GET_DIRTY_BITMAP_NO_CLEAR;

/// An address space of `PAGES` pages with a page table that tracks, and a device behind it.
struct Rig {
    iommu: Iommu,
    hwpt: u32,
    bits: Memory,
    _memory: Memory,
    _world: World,
}

impl Rig {
    fn new(model: Model) -> Rig {
        let world = World::new(machine(model, []));
        let iommu = world.iommu();
        let (ioas, device, memory) = (iommu.ioas(), iommu.bare(), Memory::pages(PAGES));
        // a larger page is dirty as a whole
        let (huge, set) = (iommufd::OPTION_HUGE_PAGES, iommufd::OPTION_OP_SET);
        iommu.option(huge, set, ioas, 0).unwrap();
        iommu
            .map(ioas, FIXED, AT, memory.base(), PAGES * P)
            .unwrap();
        let hwpt = iommu.hwpt(device, ioas, TRACKS).unwrap();
        let rig = Rig {
            iommu,
            hwpt,
            bits: Memory::pages(2),
            _memory: memory,
            _world: world,
        };
        let table: Ref<Hwpt> = rig.iommu.context().get(hwpt).unwrap();
        let run = rig.iommu.context().run().clone();
        run.iommu
            .attach(StreamId(0x100), table.table.domain().unwrap());
        rig
    }

    fn track(&self, on: bool) -> Result<i32, Errno> {
        let mut cmd = iommufd::HwptSetDirtyTracking {
            size: 16,
            flags: u32::from(on),
            hwpt_id: self.hwpt,
            reserved: 7,
        };
        self.iommu.run(iommufd::HWPT_SET_DIRTY_TRACKING, &mut cmd)
    }

    /// The device writes to pages.
    fn write(&self, pages: &[u64]) {
        let mut port = self.iommu.context().run().iommu.port(StreamId(0x100));
        let mut session = port.begin();
        for page in pages {
            let at = Iova(AT + page * P + 8);
            session.translate(at, 8, Access::Write).unwrap();
        }
    }

    fn get(&self, flags: u32, page_size: u64, data: u64) -> Result<i32, Errno> {
        let mut cmd = iommufd::HwptGetDirtyBitmap {
            size: 48,
            hwpt_id: self.hwpt,
            flags,
            iova: AT,
            length: PAGES * P,
            page_size,
            data,
            ..Default::default()
        };
        self.iommu.run(iommufd::HWPT_GET_DIRTY_BITMAP, &mut cmd)
    }

    /// The bits that are set, with the bitmap at an offset in its memory.
    fn dirty(&self, flags: u32, page_size: u64, offset: u64) -> Vec<u64> {
        self.bits.fill(0);
        self.get(flags, page_size, self.bits.base() + offset)
            .unwrap();
        let bytes = self.bits.read(0, 2 * P as usize);
        let bits = (0..2 * P * 8).filter(|bit| bytes[*bit as usize / 8] >> (bit % 8) & 1 == 1);
        let bits = bits.map(|bit| bit.checked_sub(offset * 8).expect("nothing before it"));
        bits.collect()
    }
}

#[test]
fn what_the_device_wrote_is_told_once() {
    for model in Model::ALL {
        let rig = Rig::new(model);
        rig.write(&[3]);
        assert_eq!(rig.track(true), Ok(0));
        assert_eq!(rig.dirty(0, P, 0), NONE, "what was before is forgotten");
        rig.write(&[0, 63, 64, 65, 200, 255]);
        assert_eq!(rig.dirty(NO_CLEAR, P, 0), [0, 63, 64, 65, 200, 255]);
        assert_eq!(rig.dirty(0, P, 0), [0, 63, 64, 65, 200, 255]);
        assert_eq!(rig.dirty(0, P, 0), NONE);
        rig.write(&[64]);
        assert_eq!(rig.dirty(0, P, 0), [64]);
    }
}

#[test]
fn nothing_is_told_while_tracking_is_off() {
    let rig = Rig::new(Model::Scalable);
    rig.write(&[1]);
    assert_eq!(rig.dirty(0, P, 0), NONE);
    rig.track(true).unwrap();
    rig.write(&[1]);
    rig.track(false).unwrap();
    assert_eq!(rig.dirty(0, P, 0), NONE);
}

#[test]
fn a_bit_stands_for_a_page_of_the_size_that_was_asked_for() {
    let rig = Rig::new(Model::Scalable);
    rig.track(true).unwrap();
    rig.write(&[5, 17, 255]);
    assert_eq!(rig.dirty(NO_CLEAR, 2048, 0), [10, 11, 34, 35, 510, 511]);
    assert_eq!(rig.dirty(NO_CLEAR, 16 * P, 0), [0, 1, 15]);
    assert_eq!(rig.dirty(NO_CLEAR, PAGES * P, 0), [0]);
    for size in [0, 512 * P] {
        let data = rig.bits.base();
        assert_eq!(rig.get(0, size, data), Err(Errno::EINVAL), "{size:#x}");
    }
}

#[test]
fn the_bitmap_may_lie_at_any_address() {
    let rig = Rig::new(Model::Scalable);
    rig.track(true).unwrap();
    let pages: Vec<u64> = (0..PAGES).filter(|page| page % 3 != 1).collect();
    rig.write(&pages);
    for offset in [0, 1, 7, 8, 4081, 4095] {
        assert_eq!(rig.dirty(NO_CLEAR, P, offset), pages, "at {offset}");
    }
    rig.write(&(0..PAGES).collect::<Vec<_>>());
    for offset in [3, 4093] {
        let all = rig.dirty(NO_CLEAR, P, offset);
        assert_eq!(all.len() as u64, PAGES, "at {offset}");
    }
}

#[test]
fn bits_that_were_set_stay_set_and_memory_around_them_as_it_was() {
    let rig = Rig::new(Model::Scalable);
    rig.track(true).unwrap();
    rig.write(&[8]);
    rig.bits.fill(0x40);
    rig.get(0, P, rig.bits.base() + 16).unwrap();
    let mut expected = vec![0x40; 2 * P as usize];
    expected[17] = 0x41;
    assert_eq!(rig.bits.read(0, 2 * P as usize), expected);
}

#[test]
fn a_bitmap_that_cannot_be_written_is_no_error() {
    let rig = Rig::new(Model::Scalable);
    rig.track(true).unwrap();
    rig.write(&[0, 200]);
    assert_eq!(rig.get(NO_CLEAR, P, 0x1000), Ok(0));
    // the first word of it is there, the others are not
    rig.bits.fill(0);
    rig.get(0, P, rig.bits.base() + 2 * P - 8).unwrap();
    assert_eq!(rig.bits.read(2 * P - 8, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_page_table_that_was_not_made_for_it_does_not_track() {
    let rig = Rig::new(Model::Scalable);
    let plain = rig.iommu.hwpt(2, 1, 0).unwrap();
    let rig = Rig { hwpt: plain, ..rig };
    assert_eq!(rig.track(true), Err(Errno::EOPNOTSUPP));
    assert_eq!(rig.get(0, P, rig.bits.base()), Err(Errno::EOPNOTSUPP));
    assert_eq!(rig.get(2, P, rig.bits.base()), Err(Errno::EOPNOTSUPP));
    assert_eq!(rig.get(0, 0, rig.bits.base()), Err(Errno::EINVAL));
}

#[test]
fn a_range_that_is_read_again_is_looked_at_again_when_areas_changed() {
    let rig = Rig::new(Model::Scalable);
    let next = AT + PAGES * P;
    rig.track(true).unwrap();
    let read = || {
        rig.bits.fill(0);
        let mut cmd = iommufd::HwptGetDirtyBitmap {
            size: 48,
            hwpt_id: rig.hwpt,
            iova: AT,
            length: 2 * PAGES * P,
            page_size: P,
            data: rig.bits.base(),
            ..Default::default()
        };
        rig.iommu
            .run(iommufd::HWPT_GET_DIRTY_BITMAP, &mut cmd)
            .unwrap();
        let bytes = rig.bits.read(0, P as usize);
        (0..2 * PAGES)
            .filter(|bit| bytes[*bit as usize / 8] >> (bit % 8) & 1 == 1)
            .collect::<Vec<_>>()
    };
    let more = Memory::pages(2);
    let map = |page: u64| {
        let at = next + page * P;
        rig.iommu
            .map(1, FIXED, at, more.base() + page * P, P)
            .unwrap();
    };
    for _ in 0..2 {
        map(1);
        rig.write(&[3, PAGES + 1]);
        assert_eq!(read(), [3], "behind a hole nothing is told");
        map(0);
        rig.write(&[PAGES]);
        assert_eq!(read(), [PAGES, PAGES + 1]);
        assert_eq!(read(), NONE);
        rig.iommu.unmap(1, next, 2 * P).unwrap();
    }
}
