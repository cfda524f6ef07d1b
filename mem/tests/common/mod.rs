//! Address space for the tests: fresh anonymous memory with chosen protections.
#![allow(unsafe_code, dead_code)] // maps memory; each test file uses a part

use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use swiommu_mem::{Client, PAGE, UserAddr};

pub fn client() -> Client {
    swiommu_mem::install_handlers();
    // SAFETY: handlers are installed; the tests pass addresses of their own mappings only.
    unsafe { Client::local() }
}

/// `pages` fresh private pages.
pub fn fresh(pages: u64) -> u64 {
    mapped(pages * PAGE, MapFlags::PRIVATE)
}

pub fn mapped(bytes: u64, flags: MapFlags) -> u64 {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = flags | MapFlags::FIXED_NOREPLACE;
    // SAFETY: nothing is replaced.
    unsafe { mm::mmap_anonymous(place(bytes), bytes as usize, protection, flags) }.unwrap() as u64
}

/// An address far below all that the kernel places by itself: a hole made there is not filled by another thread.
pub fn place(bytes: u64) -> *mut c_void {
    static NEXT: AtomicU64 = AtomicU64::new(0x10_0000_0000);
    let bytes = bytes.next_multiple_of(PAGE) + PAGE;
    NEXT.fetch_add(bytes, Ordering::Relaxed) as *mut c_void
}

pub fn protect(first: u64, bytes: u64, protection: MprotectFlags) {
    // SAFETY: a mapping of the test's own.
    unsafe { mm::mprotect(first as *mut _, bytes as usize, protection) }.unwrap();
}

pub fn unmap(first: u64, bytes: u64) {
    // SAFETY: a mapping of the test's own.
    unsafe { mm::munmap(first as *mut _, bytes as usize) }.unwrap();
}

/// Fills a range with a pattern that differs from byte to byte and by `seed`.
pub fn paint(first: u64, bytes: u64, seed: u8) {
    client()
        .write(UserAddr(first), &pattern(bytes, seed))
        .unwrap();
}

pub fn pattern(bytes: u64, seed: u8) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

pub fn bytes_at(first: u64, bytes: u64) -> Vec<u8> {
    let mut out = vec![0; bytes as usize];
    client().read(UserAddr(first), &mut out).unwrap();
    out
}

/// Held by tests in which something that is not mapped must stay so while other tests run.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
