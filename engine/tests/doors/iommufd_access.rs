//! Access to an address space by the processor: pins, reads and writes, and unmaps that must wait for them.

use std::sync::{Arc, Mutex, Weak};

use swiommu_abi::Errno;
use swiommu_engine::iommufd::ioas::UnmapNotice;
use swiommu_engine::iommufd::object::Ref;
use swiommu_engine::iommufd::space::{Access, IoasObject};
use swiommu_iommu::Pa;

use crate::support::iommufd::{FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;
const RO: u32 = FIXED & !swiommu_abi::iommufd::IOAS_MAP_WRITEABLE;

fn open() -> (World, Iommu, Memory) {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    assert_eq!((iommu.ioas(), iommu.bare()), (1, 2));
    (world, iommu, Memory::pages(8))
}

fn space(iommu: &Iommu, id: u32) -> Ref<IoasObject> {
    iommu.context().get(id).expect("an address space")
}

/// An access that pins pages, attached to space 1.
fn pinner(iommu: &Iommu) -> Access {
    let access = Access::new(P, None);
    access.attach(Some(&space(iommu, 1))).unwrap();
    access
}

/// Told of an unmap it unpins what it was given.
#[derive(Default)]
struct Obedient {
    access: Mutex<Weak<Access>>,
    pins: Mutex<Vec<(u64, u64)>>,
    told: Mutex<Vec<(u64, u64)>>,
}

impl UnmapNotice for Obedient {
    fn unmap(&self, iova: u64, bytes: u64) {
        self.told.lock().unwrap().push((iova, bytes));
        if let Some(access) = self.access.lock().unwrap().upgrade() {
            for (first, bytes) in self.pins.lock().unwrap().drain(..) {
                access.unpin(first, bytes);
            }
        }
    }
}

#[test]
fn pins_hold_the_pages_of_a_space_without_a_page_table() {
    let (world, iommu, memory) = open();
    memory.write(P, b"before");
    iommu.map(1, FIXED, AT, memory.base(), 4 * P).unwrap();
    let access = pinner(&iommu);
    let ground = iommu.context().run().ground();
    assert_eq!(ground.locked.pinned_bytes(), 0);
    let pages = access.pin(AT + P, 2 * P, true).unwrap();
    assert_eq!(pages, [Pa(memory.base() + P), Pa(memory.base() + 2 * P)]);
    assert_eq!(ground.locked.pinned_bytes(), 2 * P);
    world.vacate(memory.base() + P, P);
    memory.replace(P, P);
    let moved = access.pin(AT + P, P, false).unwrap()[0];
    assert_ne!(moved, Pa(memory.base() + P), "the page that was pinned");
    let hwpt = iommu.hwpt(2, 1, 0).unwrap();
    assert_eq!(iommu.lookup(hwpt, AT + P), Some(moved.0), "for devices too");
    assert_eq!(ground.locked.pinned_bytes(), 4 * P);
    access.unpin(AT + P, P);
    access.unpin(AT + P, 2 * P);
    iommu.destroy(hwpt).unwrap();
    assert_eq!(ground.locked.pinned_bytes(), 0);
    assert!(ground.pins.is_empty());
    let again = access.pin(AT + P, P, false).unwrap();
    assert_eq!(again, [Pa(memory.base() + P)], "pinned anew, as it is now");
    access.unpin(AT + P, P);
}

#[test]
fn what_is_not_mapped_or_not_allowed_is_not_pinned() {
    let (_world, iommu, memory) = open();
    let access = Access::new(P, None);
    assert_eq!(access.pin(AT, P, false), Err(Errno::ENOENT), "not attached");
    access.attach(Some(&space(&iommu, 1))).unwrap();
    iommu.map(1, RO, AT, memory.base(), 2 * P).unwrap();
    iommu.map(1, FIXED, AT + 2 * P, 0x1000, P).unwrap();
    assert_eq!(access.pin(AT, 0, false), Err(Errno::EINVAL));
    assert_eq!(access.pin(u64::MAX, 2, false), Err(Errno::EOVERFLOW));
    assert_eq!(access.pin(AT, P, true), Err(Errno::EPERM));
    assert_eq!(access.pin(AT - P, P, false), Err(Errno::ENOENT));
    assert_eq!(access.pin(AT + 8, P, false), Err(Errno::EINVAL));
    assert_eq!(access.pin(AT, 3 * P, false), Err(Errno::EFAULT), "a hole");
    assert_eq!(access.pin(AT, 4 * P, false), Err(Errno::EFAULT));
    let ground = iommu.context().run().ground();
    assert_eq!((ground.pins.count(), ground.locked.pinned_bytes()), (0, 0));
    assert_eq!(
        iommu.unmap(1, 0, u64::MAX),
        Ok(3 * P),
        "nothing is in the way"
    );
}

#[test]
fn an_unmap_tells_whoever_pins_and_goes_on_when_they_let_go() {
    let (_world, iommu, memory) = open();
    iommu.map(1, FIXED, AT, memory.base(), P).unwrap();
    iommu.map(1, FIXED, AT + P, memory.base() + P, P).unwrap();
    let notice = Arc::new(Obedient::default());
    let access = Arc::new(Access::new(P, Some(notice.clone())));
    *notice.access.lock().unwrap() = Arc::downgrade(&access);
    access.attach(Some(&space(&iommu, 1))).unwrap();
    assert_eq!(iommu.ranges(1, 1).unwrap().2, P, "pins need whole pages");
    access.pin(AT + P, P, true).unwrap();
    notice.pins.lock().unwrap().push((AT + P, P));
    assert_eq!(iommu.unmap(1, 0, u64::MAX), Ok(2 * P));
    assert_eq!(*notice.told.lock().unwrap(), [(AT + P, P)]);
    access.detach();
    assert_eq!(iommu.ranges(1, 1).unwrap().2, 1);
    assert_eq!(notice.told.lock().unwrap()[1..], [(0, u64::MAX)]);
    assert_eq!(iommu.destroy(1), Ok(0), "it uses the space no longer");
}

#[test]
fn who_never_lets_go_is_given_up_and_a_lock_is_busy_at_once() {
    let (_world, iommu, memory) = open();
    iommu.map(1, FIXED, AT, memory.base(), P).unwrap();
    let deaf = Arc::new(Obedient::default());
    let access = Access::new(P, Some(deaf.clone()));
    access.attach(Some(&space(&iommu, 1))).unwrap();
    access.pin(AT, P, true).unwrap();
    assert_eq!(iommu.unmap(1, AT, P), Err(Errno::EDEADLK));
    assert_eq!(deaf.told.lock().unwrap().len(), 101);
    assert_eq!(
        access.pin(AT, P, false),
        Err(Errno::EINVAL),
        "it is leaving"
    );
    access.unpin(AT, P);
    assert_eq!(iommu.unmap(1, AT, P), Ok(P));
    iommu.map(1, FIXED, AT, memory.base(), P).unwrap();
    let internal = Access::internal();
    internal.attach(Some(&space(&iommu, 1))).unwrap();
    internal.pin(AT, P, false).unwrap();
    assert_eq!(iommu.unmap(1, AT, P), Err(Errno::EBUSY));
    internal.unpin(AT, P);
    assert_eq!(iommu.unmap(1, AT, P), Ok(P));
}

#[test]
fn reads_and_writes_go_over_areas_at_any_byte() {
    let (_world, iommu, memory) = open();
    memory.write(0, &[1; 4096]);
    iommu.map(1, FIXED, AT, memory.base() + 100, 300).unwrap();
    iommu.map(1, RO, AT + 300, memory.base() + P, 50).unwrap();
    let access = Access::new(1, None);
    access.attach(Some(&space(&iommu, 1))).unwrap();
    let mut data = [9; 350];
    access.rw(AT, &mut data, false).unwrap();
    assert_eq!(data[..300], [1; 300]);
    assert_eq!(data[300..], [0; 50]);
    assert_eq!(access.rw(AT, &mut [7; 301], true), Err(Errno::EPERM));
    assert_eq!(memory.read(399, 2), [7, 1], "as far as it came");
    assert_eq!(access.rw(AT + 1, &mut [0; 350], false), Err(Errno::ENOENT));
    assert_eq!(access.rw(AT, &mut [], false), Err(Errno::EINVAL));
}

#[test]
fn a_space_that_is_not_of_whole_pages_takes_no_access_that_pins() {
    let (_world, iommu, memory) = open();
    iommu.map(1, FIXED, AT, memory.base() + 100, 300).unwrap();
    let access = Access::new(P, None);
    let refused = access.attach(Some(&space(&iommu, 1)));
    assert_eq!(refused, Err(Errno::EADDRINUSE));
    assert_eq!(iommu.hwpt(2, 1, 0), Err(Errno::EADDRINUSE), "nor devices");
    let other = iommu.ioas();
    access.attach(Some(&space(&iommu, other))).unwrap();
    assert_eq!(access.replace(&space(&iommu, 1)), Err(Errno::EADDRINUSE));
    assert_eq!(access.ioas_id(), Some(other), "as before");
    access.detach();
    assert_eq!(access.replace(&space(&iommu, other)), Err(Errno::ENOENT));
}
