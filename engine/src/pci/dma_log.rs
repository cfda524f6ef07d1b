//! The pages a function wrote by DMA, as its own logging tells them (`DMA_LOGGING_*` of VFIO): beside the IOMMU's dirty
//! bits, and as a device sees its addresses.

use std::collections::BTreeMap;

/// Page sizes it can log: 4 KiB to 2 MiB.
const PAGE_LG2: std::ops::RangeInclusive<u32> = 12..=21;

/// What is logged.
#[derive(Debug)]
pub struct DmaLog {
    /// `first..=last`, sorted, without overlaps.
    ranges: Vec<(u64, u64)>,
    page_lg2: u32,
    /// By page number / 64: a bit for each page that was written.
    pages: BTreeMap<u64, u64>,
}

impl DmaLog {
    /// Logs writes to these ranges, `first..=last` without overlaps, in pages as near to `page_bytes` as can be.
    pub fn new(mut ranges: Vec<(u64, u64)>, page_bytes: u64) -> DmaLog {
        ranges.sort_unstable();
        let wanted = page_bytes.checked_ilog2().unwrap_or(0);
        DmaLog {
            ranges,
            page_lg2: wanted.clamp(*PAGE_LG2.start(), *PAGE_LG2.end()),
            pages: BTreeMap::new(),
        }
    }

    /// The page size it took.
    pub fn page_bytes(&self) -> u64 {
        1 << self.page_lg2
    }

    /// `bytes` bytes at `iova` were written.
    pub fn mark(&mut self, iova: u64, bytes: u64) {
        let Some(more) = bytes.checked_sub(1) else {
            return;
        };
        let last = iova.saturating_add(more);
        let from = self.ranges.partition_point(|range| range.1 < iova);
        for range in self.ranges[from..]
            .iter()
            .take_while(|range| range.0 <= last)
        {
            let first = iova.max(range.0) >> self.page_lg2;
            let last = last.min(range.1) >> self.page_lg2;
            for page in first..=last {
                *self.pages.entry(page / 64).or_default() |= 1 << (page % 64);
            }
        }
    }

    /// The logged pages that touch `first..=last`.
    fn logged(&self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let (first, last) = (first >> self.page_lg2, last >> self.page_lg2);
        let bits = |(word, bits): (&u64, &u64)| {
            let (word, bits) = (*word, *bits);
            (0..64)
                .filter(move |bit| bits >> bit & 1 != 0)
                .map(move |bit| word * 64 + bit)
        };
        self.pages
            .range(first / 64..=last / 64)
            .flat_map(bits)
            .filter(move |page| (first..=last).contains(page))
    }

    /// The words of a bitmap of `first..=last`, one bit for each `1 << page_lg2` bytes, that are not zero.
    pub fn bitmap(&self, first: u64, last: u64, page_lg2: u32) -> BTreeMap<u64, u64> {
        let mut words = BTreeMap::<u64, u64>::new();
        for page in self.logged(first, last) {
            let at = page << self.page_lg2;
            let end = last.min(at + ((1 << self.page_lg2) - 1));
            for bit in (at.max(first) - first) >> page_lg2..=(end - first) >> page_lg2 {
                *words.entry(bit / 64).or_default() |= 1 << (bit % 64);
            }
        }
        words
    }

    /// Forgets the pages that touch `first..=last`.
    pub fn forget(&mut self, first: u64, last: u64) {
        for page in self.logged(first, last).collect::<Vec<_>>() {
            if let Some(word) = self.pages.get_mut(&(page / 64)) {
                *word &= !(1 << (page % 64));
            }
        }
        self.pages.retain(|_, word| *word != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_pages_that_were_written_in_the_ranges_are_logged() {
        let mut log = DmaLog::new(vec![(0x8000, 0xffff), (0x1000, 0x3fff)], 4096);
        log.mark(0x1fff, 2);
        log.mark(0x3fff, 0x4001);
        log.mark(0x8000, 0);
        log.mark(0x20000, 4096);
        assert_eq!(log.bitmap(0, 0xffff, 12), BTreeMap::from([(0, 0b1110)]));
        log.mark(0, u64::MAX);
        assert_eq!(log.bitmap(0, 0xffff, 12), BTreeMap::from([(0, 0xff0e)]));
    }

    #[test]
    fn what_was_forgotten_is_not_told_again_and_the_rest_is() {
        let mut log = DmaLog::new(vec![(0, u64::MAX)], 4096);
        log.mark(0, 0x100_0000);
        log.forget(0x1000, 0x4f_ffff);
        assert_eq!(log.bitmap(0, 0x3ffff, 12), BTreeMap::from([(0, 1)]));
        assert_eq!(
            log.bitmap(0x4f_f000, 0x50_0fff, 12),
            BTreeMap::from([(0, 2)])
        );
    }

    #[test]
    fn a_report_may_have_smaller_or_larger_pages() {
        let mut log = DmaLog::new(vec![(0, 0xff_ffff)], 8192);
        assert_eq!(log.page_bytes(), 8192);
        log.mark(0x6000, 1);
        assert_eq!(
            log.bitmap(0, 0xffff, 12),
            BTreeMap::from([(0, 0b1100_0000)])
        );
        assert_eq!(log.bitmap(0x7000, 0xffff, 12), BTreeMap::from([(0, 1)]));
        assert_eq!(log.bitmap(0, 0xff_ffff, 14), BTreeMap::from([(0, 0b10)]));
        assert_eq!(log.bitmap(0x8000, 0xffff, 12), BTreeMap::new());
    }

    #[test]
    fn the_page_size_is_as_near_as_can_be() {
        for (wanted, taken) in [
            (0, 4096),
            (1, 4096),
            (5000, 4096),
            (65536, 65536),
            (1 << 30, 2 << 20),
        ] {
            assert_eq!(DmaLog::new(Vec::new(), wanted).page_bytes(), taken);
        }
    }
}
