//! The library's own heap.
//!
//! The engine must not allocate from libc's heap: it is asked to move pinned pages aside in the middle of libc's own
//! `free` (`libc_entry`), when an arena is locked, and a client whose heap is damaged should still get its report.
//!
//! Nor may it take address space where the client looks: a page mapped into a hole of the client's would make a wrong
//! address valid. So all blocks lie in one range that is reserved at the first allocation.
//!
//! Blocks are powers of two in lists per size: small ones cut from slabs, large ones straight from the range. A block
//! goes back to its list; the pages of a large one go back to the kernel. While a list is held, the client's signals wait.
//!
//! Lock order: a list's lock is the last one taken; nothing is called while it is held but `mmap`.
#![allow(unsafe_code)] // it is an allocator

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

use crate::guard;
use crate::lock::Lock;
use crate::sys::{self, syscall};

const SMALLEST: usize = 16;
/// From this size on a block is no part of a slab.
const LARGE: usize = 64 << 10;
/// Sizes 2^4..=2^37.
const CLASSES: usize = 34;
const SLAB: usize = 64 << 10;
/// Large blocks are aligned to their size, up to a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// How much address space is reserved; less where the client's limits leave less.
const RESERVES: [usize; 4] = [1 << 40, 1 << 36, 1 << 32, 1 << 28];

/// Free blocks of one size; each begins with the address of the next.
struct List {
    lock: Lock,
    first: UnsafeCell<*mut u8>,
    /// The rest of the newest slab.
    rest: UnsafeCell<(*mut u8, usize)>,
}

// SAFETY: the cells are touched under the lock only.
unsafe impl Sync for List {}

static LISTS: [List; CLASSES] = [const {
    List {
        lock: Lock::new(),
        first: UnsafeCell::new(null_mut()),
        rest: UnsafeCell::new((null_mut(), 0)),
    }
}; CLASSES];

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// The reserved range: what is left of it.
static RANGE: Range = Range {
    lock: Lock::new(),
    rest: UnsafeCell::new(None),
};

struct Range {
    lock: Lock,
    /// First free address and the address behind the last.
    rest: UnsafeCell<Option<(usize, usize)>>,
}

// SAFETY: the cell is touched under the lock only.
unsafe impl Sync for Range {}

/// The list and the block size for a layout.
fn class(layout: Layout) -> Option<(&'static List, usize)> {
    let bytes = layout
        .size()
        .max(layout.align())
        .max(SMALLEST)
        .checked_next_power_of_two()?;
    let list = LISTS.get((bytes / SMALLEST).trailing_zeros() as usize)?;
    (layout.align() <= HUGE_PAGE).then_some((list, bytes))
}

/// Fresh pages from the reserved range, aligned to `bytes` (a power of two) or to a huge page. Null without memory.
fn pages(bytes: usize) -> *mut u8 {
    RANGE.lock.lock();
    // SAFETY: under the lock.
    let rest = unsafe { &mut *RANGE.rest.get() };
    let (first, end) = *rest.get_or_insert_with(reserve);
    let block = first.next_multiple_of(bytes.min(HUGE_PAGE));
    let fits = block.checked_add(bytes).is_some_and(|after| after <= end);
    if fits {
        *rest = Some((block + bytes, end));
    }
    RANGE.lock.unlock();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the pages were cut from our own range and nobody has seen them.
    if fits && unsafe { syscall!(sys::SYS_mprotect, block, bytes, prot) } == 0 {
        block as *mut u8
    } else {
        null_mut()
    }
}

/// Reserves the range: first address and the one behind it; `(0, 0)` if the client's limits leave none.
fn reserve() -> (usize, usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    for bytes in RESERVES {
        // SAFETY: the kernel chooses the address.
        let base = unsafe { syscall!(sys::SYS_mmap, 0, bytes, libc::PROT_NONE, flags, -1isize, 0) };
        if base > 0 {
            return (base as usize, base as usize + bytes);
        }
    }
    (0, 0)
}

// SAFETY: blocks of one list are disjoint and as large and aligned as the list's power of two, up to a huge page, beyond
// which no alignment is served; a block is in a list or in use, which the lock keeps.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        class(layout).map_or(null_mut(), |(list, bytes)| {
            guard::held(|| take(list, bytes))
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, bytes)) = class(layout) else {
            return;
        };
        if bytes >= LARGE {
            // SAFETY: whole pages of a block that is nobody's any more; they read zero when it is used again.
            let given = unsafe { syscall!(sys::SYS_madvise, block, bytes, libc::MADV_DONTNEED) };
            if given != 0 {
                // The client locked all memory. Then its pages stay, but they read zero all the same.
                // SAFETY: as above.
                unsafe { block.write_bytes(0, bytes) };
            }
        }
        guard::held(|| give(list, block));
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((list, bytes)) = class(layout) else {
            return null_mut();
        };
        let block = guard::held(|| take(list, bytes));
        if !block.is_null() {
            // Of a large block nothing but the list's link can be other than zero: its pages are not touched before
            // they are used.
            let written = if bytes >= LARGE {
                size_of::<*mut u8>()
            } else {
                layout.size()
            };
            // SAFETY: the block is ours and at least that large.
            unsafe { block.write_bytes(0, written) };
        }
        block
    }
}

fn take(list: &List, bytes: usize) -> *mut u8 {
    list.lock.lock();
    // SAFETY: under the lock; a free block begins with the next one's address; the rest of the slab is ours.
    let block = unsafe {
        let first = *list.first.get();
        if first.is_null() {
            cut(&mut *list.rest.get(), bytes)
        } else {
            *list.first.get() = first.cast::<*mut u8>().read();
            first
        }
    };
    list.lock.unlock();
    block
}

/// The next block of a slab, a new slab if it is used up.
fn cut(rest: &mut (*mut u8, usize), bytes: usize) -> *mut u8 {
    if bytes >= LARGE {
        return pages(bytes);
    }
    if rest.1 < bytes {
        let slab = pages(SLAB);
        if slab.is_null() {
            return slab;
        }
        *rest = (slab, SLAB);
    }
    let block = rest.0;
    *rest = (block.wrapping_add(bytes), rest.1 - bytes);
    block
}

fn give(list: &List, block: *mut u8) {
    list.lock.lock();
    // SAFETY: under the lock; the block has room for an address and is nobody's any more.
    unsafe {
        block.cast::<*mut u8>().write(*list.first.get());
        *list.first.get() = block;
    }
    list.lock.unlock();
}

/// Before fork: no list is held until [`resume`], in parent and child.
pub fn quiesce() {
    LISTS.iter().for_each(|list| list.lock.lock());
    RANGE.lock.lock();
}

/// After fork.
pub fn resume() {
    RANGE.lock.unlock();
    LISTS.iter().for_each(|list| list.lock.unlock());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_disjoint_and_come_back() {
        for (size, align) in [
            (1, 1),
            (16, 16),
            (17, 8),
            (100, 64),
            (4096, 4096),
            (30000, 8),
            (40000, 8),
            (1 << 20, 4096),
            (2 << 20, 2 << 20),
            (5 << 20, 8),
        ] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let mut blocks = Vec::new();
            for fill in 0..40u8 {
                // SAFETY: written within its layout.
                let block = unsafe {
                    let block = HEAP.alloc(layout);
                    assert!(!block.is_null() && (block as usize).is_multiple_of(align));
                    block.write_bytes(fill, size);
                    block
                };
                blocks.push(block);
            }
            for (fill, block) in blocks.into_iter().enumerate() {
                // SAFETY: as allocated above.
                unsafe {
                    assert_eq!(
                        (block.read(), block.add(size - 1).read()),
                        (fill as u8, fill as u8)
                    );
                    HEAP.dealloc(block, layout);
                }
            }
        }
    }

    #[test]
    fn zeroed_blocks_are_zero_when_they_come_back_too() {
        for size in [1, 40, 5000, LARGE, 3 << 20] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            for _ in 0..3 {
                // SAFETY: read and written within its layout.
                unsafe {
                    let block = HEAP.alloc_zeroed(layout);
                    assert!((0..size).all(|at| block.add(at).read() == 0));
                    block.write_bytes(0xaa, size);
                    HEAP.dealloc(block, layout);
                }
            }
        }
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        let layout = Layout::from_size_align(isize::MAX as usize - 4096, 1).unwrap();
        // SAFETY: nothing is written.
        assert!(unsafe { HEAP.alloc(layout) }.is_null());
    }
}
