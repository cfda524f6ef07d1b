//! Which pages were written: a bit for each entry of a table, kept beside the table.
//!
//! What hardware keeps in the entries as D bits is here one cache line for 512 entries, so reading and clearing it does
//! not touch them. The bit of an entry that leads to a table means nothing. A page of several entries has all their
//! bits.
//!
//! Sessions set bits at any time, writers clear them under the domain's lock, and a writer that clears what it tells
//! drains before it returns. A session therefore may take a bit that is set for granted, and one that sets it too late
//! for this reading sets it for the next. docs/adr/0005-dirty-bits.md has the argument.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fmt::{Entry, Format, index, mask, shift};
use super::page::{self, ENTRIES, Table};
use super::{Slots, Span};
use crate::addr::{Dirty, Iova};

const WORDS: usize = ENTRIES / 64;

/// How many tables ahead of the one that is read bits are asked for: clearing waits for each cache line otherwise.
const AHEAD: usize = 8;

/// One bit for each entry of a table.
///
/// Sequentially consistent, because a session that sets a bit looks at the entry again while a writer that replaces
/// the entry looks at the bit again: one of them sees what the other did.
#[repr(C, align(64))]
pub(crate) struct Written([AtomicU64; WORDS]);

/// The words that hold the bits of `slots`, and which bits those are.
fn parts(slots: RangeInclusive<usize>) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let (first, last) = slots.into_inner();
    (first / 64..=last / 64).map(move |word| {
        let low = first.saturating_sub(word * 64);
        let high = (last - word * 64).min(63);
        (word, u64::MAX << low & u64::MAX >> (63 - high))
    })
}

impl Written {
    /// Whether the bit of an entry is set.
    #[inline(always)]
    pub(crate) fn has(&self, slot: usize) -> bool {
        self.0[slot / 64 % WORDS].load(Ordering::SeqCst) >> (slot % 64) & 1 != 0
    }

    /// Sets bits, the last first: whoever finds one of them set may count on all behind it.
    #[inline]
    pub(crate) fn mark(&self, slots: RangeInclusive<usize>) {
        for (word, bits) in parts(slots).rev() {
            self.0[word].fetch_or(bits, Ordering::SeqCst);
        }
    }

    /// Clears bits.
    #[inline]
    pub(crate) fn forget(&self, slots: RangeInclusive<usize>) {
        for (word, bits) in parts(slots) {
            self.clear(word, bits & self.0[word].load(Ordering::SeqCst));
        }
    }

    #[inline]
    fn clear(&self, word: usize, bits: u64) {
        let word = &self.0[word];
        if bits == u64::MAX {
            word.swap(0, Ordering::SeqCst);
        } else if bits != 0 {
            word.fetch_and(!bits, Ordering::SeqCst);
        }
    }

    /// All bits as they are.
    #[inline]
    fn bits(&self) -> [u64; WORDS] {
        std::array::from_fn(|word| self.0[word].load(Ordering::SeqCst))
    }

    /// Gives every entry of a table that nobody can reach yet the same bit.
    pub(crate) fn fill(&self, set: bool) {
        let bits = if set { u64::MAX } else { 0 };
        for word in &self.0 {
            word.store(bits, Ordering::SeqCst);
        }
    }
}

/// The slots of the entries of `level` that describe the page of `1 << lg2` bytes around `iova`.
pub(crate) fn slots_of(iova: u64, level: u32, lg2: u32) -> RangeInclusive<usize> {
    let page = Span::around(iova, lg2);
    index(page.first, level)..=index(page.last, level)
}

/// Clears the bits of a whole tree.
pub(crate) fn forget_all<F: Format>(address: u64, level: u32) {
    let table = page::at(address);
    table.written().fill(false);
    if level == 0 {
        return;
    }
    for slot in 0..ENTRIES {
        if let Entry::Table { address, level } = F::decode(table.load(slot), level) {
            forget_all::<F>(address, level);
        }
    }
}

/// What is read, and how.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) span: Span,
    /// Clear what is told, but not of pages that straddle an end of the span: no write is lost to the other part.
    pub(crate) clear: bool,
}

/// Tells the written pages of a span in rising order.
pub(crate) fn read<F: Format>(
    root: u64,
    top: u32,
    reading: Reading,
    sink: &mut impl FnMut(Dirty<'_>),
) {
    read_part::<F>(page::at(root), top, reading, reading.span, sink);
}

fn read_part<F: Format>(
    table: &Table,
    level: u32,
    all: Reading,
    part: Span,
    sink: &mut impl FnMut(Dirty<'_>),
) {
    if level == 0 {
        return read_pages::<F>(table, all, part, sink);
    }
    let mut slots = Slots::new(part, level);
    while let Some((slot, covered)) = slots.next() {
        let entry = table.load(slot);
        if let Some(address) = F::descend(entry, level) {
            let (table_below, part) = (page::at(address), covered.clip(part));
            if level > 1 {
                read_part::<F>(table_below, level - 1, all, part, sink);
                continue;
            }
            if let Some(later) = F::descend(table.load(slot + AHEAD), level) {
                page::at(later).prefetch_written();
            }
            read_pages::<F>(table_below, all, part, sink);
            continue;
        }
        match F::decode(entry, level) {
            Entry::Empty | Entry::Reserved => {}
            Entry::Table { address, level } => {
                read_part::<F>(page::at(address), level, all, covered.clip(part), sink);
            }
            Entry::Leaf { lg2, .. } => {
                let page = Span::around(covered.first, lg2);
                let mut slots_of_page = slots_of(page.first, level, lg2);
                if slots_of_page.any(|slot| table.written().has(slot)) {
                    if all.clear && all.span.contains(page) {
                        table.written().forget(slots_of(page.first, level, lg2));
                    }
                    sink(Dirty {
                        first: Iova(page.first),
                        page_lg2: lg2,
                        bits: &[1],
                    });
                }
                slots.skip_to(page.last.checked_add(1));
            }
        }
    }
}

/// The part of a reading in a table of level 0, which lies at `part`: all its words at once.
#[inline]
fn read_pages<F: Format>(
    table: &Table,
    all: Reading,
    part: Span,
    sink: &mut impl FnMut(Dirty<'_>),
) {
    let written = table.written();
    let mut bits = written.bits();
    if bits.iter().fold(0, |any, bits| any | bits) == 0 {
        return;
    }
    let around = Span::around(part.first, shift(1));
    let is_whole = part.first == around.first && part.last == around.last;
    if !is_whole {
        let inside = parts(index(part.first, 0)..=index(part.last, 0));
        let mut wanted = [0; WORDS];
        for (word, mask) in inside {
            wanted[word] = bits[word] & mask;
        }
        bits = wanted;
    }
    if all.clear {
        let kept = if is_whole {
            [0; WORDS]
        } else {
            straddling::<F>(table, all.span, part)
        };
        for (word, bits) in bits.iter().enumerate() {
            written.clear(word, bits & !kept[word]);
        }
    }
    sink(Dirty {
        first: Iova(around.first),
        page_lg2: shift(0),
        bits: &bits,
    });
}

/// The bits of pages of several entries that straddle an end of `span`.
fn straddling<F: Format>(table: &Table, span: Span, part: Span) -> [u64; WORDS] {
    let mut kept = [0; WORDS];
    if F::page_sizes(0) == 1 << shift(0) {
        return kept;
    }
    for end in [part.first, part.last] {
        if let Entry::Leaf { lg2, .. } = F::decode(table.load(index(end, 0)), 0)
            && !span.contains(Span::around(end, lg2))
        {
            for (word, bits) in parts(slots_of(end & !mask(12), 0, lg2)) {
                kept[word] |= bits;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_range_are_those_of_its_words() {
        let parts = |slots| parts(slots).collect::<Vec<_>>();
        assert_eq!(parts(0..=0), [(0, 1)]);
        assert_eq!(parts(62..=65), [(0, 3 << 62), (1, 3)]);
        assert_eq!(
            parts(63..=191),
            [(0, 1 << 63), (1, u64::MAX), (2, u64::MAX)]
        );
        assert_eq!(parts(511..=511), [(7, 1 << 63)]);
    }
}
