//! VT-d second-stage paging entries (Intel VT-d specification, 3.7 and 9.8).
//!
//! SS-PTE is level 0, SS-PDE 1, SS-PDPE 2, SS-PML4E 3, SS-PML5E 4. An entry is present when it allows
//! anything at all; permissions are the AND over the levels. Bits:
//!
//! ```text
//! 63..52 ignored | 51..12 address | 11 SNP | 10 | 9 D | 8 A | 7 PS | 6 IPAT | 5..3 EMT | 2 X | 1 W | 0 R
//! ```
//!
//! Not used by us and ignored as the specification allows: X, EMT, IPAT, SNP; D and A (D bits: [`super::super::written`]).
//! The host address width is 52, so no address bit is reserved.

use super::{ADDRESS, Entry, Format, mask, shift};
use crate::addr::Prot;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// Page size: this entry of level 1 or 2 is a page. Reserved (0) above.
const PS: u64 = 1 << 7;

/// The highest level whose entries may be pages (1 GiB).
const MAX_PAGE_LEVEL: u32 = 2;

/// The second stage of VT-d.
pub(crate) struct VtdSs;

impl Format for VtdSs {
    #[inline(always)]
    fn need(access: Prot) -> u64 {
        u64::from(access.bits())
    }

    #[inline(always)]
    fn prot(entry: u64) -> Prot {
        Prot::from_bits_truncate((entry & (READ | WRITE)) as u8)
    }

    #[inline(always)]
    fn ends(entry: u64, level: u32, need: u64) -> bool {
        if level == 0 {
            return entry & need == need;
        }
        level <= MAX_PAGE_LEVEL && entry & (need | PS | (ADDRESS & mask(shift(level)))) == need | PS
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & (READ | WRITE) == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        if level > 0 && entry & PS == 0 {
            return Entry::Table {
                address,
                level: level - 1,
            };
        }
        if level > MAX_PAGE_LEVEL || address & mask(shift(level)) != 0 {
            return Entry::Reserved;
        }
        Entry::Leaf {
            pa: address,
            lg2: shift(level),
        }
    }

    #[inline(always)]
    fn table(address: u64, _level: u32) -> u64 {
        address | READ | WRITE
    }

    fn leaf(pa: u64, level: u32, lg2: u32, prot: Prot) -> u64 {
        debug_assert_eq!(lg2, shift(level));
        let size = if level > 0 { PS } else { 0 };
        pa | size | u64::from(prot.bits())
    }

    fn page_sizes(level: u32) -> u64 {
        if level <= MAX_PAGE_LEVEL {
            1 << shift(level)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_ones_of_the_specification() {
        let rw = Prot::READ | Prot::WRITE;
        assert_eq!(VtdSs::leaf(0x1234_5000, 0, 12, Prot::READ), 0x1234_5001);
        assert_eq!(VtdSs::leaf(0x4020_0000, 1, 21, Prot::WRITE), 0x4020_0082);
        assert_eq!(VtdSs::leaf(0x40_0000_0000, 2, 30, rw), 0x40_0000_0083);
        assert_eq!(VtdSs::table(0x7f00_1000, 2), 0x7f00_1003);
    }

    #[test]
    fn page_size_above_the_pdpe_is_reserved_and_below_it_is_not() {
        assert_eq!(VtdSs::decode(0x83, 3), Entry::Reserved);
        assert_eq!(VtdSs::decode(0x83, 2), Entry::Leaf { pa: 0, lg2: 30 });
        assert_eq!(VtdSs::descend(0x83, 3), None);
        assert_eq!(VtdSs::descend(0x1003, 3), Some(0x1000));
        assert!(!VtdSs::ends(0x83, 3, 1));
    }

    #[test]
    fn address_bits_below_a_large_page_are_reserved() {
        assert_eq!(VtdSs::decode(0x20_1083, 1), Entry::Reserved);
        assert_eq!(
            VtdSs::decode(0x20_0083, 1),
            Entry::Leaf {
                pa: 0x20_0000,
                lg2: 21
            }
        );
        assert!(!VtdSs::ends(0x20_1083, 1, 3));
        assert!(VtdSs::ends(0x20_0083, 1, 3));
    }

    #[test]
    fn the_page_size_bit_is_ignored_in_a_4_kib_entry() {
        assert_eq!(
            VtdSs::decode(0x1083, 0),
            Entry::Leaf {
                pa: 0x1000,
                lg2: 12
            }
        );
    }

    #[test]
    fn an_entry_that_allows_nothing_is_not_present() {
        assert_eq!(VtdSs::decode(0x1234_5000 | 1 << 9, 0), Entry::Empty);
        assert_ne!(VtdSs::decode(0x1234_5001, 0), Entry::Empty);
    }
}
