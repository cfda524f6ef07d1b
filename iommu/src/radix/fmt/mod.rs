//! What a page table format must say about itself, and the formats.
//!
//! A format is associated constants and tiny functions; the walker and the mapper are written once.
//! Level 0 is the table whose entries are 4 KiB pages; each format's header maps its specification's
//! level names to ours, once.

pub(crate) mod amdv1;
pub(crate) mod vtdss;

use crate::addr::Prot;

/// Address bits of an entry, the same in every format: 51:12.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing.
    Empty,
    /// A table at `address` whose entries are of `level`.
    Table {
        /// Address of the table page.
        address: u64,
        /// Level of the entries in it; lower than this entry's level minus one if levels are skipped.
        level: u32,
    },
    /// A page of `1 << lg2` bytes. It may be larger than the entry's own span, then the entry is one
    /// of several equal ones.
    Leaf {
        /// Where the whole page begins.
        pa: u64,
        /// Its size.
        lg2: u32,
    },
    /// Present, but against the specification.
    Reserved,
}

/// A page table format.
pub(crate) trait Format: 'static {
    /// Entry bits that an access needs on every level.
    fn need(access: Prot) -> u64;
    /// What an entry allows.
    fn prot(entry: u64) -> Prot;
    /// Fast test of one level above 0: the table that an entry leads to if it is as [`Format::table`] writes it, one
    /// level down. Such an entry allows everything. `None` for all that needs a closer look.
    #[inline(always)]
    fn descend(entry: u64, level: u32) -> Option<u64> {
        let address = entry ^ Self::table(0, level - 1);
        (address & !ADDRESS == 0).then_some(address)
    }
    /// Fast test of a page of the entry's own span: present, allows `need`, and nothing unusual.
    fn ends(entry: u64, level: u32, need: u64) -> bool;
    /// The full decoding.
    fn decode(entry: u64, level: u32) -> Entry;
    /// An entry that leads to a table of `level`.
    fn table(address: u64, level: u32) -> u64;
    /// An entry of `level` for a page of `1 << lg2` bytes (one of [`Format::page_sizes`]) that begins
    /// at `pa`.
    fn leaf(pa: u64, level: u32, lg2: u32, prot: Prot) -> u64;
    /// Page sizes that entries of `level` can describe, as a bitmap.
    fn page_sizes(level: u32) -> u64;
}

/// Address bits below an entry of `level`.
#[inline(always)]
pub(crate) const fn shift(level: u32) -> u32 {
    12 + 9 * level
}

/// Offset mask of a size.
#[inline(always)]
pub(crate) const fn mask(lg2: u32) -> u64 {
    if lg2 >= 64 { u64::MAX } else { (1 << lg2) - 1 }
}

/// Index of `iova` in a table of `level`.
#[inline(always)]
pub(crate) const fn index(iova: u64, level: u32) -> usize {
    (iova >> shift(level)) as usize & 511
}
