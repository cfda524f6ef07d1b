//! AMD I/O page tables for host translations (AMD I/O Virtualization Technology specification, 2.2.3).
//!
//! The specification's level N is our N - 1; its Next Level field counts from 1, with 0 for a page of
//! the entry's own span and 7 for a page whose size is written in the low address bits: below the
//! lowest zero bit all are ones, and the page is twice the weight of that zero bit. Such a page is
//! described by as many equal entries as it spans. Bits:
//!
//! ```text
//! 63 ignored | 62 IW | 61 IR | 60 FC | 59 U | 58..52 reserved | 51..12 address | 11..9 Next Level
//! 8..7 ignored | 6 D | 5 A | 4..1 ignored | 0 PR
//! ```
//!
//! D and A are not used by us (D bits: [`super::super::written`]). In an entry that leads to a table, 60:59 are reserved too. A table may be several levels lower than
//! its parent; the skipped bits of the address must then be zero.

use super::{ADDRESS, Entry, Format, mask, shift};
use crate::addr::Prot;

const PR: u64 = 1 << 0;
const NEXT_LEVEL_SHIFT: u32 = 9;
const NEXT_LEVEL: u64 = 7 << NEXT_LEVEL_SHIFT;
const NEXT_LEVEL_SIZED: u64 = 7;
const FC: u64 = 1 << 60;
const PERMISSION_SHIFT: u32 = 61;
const RESERVED_LEAF: u64 = 0x7f << 52;
const RESERVED_TABLE: u64 = RESERVED_LEAF | 3 << 59;

/// 512 GiB pages are left out, as Linux leaves them out (their encoding is all ones with 4 levels).
const LG2_512G: u32 = 39;
/// Output addresses have 52 bits.
const MAX_LG2: u32 = 51;
/// Entries of the sixth level cannot be pages.
const MAX_PAGE_LEVEL: u32 = 4;

/// AMD version 1 host page tables.
pub(crate) struct AmdV1;

impl Format for AmdV1 {
    #[inline(always)]
    fn need(access: Prot) -> u64 {
        u64::from(access.bits()) << PERMISSION_SHIFT
    }

    #[inline(always)]
    fn prot(entry: u64) -> Prot {
        Prot::from_bits_truncate((entry >> PERMISSION_SHIFT) as u8 & 3)
    }

    #[inline(always)]
    fn ends(entry: u64, level: u32, need: u64) -> bool {
        let low = ADDRESS & mask(shift(level));
        level <= MAX_PAGE_LEVEL
            && entry & (need | PR | NEXT_LEVEL | RESERVED_LEAF | low) == need | PR
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & PR == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        match (entry & NEXT_LEVEL) >> NEXT_LEVEL_SHIFT {
            0 if level > MAX_PAGE_LEVEL || entry & RESERVED_LEAF != 0 => Entry::Reserved,
            0 if address & mask(shift(level)) != 0 => Entry::Reserved,
            0 => Entry::Leaf {
                pa: address,
                lg2: shift(level),
            },
            NEXT_LEVEL_SIZED => {
                let lg2 = (entry | mask(12)).trailing_ones() + 1;
                // A sized page is at least as large as the entry's span and smaller than the table's.
                let fits = (shift(level)..shift(level + 1)).contains(&lg2);
                if !fits || level > MAX_PAGE_LEVEL || entry & RESERVED_LEAF != 0 {
                    return Entry::Reserved;
                }
                Entry::Leaf {
                    pa: address & !mask(lg2),
                    lg2,
                }
            }
            next if next > u64::from(level) || entry & RESERVED_TABLE != 0 => Entry::Reserved,
            next => Entry::Table {
                address,
                level: next as u32 - 1,
            },
        }
    }

    #[inline(always)]
    fn table(address: u64, level: u32) -> u64 {
        address | PR | (u64::from(level) + 1) << NEXT_LEVEL_SHIFT | 3 << PERMISSION_SHIFT
    }

    fn leaf(pa: u64, level: u32, lg2: u32, prot: Prot) -> u64 {
        let flags = PR | FC | u64::from(prot.bits()) << PERMISSION_SHIFT;
        if lg2 == shift(level) {
            return pa | flags;
        }
        debug_assert!((shift(level)..shift(level + 1)).contains(&lg2));
        pa | (mask(lg2 - 1) & ADDRESS) | NEXT_LEVEL_SIZED << NEXT_LEVEL_SHIFT | flags
    }

    fn page_sizes(level: u32) -> u64 {
        if level > MAX_PAGE_LEVEL {
            return 0;
        }
        let largest = (shift(level + 1) - 1).min(MAX_LG2);
        (mask(largest + 1) & !mask(shift(level))) & !(1 << LG2_512G)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: Prot = Prot::all();

    #[test]
    fn entries_are_the_ones_of_the_specification() {
        assert_eq!(
            AmdV1::leaf(0x1234_5000, 0, 12, Prot::READ),
            0x3000_0000_1234_5001
        );
        assert_eq!(AmdV1::leaf(0x20_0000, 1, 21, RW), 0x7000_0000_0020_0001);
        assert_eq!(AmdV1::table(0x7f00_1000, 2), 0x6000_0000_7f00_1601);
    }

    #[test]
    fn sized_pages_are_encoded_as_in_the_table_of_examples() {
        // 8 KiB: bit 12 zero. 16 KiB: bit 12 one, 13 zero. 1 MiB: 18:12 ones, 19 zero. 4 MiB: 20:12 ones.
        for (lg2, level, low) in [
            (13, 0, 0),
            (14, 0, 0x1000),
            (20, 0, 0x7_f000),
            (22, 1, 0x1f_f000),
            (29, 1, 0xfff_f000),
            (32, 2, 0x7fff_f000),
        ] {
            let entry = AmdV1::leaf(0x8_0000_0000, level, lg2, RW);
            assert_eq!(entry & ADDRESS, 0x8_0000_0000 | low, "{lg2}");
            assert_eq!(entry & NEXT_LEVEL, NEXT_LEVEL);
            assert_eq!(
                AmdV1::decode(entry, level),
                Entry::Leaf {
                    pa: 0x8_0000_0000,
                    lg2
                }
            );
        }
    }

    #[test]
    fn a_size_that_does_not_fit_the_level_is_reserved() {
        let entry = AmdV1::leaf(0, 1, 22, RW);
        assert_eq!(AmdV1::decode(entry, 0), Entry::Reserved);
        assert_eq!(AmdV1::decode(entry, 1), Entry::Leaf { pa: 0, lg2: 22 });
    }

    #[test]
    fn next_level_must_be_lower_and_may_skip() {
        assert_eq!(AmdV1::decode(AmdV1::table(0x1000, 3), 3), Entry::Reserved);
        assert_eq!(
            AmdV1::decode(AmdV1::table(0x1000, 2), 3),
            Entry::Table {
                address: 0x1000,
                level: 2
            }
        );
        assert_eq!(
            AmdV1::decode(AmdV1::table(0x1000, 0), 3),
            Entry::Table {
                address: 0x1000,
                level: 0
            }
        );
        assert_eq!(AmdV1::descend(AmdV1::table(0x1000, 2), 3), Some(0x1000));
        assert_eq!(AmdV1::descend(AmdV1::table(0x1000, 0), 3), None);
    }

    #[test]
    fn reserved_bits_are_found_in_pages_and_tables() {
        let page = AmdV1::leaf(0x1000, 0, 12, RW);
        assert_eq!(AmdV1::decode(page | 1 << 55, 0), Entry::Reserved);
        assert!(AmdV1::ends(page, 0, AmdV1::need(RW)));
        assert!(!AmdV1::ends(page | 1 << 55, 0, AmdV1::need(RW)));
        let table = AmdV1::table(0x1000, 0);
        assert_eq!(AmdV1::decode(table | FC, 1), Entry::Reserved);
        assert_eq!(AmdV1::descend(table | FC, 1), None);
    }

    #[test]
    fn page_sizes_are_every_power_of_two_but_512_gib() {
        let all = (0..4).fold(0, |sizes, level| sizes | AmdV1::page_sizes(level));
        assert_eq!(all, 0x0000_ffff_ffff_f000 & !(1 << 39));
    }
}
