//! Real threads: devices write through a unit while pages are unmapped, moved and mapped again, and no
//! write lands in a page after its unmap returned.
//!
//! "Memory" is an array of atomics; a device counts its writes in the word of the page it was led to.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use swiommu_iommu::{Access, Config, Iommu, Iova, Kind, Pa, Prot, StreamId};

const PAGE: u64 = 0x1000;
const PAGES: u64 = 16;
const ROUNDS: u64 = 200;
const STREAM: StreamId = StreamId(8);

/// One word for each physical page; physical page `n` is at `(n + 1) * PAGE`.
struct Memory(Vec<AtomicU64>);

impl Memory {
    fn word(&self, pa: Pa) -> &AtomicU64 {
        &self.0[(pa.0 / PAGE - 1) as usize]
    }
}

/// A device: sessions of a few writes each, until told to stop.
fn device(iommu: &std::sync::Arc<Iommu>, memory: &Memory, stop: &AtomicBool, seed: u64) {
    let mut port = iommu.port(STREAM);
    let mut state = seed;
    while !stop.load(Ordering::Relaxed) {
        let mut session = port.begin();
        for _ in 0..8 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let iova = Iova((state >> 40) % PAGES * PAGE);
            if let Ok(run) = session.translate(iova, 8, Access::Write) {
                memory.word(run.pa).fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn stress(config: Config) {
    let iommu = Iommu::new(config).unwrap();
    let domain = iommu.domain();
    iommu.attach(STREAM, &domain);
    // Every IOVA page has two physical pages to move between.
    let memory = Memory((0..2 * PAGES).map(|_| AtomicU64::new(0)).collect());
    let place = |page: u64, half: u64| Pa((page * 2 + half + 1) * PAGE);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| device(&iommu, &memory, &stop, 1));
        scope.spawn(|| device(&iommu, &memory, &stop, 2));
        for round in 0..ROUNDS {
            let page = round * 7 % PAGES;
            let (iova, last) = (Iova(page * PAGE), Iova(page * PAGE + PAGE - 1));
            domain.map(iova, place(page, 0), PAGE, Prot::all()).unwrap();
            if round % 3 == 0 {
                std::thread::yield_now();
            }
            domain.remap(iova, last, place(page, 1));
            let old = memory.word(place(page, 0)).load(Ordering::Relaxed);
            if round % 5 == 0 {
                iommu.attach(STREAM, &domain);
            }
            assert_eq!(domain.unmap(iova, last), PAGE);
            let new = memory.word(place(page, 1)).load(Ordering::Relaxed);
            std::thread::yield_now();
            assert_eq!(
                memory.word(place(page, 0)).load(Ordering::Relaxed),
                old,
                "a write landed after remap"
            );
            assert_eq!(
                memory.word(place(page, 1)).load(Ordering::Relaxed),
                new,
                "a write landed after unmap"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    domain.unmap(Iova(0), Iova(u64::MAX));
    assert_eq!(domain.table_bytes(), PAGE);
}

#[test]
fn no_write_lands_after_unmap_or_remap_of_vtd() {
    stress(Config {
        kind: Kind::Vtd { scalable: true },
        address_width: 48,
        iotlb: false,
    });
}

#[test]
fn no_write_lands_after_unmap_or_remap_with_an_iotlb() {
    stress(Config {
        kind: Kind::Vtd { scalable: false },
        address_width: 39,
        iotlb: true,
    });
}

#[test]
fn no_write_lands_after_unmap_or_remap_of_amd() {
    stress(Config {
        kind: Kind::Amd,
        address_width: 48,
        iotlb: true,
    });
}

#[test]
fn no_write_lands_after_detach() {
    let iommu = Iommu::new(Config::default()).unwrap();
    let domain = iommu.domain();
    domain
        .map(Iova(0), Pa(PAGE), PAGES * PAGE, Prot::all())
        .unwrap();
    let memory = Memory((0..PAGES).map(|_| AtomicU64::new(0)).collect());
    let total = || {
        memory
            .0
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| device(&iommu, &memory, &stop, 1));
        scope.spawn(|| device(&iommu, &memory, &stop, 2));
        for _ in 0..60 {
            iommu.attach(STREAM, &domain);
            std::thread::yield_now();
            iommu.detach(STREAM);
            let before = total();
            std::thread::yield_now();
            assert_eq!(total(), before, "a write landed after detach");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_thread_may_unmap_inside_its_own_session() {
    let iommu = Iommu::new(Config::default()).unwrap();
    let domain = iommu.domain();
    iommu.attach(STREAM, &domain);
    domain.map(Iova(0), Pa(PAGE), PAGE, Prot::all()).unwrap();
    let mut port = iommu.port(STREAM);
    let mut session = port.begin();
    assert!(session.translate(Iova(0), 8, Access::Write).is_ok());
    assert_eq!(domain.unmap(Iova(0), Iova(PAGE - 1)), PAGE);
    assert!(session.translate(Iova(0), 8, Access::Write).is_err());
}
