//! Removing translations.

use std::sync::atomic::Ordering;

use super::fmt::{Entry, Format, index, mask, shift};
use super::map::retire_tables;
use super::page::{self, Table};
use super::rewrite::{part_group, part_page};
use super::{Slots, Span, Tree};

/// Clears every translation in `span`, splitting pages that straddle its ends, and unlinks tables that
/// the span covers whole. Returns how many bytes were mapped.
pub(crate) fn clear<F: Format>(tree: &mut Tree<'_>, span: Span) -> u64 {
    tree.leaf = None;
    if span.last - span.first == mask(12)
        && let Some(bytes) = clear_one::<F>(tree, span.first)
    {
        return bytes;
    }
    let (root, top) = (page::at(tree.root), tree.top);
    clear_part::<F>(tree, root, top, span, span)
}

/// One 4 KiB page that is mapped as such: the common case. `None` leaves it to the general way.
fn clear_one<F: Format>(tree: &mut Tree<'_>, iova: u64) -> Option<u64> {
    let mut table = page::at(tree.root);
    for level in (1..=tree.top).rev() {
        let entry = table.load(index(iova, level));
        let Some(next) = F::descend(entry, level) else {
            return if entry == 0 { Some(0) } else { None };
        };
        table = page::at(next);
    }
    let slot = table.slot(index(iova, 0));
    match F::decode(slot.load(Ordering::Relaxed), 0) {
        Entry::Empty => Some(0),
        Entry::Leaf { lg2: 12, .. } => {
            slot.store(0, Ordering::Release);
            tree.unwritten(table, index(iova, 0)..=index(iova, 0));
            Some(1 << 12)
        }
        _ => None,
    }
}

/// Clears the part of `span` under `table`, which is `part`.
fn clear_part<F: Format>(
    tree: &mut Tree<'_>,
    table: &Table,
    level: u32,
    span: Span,
    part: Span,
) -> u64 {
    let mut cleared = 0u64;
    let mut slots = Slots::new(part, level);
    while let Some((slot, covered)) = slots.next() {
        let clipped = covered.clip(part);
        match F::decode(table.load(slot), level) {
            Entry::Empty | Entry::Reserved => {}
            Entry::Table {
                address,
                level: below,
            } if span.contains(covered) => {
                cleared = cleared.saturating_add(mapped::<F>(page::at(address), below));
                table.store(slot, 0);
                retire_tables::<F>(tree, address, below);
            }
            Entry::Table {
                address,
                level: below,
            } => {
                cleared = cleared.saturating_add(clear_part::<F>(
                    tree,
                    page::at(address),
                    below,
                    span,
                    clipped,
                ));
            }
            Entry::Leaf { lg2, .. } if span.contains(Span::around(covered.first, lg2)) => {
                table.store(slot, 0);
                tree.unwritten(table, slot..=slot);
                cleared = cleared.saturating_add(covered.bytes());
            }
            Entry::Leaf { lg2, .. } => {
                if lg2 > shift(level) {
                    part_group::<F>(table, slot, level, lg2);
                } else {
                    part_page::<F>(tree, table, slot, level);
                }
                slots.skip_to(Some(covered.first));
            }
        }
    }
    cleared
}

/// Bytes mapped under a table.
fn mapped<F: Format>(table: &Table, level: u32) -> u64 {
    let span = 1u64 << shift(level);
    (0..page::ENTRIES).fold(0u64, |bytes, slot| {
        bytes.saturating_add(match F::decode(table.load(slot), level) {
            Entry::Leaf { .. } => span,
            Entry::Table { address, level } => mapped::<F>(page::at(address), level),
            Entry::Empty | Entry::Reserved => 0,
        })
    })
}

/// Retires every table of the tree but the root, whose entries are cleared.
pub(crate) fn clear_all<F: Format>(tree: &mut Tree<'_>) {
    let root = page::at(tree.root);
    for slot in 0..page::ENTRIES {
        if let Entry::Table { address, level } =
            F::decode(root.slot(slot).swap(0, Ordering::AcqRel), tree.top)
        {
            retire_tables::<F>(tree, address, level);
        }
    }
}
