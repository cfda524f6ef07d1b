//! One radix tree for every format: reading it ([`walk`]), changing it ([`map`], [`clear`], [`rewrite`]),
//! its memory ([`page`]) and the formats themselves ([`fmt`]).
//!
//! Readers take no lock and see each entry once. Writers of one tree are serialised by the domain.
//! Every entry changes by a single store, so a reader sees the old or the new translation. What readers
//! write, which pages they wrote to, lies beside the tables ([`written`]).

pub(crate) mod clear;
pub(crate) mod fmt;
pub(crate) mod map;
pub(crate) mod page;
pub(crate) mod rewrite;
pub(crate) mod walk;
pub(crate) mod written;

use fmt::{mask, shift};
use page::{NoMemory, Pool};

/// A tree as its writer sees it.
pub(crate) struct Tree<'a> {
    /// Address of the top table.
    pub(crate) root: u64,
    /// Level of the top table's entries.
    pub(crate) top: u32,
    /// Where tables come from.
    pub(crate) pool: &'a Pool,
    /// Sessions record which pages they write to.
    pub(crate) tracking: bool,
    /// Pages unlinked; to be given back after the drain.
    pub(crate) retired: Vec<u64>,
    /// Tables made less tables retired.
    pub(crate) grown: i64,
    /// The table of level 0 that the last page was mapped in, and which addresses it is for: the next page is often
    /// beside it. Forgotten before tables may be retired.
    leaf: Option<(u64, &'a page::Table)>,
}

impl<'a> Tree<'a> {
    /// A writer's view of the tree below `root`.
    pub(crate) fn new(root: u64, top: u32, pool: &'a Pool, tracking: bool) -> Self {
        Tree {
            root,
            top,
            pool,
            tracking,
            retired: Vec::new(),
            grown: 0,
            leaf: None,
        }
    }

    fn new_table(&mut self) -> Result<&'a page::Table, NoMemory> {
        let table = self.pool.take()?;
        self.grown += 1;
        if self.tracking {
            table.written().fill(false);
        }
        Ok(table)
    }

    /// Entries of a table will describe, or no longer describe, a page: nothing was written to it.
    #[inline]
    fn unwritten(&self, table: &page::Table, slots: std::ops::RangeInclusive<usize>) {
        if self.tracking {
            table.written().forget(slots);
        }
    }

    fn retire(&mut self, address: u64) {
        self.grown -= 1;
        self.retired.push(address);
    }
}

/// A range of addresses, `first..=last`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    /// The span of the page or table of `1 << lg2` bytes around `iova`.
    fn around(iova: u64, lg2: u32) -> Self {
        Span {
            first: iova & !mask(lg2),
            last: iova | mask(lg2),
        }
    }

    fn contains(self, other: Span) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    fn clip(self, other: Span) -> Span {
        Span {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        }
    }

    /// Bytes in the span; the whole 2^64 saturates.
    fn bytes(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// Steps through the entries of one table of `level` that touch `span`, each as the span of addresses
/// the entry covers. `span` lies within one table.
#[derive(Clone, Copy)]
struct Slots {
    next: Option<u64>,
    last: u64,
    level: u32,
}

impl Slots {
    fn new(span: Span, level: u32) -> Self {
        Slots {
            next: Some(span.first & !mask(shift(level))),
            last: span.last,
            level,
        }
    }

    /// Continues at `iova`.
    fn skip_to(&mut self, iova: Option<u64>) {
        self.next = iova;
    }
}

impl Iterator for Slots {
    type Item = (usize, Span);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let first = self.next.filter(|first| *first <= self.last)?;
        let span = Span::around(first, shift(self.level));
        self.next = span.last.checked_add(1);
        Some((fmt::index(first, self.level), span))
    }
}
