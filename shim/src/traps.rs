//! Where the client has our files mapped: address -> file and offset.
//!
//! Readers (the fault handler, and every munmap's quick test) take a snapshot without a lock: they announce
//! themselves, read, and leave. Writers copy the snapshot, publish the copy, and free the old one when no reader is
//! announced; if one is (perhaps the very thread that a fault handler interrupted), a later writer frees it. So the
//! handler may run at any instruction, also in the middle of a writer of its own thread.
#![allow(unsafe_code)] // snapshots are published as raw pointers

use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use swiommu_engine::door::File;

use crate::guard;
use crate::lock::Lock;

/// A mapped piece of a file, whole pages.
#[derive(Clone)]
pub struct Range {
    /// Its first byte.
    pub first: usize,
    /// Its last byte.
    pub last: usize,
    /// The file, kept alive by the mapping as the kernel's would be.
    pub file: Arc<dyn File>,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// The protection that the client asked for.
    pub prot: i32,
    /// Accesses trap: the pages themselves are PROT_NONE.
    pub trap: bool,
}

impl Range {
    /// The part of this range within `first..=last`.
    pub fn part(&self, first: usize, last: usize) -> Option<Range> {
        let (from, to) = (self.first.max(first), self.last.min(last));
        (from <= to).then(|| Range {
            first: from,
            last: to,
            offset: self.offset + (from - self.first) as u64,
            ..self.clone()
        })
    }

    fn overlaps(&self, first: usize, last: usize) -> bool {
        self.first <= last && first <= self.last
    }
}

type Snapshot = Vec<Range>;

static CURRENT: AtomicPtr<Snapshot> = AtomicPtr::new(null_mut());
static READERS: AtomicUsize = AtomicUsize::new(0);
static WRITER: Writer = Writer {
    busy: Lock::new(),
    old: UnsafeCell::new(Vec::new()),
};

struct Writer {
    busy: Lock,
    /// Snapshots that a reader may still look at; touched only while `busy` is ours.
    old: UnsafeCell<Vec<*mut Snapshot>>,
}

// SAFETY: `old` is only touched by the thread that holds `busy`.
unsafe impl Sync for Writer {}

#[inline]
fn read<T>(work: impl FnOnce(&[Range]) -> T) -> Option<T> {
    if CURRENT.load(Ordering::Relaxed).is_null() {
        return None;
    }
    READERS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: we are announced, and a writer frees what it replaced only when it then sees nobody announced.
    let result = unsafe { CURRENT.load(Ordering::SeqCst).as_ref() }.map(|ranges| work(ranges));
    READERS.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Replaces the snapshot by what `change` makes of it.
fn write<T>(change: impl FnOnce(&mut Snapshot) -> T) -> T {
    guard::enter(|| {
        WRITER.busy.lock();
        let old = CURRENT.load(Ordering::SeqCst);
        // SAFETY: only writers free snapshots, and we are the writer.
        let mut new = unsafe { old.as_ref() }.cloned().unwrap_or_default();
        let result = change(&mut new);
        let new = if new.is_empty() {
            null_mut()
        } else {
            Box::into_raw(Box::new(new))
        };
        CURRENT.store(new, Ordering::SeqCst);
        // SAFETY: we hold `busy`.
        let retired = unsafe { &mut *WRITER.old.get() };
        if !old.is_null() {
            retired.push(old);
        }
        let free = if READERS.load(Ordering::SeqCst) == 0 {
            std::mem::take(retired)
        } else {
            Vec::new()
        };
        WRITER.busy.unlock();
        for snapshot in free {
            // SAFETY: replaced before we saw that no reader is announced; later readers see a newer one.
            drop(unsafe { Box::from_raw(snapshot) });
        }
        result
    })
}

/// The mapping that covers an address. Safe in a signal handler.
pub fn at(address: usize) -> Option<Range> {
    read(|ranges| {
        let index = ranges.partition_point(|range| range.last < address);
        ranges
            .get(index)
            .filter(|range| range.first <= address)
            .cloned()
    })
    .flatten()
}

/// Whether any of our mappings lies in `first..=last`.
#[inline]
pub fn any(first: usize, last: usize) -> bool {
    read(|ranges| ranges.iter().any(|range| range.overlaps(first, last))).unwrap_or(false)
}

/// The parts of our mappings within `first..=last`, in order.
pub fn within(first: usize, last: usize) -> Vec<Range> {
    read(|ranges| {
        ranges
            .iter()
            .filter_map(|range| range.part(first, last))
            .collect()
    })
    .unwrap_or_default()
}

/// Adds ranges; nothing else is registered there.
pub fn insert(new: Vec<Range>) {
    write(|ranges| {
        ranges.extend(new);
        ranges.sort_by_key(|range| range.first);
    });
}

/// Removes `first..=last` and returns what was there, for the caller to drop when the pages are gone.
pub fn remove(first: usize, last: usize) -> Vec<Range> {
    write(|ranges| {
        let mut removed = Vec::new();
        cut(ranges, first, last, &mut removed);
        removed
    })
}

/// Records the protection that the client now asks for.
pub fn protect(first: usize, last: usize, prot: i32) {
    write(|ranges| {
        let mut changed = Vec::new();
        cut(ranges, first, last, &mut changed);
        ranges.extend(changed.into_iter().map(|range| Range { prot, ..range }));
        ranges.sort_by_key(|range| range.first);
    });
}

fn cut(ranges: &mut Snapshot, first: usize, last: usize, out: &mut Vec<Range>) {
    let mut kept = Vec::with_capacity(ranges.len() + 1);
    for range in ranges.drain(..) {
        if first > range.first
            && let Some(before) = range.part(0, first - 1)
        {
            kept.push(before);
        }
        out.extend(range.part(first, last));
        if last < range.last
            && let Some(after) = range.part(last + 1, usize::MAX)
        {
            kept.push(after);
        }
    }
    *ranges = kept;
}

/// Before fork: no writer is at work until [`resume`] or [`forked`].
pub fn quiesce() {
    WRITER.busy.lock();
}

/// After fork, in the parent.
pub fn resume() {
    WRITER.busy.unlock();
}

/// After fork, in the child: the mappings stay, their files become what `f` makes of them. The parent's are not dropped.
pub fn forked(mut f: impl FnMut(&Arc<dyn File>) -> Arc<dyn File>) {
    READERS.store(0, Ordering::SeqCst);
    let old = CURRENT.load(Ordering::SeqCst);
    // SAFETY: the child has one thread, and the snapshot was whole when `quiesce` returned.
    if let Some(old) = unsafe { old.as_ref() } {
        let new: Snapshot = old
            .iter()
            .map(|range| Range {
                file: f(&range.file),
                ..range.clone()
            })
            .collect();
        // One reference of each old file stays with the old snapshot, which is left alone.
        CURRENT.store(Box::into_raw(Box::new(new)), Ordering::SeqCst);
    }
    WRITER.busy.unlock();
}

#[cfg(test)]
#[path = "traps/tests.rs"]
mod tests;
