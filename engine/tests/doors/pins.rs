//! Pinned pages: what DMA reaches after the client gave up, protected or truncated the memory it had mapped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use swiommu_abi::vfio;

use crate::support::edu::{self as engine, Rig};
use crate::support::memory::Memory;
use crate::support::vfio::{RW, region};
use crate::support::{Model, World, edu as edu_at, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// The client gives pages up and maps others at the same address.
fn give_up(rig: &Rig, memory: &Memory, offset: u64, bytes: u64) {
    rig.world.vacate(memory.base() + offset, bytes);
    memory.replace(offset, bytes);
}

#[test]
fn dma_reaches_the_old_page_and_never_what_is_mapped_there_next() {
    for model in Model::ALL {
        let (rig, memory) = (Rig::new(model), Memory::pages(2));
        memory.write(0, b"before");
        rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
        give_up(&rig, &memory, 0, 2 * P);
        memory.fill(0x11);
        assert_eq!(rig.read(AT, 6), b"before", "the old page is still there");
        rig.write(AT, b"scribble");
        rig.write(AT + P, b"scribble");
        assert_eq!(memory.read(0, 8), [0x11; 8], "the new page is left alone");
        assert_eq!(memory.read(P, 8), [0x11; 8]);
        assert_eq!(rig.read(AT, 8), b"scribble");
        assert_eq!(rig.container.unmap(AT, 2 * P), Ok(2 * P));
        assert_eq!(rig.world.kinds(), [""; 0]);
    }
}

#[test]
fn only_what_is_given_up_moves() {
    for model in Model::ALL {
        let (rig, memory) = (Rig::new(model), Memory::pages(8));
        for page in 0..8 {
            memory.write(page * P, &[page as u8; 8]);
        }
        rig.container.map(AT, memory.base(), 8 * P, RW).unwrap();
        give_up(&rig, &memory, 2 * P, P);
        give_up(&rig, &memory, 5 * P, 2 * P);
        give_up(&rig, &memory, 2 * P, P);
        for page in 0..8 {
            let moved = [2, 5, 6].contains(&page);
            assert_eq!(
                rig.read(AT + page * P, 8),
                [page as u8; 8],
                "page {page} as the device sees it"
            );
            rig.write(AT + page * P, &[0x80 | page as u8; 8]);
            let here = if moved {
                [0; 8]
            } else {
                [0x80 | page as u8; 8]
            };
            assert_eq!(
                memory.read(page * P, 8),
                here,
                "page {page} as the client sees it"
            );
        }
        rig.write(AT + P + 4000, &[0x33; 200]);
        assert_eq!(rig.read(AT + P + 4000, 200), [0x33; 200], "over the seam");
        assert_eq!(rig.container.unmap(AT, 8 * P), Ok(8 * P));
    }
}

#[test]
fn a_page_pinned_twice_moves_as_one() {
    for model in Model::ALL {
        let (rig, memory) = (Rig::new(model), Memory::pages(4));
        rig.container.map(AT, memory.base(), 4 * P, RW).unwrap();
        rig.container
            .map(AT + 16 * P, memory.base() + P, 2 * P, RW)
            .unwrap();
        give_up(&rig, &memory, P, P);
        rig.write(AT + P, b"shared");
        assert_eq!(
            rig.read(AT + 16 * P, 6),
            b"shared",
            "both addresses lead to the one old page"
        );
        assert_eq!(memory.read(P, 6), [0; 6]);
        assert_eq!(rig.container.unmap(AT, 4 * P), Ok(4 * P));
        assert_eq!(
            rig.read(AT + 16 * P, 6),
            b"shared",
            "the second pin keeps it"
        );
        assert_eq!(rig.container.unmap(AT + 16 * P, 2 * P), Ok(2 * P));
    }
}

#[test]
fn memory_that_is_not_pinned_is_left_alone() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(3));
    memory.fill(0x5a);
    rig.container.map(AT, memory.base() + P, P, RW).unwrap();
    rig.world.vacate(memory.base(), P);
    rig.world.vacate(memory.base() + 2 * P, P);
    assert_eq!(memory.read(0, 8), [0x5a; 8]);
    rig.container.unmap(AT, P).unwrap();
    rig.world.vacate(memory.base() + P, P);
    assert_eq!(memory.read(P, 8), [0x5a; 8], "no longer pinned");
}

#[test]
fn pages_given_up_and_mapped_anew_are_two_sets_of_pages() {
    for model in Model::ALL {
        let (rig, memory) = (Rig::new(model), Memory::pages(1));
        rig.container.map(AT, memory.base(), P, RW).unwrap();
        give_up(&rig, &memory, 0, P);
        rig.container.map(AT + P, memory.base(), P, RW).unwrap();
        rig.write(AT, b"old");
        rig.write(AT + P, b"new");
        assert_eq!(memory.read(0, 3), b"new");
        give_up(&rig, &memory, 0, P);
        assert_eq!(rig.read(AT, 3), b"old");
        assert_eq!(rig.read(AT + P, 3), b"new");
        assert_eq!(memory.read(0, 3), [0; 3]);
    }
}

#[test]
fn shared_memory_moves_aside_too() {
    for model in Model::ALL {
        let (rig, (memory, file)) = (Rig::new(model), Memory::shared(2));
        rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
        give_up(&rig, &memory, 0, 2 * P);
        rig.write(AT + 100, b"into the file");
        let mut bytes = [0; 13];
        rustix::io::pread(&file, &mut bytes, 100).unwrap();
        assert_eq!(&bytes, b"into the file", "the page is the file's");
        assert_eq!(memory.read(100, 13), [0; 13]);
    }
}

#[test]
fn a_device_ignores_mprotect_as_it_ignores_page_tables() {
    for model in Model::ALL {
        let (rig, memory) = (Rig::new(model), Memory::pages(2));
        rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
        for (readable, writable) in [(true, false), (false, false)] {
            memory.protect(readable, writable);
            rig.write(AT + 4000, &[readable as u8 + 7; 200]);
            assert_eq!(rig.read(AT + 4000, 200), [readable as u8 + 7; 200]);
        }
        memory.protect(true, true);
        assert_eq!(memory.read(4000, 200), [7; 200]);
        assert_eq!(rig.world.kinds(), [""; 0]);
    }
}

#[test]
fn a_file_truncated_under_a_mapping_is_memory_gone() {
    for model in Model::ALL {
        let (rig, (memory, file)) = (Rig::new(model), Memory::shared(2));
        rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
        rustix::fs::ftruncate(&file, P).unwrap();
        rig.write(AT + P - 8, &[0x42; 16]);
        let findings = rig.world.findings();
        assert_eq!(rig.world.kinds(), ["memory-gone"]);
        assert_eq!(
            findings[0]["dma"]["done"], 8,
            "what lies before the end was written"
        );
        assert_eq!(memory.read(P - 8, 8), [0x42; 8]);
        assert_eq!(rig.read(AT + P, 4), [0xee; 4], "and nothing is read");
        assert_eq!(rig.world.kinds().len(), 2);
    }
}

#[test]
fn dma_and_giving_up_at_the_same_time_lose_nothing() {
    for model in Model::ALL {
        let (rig, memory, stop) = (Rig::new(model), Memory::pages(4), AtomicBool::new(false));
        rig.container.map(AT, memory.base(), 4 * P, RW).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..100u64 {
                    give_up(&rig, &memory, round % 4 * P, P);
                    if round % 4 == 3 {
                        rig.container.unmap(AT, 4 * P).unwrap();
                        rig.container.map(AT, memory.base(), 4 * P, RW).unwrap();
                    }
                }
                stop.store(true, Ordering::Release);
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    engine::store(&rig.device, AT + P - 64, 128);
                }
            });
        });
        let gone = rig
            .world
            .kinds()
            .iter()
            .filter(|kind| *kind == "memory-gone")
            .count();
        assert_eq!(gone, 0, "the page was always somewhere");
        assert!(rig.world.kinds().iter().all(|kind| {
            ["use-after-unmap", "beyond-the-end", "never-mapped"].contains(&&kind[..])
        }));
    }
}

/// A rig with a second edu, whose registers the client has "mapped" at an address.
fn with_peer(model: Model) -> (Rig, crate::support::Fd, crate::support::Fd, Memory) {
    let rig = Rig::on(World::new(machine(model, [edu_at(4, 4), edu_at(5, 5)])));
    let group = rig.world.group(5).unwrap();
    group.set_container(&rig.container).unwrap();
    let device = group.device("0000:00:05.0").unwrap();
    let window = Memory::pages(1);
    window.fill(0x99);
    (rig, group, device, window)
}

#[test]
fn dma_reaches_another_functions_registers() {
    for model in Model::ALL {
        let (rig, _group, peer, window) = with_peer(model);
        peer.mapped(window.base(), P, region(0));
        rig.container.map(AT, window.base(), P, RW).unwrap();
        rig.write(AT + 4, &0x1234_5678u32.to_le_bytes());
        assert_eq!(peer.load(4, 4), 0xedcb_a987, "its liveness register");
        assert_eq!(
            rig.read(AT, 4),
            0x0100_00edu32.to_le_bytes(),
            "its identification"
        );
        assert_eq!(
            window.read(0, 8),
            [0x99; 8],
            "the page behind the mapping is not touched"
        );
        assert_eq!(rig.world.kinds(), [""; 0]);
        peer.set_config(4, 2, 0);
        rig.write(AT + 4, &[0; 4]);
        assert_eq!(rig.world.kinds(), ["peer-refused"], "it decodes no memory");
    }
}

#[test]
fn dma_to_a_functions_own_registers_is_refused() {
    for model in Model::ALL {
        let (rig, _group, _peer, window) = with_peer(model);
        rig.device.mapped(window.base(), P, region(0));
        rig.container.map(AT, window.base(), P, RW).unwrap();
        rig.device.store(4, 4, 1);
        rig.write(AT + 4, &[0; 4]);
        assert_eq!(rig.world.kinds(), ["peer-refused"]);
        assert_eq!(rig.device.load(4, 4), 0xffff_fffe, "nothing was written");
    }
}

#[test]
fn a_window_that_was_unmapped_before_is_memory_again() {
    let (rig, _group, peer, window) = with_peer(Model::Scalable);
    peer.mapped(window.base(), P, region(0));
    rig.world
        .engine()
        .mapped(swiommu_mem::UserAddr(window.base()), P, None);
    rig.container.map(AT, window.base(), P, RW).unwrap();
    rig.write(AT, b"memory");
    assert_eq!(window.read(0, 6), b"memory");
}

#[test]
fn functions_that_reach_each_other_at_once_end() {
    for model in Model::ALL {
        let (rig, _group, peer, window) = with_peer(model);
        peer.bus_master(true);
        let other = Memory::pages(1);
        peer.mapped(window.base(), P, region(0));
        rig.device.mapped(other.base(), P, region(0));
        rig.container.map(AT, window.base(), P, RW).unwrap();
        rig.container.map(AT + P, other.base(), P, RW).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| (0..500).for_each(|_| engine::load(&rig.device, AT, 4)));
            scope.spawn(|| (0..500).for_each(|_| engine::load(&peer, AT + P, 4)));
        });
        assert!(
            rig.world.kinds().iter().all(|kind| kind == "peer-refused"),
            "only a circle is refused"
        );
    }
}

#[test]
fn a_peer_that_is_busy_with_its_client_is_waited_for() {
    let (rig, _group, peer, window) = with_peer(Model::Scalable);
    peer.mapped(window.base(), P, region(0));
    rig.container.map(AT, window.base(), P, RW).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                peer.store(8, 4, 33);
            }
        });
        (0..2000).for_each(|_| engine::load(&rig.device, AT, 4));
        stop.store(true, Ordering::Release);
    });
    assert_eq!(rig.world.kinds(), [""; 0]);
    assert_eq!(
        peer.ioctl(vfio::DEVICE_RESET, 0),
        Err(swiommu_abi::Errno::EINVAL)
    );
}
