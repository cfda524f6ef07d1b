//! loom model of the file table's slots: look-up against close, duplicate and reopening of a number.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p swiommu-shim --release --test loom_files`
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use swiommu::slot::Slot;

/// Counts how many copies live; remembers which file it is.
struct File {
    name: usize,
    live: Arc<AtomicUsize>,
}

impl File {
    fn new(name: usize, live: &Arc<AtomicUsize>) -> File {
        live.fetch_add(1, Ordering::Relaxed);
        File {
            name,
            live: Arc::clone(live),
        }
    }
}

impl Clone for File {
    fn clone(&self) -> File {
        File::new(self.name, &self.live)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

fn table() -> (Arc<Slot<File>>, Arc<AtomicUsize>) {
    (Arc::new(Slot::new()), Arc::new(AtomicUsize::new(0)))
}

#[test]
fn a_lookup_beside_a_close_sees_the_file_or_nothing_and_nothing_leaks() {
    loom::model(|| {
        let (slot, live) = table();
        slot.put(File::new(1, &live));
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.get().map(|file| file.name))
        };
        assert!(slot.remove().is_some());
        assert!(matches!(reader.join().unwrap(), None | Some(1)));
        assert!(slot.get().is_none());
        assert_eq!(live.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn two_closes_of_one_number_remove_it_once() {
    loom::model(|| {
        let (slot, live) = table();
        slot.put(File::new(1, &live));
        let other = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.remove().is_some())
        };
        let here = slot.remove().is_some();
        assert!(here ^ other.join().unwrap());
        assert_eq!(live.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_reopened_number_never_shows_the_old_file_after_the_open_returned() {
    loom::model(|| {
        let (slot, live) = table();
        slot.put(File::new(1, &live));
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.get().map(|file| file.name))
        };
        drop(slot.remove());
        slot.put(File::new(2, &live));
        assert_eq!(slot.get().map(|file| file.name), Some(2));
        assert!(matches!(reader.join().unwrap(), None | Some(1 | 2)));
        drop(slot.remove());
        assert_eq!(live.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_duplicate_over_an_open_number_replaces_it_under_readers() {
    loom::model(|| {
        let (slot, live) = table();
        let old = Arc::new(Slot::new());
        old.put(File::new(1, &live));
        slot.put(File::new(2, &live));
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.get().map(|file| file.name))
        };
        slot.put(old.get().unwrap());
        assert_eq!(slot.get().map(|file| file.name), Some(1));
        assert!(matches!(reader.join().unwrap(), None | Some(1 | 2)));
        drop((slot.remove(), old.remove()));
        assert_eq!(live.load(Ordering::Relaxed), 0);
    });
}
