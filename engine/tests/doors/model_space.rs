//! An address space of /dev/iommu as the models of random sequences see it: a map of addresses.

use std::collections::BTreeMap;

use proptest::test_runner::Config;
use swiommu_abi::{Errno, vfio};

/// Bytes of a page.
pub const P: u64 = 4096;
/// The last address behind the models' page tables.
pub const END: u64 = (1 << 48) - 1;
/// Where interrupts go: what a device keeps out of what it is attached to.
pub const WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// As many cases as PROPTEST_CASES says, else `usual`.
pub fn cases(usual: u32) -> Config {
    let asked = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked.cases,
        None => usual,
    };
    Config {
        cases,
        failure_persistence: None,
        ..asked
    }
}

/// A part of client memory: address, bytes, whether it may be written.
pub type Slice = (u64, u64, bool);

/// A mapping of the model.
#[derive(Clone, Debug)]
pub struct Area {
    /// Last address.
    pub last: u64,
    /// Client address of the first byte.
    pub va: u64,
    /// The memory may be written.
    pub writable: bool,
    /// What a device may do: [`vfio::DMA_MAP_FLAG_READ`] and its like.
    pub prot: u32,
}

#[derive(Default)]
pub struct Space {
    /// By first address.
    pub areas: BTreeMap<u64, Area>,
    /// Its page tables.
    pub hwpts: Vec<u32>,
    /// Where an address is looked for.
    pub allowed: Option<(u64, u64)>,
    /// IOMMU_OPTION_HUGE_PAGES is off.
    pub small_pages: bool,
    /// Devices keep their interrupt window out of it.
    pub window: bool,
}

impl Space {
    /// The last address that can be mapped.
    pub fn end(&self) -> u64 {
        if self.hwpts.is_empty() { u64::MAX } else { END }
    }

    /// Whether nothing is mapped in a range.
    pub fn is_free(&self, first: u64, last: u64) -> bool {
        let meets = |(at, area): (&u64, &Area)| *at <= last && first <= area.last;
        !self.areas.iter().any(meets)
    }

    /// Where a mapping goes, or why it does not.
    pub fn place(&self, at: Option<u64>, source: u64, bytes: u64) -> Result<u64, Errno> {
        if let Some(at) = at {
            let last = at + (bytes - 1);
            if last > self.end() || self.window && at <= WINDOW.1 && WINDOW.0 <= last {
                return Err(Errno::EINVAL);
            }
            return if self.is_free(at, last) {
                Ok(at)
            } else {
                Err(Errno::EEXIST)
            };
        }
        let step = bytes.next_power_of_two().min(1 << source.trailing_zeros());
        let step = step.min(2 << 20);
        let (first, last) = self.allowed.unwrap_or((P, u64::MAX - P));
        let last = last.min(self.end());
        let mut at = first.next_multiple_of(step);
        while at < last && last - at >= bytes - 1 {
            if self.is_free(at, at + (bytes - 1)) {
                return Ok(at);
            }
            at += step;
        }
        Err(Errno::ENOSPC)
    }

    /// The slices that lie behind a range without a hole.
    pub fn slices(&self, first: u64, last: u64) -> Option<Vec<Slice>> {
        let (mut at, mut slices) = (first, Vec::new());
        loop {
            let (begin, area) = self.areas.range(..=at).next_back()?;
            if area.last < at {
                return None;
            }
            let to = area.last.min(last);
            slices.push((area.va + (at - begin), to - at + 1, area.writable));
            if to == last {
                return Some(slices);
            }
            at = to + 1;
        }
    }

    /// Unmaps what lies in a range until something is in the way.
    pub fn unmap(&mut self, first: u64, last: u64) -> (u64, Result<(), Errno>) {
        let hit: Vec<(u64, u64)> = self
            .areas
            .iter()
            .filter(|(at, area)| **at <= last && first <= area.last)
            .map(|(at, area)| (*at, area.last))
            .collect();
        let mut bytes = 0;
        for (at, to) in hit {
            if at < first || to > last {
                return (bytes, Err(Errno::ENOENT));
            }
            self.areas.remove(&at);
            bytes += to - at + 1;
        }
        (bytes, Ok(()))
    }

    /// Cuts the mapping that goes on behind `at`.
    pub fn cut(&mut self, at: u64) {
        let Some((&first, area)) = self.areas.range(..=at).next_back() else {
            return;
        };
        if area.last <= at {
            return;
        }
        let (mut left, mut right) = (area.clone(), area.clone());
        left.last = at;
        right.va += at + 1 - first;
        self.areas.insert(first, left);
        self.areas.insert(at + 1, right);
    }

    /// The first mapping of memory from `hole` on, where there is none.
    pub fn reaches(&self, hole: u64) -> bool {
        let ends = |(at, area): (&u64, &Area)| area.va + (area.last - at) >= hole;
        self.areas.iter().any(ends)
    }

    /// Maps slices (address, bytes, whether the memory may be written): where, or why not. There is no memory from
    /// `hole` on.
    pub fn insert(
        &mut self,
        at: Option<u64>,
        slices: &[Slice],
        prot: u32,
        hole: u64,
    ) -> Result<u64, Errno> {
        let bytes = slices.iter().map(|slice| slice.1).sum();
        let first = self.place(at, slices[0].0, bytes)?;
        let writes = prot & vfio::DMA_MAP_FLAG_WRITE != 0;
        if writes && slices.iter().any(|slice| !slice.2) {
            return Err(Errno::EPERM);
        }
        let filled = !self.hwpts.is_empty();
        if filled && slices.iter().any(|&(va, bytes, _)| va + bytes > hole) {
            return Err(Errno::EFAULT);
        }
        let mut at = first;
        for &(va, bytes, writable) in slices {
            let last = at + (bytes - 1);
            let area = Area {
                last,
                va,
                writable,
                prot,
            };
            self.areas.insert(at, area);
            at = last.wrapping_add(1);
        }
        Ok(first)
    }
}
