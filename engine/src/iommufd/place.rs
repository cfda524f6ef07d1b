//! What a physical address of the engine means.
//!
//! Below 2^47 it is an address of this process: client memory. Above lies a space of handles that fits every
//! page-table format (bits 51:12): device regions, so that peer DMA reaches the other function's registers and
//! never a trapping page; and the place of pages that are being moved at this very moment.

use swiommu_iommu::Pa;
use swiommu_mem::UserAddr;

/// One past the last client address.
const HANDLES: u64 = 1 << 47;
/// First address of pages on the move.
const MOVING: u64 = 1 << 51;
/// Bytes of handle space per BAR: 2^36.
const BAR_LG2: u32 = 36;

/// Where a translated DMA lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Client memory.
    Client(UserAddr),
    /// A BAR of a function: index of the function in the machine, BAR, offset.
    Region {
        /// Index of the function in the machine.
        function: usize,
        /// BAR number, 0..=5.
        bar: u8,
        /// Offset in the BAR.
        offset: u64,
    },
    /// The page is being moved aside: translate again.
    Moving,
}

/// Tells what lies at a physical address.
#[inline]
pub fn place(pa: Pa) -> Place {
    match pa.0 {
        at if at < HANDLES => Place::Client(UserAddr(at)),
        at if at >= MOVING => Place::Moving,
        at => {
            let handle = at - HANDLES;
            let slot = handle >> BAR_LG2;
            Place::Region {
                function: (slot / 8) as usize,
                bar: (slot % 8) as u8,
                offset: handle & ((1 << BAR_LG2) - 1),
            }
        }
    }
}

/// The handle of a byte of a BAR.
pub fn region(function: usize, bar: u8, offset: u64) -> Pa {
    debug_assert!(bar < 8 && offset < 1 << BAR_LG2);
    Pa(HANDLES + ((function as u64 * 8 + u64::from(bar)) << BAR_LG2) + offset)
}

/// Where the entries of pages point while they are moved. Keeps the page's own offset bits, so that any run of it
/// stays in the moving space.
pub fn moving() -> Pa {
    Pa(MOVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_addresses_are_themselves_and_the_first_handle_is_not_one() {
        assert_eq!(
            place(Pa(0x7fff_ffff_f000)),
            Place::Client(UserAddr(0x7fff_ffff_f000))
        );
        assert_eq!(
            place(Pa(1 << 47)),
            Place::Region {
                function: 0,
                bar: 0,
                offset: 0
            }
        );
    }

    #[test]
    fn a_region_handle_comes_back_as_its_function_bar_and_offset() {
        for (function, bar, offset) in [(0, 0, 0), (3, 5, 0x1000), (255, 2, (1 << 36) - 4096)] {
            assert_eq!(
                place(region(function, bar, offset)),
                Place::Region {
                    function,
                    bar,
                    offset
                }
            );
        }
    }

    #[test]
    fn moving_pages_are_neither_memory_nor_region() {
        assert_eq!(place(Pa(moving().0 + 0x1234_5678)), Place::Moving);
    }
}
