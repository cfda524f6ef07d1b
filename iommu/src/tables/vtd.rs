//! VT-d root, context, PASID directory and PASID tables (Intel VT-d specification, 9.1 to 9.6).
//!
//! Legacy mode: root entry (16 bytes, one per bus) -> context entry (16 bytes, one per function). Scalable
//! mode: root entry (lower half: functions below 80h, upper half: the others) -> context entry (32
//! bytes) -> PASID directory -> PASID table entry (64 bytes), for requests without PASID at the index of
//! RID_PASID, which is 0 here. Tables are made when first needed. Each entry is written with the word
//! that has the present bit last.

use super::{Found, Outcome, bits};
use crate::addr::StreamId;
use crate::fault::Reason;
use crate::radix::fmt::ADDRESS;
use crate::radix::page::{self, NoMemory, Pool, Table};

const PRESENT: u64 = 1;

/// Context entry, second word: the width field's position in legacy mode is bits 2:0, domain id 23:8.
const LEGACY_DOMAIN_SHIFT: u32 = 8;
/// Legacy context entry: translation type, bits 3:2; 0 is second stage.
const LEGACY_RESERVED: [u64; 2] = [0x0ff0, !0xff_ff7f];

/// Scalable root entry halves and PASID directory entries: 11:1 (and 11:2) are reserved.
const ROOT_RESERVED: u64 = 0xffe;
const DIRECTORY_RESERVED: u64 = 0xffc;
/// Scalable context entry, first word: 8:5 are reserved; second word: above RID_PRIV.
const SCALABLE_RESERVED: [u64; 4] = [0x1e0, !0x1f_ffff, u64::MAX, u64::MAX];

/// PASID table entry, first word.
const PASID_WIDTH_SHIFT: u32 = 2;
const PASID_TYPE_SHIFT: u32 = 6;
const PASID_SECOND_STAGE: u64 = 2;
/// Second-stage access and dirty bits enabled.
const PASID_SSADE: u64 = 1 << 9;
/// First word 11:10, and the fourth to eighth word. (First-stage fields are ignored with second stage.)
const PASID_RESERVED: [u64; 8] = [
    0xc00,
    0,
    0,
    u64::MAX,
    u64::MAX,
    u64::MAX,
    u64::MAX,
    u64::MAX,
];
const PASID_ENTRY_WORDS: usize = 8;

/// The tables above the page tables of a VT-d unit.
pub(crate) struct VtdTables {
    root: u64,
    scalable: bool,
}

/// Width field of a top level: 1, 2, 3 for 3, 4, 5 page table levels.
fn width_code(top: u32) -> u64 {
    u64::from(top) - 1
}

/// The top level of a width field.
fn top_of(code: u64) -> Option<u32> {
    matches!(code, 1..=3).then_some(code as u32 + 1)
}

/// A word of consecutive entries: `words` each, number `entry`, word `word`.
fn at(entry: usize, words: usize, word: usize) -> usize {
    entry * words + word
}

impl VtdTables {
    pub(crate) fn new(pool: &Pool, scalable: bool) -> Result<Self, NoMemory> {
        Ok(VtdTables {
            root: pool.take()?.address(),
            scalable,
        })
    }

    /// Where the context entry's table hangs, the entry's number in it, and words per entry.
    fn place(&self, stream: StreamId) -> (usize, usize, usize) {
        let (bus, function) = (usize::from(stream.0 >> 8), usize::from(stream.0 & 0xff));
        if self.scalable {
            (at(bus, 2, function >> 7), function & 0x7f, 4)
        } else {
            (at(bus, 2, 0), function, 2)
        }
    }

    fn context_table(&self, stream: StreamId) -> Option<&Table> {
        let entry = page::at(self.root).load(self.place(stream).0);
        (entry & PRESENT != 0).then(|| page::at(entry & ADDRESS))
    }

    /// Writes the entries that lead `stream` to the page table at `root`.
    pub(crate) fn attach(&mut self, pool: &Pool, stream: StreamId, found: Found) {
        let (root_word, number, words) = self.place(stream);
        let contexts = self.context_table(stream).unwrap_or_else(|| {
            let table = pool.take_upper();
            page::at(self.root).store(root_word, table.address() | PRESENT);
            table
        });
        let domain = u64::from(found.domain);
        let low = at(number, words, 0);
        if !self.scalable {
            contexts.store(
                low + 1,
                width_code(found.top) | domain << LEGACY_DOMAIN_SHIFT,
            );
            contexts.store(low, found.root | PRESENT);
            return;
        }
        let context = contexts.load(low);
        let directory = if context & PRESENT != 0 {
            page::at(context & ADDRESS)
        } else {
            pool.take_upper()
        };
        let entry = directory.load(0);
        let pasids = if entry & PRESENT != 0 {
            page::at(entry & ADDRESS)
        } else {
            pool.take_upper()
        };
        pasids.store(1, domain);
        let width = width_code(found.top) << PASID_WIDTH_SHIFT;
        let kind = PASID_SECOND_STAGE << PASID_TYPE_SHIFT;
        pasids.store(0, found.root | PASID_SSADE | kind | width | PRESENT);
        directory.store(0, pasids.address() | PRESENT);
        // RID_PASID 0; a directory of one page (PDTS 2: 2^9 entries).
        contexts.store(low + 1, 0);
        contexts.store(low, directory.address() | 2 << 9 | PRESENT);
    }

    /// Clears the context entry of `stream`. The pages returned are free after a drain.
    pub(crate) fn detach(&mut self, stream: StreamId) -> Vec<u64> {
        let mut freed = Vec::new();
        let (_, number, words) = self.place(stream);
        let Some(contexts) = self.context_table(stream) else {
            return freed;
        };
        let low = at(number, words, 0);
        let context = contexts.load(low);
        if self.scalable && context & PRESENT != 0 {
            let directory = page::at(context & ADDRESS);
            freed.extend([directory.load(0) & ADDRESS, directory.address()]);
        }
        for word in low..low + words {
            contexts.store(word, 0);
        }
        freed
    }

    /// Walks from the root entry to the page table of a request without PASID.
    pub(crate) fn resolve(&self, stream: StreamId) -> Outcome {
        let (root_word, number, words) = self.place(stream);
        let root = page::at(self.root).load(root_word);
        if root & PRESENT == 0 {
            return Err(Reason::RootNotPresent);
        }
        // In legacy mode the upper half is reserved altogether.
        let upper = if self.scalable {
            0
        } else {
            page::at(self.root).load(root_word + 1)
        };
        if root & ROOT_RESERVED | upper != 0 {
            return Err(Reason::RootReserved);
        }
        let contexts = page::at(root & ADDRESS);
        let word = |word| contexts.load(at(number, words, word));
        if word(0) & PRESENT == 0 {
            return Err(Reason::ContextNotPresent);
        }
        if self.scalable {
            Self::resolve_scalable(word)
        } else {
            Self::resolve_legacy(word)
        }
    }

    fn resolve_legacy(word: impl Fn(usize) -> u64) -> Outcome {
        let (low, high) = (word(0), word(1));
        if (low & LEGACY_RESERVED[0]) | (high & LEGACY_RESERVED[1]) != 0 {
            return Err(Reason::ContextReserved);
        }
        // Translation types other than second stage (pass-through, device TLB) are not offered.
        let top = top_of(bits(high, 2, 0))
            .filter(|_| bits(low, 3, 2) == 0)
            .ok_or(Reason::ContextInvalid)?;
        let domain = bits(high, 23, 8) as u16;
        Ok(Found {
            root: low & ADDRESS,
            top,
            domain,
            dirty: true,
        })
    }

    fn resolve_scalable(word: impl Fn(usize) -> u64) -> Outcome {
        if (0..4).any(|at| word(at) & SCALABLE_RESERVED[at] != 0) {
            return Err(Reason::ContextReserved);
        }
        let pasid = bits(word(1), 19, 0) as usize;
        let directory_entries = 1 << (bits(word(0), 11, 9) + 7);
        if pasid >> 6 >= directory_entries.min(page::ENTRIES) {
            return Err(Reason::ContextInvalid);
        }
        let entry = page::at(word(0) & ADDRESS).load(pasid >> 6);
        if entry & PRESENT == 0 {
            return Err(Reason::PasidDirectoryNotPresent);
        }
        if entry & DIRECTORY_RESERVED != 0 {
            return Err(Reason::PasidDirectoryReserved);
        }
        let pasids = page::at(entry & ADDRESS);
        let word = |word| pasids.load(at(pasid & 0x3f, PASID_ENTRY_WORDS, word));
        let low = word(0);
        if low & PRESENT == 0 {
            return Err(Reason::PasidNotPresent);
        }
        if (0..PASID_ENTRY_WORDS).any(|at| word(at) & PASID_RESERVED[at] != 0) {
            return Err(Reason::PasidReserved);
        }
        let second_stage = bits(low, 8, 6) == PASID_SECOND_STAGE;
        let top = top_of(bits(low, 4, 2))
            .filter(|_| second_stage)
            .ok_or(Reason::PasidInvalid)?;
        Ok(Found {
            root: low & ADDRESS,
            top,
            domain: word(1) as u16,
            dirty: low & PASID_SSADE != 0,
        })
    }
}

#[cfg(test)]
#[path = "vtd_tests.rs"]
mod tests;
