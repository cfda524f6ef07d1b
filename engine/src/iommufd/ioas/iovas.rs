//! Which device addresses of an address space can be mapped, and finding free ones.
//!
//! Reserved ranges belong to an owner: a page table (what it cannot address), a device (its reserved regions). A range
//! that the client asked to keep for it (IOAS_ALLOW_IOVAS) cannot be reserved, and automatic allocation stays inside.

use std::collections::BTreeMap;

use swiommu_abi::Errno;
use swiommu_mem::PAGE;

use super::Area;

/// The largest alignment that automatic allocation gives: that of a large page.
const ALIGNMENT_MOST: u64 = 2 << 20;

/// What a range is reserved for.
pub type Owner = u64;

/// Ranges of device addresses, `first..=last`.
#[derive(Default)]
pub(super) struct Iovas {
    reserved: Vec<(u64, u64, Owner)>,
    /// By first address; they do not overlap.
    allowed: BTreeMap<u64, u64>,
    /// What is not reserved, in order.
    usable: Vec<(u64, u64)>,
}

impl Iovas {
    pub(super) fn new() -> Iovas {
        Iovas {
            usable: vec![(0, u64::MAX)],
            ..Iovas::default()
        }
    }

    /// The ranges that are not reserved, in order.
    pub(super) fn usable(&self) -> &[(u64, u64)] {
        &self.usable
    }

    /// Whether nothing of a range is reserved.
    #[inline]
    pub(super) fn is_usable(&self, first: u64, last: u64) -> bool {
        self.usable
            .iter()
            .any(|&(lo, hi)| lo <= first && last <= hi)
    }

    /// Reserves a range in which no area is (the caller checked).
    pub(super) fn reserve(&mut self, first: u64, last: u64, owner: Owner) -> Result<(), Errno> {
        if overlaps(&self.allowed, first, last) {
            return Err(Errno::EADDRINUSE);
        }
        self.reserved.push((first, last, owner));
        self.recompute();
        Ok(())
    }

    /// Whether an owner has reserved anything.
    pub(super) fn unreserve(&mut self, owner: Owner) {
        let before = self.reserved.len();
        self.reserved.retain(|(.., other)| *other != owner);
        if self.reserved.len() != before {
            self.recompute();
        }
    }

    /// Replaces the allowed ranges.
    pub(super) fn allow(&mut self, allowed: BTreeMap<u64, u64>) -> Result<(), Errno> {
        let taken = |(first, last): (&u64, &u64)| {
            self.reserved
                .iter()
                .any(|(lo, hi, _)| lo <= last && first <= hi)
        };
        if allowed.iter().any(taken) {
            return Err(Errno::EADDRINUSE);
        }
        self.allowed = allowed;
        Ok(())
    }

    fn recompute(&mut self) {
        let mut reserved: Vec<_> = self.reserved.iter().map(|&(lo, hi, _)| (lo, hi)).collect();
        reserved.sort_unstable();
        self.usable.clear();
        let mut next = Some(0);
        for (lo, hi) in reserved {
            let Some(at) = next else { break };
            if lo > at {
                self.usable.push((at, lo - 1));
            }
            if hi >= at {
                next = hi.checked_add(1);
            }
        }
        if let Some(at) = next {
            self.usable.push((at, u64::MAX));
        }
    }

    /// Finds `bytes` free addresses as `iopt_alloc_iova` does: the lowest that keep as much of the alignment of
    /// `source` as a large page can use, in the allowed ranges if there are any. Never 0.
    pub(super) fn find(
        &self,
        areas: &BTreeMap<u64, Area>,
        source: u64,
        bytes: u64,
        alignment: u64,
    ) -> Result<u64, Errno> {
        if bytes == 0 || bytes >= u64::MAX / 2 {
            return Err(Errno::EOVERFLOW);
        }
        let natural = match source {
            0 => u64::MAX,
            _ => 1 << source.trailing_zeros(),
        };
        let wanted = bytes.next_power_of_two().min(natural).min(ALIGNMENT_MOST);
        if wanted < alignment {
            return Err(Errno::EINVAL);
        }
        let fit = |first, last| fit(first, last, bytes, wanted, source % PAGE);
        for (first, last) in self.spans() {
            let Some(mut at) = fit(first, last) else {
                continue;
            };
            while let Some((lo, hi)) = self.hole(areas, at, last) {
                if let Some(found) = fit(lo, hi) {
                    return Ok(found);
                }
                match hi.checked_add(1) {
                    Some(next) if hi < last => at = next,
                    _ => break,
                }
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Where automatic allocation looks, in order: adjacent allowed ranges are one.
    fn spans(&self) -> Vec<(u64, u64)> {
        let (least, most) = (PAGE, u64::MAX - PAGE);
        if self.allowed.is_empty() {
            return vec![(least, most)];
        }
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (&first, &last) in &self.allowed {
            let (first, last) = (first.max(least), last.min(most));
            match spans.last_mut() {
                _ if first > last => {}
                Some(previous) if first - 1 <= previous.1 => previous.1 = last,
                _ => spans.push((first, last)),
            }
        }
        spans
    }

    /// The first run of addresses in `first..=last` that is neither reserved nor mapped.
    fn hole(&self, areas: &BTreeMap<u64, Area>, first: u64, last: u64) -> Option<(u64, u64)> {
        let mut at = first;
        loop {
            let usable = self.usable.partition_point(|(_, hi)| *hi < at);
            let &(lo, hi) = self.usable.get(usable)?;
            at = at.max(lo);
            if at > last {
                return None;
            }
            let before = areas.range(..=at).next_back();
            if let Some((_, area)) = before.filter(|(_, area)| area.last >= at) {
                at = area.last.checked_add(1)?;
                if at > last {
                    return None;
                }
                continue;
            }
            let next = areas.range(at..=last).next();
            let end = next.map_or(last, |(first, _)| first - 1);
            return Some((at, end.min(hi)));
        }
    }
}

/// Where `bytes` bytes with an alignment and an offset in their page begin in `first..=last`
/// (`__alloc_iova_check_range`).
fn fit(first: u64, last: u64, bytes: u64, alignment: u64, offset: u64) -> Option<u64> {
    let at = first.checked_add(alignment - 1)? & !(alignment - 1) | offset;
    (at < last && last - at >= bytes - 1).then_some(at)
}

/// Whether a range touches one of the ranges.
pub(in super::super) fn overlaps(ranges: &BTreeMap<u64, u64>, first: u64, last: u64) -> bool {
    ranges
        .range(..=last)
        .next_back()
        .is_some_and(|(_, end)| *end >= first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(iovas: &Iovas, source: u64, bytes: u64) -> Result<u64, Errno> {
        iovas.find(&BTreeMap::new(), source, bytes, 1)
    }

    #[test]
    fn the_first_page_is_never_found() {
        assert_eq!(find(&Iovas::new(), 0, 4096), Ok(4096));
        assert_eq!(find(&Iovas::new(), 0x7f00_0000_0000, 4096), Ok(4096));
    }

    #[test]
    fn alignment_is_that_of_the_length_and_the_source_up_to_a_large_page() {
        for (source, bytes, found) in [
            (0, 3 << 12, 4 << 12),
            (0x1000, 4 << 20, 0x1000),
            (0x20_0000, 4 << 20, 0x20_0000),
            (1 << 40, 64 << 20, 0x20_0000),
            (0x1801, 1, 0x1801),
        ] {
            assert_eq!(find(&Iovas::new(), source, bytes), Ok(found), "{source:#x}");
        }
    }

    #[test]
    fn a_length_of_nothing_or_of_half_of_all_is_refused() {
        assert_eq!(find(&Iovas::new(), 0, 0), Err(Errno::EOVERFLOW));
        assert_eq!(find(&Iovas::new(), 0, u64::MAX / 2), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn reserved_ranges_are_passed_over_and_allowed_ones_are_where_it_is_found() {
        let mut iovas = Iovas::new();
        iovas.reserve(0, 0xffff, 1).unwrap();
        iovas.reserve(0x8000, 0x1_ffff, 2).unwrap();
        assert_eq!(iovas.usable(), [(0x2_0000, u64::MAX)]);
        assert_eq!(find(&iovas, 0x1000, 4096), Ok(0x2_0000));
        iovas.allow(BTreeMap::from([(0x5_0000, 0x5_1fff)])).unwrap();
        assert_eq!(find(&iovas, 0x1000, 4096), Ok(0x5_0000));
        assert_eq!(find(&iovas, 0x1000, 0x3000), Err(Errno::ENOSPC));
        assert_eq!(
            iovas.allow(BTreeMap::from([(0xf000, 0x3_0000)])),
            Err(Errno::EADDRINUSE)
        );
        assert_eq!(iovas.reserve(0x5_1000, 0x6_0000, 3), Err(Errno::EADDRINUSE));
        iovas.unreserve(1);
        assert_eq!(iovas.usable(), [(0, 0x7fff), (0x2_0000, u64::MAX)]);
    }

    #[test]
    fn a_reserved_range_to_the_end_leaves_nothing_behind_it() {
        let mut iovas = Iovas::new();
        iovas.reserve(1 << 48, u64::MAX, 1).unwrap();
        assert_eq!(iovas.usable(), [(0, (1 << 48) - 1)]);
        assert!(iovas.is_usable(0, (1 << 48) - 1));
        assert!(!iovas.is_usable(0, 1 << 48));
    }
}
