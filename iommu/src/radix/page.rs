//! Table pages: 4 KiB aligned arrays of 512 entries, and the pool they come from.
//!
//! The only unsafe module of the crate. A table entry holds the *address* of the next table in the
//! hardware's format, so following it turns bits into a reference; that is done here and nowhere else.
//!
//! The invariants every use below answers to:
//!
//! 1. A table address stored in an entry (root, context, PASID, device or page table) was handed out
//!    by [`Pool::take`] of the unit's one pool. Only `radix::map` and `tables` store them.
//! 2. The memory of a page stays a `Table` until the pool is dropped: pages go back to the free list,
//!    never to the allocator. A reader that is late (it must not be: the drain) would read another
//!    table's entries, never unmapped memory.
//! 3. Whoever walks holds the unit (and so the pool) alive: domains, ports and the unit itself own an
//!    `Arc` of it.
//!
//! Lock order: `free` is a leaf lock, nothing is called under it but the allocator.
#![allow(unsafe_code)] // Table entries are addresses by definition of the formats; see above.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::{Advice, madvise};

/// Bytes of a table page.
pub(crate) const TABLE_BYTES: u64 = 4096;
/// Entries of eight bytes in a table page.
pub(crate) const ENTRIES: usize = 512;

/// The first slab is small, so that an idle unit costs little; the later ones are 2 MiB, aligned, so
/// that the host may back them with one large page.
const FIRST_SLAB_PAGES: usize = 16;
const LARGE_SLAB_PAGES: usize = 512;

/// One table page. Entries are read and written one at a time, as a processor and an IOMMU would.
#[repr(C, align(4096))]
pub(crate) struct Table([AtomicU64; ENTRIES]);

impl Table {
    /// The entry word at `index` (taken modulo the table's size).
    #[inline(always)]
    pub(crate) fn slot(&self, index: usize) -> &AtomicU64 {
        &self.0[index % ENTRIES]
    }

    /// The value of the entry at `index`.
    #[inline(always)]
    pub(crate) fn load(&self, index: usize) -> u64 {
        // Acquire: what a table pointer leads to was written before the pointer was.
        self.slot(index).load(Ordering::Acquire)
    }

    /// Publishes an entry.
    #[inline(always)]
    pub(crate) fn store(&self, index: usize, entry: u64) {
        self.slot(index).store(entry, Ordering::Release);
    }

    /// The address a parent entry holds for this table.
    pub(crate) fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }
}

/// The table at `address`, which must come from an entry or from [`Pool::take`] (invariant 1).
#[inline(always)]
pub(crate) fn at<'unit>(address: u64) -> &'unit Table {
    debug_assert!(
        address != 0 && address.is_multiple_of(TABLE_BYTES),
        "{address:#x}"
    );
    // SAFETY: by invariant 1 the address is that of a page of the pool, initialised as a `Table` when
    // the slab was made; by invariants 2 and 3 it stays one as long as the caller can hold the unit.
    // All access is by shared reference to atomics, so aliasing and races are no concern.
    unsafe { &*(address as *const Table) }
}

struct Slab {
    pages: NonNull<Table>,
    layout: Layout,
}

// SAFETY: a slab is owned memory of atomics; nothing in it belongs to a thread.
unsafe impl Send for Slab {}

impl Slab {
    fn new(count: usize) -> Self {
        let is_large = count == LARGE_SLAB_PAGES;
        let bytes = count * TABLE_BYTES as usize;
        let align = if is_large {
            bytes
        } else {
            TABLE_BYTES as usize
        };
        let layout =
            Layout::from_size_align(bytes, align).expect("slab sizes are small powers of two");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(pages) = NonNull::new(memory.cast::<Table>()) else {
            handle_alloc_error(layout)
        };
        if is_large {
            // SAFETY: the range is the allocation just made, aligned to its size, and the advice changes
            // no contents. It is only advice, so a refusal does not matter.
            let _ = unsafe { madvise(memory.cast(), layout.size(), Advice::LinuxHugepage) };
        }
        Slab { pages, layout }
    }

    /// Addresses of the slab's pages, the lowest last, so that popping hands them out in order.
    fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.pages.as_ptr() as u64;
        let pages = self.layout.size() as u64 / TABLE_BYTES;
        (0..pages).rev().map(move |page| first + page * TABLE_BYTES)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout and freed nowhere else; the pool, and with it
        // every user by invariant 3, is gone.
        unsafe { dealloc(self.pages.as_ptr().cast(), self.layout) }
    }
}

#[derive(Default)]
struct Free {
    /// Pages handed back or zeroed lazily; their contents are unspecified until taken.
    pages: Vec<u64>,
    slabs: Vec<Slab>,
}

/// Where the tables of a unit come from.
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<Free>,
}

impl Pool {
    /// An empty table (all entries zero).
    pub(crate) fn take(&self) -> &Table {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let address = free.pages.pop().unwrap_or_else(|| {
            let pages = if free.slabs.is_empty() {
                FIRST_SLAB_PAGES
            } else {
                LARGE_SLAB_PAGES
            };
            let slab = Slab::new(pages);
            free.pages.extend(slab.addresses());
            free.slabs.push(slab);
            free.pages.pop().expect("a slab has pages")
        });
        drop(free);
        // SAFETY: the page belongs to a slab of this pool and was on the free list, so no entry leads
        // to it and no session can still be reading it (pages are given back after the drain). Zero
        // bytes are a valid `Table`.
        unsafe { std::ptr::write_bytes(address as *mut Table, 0, 1) };
        at(address)
    }

    /// Takes a page back. No entry leads to it any more and the drain is over.
    pub(crate) fn give(&self, address: u64) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pages
            .push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_distinct_and_empty() {
        let pool = Pool::default();
        let taken: Vec<u64> = (0..600).map(|_| pool.take().address()).collect();
        for address in &taken {
            assert!(address.is_multiple_of(TABLE_BYTES));
            assert!((0..ENTRIES).all(|index| at(*address).load(index) == 0));
            at(*address).store(7, 1);
        }
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), taken.len());
    }

    #[test]
    fn a_page_given_back_is_handed_out_again_and_empty() {
        let pool = Pool::default();
        let page = pool.take();
        page.store(3, 9);
        let address = page.address();
        pool.give(address);
        let again = pool.take();
        assert_eq!(again.address(), address);
        assert_eq!(again.load(3), 0);
    }
}
