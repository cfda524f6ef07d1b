//! A container's address space: what can be mapped and unmapped, how much of it, and what refusals leave behind.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{Machine, Memlock, VfioConfig};

use crate::support::edu::Rig;
use crate::support::memory::{Memory, address_of};
use crate::support::vfio::RW;
use crate::support::{Fd, Model, World, edu, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;
const VADDR: u32 = vfio::DMA_UNMAP_FLAG_VADDR;
const ALL: u32 = vfio::DMA_UNMAP_FLAG_ALL;

fn limited(model: Model, vfio: VfioConfig) -> World {
    World::new(Machine {
        vfio,
        ..machine(model, [edu(4, 4)])
    })
}

fn memlock(memlock: Memlock) -> VfioConfig {
    VfioConfig {
        memlock,
        ..VfioConfig::default()
    }
}

/// A container of each kind behind each model.
fn each(kind: u64, mut test: impl FnMut(&Fd, &Memory)) {
    for model in Model::ALL {
        let world = World::new(machine(model, [edu(4, 4)]));
        let (container, _group) = world.joined(4, kind);
        test(&container, &Memory::pages(16));
    }
}

#[test]
fn version_2_refuses_to_cut_a_mapping_and_leaves_it_whole() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        container.map(AT, memory.base(), 4 * P, RW).unwrap();
        container.map(AT + 4 * P, memory.base(), P, RW).unwrap();
        for (first, bytes) in [
            (AT, P),
            (AT + P, P),
            (AT + 3 * P, P),
            (AT - P, 2 * P),
            (AT + 3 * P, 2 * P),
        ] {
            assert_eq!(
                container.unmap(first, bytes),
                Err(Errno::EINVAL),
                "{first:#x}+{bytes:#x}"
            );
        }
        assert_eq!(
            container.unmap(AT - P, 7 * P),
            Ok(5 * P),
            "what covers mappings whole takes them"
        );
        assert_eq!(
            container.unmap(AT - P, 7 * P),
            Ok(0),
            "an empty range is no error"
        );
    });
}

#[test]
fn version_1_unmaps_whole_mappings_from_their_first_address() {
    each(vfio::TYPE1_IOMMU, |container, memory| {
        container.map(AT, memory.base(), 4 * P, RW).unwrap();
        container.map(AT + 4 * P, memory.base(), P, RW).unwrap();
        assert_eq!(
            container.unmap(AT + P, P),
            Ok(0),
            "inside a mapping: nothing"
        );
        assert_eq!(
            container.unmap(AT + 3 * P, 2 * P),
            Ok(0),
            "from inside one: nothing, not even the next"
        );
        assert_eq!(
            container.unmap(AT, P),
            Ok(4 * P),
            "its first page: all of it"
        );
        assert_eq!(container.unmap(AT + 4 * P, P), Ok(P));
    });
}

#[test]
fn unmap_all_takes_everything_and_wants_no_range() {
    for kind in [vfio::TYPE1_IOMMU, vfio::TYPE1V2_IOMMU] {
        each(kind, |container, memory| {
            for page in 0..4 {
                container
                    .map(AT + 2 * page * P, memory.base(), P, RW)
                    .unwrap();
            }
            for (iova, size) in [(AT, 0), (0, P), (AT, P)] {
                assert_eq!(container.unmap_with(iova, size, ALL), Err(Errno::EINVAL));
            }
            assert_eq!(container.available(), 65531, "the refusals took nothing");
            assert_eq!(container.unmap_with(0, 0, ALL), Ok(4 * P));
            assert_eq!(container.unmap_with(0, 0, ALL), Ok(0));
            assert_eq!(container.available(), 65535);
        });
    }
}

#[test]
fn a_refused_map_changes_nothing() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        container.map(AT, memory.base(), P, RW).unwrap();
        let hole = Memory::pages(4);
        hole.unmap(2 * P, P);
        let refused = [
            (
                "over a mapping",
                AT - P,
                memory.base(),
                4 * P,
                RW,
                Errno::EEXIST,
            ),
            ("no permission", AT + P, memory.base(), P, 0, Errno::EINVAL),
            (
                "an unknown flag",
                AT + P,
                memory.base(),
                P,
                8 | RW,
                Errno::EINVAL,
            ),
            ("no bytes", AT + P, memory.base(), 0, RW, Errno::EINVAL),
            (
                "a crooked address",
                AT + P + 1,
                memory.base(),
                P,
                RW,
                Errno::EINVAL,
            ),
            (
                "crooked memory",
                AT + P,
                memory.base() + 8,
                P,
                RW,
                Errno::EINVAL,
            ),
            (
                "a crooked size",
                AT + P,
                memory.base(),
                P + 8,
                RW,
                Errno::EINVAL,
            ),
            (
                "IOVA wraps",
                u64::MAX - P + 1,
                memory.base(),
                2 * P,
                RW,
                Errno::EOVERFLOW,
            ),
            (
                "memory wraps",
                AT + P,
                u64::MAX - P + 1,
                2 * P,
                RW,
                Errno::EOVERFLOW,
            ),
            (
                "interrupt window",
                0xfee0_0000,
                memory.base(),
                P,
                RW,
                Errno::EINVAL,
            ),
            (
                "into the window",
                0xfedf_f000,
                memory.base(),
                2 * P,
                RW,
                Errno::EINVAL,
            ),
            (
                "beyond the aperture",
                1 << 57,
                memory.base(),
                P,
                RW,
                Errno::EINVAL,
            ),
            (
                "a hole in memory",
                AT + P,
                hole.base(),
                4 * P,
                RW,
                Errno::EFAULT,
            ),
            ("no memory", AT + P, 8 * P, P, RW, Errno::EFAULT),
            ("kernel memory", AT + P, 1 << 47, P, RW, Errno::EFAULT),
        ];
        for (what, iova, vaddr, size, flags, errno) in refused {
            assert_eq!(
                container.map(iova, vaddr, size, flags),
                Err(errno),
                "{what}"
            );
            assert_eq!(container.available(), 65534, "{what}");
        }
        assert_eq!(
            container.map(AT + P, memory.base(), 4 * P, RW),
            Ok(0),
            "the range is free"
        );
        assert_eq!(container.unmap_with(0, 0, ALL), Ok(5 * P));
        hole.replace(2 * P, P);
    });
}

#[test]
fn read_only_memory_can_be_mapped_for_reading_alone() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        memory.protect(true, false);
        assert_eq!(container.map(AT, memory.base(), P, RW), Err(Errno::EFAULT));
        assert_eq!(
            container.map(AT, memory.base(), P, vfio::DMA_MAP_FLAG_WRITE),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            container.map(AT, memory.base(), P, vfio::DMA_MAP_FLAG_READ),
            Ok(0)
        );
    });
}

#[test]
fn the_entry_limit_counts_mappings_and_gives_them_back() {
    for model in Model::ALL {
        let world = limited(
            model,
            VfioConfig {
                dma_entry_limit: 3,
                ..VfioConfig::default()
            },
        );
        let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let memory = Memory::pages(1);
        for page in 0..3 {
            assert_eq!(container.available(), 3 - page as u32);
            container.map(AT + page * P, memory.base(), P, RW).unwrap();
        }
        assert_eq!(
            container.map(AT + 3 * P, memory.base(), P, RW),
            Err(Errno::ENOSPC)
        );
        assert_eq!(
            container.map(AT, memory.base(), P, RW),
            Err(Errno::EEXIST),
            "an overlap is found first"
        );
        container.unmap(AT + P, P).unwrap();
        assert_eq!(container.map(AT + 3 * P, memory.base(), P, RW), Ok(0));
        container.unmap_with(0, 0, ALL).unwrap();
        assert_eq!(container.available(), 3);
    }
}

#[test]
fn locked_memory_is_charged_by_the_byte_and_given_back() {
    let world = limited(Model::Scalable, memlock(Memlock::Bytes(4 * P)));
    let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let memory = Memory::pages(16);
    container.map(AT, memory.base(), 3 * P, RW).unwrap();
    assert_eq!(
        container.map(AT + 8 * P, memory.base(), 2 * P, RW),
        Err(Errno::ENOMEM)
    );
    assert_eq!(
        container.map(AT + 8 * P, 8 * P, P, RW),
        Err(Errno::EFAULT),
        "a refusal charges nothing"
    );
    assert_eq!(
        container.map(AT + 8 * P, memory.base(), P, RW),
        Ok(0),
        "to the byte"
    );
    assert_eq!(
        container.map(AT + 16 * P, memory.base(), P, RW),
        Err(Errno::ENOMEM),
        "twice pinned is twice charged"
    );
    container.unmap(AT, 3 * P).unwrap();
    assert_eq!(container.map(AT, memory.base(), 3 * P, RW), Ok(0));
    drop(group);
    drop(container);
    let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    assert_eq!(
        container.map(AT, memory.base(), 4 * P, RW),
        Ok(0),
        "a container that goes gives all back"
    );
}

#[test]
fn the_limit_is_the_processs_not_the_containers() {
    let world = World::new(Machine {
        vfio: memlock(Memlock::Bytes(2 * P)),
        ..machine(Model::Amd, [edu(4, 4), edu(5, 5)])
    });
    let (first, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let (second, _other) = world.joined(5, vfio::TYPE1V2_IOMMU);
    let memory = Memory::pages(2);
    first.map(AT, memory.base(), 2 * P, RW).unwrap();
    assert_eq!(second.map(AT, memory.base(), P, RW), Err(Errno::ENOMEM));
    first.unmap(AT, 2 * P).unwrap();
    assert_eq!(second.map(AT, memory.base(), P, RW), Ok(0));
}

#[test]
fn an_inherited_limit_is_the_processs_own() {
    let world = limited(Model::Scalable, memlock(Memlock::Inherit));
    let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let limit = swiommu_mem::limit::locked_memory();
    let pages = limit.map_or(64, |bytes| bytes / P + 1).min(1 << 18);
    let memory = Memory::pages(pages);
    let expected = if limit.is_some_and(|bytes| bytes < pages * P) {
        Err(Errno::ENOMEM)
    } else {
        Ok(0)
    };
    assert_eq!(
        container.map(AT, memory.base(), pages * P, vfio::DMA_MAP_FLAG_READ),
        expected
    );
}

#[test]
fn a_client_address_is_taken_away_and_given_anew_while_dma_goes_on() {
    for model in Model::ALL {
        let rig = Rig::new(model);
        let memory = Memory::pages(2);
        rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
        assert_eq!(
            rig.container.map(AT, memory.base(), 2 * P, 4),
            Err(Errno::EINVAL),
            "its address is valid"
        );
        assert_eq!(rig.container.unmap_with(AT, 2 * P, VADDR), Ok(2 * P));
        assert_eq!(
            rig.container.unmap_with(AT, 2 * P, VADDR),
            Err(Errno::EINVAL),
            "it is taken already"
        );
        rig.write(AT, b"still there");
        assert_eq!(memory.read(0, 11), b"still there");
        let elsewhere = Memory::pages(2);
        assert_eq!(
            rig.container.map(AT + 8 * P, elsewhere.base(), P, 4),
            Err(Errno::ENOENT),
            "nothing is mapped"
        );
        assert_eq!(
            rig.container.map(AT, elsewhere.base(), P, 4),
            Err(Errno::EINVAL),
            "a part of it"
        );
        assert_eq!(
            rig.container.map(AT, elsewhere.base(), 2 * P, RW | 4),
            Err(Errno::EINVAL),
            "with permissions"
        );
        assert_eq!(rig.container.map(AT, elsewhere.base(), 2 * P, 4), Ok(0));
        assert_eq!(
            rig.container.map(AT, elsewhere.base(), 2 * P, 4),
            Err(Errno::EINVAL),
            "it has one again"
        );
        rig.write(AT, b"the same page");
        assert_eq!(
            memory.read(0, 13),
            b"the same page",
            "the pages stay those that were pinned"
        );
        assert_eq!(rig.container.unmap(AT, 2 * P), Ok(2 * P));
        rig.write(AT, b"x");
        assert_eq!(rig.world.kinds(), ["use-after-unmap"]);
    }
}

#[test]
fn taking_all_client_addresses_away_keeps_all_mappings() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        container.map(AT, memory.base(), P, RW).unwrap();
        container.map(AT + 4 * P, memory.base(), P, RW).unwrap();
        container.unmap_with(AT, P, VADDR).unwrap();
        assert_eq!(
            container.unmap_with(0, 0, VADDR | ALL),
            Err(Errno::EINVAL),
            "one is taken already"
        );
        container.map(AT, memory.base(), P, 4).unwrap();
        assert_eq!(container.unmap_with(0, 0, VADDR | ALL), Ok(2 * P));
        assert_eq!(container.available(), 65533);
        assert_eq!(container.unmap_with(0, 0, ALL), Ok(2 * P));
    });
}

/// DIRTY_PAGES with GET_BITMAP: the bits.
fn dirty(
    container: &Fd,
    iova: u64,
    size: u64,
    pgsize: u64,
    words: &mut [u64],
) -> Result<i32, Errno> {
    let bitmap = vfio::Bitmap {
        pgsize,
        size: words.len() as u64 * 8,
        data: address_of(words),
    };
    let mut get = [0u64; 6];
    get[0] = 48 | u64::from(vfio::DIRTY_PAGES_FLAG_GET_BITMAP) << 32;
    get[1..].copy_from_slice(&[iova, size, bitmap.pgsize, bitmap.size, bitmap.data]);
    container.ioctl_with(vfio::IOMMU_DIRTY_PAGES, &mut get)
}

fn dirty_flag(container: &Fd, flags: u32) -> Result<i32, Errno> {
    container.ioctl_with(
        vfio::IOMMU_DIRTY_PAGES,
        &mut vfio::DirtyBitmap { argsz: 8, flags },
    )
}

#[test]
fn every_mapped_page_is_dirty_while_tracking_and_each_time() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        container.map(AT, memory.base(), 2 * P, RW).unwrap();
        container
            .map(AT + 60 * P, memory.base(), 8 * P, RW)
            .unwrap();
        let mut words = [0; 2];
        assert_eq!(
            dirty(container, AT, 128 * P, P, &mut words),
            Err(Errno::EINVAL),
            "not tracking"
        );
        assert_eq!(words, [0; 2]);
        dirty_flag(container, vfio::DIRTY_PAGES_FLAG_START).unwrap();
        for _ in 0..2 {
            let mut words = [1 << 5, 0];
            dirty(container, AT, 128 * P, P, &mut words).unwrap();
            assert_eq!(
                words,
                [3 | 0xf << 60, 0xf],
                "a mapping's words are written whole"
            );
        }
        assert_eq!(
            dirty(container, AT + P, P, P, &mut words),
            Err(Errno::EINVAL),
            "it cuts a mapping"
        );
        assert_eq!(
            dirty(container, AT, 128 * P, 2 * P, &mut words),
            Err(Errno::EINVAL),
            "pages of 4 KiB only"
        );
        assert_eq!(
            dirty(container, AT, 129 * P, P, &mut words),
            Err(Errno::EINVAL),
            "too small a bitmap"
        );
        assert_eq!(words, [0; 2]);
        dirty_flag(container, vfio::DIRTY_PAGES_FLAG_STOP).unwrap();
        assert_eq!(
            dirty(container, AT, 128 * P, P, &mut words),
            Err(Errno::EINVAL)
        );
        assert_eq!(dirty_flag(container, 0), Err(Errno::EINVAL));
        assert_eq!(
            dirty_flag(container, 3),
            Err(Errno::EINVAL),
            "one at a time"
        );
    });
}

#[test]
fn version_1_tracks_nothing() {
    each(vfio::TYPE1_IOMMU, |container, _| {
        assert_eq!(
            dirty_flag(container, vfio::DIRTY_PAGES_FLAG_START),
            Err(Errno::EACCES)
        );
    });
}

#[test]
fn an_unmap_can_ask_what_was_dirty() {
    each(vfio::TYPE1V2_IOMMU, |container, memory| {
        container.map(AT, memory.base(), 3 * P, RW).unwrap();
        let mut word = [0u64];
        let flags = vfio::DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
        let ask = |size: u64, flags: u32, word: &mut [u64; 1]| {
            let mut unmap = [
                48 | u64::from(flags) << 32,
                AT,
                size,
                P,
                8,
                address_of(&mut word[..]),
            ];
            container
                .ioctl_with(vfio::IOMMU_UNMAP_DMA, &mut unmap)
                .map(|_| unmap[2])
        };
        assert_eq!(
            ask(3 * P, flags, &mut word),
            Err(Errno::EINVAL),
            "not tracking"
        );
        dirty_flag(container, vfio::DIRTY_PAGES_FLAG_START).unwrap();
        assert_eq!(ask(3 * P, flags | VADDR, &mut word), Err(Errno::EINVAL));
        assert_eq!(ask(3 * P, flags | ALL, &mut word), Err(Errno::EINVAL));
        assert_eq!(word, [0]);
        assert_eq!(ask(3 * P, flags, &mut word), Ok(3 * P));
        assert_eq!(word, [7]);
        assert_eq!(container.unmap(AT, 3 * P), Ok(0), "it is gone");
    });
}

#[test]
fn of_many_threads_that_map_one_range_one_wins() {
    for model in Model::ALL {
        let world = World::new(machine(model, [edu(4, 4)]));
        let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let (memory, won) = (Memory::pages(1), AtomicU32::new(0));
        for _ in 0..50 {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| match container.map(AT, memory.base(), P, RW) {
                        Ok(_) => drop(won.fetch_add(1, Ordering::Relaxed)),
                        Err(errno) => assert_eq!(errno, Errno::EEXIST),
                    });
                }
            });
            assert_eq!(container.unmap(AT, P), Ok(P));
        }
        assert_eq!(won.into_inner(), 50);
        assert_eq!(container.available(), 65535);
    }
}

#[test]
fn a_long_buffer_mapped_again_is_refused_once_it_cannot_be_pinned() {
    each(vfio::TYPE1V2_IOMMU, |container, _| {
        let memory = Memory::pages(64);
        memory.write(63 * P, b"kept");
        for _ in 0..3 {
            container.map(AT, memory.base(), 64 * P, RW).unwrap();
            container.unmap(AT, 64 * P).unwrap();
        }
        assert_eq!(
            memory.read(63 * P, 4),
            b"kept",
            "faulting in changes nothing"
        );
        memory.protect(true, false);
        assert_eq!(
            container.map(AT, memory.base(), 64 * P, RW),
            Err(Errno::EFAULT),
            "protected"
        );
        memory.protect(true, true);
        // the engine is not told
        memory.unmap(40 * P, P);
        assert_eq!(
            container.map(AT, memory.base(), 64 * P, RW),
            Err(Errno::EFAULT),
            "a hole"
        );
        memory.replace(40 * P, P);
        assert_eq!(container.map(AT, memory.base(), 64 * P, RW), Ok(0));
    });
}
