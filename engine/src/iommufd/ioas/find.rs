//! Looking areas up.

use swiommu_iommu::Iova;

use super::{Area, Gone, Ioas};

impl Ioas {
    /// The ranges that are not reserved, in order.
    pub fn usable(&self) -> &[(u64, u64)] {
        self.iovas.usable()
    }

    /// All areas in order, as `(first, area)`.
    pub fn areas(&self) -> impl Iterator<Item = (u64, &Area)> {
        self.areas.iter().map(|(first, area)| (*first, area))
    }

    /// Whether nothing in `first..=last` is mapped.
    #[inline]
    pub fn is_free(&self, first: u64, last: u64) -> bool {
        self.areas
            .range(..=last)
            .next_back()
            .is_none_or(|(_, area)| area.last < first)
    }

    /// Whether exactly `first..=last` is one area.
    pub fn is_area(&self, first: u64, last: u64) -> bool {
        self.areas.get(&first).is_some_and(|area| area.last == last)
    }

    /// The areas that intersect `first..=last`, in order.
    pub fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &Area)> {
        let from = self
            .areas
            .range(..first)
            .next_back()
            .filter(|(_, area)| area.last >= first)
            .map_or(first, |(at, _)| *at);
        self.areas
            .range(from..=last)
            .map(|(first, area)| (*first, area))
    }

    /// The area before an address that does not contain it, and the one after.
    pub fn neighbours(&self, iova: u64) -> [Option<(u64, &Area)>; 2] {
        let before = self
            .areas
            .range(..=iova)
            .next_back()
            .map(|(at, area)| (*at, area));
        let after = self
            .areas
            .range(iova..)
            .find(|(at, _)| **at > iova)
            .map(|(at, area)| (*at, area));
        [before.filter(|(_, area)| area.last < iova), after]
    }

    /// The latest unmapped area that contained an address.
    pub fn last_gone(&self, iova: u64) -> Option<&Gone> {
        self.gone
            .iter()
            .rev()
            .find(|gone| gone.first <= iova && iova <= gone.last)
    }

    /// Whether a page table translates an address.
    pub fn translates(&self, iova: u64) -> bool {
        self.tables
            .iter()
            .any(|table| table.lookup(Iova(iova)).is_some())
    }

    /// How far areas reach from `first` to at most `last` without a hole; `None` if there is one at once.
    pub fn contiguous_to(&mut self, first: u64, last: u64) -> Option<u64> {
        if let Some(answer) = self.areas.answered((first, last)) {
            return answer;
        }
        let mut reached = None;
        for (begin, area) in self.overlapping(first, last) {
            if begin > reached.map_or(first, |to: u64| to.wrapping_add(1)) {
                break;
            }
            reached = Some(area.last.min(last));
        }
        self.areas.answer((first, last), reached);
        reached
    }

    /// The areas that lie behind each other without a hole and cover `first..=last`; `None` if there is a hole.
    pub(super) fn contiguous(&self, first: u64, last: u64) -> Option<Vec<u64>> {
        let mut at = first;
        let mut firsts = Vec::new();
        for (begin, area) in self.overlapping(first, last) {
            if begin > at {
                return None;
            }
            firsts.push(begin);
            if area.last >= last {
                return Some(firsts);
            }
            at = area.last + 1;
        }
        None
    }
}
