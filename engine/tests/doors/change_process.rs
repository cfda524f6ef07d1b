//! IOMMU_IOAS_CHANGE_PROCESS: who is charged for what is pinned.

use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use swiommu_abi::{Errno, iommufd};
use swiommu_engine::door::{Call, File, Files};
use swiommu_engine::iommufd::account::{Charged, Locked};
use swiommu_engine::machine::{Machine, Memlock};
use swiommu_mem::Caller;

use crate::support::iommufd::{ANYWHERE, FIXED, Iommu};
use crate::support::memory::{Memory, address_of};
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// A process that has no files of ours but the one it calls.
struct Nothing;

impl Files for Nothing {
    fn get(&self, _: i32) -> Option<Arc<dyn File>> {
        None
    }
}

/// The other process. The kernel copies its arguments as any other's; its figures are its own.
pub fn other() -> Option<NonZeroU32> {
    NonZeroU32::new(std::process::id())
}

/// CHANGE_PROCESS by this process, or by another one.
pub fn change(iommu: &Iommu, by: Option<NonZeroU32>) -> Result<(), Errno> {
    let mut cmd = iommufd::IoasChangeProcess {
        size: 8,
        reserved: 0,
    };
    let Some(process) = by else {
        return iommu.run(iommufd::IOAS_CHANGE_PROCESS, &mut cmd).map(drop);
    };
    let call = Call {
        client: Caller::Other(process),
        thread: 1,
        site: 0,
        files: &Nothing,
    };
    let file: Arc<dyn File> = iommu.fd.file();
    file.ioctl(&call, iommufd::IOAS_CHANGE_PROCESS, address_of(&mut cmd))
        .map(drop)
}

/// Two pages of a file at `AT`, of which a copy exists, in a page table; what is counted there.
pub fn mapped(limit: u64, per_process: bool) -> (World, Iommu, Arc<Locked>) {
    let mut machine: Machine = machine(Model::Scalable, []);
    machine.vfio.memlock = Memlock::Bytes(limit);
    let world = World::new(machine);
    let iommu = world.iommu();
    let mode = iommufd::OPTION_RLIMIT_MODE;
    iommu
        .option(mode, iommufd::OPTION_OP_SET, 0, per_process.into())
        .unwrap();
    let (_memory, file) = Memory::shared(4);
    let (ioas, device) = (iommu.ioas(), iommu.bare());
    iommu.hwpt(device, ioas, 0).unwrap();
    iommu
        .map_file(ioas, FIXED, AT, file.as_raw_fd(), 0, 2 * P)
        .unwrap();
    let locked = iommu.context().run().ground().locked;
    (world, iommu, locked)
}

#[test]
fn a_process_that_takes_files_over_is_charged_instead() {
    let (_world, iommu, locked) = mapped(2 * P, true);
    assert_eq!(locked.charged(None), (2 * P, 2 * P));
    for _ in 0..2 {
        change(&iommu, other()).unwrap();
        assert_eq!(locked.charged(None), (0, 0));
        assert_eq!(locked.charged(other().map(Charged::of)), (2 * P, 2 * P));
    }
    change(&iommu, None).unwrap();
    assert_eq!(locked.charged(None), (2 * P, 2 * P));
    change(&iommu, other()).unwrap();
    iommu.unmap(1, AT, 2 * P).unwrap();
    assert_eq!(locked.charged(other().map(Charged::of)), (0, 0));
    assert_eq!(locked.charged(None), (0, 0));
}

#[test]
fn a_set_of_pages_that_several_areas_map_is_taken_over_once() {
    let (_world, iommu, locked) = mapped(2 * P, true);
    let mut copy = iommufd::IoasCopy {
        size: 40,
        flags: ANYWHERE,
        dst_ioas_id: 1,
        src_ioas_id: 1,
        length: 2 * P,
        src_iova: AT,
        ..Default::default()
    };
    iommu.run(iommufd::IOAS_COPY, &mut copy).unwrap();
    change(&iommu, other()).unwrap();
    assert_eq!(locked.charged(other().map(Charged::of)), (2 * P, 2 * P));
    iommu.unmap(1, AT, 2 * P).unwrap();
    assert_eq!(
        locked.charged(other().map(Charged::of)),
        (2 * P, 2 * P),
        "the copy has them"
    );
    iommu.unmap(1, 0, u64::MAX).unwrap();
    assert_eq!(locked.charged(other().map(Charged::of)), (0, 0));
}

#[test]
fn who_may_not_lock_so_much_takes_nothing_over() {
    // The user is charged for both while one takes over from the other.
    let (_world, iommu, locked) = mapped(3 * P, false);
    assert_eq!(change(&iommu, other()), Err(Errno::ENOMEM));
    assert_eq!(locked.charged(None), (2 * P, 0));
    assert_eq!(locked.charged(other().map(Charged::of)), (0, 0));
    let (_world, iommu, locked) = mapped(4 * P, false);
    assert_eq!(change(&iommu, other()), Ok(()));
    assert_eq!(locked.charged(None), (0, 0));
    assert_eq!(locked.charged(other().map(Charged::of)), (2 * P, 0));
}

#[test]
fn memory_of_a_process_is_not_taken_over_and_nothing_else_is_then() {
    let (_world, iommu, locked) = mapped(4 * P, true);
    let (ioas, memory) = (iommu.ioas(), Memory::pages(1));
    iommu.map(ioas, ANYWHERE, 0, memory.base(), P).unwrap();
    assert_eq!(change(&iommu, other()), Err(Errno::EINVAL));
    assert_eq!(locked.charged(None), (2 * P, 2 * P));
}
