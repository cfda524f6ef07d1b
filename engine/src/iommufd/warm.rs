//! Client memory that was faulted in for writing and not given up since.
//!
//! A driver maps and unmaps the same long buffers again and again, and asking the kernel to fault in what is present
//! costs a quarter of a microsecond a page. So long ranges that were populated once are remembered, and the next time every
//! page is touched instead. Touching is the proof, being remembered only the reason to try it: where memory
//! went away or was protected unseen, it faults and the kernel is asked. (Memory is not touched unasked, since
//! that a page can be pinned at all is for the kernel to say.)

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use swiommu_mem::UserAddr;

/// Shorter ranges are not worth remembering.
pub const BYTES_LEAST: u64 = 64 << 10;
/// How many ranges are remembered; one more and all are forgotten.
const RANGES_MOST: usize = 256;

/// The ranges, by first address; they may overlap.
#[derive(Debug, Default)]
pub struct Warm {
    /// Whether there are any: read without the lock by every munmap of the client.
    any: AtomicBool,
    /// First address to length.
    ranges: Mutex<BTreeMap<u64, u64>>,
}

impl Warm {
    /// `bytes` bytes at `first` were just faulted in for writing.
    pub fn add(&self, first: UserAddr, bytes: u64) {
        if bytes < BYTES_LEAST {
            return;
        }
        let mut ranges = self.ranges.lock().unwrap();
        if ranges.len() == RANGES_MOST {
            ranges.clear();
        }
        let known = ranges.entry(first.0).or_default();
        *known = bytes.max(*known);
        self.any.store(true, Ordering::Release);
    }

    /// Whether the whole range lies in one that is remembered.
    pub fn covers(&self, first: UserAddr, bytes: u64) -> bool {
        if bytes < BYTES_LEAST || !self.any.load(Ordering::Acquire) {
            return false;
        }
        let ranges = self.ranges.lock().unwrap();
        let before = ranges.range(..=first.0).next_back();
        before.is_some_and(|(at, known)| first.0 - at + bytes <= *known)
    }

    /// The client gives the range up.
    pub fn forget(&self, first: UserAddr, bytes: u64) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut ranges = self.ranges.lock().unwrap();
        let last = first.0.saturating_add(bytes - 1);
        ranges.retain(|at, known| *at > last || at + (*known - 1) < first.0);
        self.any.store(!ranges.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_part_of_a_remembered_range_is_covered_and_what_juts_out_is_not() {
        let warm = Warm::default();
        warm.add(UserAddr(MIB), MIB);
        assert!(warm.covers(UserAddr(MIB), MIB));
        assert!(warm.covers(UserAddr(MIB + 4096), BYTES_LEAST));
        assert!(!warm.covers(UserAddr(MIB + 4096), MIB));
        assert!(!warm.covers(UserAddr(MIB - 4096), BYTES_LEAST));
    }

    #[test]
    fn what_the_client_gives_up_is_forgotten_and_its_neighbours_are_not() {
        let warm = Warm::default();
        for at in [1, 2, 3] {
            warm.add(UserAddr(at * MIB), MIB);
        }
        warm.forget(UserAddr(2 * MIB + 8192), 4096);
        assert!(!warm.covers(UserAddr(2 * MIB), MIB));
        assert!(warm.covers(UserAddr(MIB), MIB) && warm.covers(UserAddr(3 * MIB), MIB));
    }

    #[test]
    fn short_ranges_are_not_remembered() {
        let warm = Warm::default();
        warm.add(UserAddr(MIB), 4096);
        assert!(!warm.covers(UserAddr(MIB), 4096));
    }

    #[test]
    fn too_many_ranges_are_all_forgotten() {
        let warm = Warm::default();
        for at in 0..=RANGES_MOST as u64 {
            warm.add(UserAddr(at * MIB), MIB);
        }
        assert!(!warm.covers(UserAddr(0), MIB));
        assert!(warm.covers(UserAddr(RANGES_MOST as u64 * MIB), MIB));
    }
}
