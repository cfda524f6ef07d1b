//! Adding translations, with the largest pages that alignment allows.

use std::sync::atomic::Ordering;

use super::fmt::{Entry, Format, index, mask, shift};
use super::page::{self, NoMemory, Table};
use super::written::slots_of;
use super::{Slots, Span, Tree};
use crate::addr::Prot;

/// Why nothing was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The range holds a translation already.
    Occupied,
    /// There is no memory for a table.
    NoMemory,
}

impl From<NoMemory> for Refused {
    fn from(_: NoMemory) -> Self {
        Refused::NoMemory
    }
}

/// Maps `span` to `pa` onwards. Both are 4 KiB aligned; `span` lies in the tree. Without memory a part of it may be
/// mapped, which the caller takes out; if it is occupied, nothing is.
pub(crate) fn map<F: Format>(
    tree: &mut Tree<'_>,
    span: Span,
    pa: u64,
    prot: Prot,
) -> Result<(), Refused> {
    let (root, top) = (page::at(tree.root), tree.top);
    if span.last - span.first == mask(12) {
        return map_one::<F>(tree, span.first, pa, prot);
    }
    tree.leaf = None;
    if !is_free::<F>(root, top, span) {
        return Err(Refused::Occupied);
    }
    Ok(fill_part::<F>(
        tree,
        root,
        top,
        Fill { span, pa, prot },
        span,
    )?)
}

/// One 4 KiB page: the common case, without a second pass.
fn map_one<F: Format>(tree: &mut Tree<'_>, iova: u64, pa: u64, prot: Prot) -> Result<(), Refused> {
    let region = iova >> shift(1);
    let table = match tree.leaf {
        Some((at, table)) if at == region => table,
        _ => leaf_table::<F>(tree, iova)?,
    };
    let slot = table.slot(index(iova, 0));
    if slot.load(Ordering::Relaxed) != 0 {
        return Err(Refused::Occupied);
    }
    tree.leaf = Some((region, table));
    tree.unwritten(table, index(iova, 0)..=index(iova, 0));
    slot.store(F::leaf(pa, 0, 12, prot), Ordering::Release);
    Ok(())
}

/// The table of level 0 for an address, made if there is none.
fn leaf_table<'a, F: Format>(tree: &mut Tree<'a>, iova: u64) -> Result<&'a Table, Refused> {
    let mut table = page::at(tree.root);
    for level in (1..=tree.top).rev() {
        let slot = index(iova, level);
        let entry = table.load(slot);
        // A table is made only below an empty entry, so nothing under it can be occupied and no table
        // is left behind by a refusal.
        table = if let Some(next) = F::descend(entry, level) {
            page::at(next)
        } else if entry == 0 {
            link::<F>(tree, table, slot, level)?
        } else {
            return Err(Refused::Occupied);
        };
    }
    Ok(table)
}

fn link<'a, F: Format>(
    tree: &mut Tree<'a>,
    table: &Table,
    slot: usize,
    level: u32,
) -> Result<&'a Table, NoMemory> {
    let child = tree.new_table()?;
    table.store(slot, F::table(child.address(), level - 1));
    Ok(child)
}

fn is_free<F: Format>(table: &Table, level: u32, span: Span) -> bool {
    Slots::new(span, level).all(|(slot, covered)| match F::decode(table.load(slot), level) {
        Entry::Empty => true,
        Entry::Table { address, level } => {
            is_free::<F>(page::at(address), level, covered.clip(span))
        }
        Entry::Leaf { .. } | Entry::Reserved => false,
    })
}

/// What is still to be mapped.
#[derive(Clone, Copy)]
struct Fill {
    span: Span,
    pa: u64,
    prot: Prot,
}

impl Fill {
    /// The largest page that entries of `level` can describe at `iova`; 0 if none.
    fn page_lg2<F: Format>(&self, iova: u64, level: u32) -> u32 {
        let aligned = (iova | self.pa_of(iova)).trailing_zeros().min(63);
        let room = (self.span.last - iova)
            .checked_add(1)
            .map_or(63, u64::ilog2);
        let possible = F::page_sizes(level) & mask(aligned.min(room) + 1);
        if possible == 0 { 0 } else { possible.ilog2() }
    }

    fn pa_of(&self, iova: u64) -> u64 {
        self.pa + (iova - self.span.first)
    }
}

/// Fills the part of what is to be mapped that lies under `table`. It is known to be free.
fn fill_part<F: Format>(
    tree: &mut Tree<'_>,
    table: &Table,
    level: u32,
    all: Fill,
    part: Span,
) -> Result<(), NoMemory> {
    let mut slots = Slots::new(part, level);
    while let Some((slot, covered)) = slots.next() {
        let clipped = covered.clip(part);
        let lg2 = if clipped.first == covered.first {
            all.page_lg2::<F>(covered.first, level)
        } else {
            0
        };
        if lg2 == 0 {
            let entry = table.load(slot);
            let child = match F::decode(entry, level) {
                Entry::Table { address, .. } => page::at(address),
                _ => link::<F>(tree, table, slot, level)?,
            };
            fill_part::<F>(tree, child, level - 1, all, clipped)?;
            continue;
        }
        let entry = F::leaf(all.pa_of(covered.first), level, lg2, all.prot);
        tree.unwritten(table, slots_of(covered.first, level, lg2));
        for replica in 0..1 << (lg2 - shift(level)) {
            let word = table.slot(slot + replica);
            if let Entry::Table { address, level } =
                F::decode(word.swap(entry, Ordering::AcqRel), level)
            {
                retire_tables::<F>(tree, address, level);
            }
        }
        slots.skip_to(covered.first.checked_add(1 << lg2));
    }
    Ok(())
}

/// Copies what `from` (of `level`) describes into the empty table `to`.
pub(crate) fn copy<F: Format>(
    tree: &mut Tree<'_>,
    from: &Table,
    to: &Table,
    level: u32,
) -> Result<(), NoMemory> {
    for slot in 0..page::ENTRIES {
        let entry = from.load(slot);
        if level > 0
            && let Entry::Table { address, level } = F::decode(entry, level)
        {
            let child = tree.new_table()?;
            to.store(slot, F::table(child.address(), level));
            copy::<F>(tree, page::at(address), child, level)?;
        } else {
            to.store(slot, entry);
        }
    }
    Ok(())
}

/// Retires an unlinked table and the tables under it; their leaves are no longer reachable.
pub(super) fn retire_tables<F: Format>(tree: &mut Tree<'_>, address: u64, level: u32) {
    if level > 0 {
        for slot in 0..page::ENTRIES {
            if let Entry::Table { address, level } = F::decode(page::at(address).load(slot), level)
            {
                retire_tables::<F>(tree, address, level);
            }
        }
    }
    tree.retire(address);
}
