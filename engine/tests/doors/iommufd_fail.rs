//! The n-th allocation of every command fails: the call says so, and nothing is left behind or gone.

use std::os::fd::AsRawFd;

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::iommufd::inject;
use swiommu_engine::iommufd::object::Ref;
use swiommu_engine::iommufd::space::IoasObject;
use swiommu_engine::run::Run;

use crate::support::edu::Rig;
use crate::support::iommufd::{ANYWHERE, FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::vfio::RW;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// What must be as before when a call has failed.
#[derive(Debug, PartialEq)]
struct State {
    objects: Vec<u32>,
    spaces: Vec<Told>,
    pinned: (usize, u64, u64),
}

/// What an address space tells.
#[derive(Debug, PartialEq)]
struct Told {
    areas: Vec<(u64, u64)>,
    usable: Vec<(u64, u64)>,
    alignment: u64,
    tables: usize,
}

fn pinned(run: &Run) -> (usize, u64, u64) {
    let ground = run.ground();
    (
        ground.pins.count(),
        ground.locked.pinned_bytes(),
        ground.locked.locked_bytes(),
    )
}

fn state(iommu: &Iommu) -> State {
    let context = iommu.context();
    let mut objects = Vec::new();
    context.find(|id, _| {
        objects.push(id);
        None::<()>
    });
    let spaces = context.all::<IoasObject>();
    let spaces = spaces.iter().map(|ioas: &Ref<IoasObject>| {
        let ioas = ioas.lock();
        Told {
            areas: ioas
                .areas()
                .map(|(first, area)| (first, area.last))
                .collect(),
            usable: ioas.usable().to_vec(),
            alignment: ioas.alignment(),
            tables: ioas.tables().len(),
        }
    });
    State {
        spaces: spaces.collect(),
        objects,
        pinned: pinned(context.run()),
    }
}

/// Runs a call with each of its allocations failing in turn, then with none. Returns how many there were.
fn each_fails<S: std::fmt::Debug + PartialEq>(
    what: &str,
    state: impl Fn() -> S,
    mut call: impl FnMut() -> Result<(), Errno>,
) -> u32 {
    let before = state();
    for nth in 1.. {
        inject::arm(nth);
        let answer = call();
        let failed = inject::left() == 0;
        inject::arm(0);
        if !failed {
            answer.unwrap_or_else(|errno| panic!("{what}: {errno} though nothing failed"));
            return nth - 1;
        }
        assert!(answer.is_err(), "{what}: allocation {nth} failed unseen");
        assert_eq!(state(), before, "{what}: allocation {nth}");
        assert!(nth < 1000, "{what} never ends");
    }
    unreachable!()
}

/// An open /dev/iommu with an address space (1), a device (2) and page tables.
fn open(tables: u32) -> (World, Iommu, Memory) {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    assert_eq!((iommu.ioas(), iommu.bare()), (1, 2));
    for _ in 0..tables {
        iommu.hwpt(2, 1, 0).unwrap();
    }
    (world, iommu, Memory::pages(8))
}

#[test]
fn every_command_of_dev_iommu_fails_whole() {
    for tables in 0..3 {
        let (_world, iommu, memory) = open(tables);
        let (shared, file) = Memory::shared(4);
        drop(shared);
        let now = || state(&iommu);
        let many = |what: &str, least: u32, call: &mut dyn FnMut() -> Result<(), Errno>| {
            let points = each_fails(what, now, call);
            assert!(
                points >= least,
                "{what}: {points} points with {tables} tables"
            );
        };
        many("IOAS_ALLOC", 1, &mut || {
            let mut cmd = iommufd::IoasAlloc {
                size: 12,
                ..Default::default()
            };
            iommu.run(iommufd::IOAS_ALLOC, &mut cmd).map(drop)
        });
        // the space, the set of pages, the area; pinning, counting and every table
        let filled = if tables == 0 { 0 } else { 2 + tables };
        many("IOAS_MAP", 3 + filled, &mut || {
            iommu.map(1, FIXED, AT, memory.base(), 4 * P).map(drop)
        });
        many("IOAS_MAP anywhere", 3 + filled, &mut || {
            iommu.map(1, ANYWHERE, 0, memory.base(), P).map(drop)
        });
        many("IOAS_MAP_FILE", 3 + filled, &mut || {
            let number = file.as_raw_fd();
            iommu
                .map_file(1, FIXED, AT + 4 * P, number, 0, 4 * P)
                .map(drop)
        });
        // a copy of two areas, of which nothing has to be pinned anew
        many("IOAS_COPY", 4 + 2 * tables, &mut || {
            let to = (1, AT + 16 * P);
            iommu.copy((1, AT + 2 * P), to, 4 * P, FIXED).map(drop)
        });
        many("IOAS_COPY elsewhere", 4, &mut || {
            iommu
                .copy((1, AT), (3 + tables, AT), 8 * P, FIXED)
                .map(drop)
        });
        many("HWPT_ALLOC", 6, &mut || iommu.hwpt(2, 1, 0).map(drop));
        many("HWPT_ALLOC elsewhere", 6, &mut || {
            iommu.hwpt(2, 3 + tables, 0).map(drop)
        });
        many("IOAS_ALLOW_IOVAS", 2, &mut || {
            iommu.allow(1, &[(AT, AT + P)]).map(drop)
        });
        many("IOAS_IOVA_RANGES", 1, &mut || iommu.ranges(1, 4).map(drop));
        many("VFIO_IOAS", 1, &mut || {
            iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, 1).map(drop)
        });
        let option = iommufd::OPTION_HUGE_PAGES;
        many("OPTION", 1, &mut || {
            iommu.option(option, iommufd::OPTION_OP_GET, 1, 0).map(drop)
        });
        many("VFIO_IOMMU_MAP_DMA", 4, &mut || {
            iommu.fd.map(AT + 64 * P, memory.base(), P, RW).map(drop)
        });
        many("IOAS_UNMAP", 1, &mut || iommu.unmap(1, AT, 4 * P).map(drop));
        many("VFIO_IOMMU_UNMAP_DMA", 0, &mut || {
            iommu.fd.unmap(AT + 64 * P, P).map(drop)
        });
        many("DESTROY", 0, &mut || iommu.destroy(4 + tables).map(drop));
        let run = iommu.context().run().clone();
        drop(iommu);
        assert_eq!(pinned(&run), (0, 0, 0), "nothing outlives the file");
    }
}

#[test]
fn an_unmap_that_must_cut_mappings_fails_whole() {
    let (_world, iommu, memory) = open(1);
    iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, 1).unwrap();
    iommu.fd.ioctl(vfio::SET_IOMMU, vfio::TYPE1_IOMMU).unwrap();
    iommu.fd.map(AT, memory.base(), 8 * P, RW).unwrap();
    let areas = || {
        iommu
            .context()
            .get::<IoasObject>(1)
            .unwrap()
            .lock()
            .areas()
            .count()
    };
    // The first of two cuts stays when the second fails, as in the kernel.
    for nth in 1..5 {
        inject::arm(nth);
        let answer = iommu.fd.unmap(AT + 2 * P, 2 * P);
        assert_eq!((answer, inject::left()), (Err(Errno::ENOMEM), 0));
        assert_eq!(areas(), if nth < 3 { 1 } else { 2 });
        if nth == 2 {
            assert_eq!(iommu.lookup(3, AT + 3 * P), Some(memory.base() + 3 * P));
        }
        if nth >= 3 {
            break;
        }
    }
    inject::arm(0);
    assert_eq!(iommu.fd.unmap(AT + 2 * P, 2 * P), Ok(2 * P));
    assert_eq!(areas(), 2);
}

#[test]
fn every_command_of_a_container_fails_whole() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(4));
    let run = rig.world.iommu().context().run().clone();
    let now = || pinned(&run);
    let points = each_fails("MAP_DMA", now, || {
        rig.container.map(AT, memory.base(), 4 * P, RW).map(drop)
    });
    assert!(points >= 4, "area, count, pin, table: {points}");
    let points = each_fails("UNMAP_DMA", now, || {
        rig.container.unmap(AT, 4 * P).map(drop)
    });
    assert_eq!(points, 0, "an unmap cannot fail for want of memory");
}
