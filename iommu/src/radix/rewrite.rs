//! Changing translations that stay: smaller pages with the same meaning, another physical address,
//! D bits.
//!
//! A *group* is the set of equal entries that describe one page larger than an entry's own span.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fmt::{Entry, Format, mask, shift};
use super::page::{self, ENTRIES, Table};
use super::{Slots, Span, Tree};

/// Replaces an entry by `new(entry)`, computed again as long as a reader sets the D bit meanwhile.
fn replace(slot: &AtomicU64, mut new: impl FnMut(u64) -> u64) {
    let mut entry = slot.load(Ordering::Acquire);
    while let Err(now) =
        slot.compare_exchange(entry, new(entry), Ordering::AcqRel, Ordering::Acquire)
    {
        entry = now;
    }
}

/// The words of the group that `slot` belongs to.
fn group(table: &Table, slot: usize, level: u32, lg2: u32) -> impl Iterator<Item = &AtomicU64> {
    let replicas = 1 << (lg2 - shift(level));
    let first = slot & !(replicas - 1);
    (first..first + replicas).map(|slot| table.slot(slot))
}

fn group_is_dirty<F: Format>(table: &Table, slot: usize, level: u32, lg2: u32) -> bool {
    group(table, slot, level, lg2).any(|word| word.load(Ordering::Acquire) & F::DIRTY != 0)
}

/// Rewrites the group at `slot` as pages of the entries' own span. The translation stays the same.
pub(super) fn part_group<F: Format>(table: &Table, slot: usize, level: u32, lg2: u32) {
    let dirty = group_is_dirty::<F>(table, slot, level, lg2);
    let Entry::Leaf { pa, .. } = F::decode(table.load(slot), level) else {
        unreachable!("a group is of pages")
    };
    for (replica, word) in group(table, slot, level, lg2).enumerate() {
        let pa = pa + ((replica as u64) << shift(level));
        replace(word, |entry| {
            F::leaf(
                pa,
                level,
                shift(level),
                F::prot(entry),
                dirty || entry & F::DIRTY != 0,
            )
        });
    }
}

/// Replaces the page at `slot` by a table of pages one level down. The translation stays the same.
pub(super) fn part_page<F: Format>(tree: &mut Tree<'_>, table: &Table, slot: usize, level: u32) {
    let child = tree.new_table();
    let below = level - 1;
    let entry = F::table(child.address(), below);
    replace(table.slot(slot), |page| {
        let Entry::Leaf { pa, .. } = F::decode(page, level) else {
            unreachable!("only pages are parted")
        };
        for replica in 0..ENTRIES {
            let pa = pa + ((replica as u64) << shift(below));
            child.store(
                replica,
                F::leaf(pa, below, shift(below), F::prot(page), page & F::DIRTY != 0),
            );
        }
        entry
    });
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
                    replace(table.slot(slot), |entry| {
                        F::leaf(pa, level, lg2, F::prot(entry), entry & F::DIRTY != 0)
                    });
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

/// Calls `sink(first, bytes)` for the dirty part of `span`, page by page in rising order, and if `clear` clears
/// the D bit of every page that lies in `span` whole. (A page that straddles an end keeps it, so no
/// write is lost to the other part.)
pub(crate) fn read_dirty<F: Format>(
    root: u64,
    top: u32,
    span: Span,
    clear: bool,
    sink: &mut dyn FnMut(u64, u64),
) {
    dirty_part::<F>(page::at(root), top, Reading { span, clear }, span, sink);
}

/// What is read, and how.
#[derive(Clone, Copy)]
struct Reading {
    span: Span,
    clear: bool,
}

fn dirty_part<F: Format>(
    table: &Table,
    level: u32,
    all: Reading,
    part: Span,
    sink: &mut dyn FnMut(u64, u64),
) {
    // Most tables of small pages are clean, and a glance at all their entries is cheap.
    let slots = || super::fmt::index(part.first, level)..=super::fmt::index(part.last, level);
    let is_dirty = |slot: usize| table.slot(slot).load(Ordering::Acquire) & F::DIRTY != 0;
    if level == 0 && !around_groups::<F>(slots()).any(is_dirty) {
        return;
    }
    let mut slots = Slots::new(part, level);
    while let Some((slot, covered)) = slots.next() {
        match F::decode(table.load(slot), level) {
            Entry::Empty | Entry::Reserved => {}
            Entry::Table { address, level } => {
                dirty_part::<F>(page::at(address), level, all, covered.clip(part), sink);
            }
            Entry::Leaf { lg2, .. } => {
                let page = Span::around(covered.first, lg2);
                if group_is_dirty::<F>(table, slot, level, lg2) {
                    if all.clear && all.span.contains(page) {
                        for word in group(table, slot, level, lg2) {
                            word.fetch_and(!F::DIRTY, Ordering::AcqRel);
                        }
                    }
                    let dirty = page.clip(all.span);
                    sink(dirty.first, dirty.bytes());
                }
                slots.skip_to(page.last.checked_add(1));
            }
        }
    }
}

/// The slots of level 0, and those that may belong to the groups at both ends.
fn around_groups<F: Format>(
    slots: std::ops::RangeInclusive<usize>,
) -> std::ops::RangeInclusive<usize> {
    if F::page_sizes(0) == 1 << shift(0) {
        slots
    } else {
        0..=ENTRIES - 1
    }
}
