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

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::written::Written;

/// Bytes of a table page.
pub(crate) const TABLE_BYTES: u64 = 4096;
/// Entries of eight bytes in a table page.
pub(crate) const ENTRIES: usize = 512;

/// The first slab has few pages, so that an idle unit costs little; the later ones are full, so that the host may back
/// them with one large page.
const FIRST_SLAB_PAGES: u64 = 16;
const LARGE_SLAB_PAGES: u64 = 512;
/// What a slab is aligned to, and bytes of its tables.
const SLAB_BYTES: u64 = LARGE_SLAB_PAGES * TABLE_BYTES;
/// Bytes of the [`Written`] of a table.
const WRITTEN_BYTES: u64 = size_of::<Written>() as u64;
/// Bytes of a slab with the bits of its tables.
const MAPPED_BYTES: u64 = SLAB_BYTES + LARGE_SLAB_PAGES * WRITTEN_BYTES;

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
    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    #[inline(always)]
    fn place_of_written(&self) -> *const Written {
        let address = self.address();
        let slab = address & !(SLAB_BYTES - 1);
        let number = (address - slab) / TABLE_BYTES;
        (slab + SLAB_BYTES + number * WRITTEN_BYTES) as *const Written
    }

    /// Asks for the cache line of [`Table::written`]; only a hint.
    #[inline(always)]
    pub(crate) fn prefetch_written(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch neither reads nor faults as far as the program can tell.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.place_of_written().cast());
        }
    }

    /// Which of its pages were written. Means something only in a tree that tracks.
    #[inline(always)]
    pub(crate) fn written(&self) -> &Written {
        let place = self.place_of_written();
        // SAFETY: every table is a page of a slab (invariant 1; nobody else can make one), which lies at a multiple of
        // its size and is mapped with room for the bits of all its pages, zero at first. They are atomics, reached by
        // shared reference only, and stay as long as the table (invariants 2 and 3).
        unsafe { &*place }
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

/// Table pages, and behind the place of the last of them the [`Written`] of each.
///
/// A slab begins at a multiple of [`SLAB_BYTES`], so a table's own address says where its bits are. What is not used of
/// it is address space without memory: all of the bits, unless pages are tracked.
struct Slab {
    base: NonNull<c_void>,
    pages: u64,
}

// SAFETY: a slab is owned memory of atomics; nothing in it belongs to a thread.
unsafe impl Send for Slab {}

impl Slab {
    fn new(pages: u64) -> Option<Self> {
        let reserved = (SLAB_BYTES + MAPPED_BYTES) as usize;
        // SAFETY: a new mapping, where the kernel finds room.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .ok()?;
        let before = (start as u64).next_multiple_of(SLAB_BYTES) - start as u64;
        let base = start.wrapping_byte_add(before as usize);
        // SAFETY: both ranges are ends of the mapping just made that nothing uses; a refusal leaves them unused.
        unsafe {
            let _ = munmap(start, before as usize);
            let behind = base.wrapping_byte_add(MAPPED_BYTES as usize);
            let _ = munmap(behind, (SLAB_BYTES - before) as usize);
        }
        let advice = if pages == LARGE_SLAB_PAGES {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // SAFETY: the range is in the mapping just made, and the advice changes no contents. It is only advice, so a
        // refusal does not matter.
        let _ = unsafe { madvise(base, SLAB_BYTES as usize, advice) };
        let base = NonNull::new(base)?;
        Some(Slab { base, pages })
    }

    /// Addresses of the slab's pages, the lowest last, so that popping hands them out in order.
    fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.base.as_ptr() as u64;
        (0..self.pages)
            .rev()
            .map(move |page| first + page * TABLE_BYTES)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` and unmapped nowhere else; the pool, and with it every user by invariant 3, is gone.
        let _ = unsafe { munmap(self.base.as_ptr(), MAPPED_BYTES as usize) };
    }
}

#[derive(Default)]
struct Free {
    /// Pages handed back or zeroed lazily; their contents are unspecified until taken.
    pages: Vec<u64>,
    slabs: Vec<Slab>,
}

impl Free {
    /// Makes another slab and takes a page of it.
    #[cold]
    fn grow(&mut self) -> Option<u64> {
        let pages = if self.slabs.is_empty() {
            FIRST_SLAB_PAGES
        } else {
            LARGE_SLAB_PAGES
        };
        let slab = Slab::new(pages)?;
        self.pages.extend(slab.addresses());
        self.slabs.push(slab);
        self.pages.pop()
    }
}

/// There is no memory for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// Where the tables of a unit come from.
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<Free>,
}

impl Pool {
    /// An empty table (all entries zero).
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub(crate) fn take(&self) -> Result<&Table, NoMemory> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let address = free.pages.pop().or_else(|| free.grow()).ok_or(NoMemory)?;
        drop(free);
        // SAFETY: the page belongs to a slab of this pool and was on the free list, so no entry leads
        // to it and no session can still be reading it (pages are given back after the drain). Zero
        // bytes are a valid `Table`.
        unsafe { std::ptr::write_bytes(address as *mut Table, 0, 1) };
        Ok(at(address))
    }

    /// [`Pool::take`] for a table above page tables.
    ///
    /// # Panics
    ///
    /// When there is no memory: a stream could be neither attached nor left as it was.
    pub(crate) fn take_upper(&self) -> &Table {
        self.take().expect("memory for a table")
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
        let taken: Vec<u64> = (0..600).map(|_| pool.take().unwrap().address()).collect();
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
        let page = pool.take().unwrap();
        page.store(3, 9);
        let address = page.address();
        pool.give(address);
        let again = pool.take().unwrap();
        assert_eq!(again.address(), address);
        assert_eq!(again.load(3), 0);
    }
}
