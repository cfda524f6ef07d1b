//! In a process of its own: what free() and friends give back inside libc reaches the replacements.
#![allow(unsafe_code)] // hooks libc and calls it

use std::sync::atomic::{AtomicUsize, Ordering};
use swiommu::libc_entry::hook;

static UNMAPPED: AtomicUsize = AtomicUsize::new(0);
static REMAPPED: AtomicUsize = AtomicUsize::new(0);
static ADVISED: AtomicUsize = AtomicUsize::new(0);
static MAPPED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn munmap(at: *mut libc::c_void, bytes: usize) -> i32 {
    UNMAPPED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: what libc asked for.
    unsafe { libc::syscall(libc::SYS_munmap, at, bytes) as i32 }
}

extern "C" fn madvise(at: *mut libc::c_void, bytes: usize, advice: i32) -> i32 {
    ADVISED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: what libc asked for.
    unsafe { libc::syscall(libc::SYS_madvise, at, bytes, advice) as i32 }
}

extern "C" fn mremap(
    at: *mut libc::c_void,
    old: usize,
    new: usize,
    flags: i32,
    to: *mut libc::c_void,
) -> i64 {
    REMAPPED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: what libc asked for.
    unsafe { libc::syscall(libc::SYS_mremap, at, old, new, flags, to) }
}

extern "C" fn mmap(
    at: *mut libc::c_void,
    bytes: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: i64,
) -> i64 {
    MAPPED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: what libc asked for.
    unsafe { libc::syscall(libc::SYS_mmap, at, bytes, protection, flags, fd, offset) }
}

#[test]
fn memory_that_libc_gives_back_by_itself_reaches_the_replacements() {
    let replacements = [
        (c"munmap", munmap as *const ()),
        (c"madvise", madvise as *const ()),
        (c"mremap", mremap as *const ()),
        (c"mmap", mmap as *const ()),
    ];
    for (name, replacement) in replacements {
        // SAFETY: each has its function's signature and makes the system call itself; the test's only other thread
        // is the harness's, which waits.
        assert_eq!(unsafe { hook(name, replacement) }, Ok(()), "{name:?}");
    }
    // SAFETY: plain allocation.
    unsafe {
        let count =
            || [&MAPPED, &REMAPPED, &UNMAPPED].map(|counter| counter.load(Ordering::Relaxed));
        let before = count();
        let block = std::hint::black_box(libc::malloc(64 << 20));
        let block = std::hint::black_box(libc::realloc(block, 128 << 20));
        assert!(!block.is_null());
        libc::free(block);
        let after = count();
        assert_eq!([0, 1, 2].map(|i| after[i] - before[i]), [1, 1, 1]);
    }
    // A thread's stack is given back by libc too, or kept after madvise.
    std::thread::spawn(|| std::hint::black_box([0u8; 65536]))
        .join()
        .unwrap();
    assert!(ADVISED.load(Ordering::Relaxed) + UNMAPPED.load(Ordering::Relaxed) > 1);
}
