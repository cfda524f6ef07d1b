//! Changing translations that stay: smaller pages with the same meaning, another physical address.
//!
//! A *group* is the set of equal entries that describe one page larger than an entry's own span.

use std::alloc::{Layout, handle_alloc_error};
use std::sync::atomic::Ordering;

use super::fmt::{Entry, Format, mask, shift};
use super::page::{self, ENTRIES, Table};
use super::{Slots, Span, Tree};

/// Rewrites the group at `slot` as pages of the entries' own span. The translation stays the same, and what was written
/// too: each entry has its bit already.
pub(super) fn part_group<F: Format>(table: &Table, slot: usize, level: u32, lg2: u32) {
    let Entry::Leaf { pa, .. } = F::decode(table.load(slot), level) else {
        unreachable!("a group is of pages")
    };
    let replicas = 1 << (lg2 - shift(level));
    let first = slot & !(replicas - 1);
    for replica in 0..replicas {
        let prot = F::prot(table.load(first + replica));
        let pa = pa + ((replica as u64) << shift(level));
        table.store(first + replica, F::leaf(pa, level, shift(level), prot));
    }
}

/// Replaces the page at `slot` by a table of pages one level down. The translation stays the same, and what was written
/// too.
pub(super) fn part_page<F: Format>(tree: &mut Tree<'_>, table: &Table, slot: usize, level: u32) {
    let Ok(child) = tree.new_table() else {
        // An unmap cannot fail, nor leave the page as it is.
        handle_alloc_error(Layout::new::<Table>())
    };
    let below = level - 1;
    let page = table.load(slot);
    let Entry::Leaf { pa, .. } = F::decode(page, level) else {
        unreachable!("only pages are parted")
    };
    for replica in 0..ENTRIES {
        let pa = pa + ((replica as u64) << shift(below));
        child.store(replica, F::leaf(pa, below, shift(below), F::prot(page)));
    }
    let entry = F::table(child.address(), below);
    if !tree.tracking {
        table.store(slot, entry);
        return;
    }
    child.written().fill(table.written().has(slot));
    table.slot(slot).swap(entry, Ordering::SeqCst);
    // A session that found the page sets its bit before it looks at the entry again: if it still found the page then,
    // the bit is here by now.
    if table.written().has(slot) {
        child.written().mark(0..=ENTRIES - 1);
        table.written().forget(slot..=slot);
    }
}

/// Makes what is mapped in `span` lead to `pa` onwards; holes stay holes.
pub(crate) fn remap<F: Format>(tree: &mut Tree<'_>, span: Span, pa: u64) {
    let (root, top) = (page::at(tree.root), tree.top);
    remap_part::<F>(tree, root, top, Move { span, pa }, span);
}

#[derive(Clone, Copy)]
struct Move {
    span: Span,
    pa: u64,
}

fn remap_part<F: Format>(tree: &mut Tree<'_>, table: &Table, level: u32, all: Move, part: Span) {
    let mut slots = Slots::new(part, level);
    while let Some((slot, covered)) = slots.next() {
        match F::decode(table.load(slot), level) {
            Entry::Empty | Entry::Reserved => {}
            Entry::Table { address, level } => {
                remap_part::<F>(tree, page::at(address), level, all, covered.clip(part));
            }
            Entry::Leaf { lg2, .. } => {
                let page = Span::around(covered.first, lg2);
                let moved = all
                    .span
                    .contains(page)
                    .then(|| all.pa + (page.first - all.span.first));
                if let Some(pa) = moved.filter(|pa| pa & mask(lg2) == 0) {
                    let prot = F::prot(table.load(slot));
                    table.store(slot, F::leaf(pa, level, lg2, prot));
                    continue;
                }
                if lg2 > shift(level) {
                    part_group::<F>(table, slot, level, lg2);
                } else {
                    part_page::<F>(tree, table, slot, level);
                }
                slots.skip_to(Some(covered.first));
            }
        }
    }
}
