//! The n-th allocation of every command fails: the call says so, and nothing is left behind or gone.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::iommufd::account::Charged;
use swiommu_engine::iommufd::inject;
use swiommu_engine::iommufd::object::Ref;
use swiommu_engine::iommufd::space::IoasObject;
use swiommu_engine::run::Run;

use crate::change_process::{change, mapped, other};
use crate::support::iommufd::{ANYWHERE, FIXED, Iommu};
use crate::support::memory::{Memory, address_of};
use crate::support::mock::Mock;
use crate::support::vfio::RW;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// What must be as before when a call has failed.
#[derive(Debug, PartialEq)]
pub struct State {
    objects: Vec<u32>,
    spaces: Vec<Told>,
    pinned: (usize, u64, u64),
}

/// What an address space tells.
#[derive(Debug, PartialEq)]
pub struct Told {
    areas: Vec<(u64, u64)>,
    usable: Vec<(u64, u64)>,
    alignment: u64,
    tables: usize,
}

pub fn pinned(run: &Run) -> (usize, u64, u64) {
    let ground = run.ground();
    (
        ground.pins.count(),
        ground.locked.pinned_bytes(),
        ground.locked.locked_bytes(),
    )
}

pub fn state(iommu: &Iommu) -> State {
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

/// The commands that were tried, by the kernel's names.
#[derive(Default)]
pub struct Tried(BTreeSet<String>);

impl Tried {
    /// Runs a call with each of its allocations failing in turn, then with none: at least `least` times. The first word of
    /// `what` is the command.
    pub fn run<S: std::fmt::Debug + PartialEq>(
        &mut self,
        what: &str,
        least: u32,
        state: impl Fn() -> S,
        call: impl FnMut() -> Result<(), Errno>,
    ) {
        let points = each_fails(what, state, call);
        assert!(points >= least, "{what}: {points} points");
        let command = what.split(' ').next().expect("a name");
        self.0.insert(command.to_owned());
    }

    /// Nothing was left out.
    pub fn are_all(&self, commands: impl IntoIterator<Item = &'static (u32, &'static str)>) {
        let names: BTreeSet<_> = commands.into_iter().map(|(_, name)| *name).collect();
        let tried: BTreeSet<_> = self.0.iter().map(String::as_str).collect();
        let missing: Vec<_> = names.difference(&tried).collect();
        assert!(missing.is_empty(), "no case for {missing:?}");
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

fn spaces_and_page_tables(tried: &mut Tried) {
    for tables in 0..3 {
        let (_world, iommu, memory) = open(tables);
        let (shared, file) = Memory::shared(4);
        drop(shared);
        let now = || state(&iommu);
        let mut many = |what: &str, least: u32, call: &mut dyn FnMut() -> Result<(), Errno>| {
            tried.run(what, least, now, call);
        };
        many("IOMMU_IOAS_ALLOC", 1, &mut || {
            let mut cmd = iommufd::IoasAlloc {
                size: 12,
                ..Default::default()
            };
            iommu.run(iommufd::IOAS_ALLOC, &mut cmd).map(drop)
        });
        // the space, the set of pages, the area; pinning, counting and every table
        let filled = if tables == 0 { 0 } else { 2 + tables };
        many("IOMMU_IOAS_MAP", 3 + filled, &mut || {
            iommu.map(1, FIXED, AT, memory.base(), 4 * P).map(drop)
        });
        many("IOMMU_IOAS_MAP anywhere", 3 + filled, &mut || {
            iommu.map(1, ANYWHERE, 0, memory.base(), P).map(drop)
        });
        many("IOMMU_IOAS_MAP_FILE", 3 + filled, &mut || {
            let number = file.as_raw_fd();
            iommu
                .map_file(1, FIXED, AT + 4 * P, number, 0, 4 * P)
                .map(drop)
        });
        // a copy of two areas, of which nothing has to be pinned anew
        many("IOMMU_IOAS_COPY", 4 + 2 * tables, &mut || {
            let to = (1, AT + 16 * P);
            iommu.copy((1, AT + 2 * P), to, 4 * P, FIXED).map(drop)
        });
        many("IOMMU_IOAS_COPY elsewhere", 4, &mut || {
            iommu
                .copy((1, AT), (3 + tables, AT), 8 * P, FIXED)
                .map(drop)
        });
        // A table like one that is there is copied as a whole.
        let hwpt = if tables == 0 { 6 } else { 5 };
        many("IOMMU_HWPT_ALLOC", hwpt, &mut || {
            iommu.hwpt(2, 1, 0).map(drop)
        });
        many("IOMMU_HWPT_ALLOC elsewhere", 6, &mut || {
            iommu.hwpt(2, 3 + tables, 0).map(drop)
        });
        many("IOMMU_IOAS_ALLOW_IOVAS", 2, &mut || {
            iommu.allow(1, &[(AT, AT + P)]).map(drop)
        });
        many("IOMMU_IOAS_IOVA_RANGES", 1, &mut || {
            iommu.ranges(1, 4).map(drop)
        });
        many("IOMMU_VFIO_IOAS", 1, &mut || {
            iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, 1).map(drop)
        });
        let option = iommufd::OPTION_HUGE_PAGES;
        many("IOMMU_OPTION", 1, &mut || {
            iommu.option(option, iommufd::OPTION_OP_GET, 1, 0).map(drop)
        });
        many("VFIO_IOMMU_MAP_DMA", 4, &mut || {
            iommu.fd.map(AT + 64 * P, memory.base(), P, RW).map(drop)
        });
        many("IOMMU_IOAS_UNMAP", 1, &mut || {
            iommu.unmap(1, AT, 4 * P).map(drop)
        });
        many("VFIO_IOMMU_UNMAP_DMA", 0, &mut || {
            iommu.fd.unmap(AT + 64 * P, P).map(drop)
        });
        let device = iommu.bare();
        let tracks = iommufd::HWPT_ALLOC_DIRTY_TRACKING;
        let tracked = iommu.hwpt(device, 1, tracks).unwrap();
        many("IOMMU_HWPT_SET_DIRTY_TRACKING", 1, &mut || {
            let mut cmd = iommufd::HwptSetDirtyTracking {
                size: 16,
                flags: iommufd::HWPT_DIRTY_TRACKING_ENABLE,
                hwpt_id: tracked,
                ..Default::default()
            };
            iommu
                .run(iommufd::HWPT_SET_DIRTY_TRACKING, &mut cmd)
                .map(drop)
        });
        many("IOMMU_HWPT_GET_DIRTY_BITMAP", 2, &mut || {
            let mut bits = 0u64;
            let mut cmd = iommufd::HwptGetDirtyBitmap {
                size: 48,
                hwpt_id: tracked,
                iova: AT,
                length: P,
                page_size: P,
                data: address_of(&mut bits),
                ..Default::default()
            };
            iommu
                .run(iommufd::HWPT_GET_DIRTY_BITMAP, &mut cmd)
                .map(drop)
        });
        iommu.destroy(tracked).unwrap();
        many("IOMMU_DESTROY", 0, &mut || {
            iommu.destroy(4 + tables).map(drop)
        });
        let run = iommu.context().run().clone();
        drop(iommu);
        assert_eq!(pinned(&run), (0, 0, 0), "nothing outlives the file");
    }
}

fn other_processes(tried: &mut Tried) {
    for per_process in [false, true] {
        let (_world, iommu, locked) = mapped(8 * P, per_process);
        let now = || {
            (
                state(&iommu),
                locked.charged(None),
                locked.charged(other().map(Charged::of)),
            )
        };
        let change = || change(&iommu, other());
        tried.run("IOMMU_IOAS_CHANGE_PROCESS", 1, now, change);
    }
}

fn guests(tried: &mut Tried) {
    let (mock, memory) = (Mock::new(), Memory::pages(2));
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let flags = iommufd::HWPT_ALLOC_NEST_PARENT;
    let parent = mock.iommu.hwpt(device.id, ioas, flags).unwrap();
    let iova = test::MOCK_APERTURE_START;
    let mapped = mock.iommu.map(ioas, FIXED, iova, memory.base(), 2 * P);
    mapped.unwrap();
    let now = || state(&mock.iommu);
    let (mut viommu, mut nested) = (0, 0);
    tried.run("IOMMU_GET_HW_INFO", 1, now, || {
        let mut cmd = iommufd::HwInfo {
            size: 40,
            dev_id: device.id,
            ..Default::default()
        };
        mock.iommu.run(iommufd::GET_HW_INFO, &mut cmd).map(drop)
    });
    tried.run("IOMMU_FAULT_QUEUE_ALLOC", 2, now, || {
        let mut cmd = iommufd::FaultQueueAlloc {
            size: 16,
            ..Default::default()
        };
        let fd = mock.with_fd(iommufd::FAULT_QUEUE_ALLOC, &mut cmd);
        fd.map(drop)
    });
    tried.run("IOMMU_VIOMMU_ALLOC", 3, now, || {
        viommu = mock.viommu(device.id, parent, None)?;
        Ok(())
    });
    tried.run("IOMMU_HWPT_ALLOC nested", 3, now, || {
        nested = mock.nested(device.id, viommu, 0, 0)?;
        Ok(())
    });
    tried.run("IOMMU_VDEVICE_ALLOC", 3, now, || {
        mock.vdevice(viommu, device.id, 7).map(drop)
    });
    tried.run("IOMMU_VEVENTQ_ALLOC", 3, now, || {
        mock.veventq(viommu, 2).map(drop)
    });
    tried.run("IOMMU_HW_QUEUE_ALLOC", 2, now, || {
        mock.hw_queue(viommu, 0, iova, P).map(drop)
    });
    tried.run("IOMMU_HWPT_INVALIDATE", 1, now, || {
        let mut cmd = iommufd::HwptInvalidate {
            size: 32,
            hwpt_id: nested,
            data_type: test::HWPT_INVALIDATE_DATA_SELFTEST,
            ..Default::default()
        };
        mock.iommu.run(iommufd::HWPT_INVALIDATE, &mut cmd).map(drop)
    });
}

#[test]
fn every_command_of_dev_iommu_fails_whole() {
    let mut tried = Tried::default();
    spaces_and_page_tables(&mut tried);
    other_processes(&mut tried);
    guests(&mut tried);
    tried.are_all(iommufd::COMMANDS);
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
