//! The model of unmap against DMA. Run it with
//! `RUSTFLAGS="--cfg loom" cargo test -p swiommu-iommu --release --test loom_drain`.
//!
//! The page table is one entry with relaxed atomics, weaker than the real one; the page it leads to is
//! a cell in which loom finds every access that is not ordered.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use swiommu_iommu::drain::{Drain, Seat};

struct World {
    /// The page table entry: present or not.
    entry: AtomicBool,
    /// The page. A device reads it while the entry is present; the owner reuses it after an unmap.
    page: UnsafeCell<u32>,
    drain: std::sync::Arc<Drain>,
}

impl World {
    fn new() -> Arc<Self> {
        World::beside(&Drain::new())
    }

    /// A page behind a drain that others share.
    fn beside(drain: &std::sync::Arc<Drain>) -> Arc<Self> {
        Arc::new(World {
            entry: AtomicBool::new(true),
            page: UnsafeCell::new(0),
            drain: std::sync::Arc::clone(drain),
        })
    }

    /// Whether the page is mapped.
    fn translate(&self) -> bool {
        self.entry.load(Ordering::Relaxed)
    }

    fn access(&self) {
        self.page.with(|_| ());
    }

    /// One session that accesses the page if it is mapped.
    fn dma(&self, seat: &mut Seat) {
        seat.announce();
        if self.translate() {
            self.access();
        }
        seat.take_back();
    }

    /// Unmaps the page and does with it what nobody else may see.
    fn unmap_and_reuse(&self) {
        self.entry.store(false, Ordering::Relaxed);
        self.drain.wait();
        self.page.with_mut(|_| ());
    }
}

#[test]
fn no_access_lands_after_its_unmap_returned() {
    loom::model(|| {
        let world = World::new();
        let mut seat = world.drain.seat();
        let device = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.dma(&mut seat);
                world.dma(&mut seat);
            }
        });
        world.unmap_and_reuse();
        device.join().unwrap();
    });
}

#[test]
fn no_access_of_two_devices_lands_after_the_unmap_returned() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = World::new();
        let devices: Vec<_> = (0..2)
            .map(|_| {
                let world = Arc::clone(&world);
                let mut seat = world.drain.seat();
                thread::spawn(move || world.dma(&mut seat))
            })
            .collect();
        world.unmap_and_reuse();
        for device in devices {
            device.join().unwrap();
        }
    });
}

#[test]
fn a_seat_made_during_the_unmap_is_safe_too() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = World::new();
        let device = thread::spawn({
            let world = Arc::clone(&world);
            move || world.dma(&mut world.drain.seat())
        });
        world.unmap_and_reuse();
        device.join().unwrap();
    });
}

#[test]
fn a_thread_that_unmaps_inside_its_own_session_does_not_wait_for_itself() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = World::new();
        let (mut mine, mut other) = (world.drain.seat(), world.drain.seat());
        let device = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                other.announce();
                // It drains inside its own session as well; neither may wait for the other.
                world.drain.wait();
                other.take_back();
                world.dma(&mut other);
            }
        });
        mine.announce();
        world.unmap_and_reuse();
        mine.take_back();
        device.join().unwrap();
    });
}

/// A list of two pages, as the bus moves it: one announcement, and a page is translated before the one in front of it is
/// accessed. `second` says whether the second is accessed, from what its translation said then.
fn list(second: fn(&mut Seat, &World, bool) -> bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let drain = Drain::new();
        let pages = [World::beside(&drain), World::beside(&drain)];
        let mut seat = drain.seat();
        let device = thread::spawn({
            let pages = pages.clone();
            move || {
                seat.announce();
                let ahead = [pages[0].translate(), pages[1].translate()];
                if ahead[0] {
                    pages[0].access();
                }
                if second(&mut seat, &pages[1], ahead[1]) {
                    pages[1].access();
                }
                seat.take_back();
            }
        });
        pages[1].unmap_and_reuse();
        pages[0].unmap_and_reuse();
        device.join().unwrap();
    });
}

#[test]
fn what_a_session_translated_ahead_holds_until_the_session_ends() {
    list(|_, _, ahead| ahead);
}

#[test]
fn after_a_session_was_given_back_the_rest_is_translated_once_more() {
    list(|seat, page, _| {
        seat.take_back();
        seat.announce();
        page.translate()
    });
}

/// The negative twin: what was translated ahead must not outlive its session.
#[test]
#[should_panic]
fn a_translation_kept_beyond_its_session_lands_after_the_unmap() {
    list(|seat, _, ahead| {
        seat.take_back();
        seat.announce();
        ahead
    });
}

/// The negative twin: without the wait loom finds the access that lands too late.
#[test]
#[should_panic]
fn without_the_wait_an_access_lands_after_the_unmap() {
    loom::model(|| {
        let world = World::new();
        let mut seat = world.drain.seat();
        let device = thread::spawn({
            let world = Arc::clone(&world);
            move || world.dma(&mut seat)
        });
        world.entry.store(false, Ordering::Relaxed);
        world.page.with_mut(|_| ());
        device.join().unwrap();
    });
}
