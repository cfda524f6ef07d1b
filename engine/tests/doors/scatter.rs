//! DMA over a scatter list: the pages of an NVMe command, which lie wherever the client has them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use swiommu_abi::vfio::TYPE1V2_IOMMU;
use swiommu_engine::machine::{DeviceKind, Medium, NvmeConfig};

use crate::support::memory::Memory;
use crate::support::nvme::{DATA, Driver, PAGES};
use crate::support::vfio::{RW, region};
use crate::support::{Fd, Model, World, device, machine, stub};

const P: u64 = 4096;
/// Where the driver's queues and the list itself are mapped.
const QUEUES: u64 = 0x10_0000;
/// Where the pages of the list are mapped, each with a hole behind it.
const AT: u64 = 0x4000_0000;
/// Pages of the list.
const LIST: u64 = 16;
/// A large page of the IOMMU, and the most that a command moves.
const LARGE: u64 = 2 << 20;
const WRITE: u8 = 1;
const READ: u8 = 2;
const SUCCESS: u16 = 0;
/// Data Transfer Error, and the error log has more.
const DATA_TRANSFER_ERROR: u16 = 0x2004;

/// An NVMe controller without a write cache, its driver, and the pages of a command.
struct Rig {
    driver: Driver,
    memory: Memory,
    device: Fd,
    container: Fd,
    _group: Fd,
    world: World,
    medium: tempfile::NamedTempFile,
}

/// Page `page` of the list as the device addresses it: in no order, and none beside another.
fn iova(page: u64) -> u64 {
    AT + page * 7 % LIST * 2 * P
}

/// What page `page` of the list holds.
fn pattern(page: u64) -> Vec<u8> {
    (0..P).map(|at| (at / 8) as u8 ^ (page as u8 + 1)).collect()
}

impl Rig {
    fn new(model: Model) -> Rig {
        let medium = tempfile::NamedTempFile::new().unwrap();
        medium.as_file().set_len(LARGE).unwrap();
        let nvme = DeviceKind::Nvme(NvmeConfig {
            namespaces: vec![Medium {
                path: medium.path().to_owned(),
                bytes: LARGE,
                read_only: false,
            }],
            cache: 0,
            ..NvmeConfig::default()
        });
        let world = World::new(machine(model, [device(4, 4, nvme), stub(5, 5)]));
        let (container, group) = world.joined(4, TYPE1V2_IOMMU);
        let device = group.device("0000:00:04.0").unwrap();
        let (mut driver, memory) = (Driver::new(QUEUES), Memory::pages(LIST));
        let queues = driver.memory.base();
        container.map(QUEUES, queues, PAGES * P, RW).unwrap();
        driver.start(&device);
        let list: Vec<u64> = (1..LIST).map(iova).collect();
        write_list(&driver, &list);
        let rig = Rig {
            driver,
            memory,
            device,
            container,
            _group: group,
            world,
            medium,
        };
        for page in 0..LIST {
            rig.map(page);
            rig.memory.write(page * P, &pattern(page));
        }
        rig
    }

    fn map(&self, page: u64) {
        let memory = self.memory.base() + page * P;
        self.container.map(iova(page), memory, P, RW).unwrap();
    }

    /// A command over the whole list: its status.
    fn run(&mut self, opcode: u8) -> u16 {
        command(&mut self.driver, &self.device, opcode, iova(0), LIST * P)
    }

    fn page(&self, page: u64) -> Vec<u8> {
        self.memory.read(page * P, P as usize)
    }

    /// A page of the medium.
    fn stored(&self, page: u64) -> Vec<u8> {
        let all = std::fs::read(self.medium.path()).unwrap();
        all[(page * P) as usize..][..P as usize].to_vec()
    }
}

/// The driver writes the list of the command's second page and those behind it.
fn write_list(driver: &Driver, pages: &[u64]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    driver.memory.write(DATA, &bytes);
}

/// A command over `bytes` bytes, the first page of which is at `first`: its status.
fn command(driver: &mut Driver, device: &Fd, opcode: u8, first: u64, bytes: u64) -> u16 {
    let blocks = (bytes / 512) as u32;
    driver.put(1, opcode, 7, [first, QUEUES + DATA], [0, 0, blocks - 1]);
    driver.ring(device, 1);
    let (command, status) = driver.done(device, 1).expect("it completes at once");
    assert_eq!(command, 7);
    status
}

#[test]
fn the_data_of_a_command_are_the_pages_of_its_list_in_order() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        assert_eq!(rig.run(WRITE), SUCCESS);
        assert!((0..LIST).all(|page| rig.stored(page) == pattern(page)));
        rig.memory.fill(0);
        assert_eq!(rig.run(READ), SUCCESS);
        assert!((0..LIST).all(|page| rig.page(page) == pattern(page)));
        assert_eq!(rig.world.kinds(), [""; 0]);
    }
}

#[test]
fn a_command_stops_at_the_page_of_its_list_that_is_not_mapped_and_the_report_names_it() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        assert_eq!(rig.run(WRITE), SUCCESS);
        rig.memory.fill(0);
        rig.container.unmap(iova(9), P).unwrap();
        assert_eq!(rig.run(READ), DATA_TRANSFER_ERROR);
        for page in 0..LIST {
            let moved = rig.page(page) == pattern(page);
            assert_eq!(moved, page < 9, "page {page}");
            assert!(moved || rig.page(page) == [0; P as usize]);
        }
        let findings = rig.world.findings();
        assert_eq!(rig.world.kinds(), ["use-after-unmap"]);
        let dma = &findings[0]["dma"];
        assert_eq!((&dma["iova"], &dma["bytes"]), (&iova(9).into(), &P.into()));
        assert_eq!(dma["done"], 0);
        rig.map(9);
        assert_eq!(rig.run(READ), SUCCESS);
        assert!((0..LIST).all(|page| rig.page(page) == pattern(page)));
        assert_eq!(rig.world.kinds().len(), 1);
    }
}

#[test]
fn a_write_is_of_the_bytes_before_the_page_that_is_not_mapped() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        rig.container.unmap(iova(3), P).unwrap();
        assert_eq!(rig.run(WRITE), DATA_TRANSFER_ERROR);
        for page in 0..LIST {
            assert_eq!(rig.stored(page) == pattern(page), page < 3, "page {page}");
        }
        assert_eq!(rig.world.kinds(), ["use-after-unmap"]);
    }
}

#[test]
fn a_page_given_up_in_the_middle_of_a_list_is_the_devices_alone() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        rig.world.vacate(rig.memory.base() + 5 * P, P);
        rig.memory.replace(5 * P, P);
        rig.memory.write(5 * P, &[0x11; P as usize]);
        assert_eq!(rig.run(WRITE), SUCCESS);
        assert!((0..LIST).all(|page| rig.stored(page) == pattern(page)));
        rig.memory.fill(0x22);
        assert_eq!(rig.run(READ), SUCCESS);
        for page in 0..LIST {
            assert_eq!(rig.page(page) == pattern(page), page != 5, "page {page}");
        }
        assert_eq!(rig.page(5), [0x22; P as usize]);
    }
}

#[test]
fn registers_of_another_function_may_lie_in_the_middle_of_a_list() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        assert_eq!(rig.run(WRITE), SUCCESS);
        let group = rig.world.group(5).unwrap();
        group.set_container(&rig.container).unwrap();
        let peer = group.device("0000:00:05.0").unwrap();
        peer.set_config(4, 2, 2);
        rig.container.unmap(iova(6), P).unwrap();
        peer.mapped(rig.memory.base() + 6 * P, P, region(0));
        rig.map(6);
        assert_eq!(rig.run(WRITE), SUCCESS);
        for page in 0..LIST {
            let expected = if page == 6 {
                // the registers of a stub read zero
                vec![0; P as usize]
            } else {
                pattern(page)
            };
            assert_eq!(rig.stored(page), expected, "page {page}");
        }
        assert_eq!(rig.world.kinds(), [""; 0]);
        peer.unmapped(rig.memory.base() + 6 * P, P);
    }
}

#[test]
fn a_page_protected_from_the_client_is_read_and_written_all_the_same() {
    for model in Model::ALL {
        let mut rig = Rig::new(model);
        rig.memory.protect(false, false);
        assert_eq!(rig.run(WRITE), SUCCESS);
        rig.memory.protect(true, true);
        assert!((0..LIST).all(|page| rig.stored(page) == pattern(page)));
        rig.memory.fill(0);
        rig.memory.protect(true, false);
        assert_eq!(rig.run(READ), SUCCESS);
        assert!((0..LIST).all(|page| rig.page(page) == pattern(page)));
        assert_eq!(rig.world.kinds(), [""; 0]);
    }
}

/// Half of the data go to one large page and half to another: copies long enough that an unmap meets one.
#[test]
fn what_was_unmapped_under_a_command_is_not_written_once_the_unmap_returned() {
    const HALF: u64 = LARGE / 2;
    for model in Model::ALL {
        let Rig {
            mut driver,
            device,
            container,
            world: _world,
            _group,
            medium: _medium,
            ..
        } = Rig::new(model);
        let memory = Memory::pages(3 * LARGE / P);
        let large = memory.base().next_multiple_of(LARGE);
        let second = large + LARGE - memory.base();
        container.map(LARGE, large, LARGE, RW).unwrap();
        container.map(3 * LARGE, large + LARGE, LARGE, RW).unwrap();
        let pages = |from: u64| (from..from + HALF).step_by(P as usize);
        let list: Vec<u64> = pages(LARGE).chain(pages(3 * LARGE)).skip(1).collect();
        write_list(&driver, &list);
        let (stop, commands) = (AtomicBool::new(false), AtomicU64::new(0));
        let mine = vec![0x55; HALF as usize];
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    command(&mut driver, &device, READ, LARGE, LARGE);
                    commands.fetch_add(1, Ordering::Release);
                }
            });
            let wait = |more| {
                let seen = commands.load(Ordering::Acquire);
                while commands.load(Ordering::Acquire) < seen + more && !busy.is_finished() {
                    thread::yield_now();
                }
            };
            let left_alone = (0..10).all(|_| {
                wait(1);
                container.unmap(3 * LARGE, LARGE).unwrap();
                memory.write(second, &mine);
                // the command that was under way, and a whole one
                wait(2);
                let left_alone = memory.read(second, HALF as usize) == mine;
                container.map(3 * LARGE, large + LARGE, LARGE, RW).unwrap();
                left_alone
            });
            stop.store(true, Ordering::Release);
            assert!(left_alone);
        });
    }
}
