//! Several functions move data while other threads map, unmap and give memory up: no access lands after its unmap
//! returned, and nothing hangs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::edu::{self as engine, SCRATCH};
use crate::support::memory::Memory;
use crate::support::vfio::RW;
use crate::support::{Fd, Model, World, edu, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;
/// What edu's buffer holds, and what a page is stamped with when it was unmapped.
const DATA: u8 = 0xda;
const STAMP: u8 = 0x5a;
/// How long the threads of one model run.
const TIME: Duration = Duration::from_millis(400);

struct Site {
    world: World,
    container: Fd,
    devices: Vec<Fd>,
    _groups: Vec<Fd>,
    _scratch: Memory,
}

/// Three edus in one container, their buffers full of `DATA`.
fn site(model: Model) -> Site {
    let world = World::with(
        machine(model, [edu(4, 4), edu(5, 5), edu(6, 6)]),
        swiommu_engine::machine::options::Options {
            verbosity: 0,
            ..crate::support::options()
        },
    );
    let (container, group) = world.joined(4, swiommu_abi::vfio::TYPE1V2_IOMMU);
    let scratch = Memory::pages(1);
    scratch.fill(DATA);
    container.map(SCRATCH, scratch.base(), P, RW).unwrap();
    let mut groups = vec![group];
    for number in [5, 6] {
        let group = world.group(number).unwrap();
        group.set_container(&container).unwrap();
        groups.push(group);
    }
    let devices: Vec<Fd> = groups
        .iter()
        .enumerate()
        .map(|(at, group)| group.device(&format!("0000:00:0{}.0", at + 4)).unwrap())
        .collect();
    for device in &devices {
        device.bus_master(true);
        engine::load(device, SCRATCH, P);
    }
    Site {
        world,
        container,
        devices,
        _groups: groups,
        _scratch: scratch,
    }
}

/// Every device writes over `AT` and what follows until the time is over.
fn hammer<'scope>(
    site: &'scope Site,
    scope: &'scope thread::Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    spread: u64,
) {
    for (at, device) in site.devices.iter().enumerate() {
        scope.spawn(move || {
            let mut round = at as u64;
            while !stop.load(Ordering::Acquire) {
                engine::store(device, AT + round % spread * P, P);
                round += 1;
            }
        });
    }
}

fn page_is(memory: &Memory, page: u64, byte: u8) -> bool {
    memory
        .read(page * P, P as usize)
        .iter()
        .all(|found| *found == byte)
}

#[test]
fn no_write_lands_after_its_unmap_returned() {
    for model in Model::ALL {
        let (site, stop, rounds) = (site(model), AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            hammer(&site, scope, &stop, 4);
            let workers: Vec<_> = (0..2u64)
                .map(|half| {
                    let (container, rounds) = (&site.container, &rounds);
                    scope.spawn(move || {
                        let (memory, began) = (Memory::pages(2), Instant::now());
                        let first = AT + half * 2 * P;
                        while began.elapsed() < TIME {
                            container.map(first, memory.base(), 2 * P, RW).unwrap();
                            thread::yield_now();
                            container.unmap(first, 2 * P).unwrap();
                            memory.fill(STAMP);
                            thread::yield_now();
                            if !(page_is(&memory, 0, STAMP) && page_is(&memory, 1, STAMP)) {
                                return false;
                            }
                            rounds.fetch_add(1, Ordering::Relaxed);
                        }
                        true
                    })
                })
                .collect();
            let clean: Vec<bool> = workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect();
            stop.store(true, Ordering::Release);
            assert_eq!(
                clean, [true; 2],
                "{model:?}: a write landed in an unmapped page"
            );
        });
        assert!(rounds.into_inner() > 0, "the threads met");
    }
}

#[test]
fn no_write_lands_in_memory_mapped_over_what_was_given_up() {
    for model in Model::ALL {
        let (site, stop) = (site(model), AtomicBool::new(false));
        let memory = Memory::pages(4);
        site.container.map(AT, memory.base(), 4 * P, RW).unwrap();
        thread::scope(|scope| {
            hammer(&site, scope, &stop, 4);
            let worker = scope.spawn(|| {
                let began = Instant::now();
                while began.elapsed() < TIME {
                    for page in 0..4 {
                        site.world.vacate(memory.base() + page * P, P);
                        memory.replace(page * P, P);
                        if !page_is(&memory, page, 0) {
                            return false;
                        }
                    }
                    if !(0..4).all(|page| page_is(&memory, page, 0)) {
                        return false;
                    }
                    site.container.unmap(AT, 4 * P).unwrap();
                    site.container.map(AT, memory.base(), 4 * P, RW).unwrap();
                    // what lands now is meant for these pages
                }
                true
            });
            let clean = worker.join().unwrap();
            stop.store(true, Ordering::Release);
            assert!(clean, "{model:?}: a write landed in new memory");
        });
        let gone = site
            .world
            .kinds()
            .iter()
            .filter(|kind| *kind == "memory-gone")
            .count();
        assert_eq!(gone, 0, "{model:?}: a pinned page was lost");
    }
}

#[test]
fn groups_come_and_go_while_others_move_data() {
    for model in Model::ALL {
        let (site, stop) = (site(model), AtomicBool::new(false));
        let memory = Memory::pages(4);
        site.container.map(AT, memory.base(), 4 * P, RW).unwrap();
        let Site {
            world,
            container,
            mut devices,
            _groups: mut groups,
            _scratch,
        } = site;
        let (leaver, name) = (groups.pop().unwrap(), "0000:00:06.0");
        drop(devices.pop());
        let site = Site {
            world,
            container,
            devices,
            _groups: groups,
            _scratch,
        };
        thread::scope(|scope| {
            hammer(&site, scope, &stop, 4);
            for _ in 0..50 {
                let device = leaver.device(name).unwrap();
                device.bus_master(true);
                engine::load(&device, AT, P);
                drop(device);
                leaver
                    .ioctl(swiommu_abi::vfio::GROUP_UNSET_CONTAINER, 0)
                    .unwrap();
                leaver.set_container(&site.container).unwrap();
            }
            stop.store(true, Ordering::Release);
        });
        assert_eq!(site.world.kinds(), [""; 0], "{model:?}");
    }
}
