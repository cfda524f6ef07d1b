//! Address spaces: mapping through /dev/iommu beside a container, filling a new page table beside a bare walk that writes
//! the same entries, and dirty pages beside a bitmap of words.
//!
//! `cargo bench -p swiommu-engine --bench space [-- --json] [-- --quick] [-- FILTER]`. Nanoseconds of thread CPU time; contenders
//! take turns, each figure is the median of their runs.
#![allow(unsafe_code, missing_docs)] // the floor's tables

#[path = "../../iommu/benches/page_table/clock.rs"]
mod clock;
#[path = "../../iommu/benches/page_table/floor.rs"]
#[allow(dead_code)] // only maps here
mod floor;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use clock::{Contender, cpu_ns, pin, race};
use floor::Floor;
use support::iommufd::{FIXED, Iommu};
use support::memory::Memory;
use support::vfio::RW;
use support::{Model, World, edu, machine};
use swiommu_abi::{iommufd, vfio};
use swiommu_engine::iommufd::hwpt::Hwpt;
use swiommu_engine::iommufd::object::Ref;
use swiommu_iommu::{Access, Iova, StreamId};

const P: u64 = 4096;
const BASE: u64 = 1 << 32;

type Results = Vec<(String, f64)>;

/// The median of runs that take turns, each of which says how long it took.
fn turns(contenders: &mut [(&str, &mut dyn FnMut() -> f64)]) -> Results {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let runs = if quick { 3 } else { 9 };
    let mut samples = vec![Vec::new(); contenders.len()];
    for _ in 0..runs {
        for (index, (_, run)) in contenders.iter_mut().enumerate() {
            samples[index].push(run());
        }
    }
    let median = |samples: &mut Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples[runs / 2]
    };
    let names = contenders.iter().map(|(name, _)| (*name).to_owned());
    names.zip(samples.iter_mut().map(median)).collect()
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu_ns();
    work();
    cpu_ns() - start
}

/// A world whose memory nobody counts, an open /dev/iommu with an address space (1) and a device (2).
fn open() -> (World, Iommu) {
    let mut machine = machine(Model::Scalable, [edu(4, 4)]);
    machine.vfio.dma_entry_limit = u32::MAX;
    let world = World::new(machine);
    let iommu = world.iommu();
    assert_eq!((iommu.ioas(), iommu.bare()), (1, 2));
    (world, iommu)
}

/// Mapping and unmapping a page among others, by both doors.
fn pairs(live: u64) -> Results {
    let (world, iommu) = open();
    let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    iommu.hwpt(2, 1, 0).expect("a page table");
    let memory = Memory::pages(1024);
    let va = |page: u64| memory.base() + page % 1024 * P;
    for page in 0..live {
        let at = BASE + 2 * page * P;
        iommu.map(1, FIXED, at, va(page), P).expect("IOAS_MAP");
        container.map(at, va(page), P, RW).expect("MAP_DMA");
    }
    let at = |i: u64| BASE + (2 * (i.wrapping_mul(0x9e37_79b9) % live) + 1) * P;
    let mut contenders = [
        Contender::new("container", |n| {
            for i in 0..n {
                container.map(at(i), va(i), P, RW).expect("MAP_DMA");
                container.unmap(at(i), P).expect("UNMAP_DMA");
            }
        }),
        Contender::new("iommufd", |n| {
            for i in 0..n {
                iommu.map(1, FIXED, at(i), va(i), P).expect("IOAS_MAP");
                iommu.unmap(1, at(i), P).expect("IOAS_UNMAP");
            }
        }),
    ];
    let results = race(&mut contenders);
    results
        .into_iter()
        .map(|(name, ns)| (name.to_owned(), ns))
        .collect()
}

/// A new page table for an address space of many mappings, per mapping.
fn fill(mappings: u64) -> Results {
    let (_world, iommu) = open();
    iommu.hwpt(2, 1, 0).expect("a page table");
    let memory = Memory::pages(1024);
    let va = |page: u64| memory.base() + page.wrapping_mul(0x9e37) % 1024 * P;
    for page in 0..mappings {
        let at = BASE + 2 * page * P;
        iommu.map(1, FIXED, at, va(page), P).expect("IOAS_MAP");
    }
    let each = mappings as f64;
    let mut floor = || {
        let mut floor = Floor::new();
        timed(|| {
            for page in 0..mappings {
                floor.map(BASE + 2 * page * P, va(page));
            }
        }) / each
    };
    let mut ours = || {
        let mut hwpt = 0;
        let spent = timed(|| hwpt = iommu.hwpt(2, 1, 0).expect("a page table"));
        iommu.destroy(hwpt).expect("nobody uses it");
        spent / each
    };
    turns(&mut [("bare walk", &mut floor), ("swiommu", &mut ours)])
}

/// The dirty pages of 4 GiB, of which the device writes one page in so many first.
fn dirty(large: bool, one_in: u64) -> Results {
    const PAGES: u64 = 1 << 20;
    let (_world, iommu) = open();
    if !large {
        let set = (iommufd::OPTION_HUGE_PAGES, iommufd::OPTION_OP_SET);
        iommu.option(set.0, set.1, 1, 0).expect("small pages");
    }
    let memory = Memory::pages(3 * 512);
    let va = memory.base().next_multiple_of(2 << 20);
    for part in 0..PAGES / 512 {
        let at = BASE + part * (2 << 20);
        iommu.map(1, FIXED, at, va, 2 << 20).expect("IOAS_MAP");
    }
    let flags = iommufd::HWPT_ALLOC_DIRTY_TRACKING;
    let id = iommu.hwpt(2, 1, flags).expect("a page table");
    let hwpt: Ref<Hwpt> = iommu.context().get(id).expect("it was just made");
    let run = iommu.context().run().clone();
    let domain = hwpt.table.domain().expect("of a modelled IOMMU");
    run.iommu.attach(StreamId(0x100), domain);
    let mut on = iommufd::HwptSetDirtyTracking {
        size: 16,
        flags: 1,
        hwpt_id: id,
        ..Default::default()
    };
    iommu
        .run(iommufd::HWPT_SET_DIRTY_TRACKING, &mut on)
        .expect("tracking");
    let bits = Memory::pages(PAGES / 8 / P);
    bits.fill(0);
    let words: Vec<AtomicU64> = (0..PAGES / 64).map(|_| AtomicU64::new(0)).collect();
    let mut port = run.iommu.port(StreamId(0x100));
    let written = || (0..PAGES).step_by(one_in.min(PAGES) as usize);
    let client = support::memory::client();
    let mut ours = || {
        if one_in <= PAGES {
            let mut session = port.begin();
            for page in written() {
                let at = Iova(BASE + page * P);
                session.translate(at, 8, Access::Write).expect("mapped");
            }
        }
        let mut cmd = iommufd::HwptGetDirtyBitmap {
            size: 48,
            hwpt_id: id,
            iova: BASE,
            length: PAGES * P,
            page_size: P,
            data: bits.base(),
            ..Default::default()
        };
        timed(|| {
            iommu
                .run(iommufd::HWPT_GET_DIRTY_BITMAP, &mut cmd)
                .expect("the bitmap");
        })
    };
    let copy = Memory::pages(PAGES / 8 / P);
    copy.fill(0);
    let mut plain = || {
        if one_in <= PAGES {
            for page in written() {
                words[page as usize / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
        }
        timed(|| {
            for (index, word) in words.iter().enumerate() {
                let taken = word.swap(0, Ordering::AcqRel);
                let at = swiommu_mem::UserAddr(copy.base() + index as u64 * 8);
                let before: u64 = client.read_obj(at).expect("the bitmap");
                client.write_obj(at, &(before | taken)).expect("the bitmap");
            }
        })
    };
    turns(&mut [("word bitmap", &mut plain), ("swiommu", &mut ours)])
}

fn main() {
    pin(0);
    let json = std::env::args().any(|argument| argument == "--json");
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let wants = |row: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| row.contains(filter.as_str()))
    };
    let mut rows: Vec<(String, Results)> = Vec::new();
    for live in [1000, 64_000] {
        let row = format!("pair/{live}");
        if wants(&row) {
            rows.push((row, pairs(live)));
        }
    }
    if wants("fill/1000000") {
        rows.push(("fill/1000000".into(), fill(1_000_000)));
    }
    for (name, large, one_in) in [
        ("dirty/2MiB pages, all", true, 512),
        ("dirty/4KiB pages, none", false, u64::MAX),
        ("dirty/4KiB pages, 1 in 64", false, 64),
        ("dirty/4KiB pages, all", false, 1),
    ] {
        if wants(name) {
            rows.push((name.into(), dirty(large, one_in)));
        }
    }
    let mut fields = Vec::new();
    for (row, results) in rows {
        let floor = results[0].1;
        for (name, ns) in results {
            if !json {
                println!("{row:<28} {name:<14} {ns:>14.1} ns {:>8.2} x", ns / floor);
            }
            fields.push(format!("  \"{row}/{name}\": {ns:.2}"));
        }
    }
    if json {
        println!("{{\n{}\n}}", fields.join(",\n"));
    }
}
