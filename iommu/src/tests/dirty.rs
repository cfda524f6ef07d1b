//! Dirty pages: against a set of pages, and while devices write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

/// The pages of 4 KiB of the page that `iova` is in.
pub(super) fn page_around(domain: &Domain, iova: u64) -> impl Iterator<Item = u64> + use<> {
    let (_, _, bytes) = domain.lookup(Iova(iova)).expect("it is mapped");
    let first = iova & !(bytes - 1);
    (0..bytes).step_by(PAGE as usize).map(move |at| first + at)
}

/// The pages of 4 KiB of a reading.
fn read(domain: &Domain, first: u64, last: u64, clear: bool) -> Vec<u64> {
    let mut pages = Vec::new();
    let sink = |dirty: Dirty<'_>| {
        for (first, bytes) in dirty.runs() {
            pages.extend((0..bytes).step_by(PAGE as usize).map(|at| first.0 + at));
        }
    };
    if clear {
        domain.read_and_clear_dirty(Iova(first), Iova(last), sink);
    } else {
        domain.read_dirty(Iova(first), Iova(last), sink);
    }
    pages
}

/// A reading tells what the model knows, in order.
pub(super) fn read_both(domain: &Domain, model: &mut Model, first: u64, last: u64, clear: bool) {
    let told: Vec<u64> = read(domain, first, last, clear);
    assert!(told.is_sorted(), "{told:#x?}");
    let inside = |page: &&u64| (first..=last).contains(*page);
    let expected: Vec<u64> = model.written.iter().filter(inside).copied().collect();
    let told_inside: Vec<u64> = told.iter().filter(inside).copied().collect();
    assert_eq!(told_inside, expected, "{first:#x}..={last:#x}");
    assert!(told.iter().all(|page| model.written.contains(page)));
    if clear && model.tracking {
        for page in expected {
            let whole = page_around(domain, page).all(|page| inside(&&page));
            if whole {
                model.written.remove(&page);
            }
        }
    }
}

fn all(domain: &Domain) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    domain.read_and_clear_dirty(Iova(0), Iova(u64::MAX), |dirty| {
        runs.extend(dirty.runs().map(|(first, bytes)| (first.0, bytes)));
    });
    runs
}

fn write(port: &mut Port, iova: u64) {
    port.begin()
        .translate(Iova(iova), 8, Access::Write)
        .unwrap();
}

pub(super) fn follows_writes(config: Config) {
    let (_iommu, domain, mut port) = setup(config);
    for (first, pa, bytes) in [
        (0x1000, 0x5000, 0x1000),
        (0x3000, 0x8000, 0x1000),
        (0x20_0000, 0x40_0000, 0x20_0000),
    ] {
        domain.map(Iova(first), Pa(pa), bytes, Prot::all()).unwrap();
    }
    write(&mut port, 0x1000);
    assert_eq!(all(&domain), []);
    domain.set_dirty_tracking(true);
    assert_eq!(all(&domain), []);
    write(&mut port, 0x1008);
    write(&mut port, 0x1010);
    write(&mut port, 0x20_5000);
    assert_eq!(all(&domain), [(0x1000, 0x1000), (0x20_0000, 0x20_0000)]);
    assert_eq!(all(&domain), []);
    write(&mut port, 0x1008);
    domain.remap(Iova(0x1000), Iova(0x1fff), Pa(0x7000));
    assert_eq!(
        all(&domain),
        [(0x1000, 0x1000)],
        "a page that moves stays dirty"
    );
    write(&mut port, 0x1008);
    domain.unmap(Iova(0x1000), Iova(0x1fff));
    domain
        .map(Iova(0x1000), Pa(0x5000), 0x1000, Prot::all())
        .unwrap();
    assert_eq!(all(&domain), [], "another page at its place is clean");
    write(&mut port, 0x1008);
    domain.set_dirty_tracking(false);
    write(&mut port, 0x3000);
    assert_eq!(all(&domain), [], "nothing is told while tracking is off");
    domain.set_dirty_tracking(true);
    assert_eq!(all(&domain), [], "nor what was written before");
    port.begin()
        .translate(Iova(0x3000), 8, Access::Read)
        .unwrap();
    assert_eq!(all(&domain), []);
}

pub(super) fn straddling_stays(config: Config) {
    let (_iommu, domain, mut port) = setup(config);
    let (first, bytes) = (0x20_0000, 0x20_0000);
    domain
        .map(Iova(first), Pa(0x40_0000), bytes, Prot::all())
        .unwrap();
    domain.set_dirty_tracking(true);
    write(&mut port, first + 0x5000);
    let inside = (first + 0x1000, first + 0x2fff);
    for _ in 0..2 {
        let told = read(&domain, inside.0, inside.1, true);
        assert!(told.contains(&(first + 0x1000)) && told.contains(&(first + 0x2000)));
    }
    assert_eq!(all(&domain), [(first, bytes)]);
    assert_eq!(read(&domain, inside.0, inside.1, true), []);
}

/// Devices write to large pages that are parted meanwhile, and somebody copies what was written, as a migration does:
/// in the end the copy is the memory.
pub(super) fn no_write_is_lost(config: Config) {
    const LARGE: u64 = 6;
    const BYTES: u64 = 0x20_0000;
    const PAGES: u64 = LARGE * BYTES / PAGE;
    let first = 0x40_0000;
    let (iommu, domain, _) = setup(config);
    for large in 0..LARGE {
        // The odd ones are pages of 64 KiB where there are any.
        let step = if large % 2 == 1 { 0x1_0000 } else { BYTES };
        for at in (large * BYTES..(large + 1) * BYTES).step_by(step as usize) {
            let pa = Pa(at + large % 2 * 0x1_0000);
            domain.map(Iova(first + at), pa, step, Prot::all()).unwrap();
        }
    }
    domain.set_dirty_tracking(true);
    let memory: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let mut copy = vec![0; PAGES as usize];
    let mut collect = |domain: &Domain| {
        for page in read(domain, first, first + LARGE * BYTES - 1, true) {
            let page = ((page - first) / PAGE) as usize;
            copy[page] = memory[page].load(Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let devices: Vec<_> = (0..2)
            .map(|device: u64| {
                let (mut port, memory) = (iommu.port(STREAM), &memory);
                scope.spawn(move || {
                    for i in 0..4000 {
                        let page = (i * 7919 + device * 131) % PAGES;
                        let mut session = port.begin();
                        // A run may reach beyond a page of 4 KiB: what it reaches may be written.
                        let iova = Iova(first + page * PAGE);
                        let run = session.translate(iova, 3 * PAGE, Access::Write).unwrap();
                        for page in page..page + run.bytes / PAGE {
                            memory[page as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        let parting = scope.spawn(|| {
            for page in (0..PAGES).step_by(53) {
                let at = first + page * PAGE;
                let (pa, ..) = domain.lookup(Iova(at)).unwrap();
                domain.remap(Iova(at), Iova(at + PAGE - 1), pa);
            }
        });
        while !(parting.is_finished() && devices.iter().all(|device| device.is_finished())) {
            collect(&domain);
        }
    });
    collect(&domain);
    let memory: Vec<u64> = memory.into_iter().map(AtomicU64::into_inner).collect();
    assert!(memory.iter().any(|writes| *writes > 0));
    assert_eq!(copy, memory);
}
