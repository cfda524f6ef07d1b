//! Addresses, permissions and the shape of an answer.
//!
//! Ranges are `first..=last` everywhere: an IOVA may reach 2^64 - 1.

use std::fmt;

/// An address as the device issues it (input address of the translation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Iova(pub u64);

/// A "physical" address: what the tables translate to. The crate never dereferences it; in swiommu a
/// value below 2^47 is a virtual address of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pa(pub u64);

/// A requester id (bus << 8 | device << 3 | function): VT-d's source-id, AMD's DeviceID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.0 >> 8,
            self.0 >> 3 & 0x1f,
            self.0 & 7
        )
    }
}

bitflags::bitflags! {
    /// What a mapping allows the device to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Prot: u8 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 2;
    }
}

/// What the device asks for. The discriminants are the bits of [`Prot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Access {
    /// A memory read request.
    Read = 1,
    /// A memory write request.
    Write = 2,
}

/// The answer to a translation: the contiguous beginning of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first byte lives.
    pub pa: Pa,
    /// How many bytes are contiguous from there; never more than asked. The run ends at the end of
    /// the page at the latest, so a longer request needs another call.
    pub bytes: u64,
}

/// Neighbouring pages of one size, and which of them were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirty<'a> {
    /// Where the first page begins.
    pub first: Iova,
    /// Each has `1 << page_lg2` bytes.
    pub page_lg2: u32,
    /// The bits `0..` of the first word are the first pages, 1 for a written one; then comes the next word.
    pub bits: &'a [u64],
}

impl Dirty<'_> {
    /// The written pages as runs in rising order: where each begins, and its bytes.
    pub fn runs(&self) -> impl Iterator<Item = (Iova, u64)> {
        let (first, lg2) = (self.first.0, self.page_lg2);
        let words = self.bits.iter().enumerate();
        words.flat_map(move |(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let from = left.trailing_zeros();
                let pages = (left.checked_shr(from)?).trailing_ones();
                left &= !(u64::MAX >> (64 - pages) << from);
                let page = index as u64 * 64 + u64::from(from);
                Some((Iova(first + (page << lg2)), u64::from(pages) << lg2))
            })
        })
    }
}
