//! Reading the tree: the fast walk of the DMA path, and the full walk that can say why not.

use super::fmt::{Entry, Format, index, mask, shift};
use super::page::{self, Table};
use super::written::slots_of;
use crate::addr::Prot;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

/// Where a walk ended well.
#[derive(Clone, Copy)]
pub(crate) struct Hit<'a> {
    /// The table of the leaf entry.
    pub(crate) table: &'a Table,
    /// The entry's index there.
    slot: usize,
    /// Its level.
    level: u32,
    /// Its value as read.
    entry: u64,
    /// The translated address.
    pub(crate) pa: u64,
    /// Size of the page.
    pub(crate) lg2: u32,
    /// What the whole path allows.
    pub(crate) prot: Prot,
}

impl Hit<'_> {
    /// Whether the page is known to be written.
    pub(crate) fn is_written(&self) -> bool {
        self.table.written().has(self.slot)
    }

    /// Records a write to the page at `iova`. `false`: the page was parted meanwhile, and the parts may know nothing
    /// of it.
    pub(crate) fn mark(&self, iova: u64) -> bool {
        let slots: RangeInclusive<usize> = slots_of(iova, self.level, self.lg2);
        self.table.written().mark(slots);
        self.table.slot(self.slot).load(Ordering::SeqCst) == self.entry
    }
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// An entry is not present.
    NotPresent,
    /// Skipped levels whose address bits are not zero.
    Skipped,
    /// An entry has reserved bits set or describes a size that cannot be.
    Reserved,
    /// The path does not allow the access.
    Denied,
}

/// The walk as the DMA path makes it: one dependent load and one test a level. `Ok` is the entry of a
/// 4 KiB page and its table. `Err` is the entry, with its level and table, that needs a closer look: a larger page, a
/// rare form, or a fault.
#[inline(always)]
pub(crate) fn fast<'a, F: Format, const TOP: u32>(
    root: u64,
    iova: u64,
    need: u64,
) -> Result<(u64, &'a Table), (u64, u32, &'a Table)> {
    let mut table = page::at(root);
    let mut level = TOP;
    loop {
        let entry = table.load(index(iova, level));
        if level == 0 {
            return if F::ends(entry, 0, need) {
                Ok((entry, table))
            } else {
                Err((entry, 0, table))
            };
        }
        let Some(next) = F::descend(entry, level) else {
            return Err((entry, level, table));
        };
        table = page::at(next);
        level -= 1;
    }
}

/// The walk with every legal form and every reason.
pub(crate) fn full<'a, F: Format>(
    root: u64,
    top: u32,
    iova: u64,
    access: Prot,
) -> Result<Hit<'a>, Miss> {
    let mut address = root;
    let mut level = top;
    let mut prot = Prot::all();
    loop {
        let table = page::at(address);
        let slot = index(iova, level);
        let entry = table.load(slot);
        match F::decode(entry, level) {
            Entry::Empty => return Err(Miss::NotPresent),
            Entry::Reserved => return Err(Miss::Reserved),
            Entry::Table {
                address: next,
                level: below,
            } => {
                let skipped = mask(shift(level)) & !mask(shift(below + 1));
                if iova & skipped != 0 {
                    return Err(Miss::Skipped);
                }
                (address, level, prot) = (next, below, prot & F::prot(entry));
            }
            Entry::Leaf { pa, lg2 } => {
                prot &= F::prot(entry);
                if !prot.contains(access) {
                    return Err(Miss::Denied);
                }
                return Ok(Hit {
                    table,
                    slot,
                    level,
                    entry,
                    pa: pa | iova & mask(lg2),
                    lg2,
                    prot,
                });
            }
        }
    }
}
