//! From a requester to its page table: the structures above the page tables, in the hardware's formats.
//!
//! They are changed and walked under the unit's table lock; walking them is the rare way (a port caches
//! the outcome until the next attach or detach).

pub(crate) mod amd;
pub(crate) mod vtd;

use crate::fault::Reason;

/// What the walk of the upper tables found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Address of the top page table.
    pub(crate) root: u64,
    /// Level of its entries.
    pub(crate) top: u32,
    /// Domain id.
    pub(crate) domain: u16,
    /// The tables allow D bits to be set.
    pub(crate) dirty: bool,
}

pub(crate) type Outcome = Result<Found, Reason>;

/// The bits `high..=low` of a word.
pub(crate) const fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & (u64::MAX >> (63 - (high - low)))
}
