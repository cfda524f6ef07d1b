//! The memory of a client in tests: mappings that the engine reaches by address, as a device would.
#![allow(unsafe_code)] // maps memory at addresses that tests hand to the engine, and vouches for the signal handlers

use std::ffi::c_void;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use swiommu_mem::{Client, PAGE, UserAddr};

/// The client: this process, with the handlers of faulting copies in place.
pub fn client() -> Client {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(swiommu_mem::install_handlers);
    // SAFETY: 1. the handlers were installed just now or before; no test blocks SIGSEGV or SIGBUS. 2. Tests hand out
    // addresses of `Memory` and of plain arguments whose address they have exposed, and hold no reference meanwhile.
    unsafe { Client::local() }
}

/// The address of an argument on the stack, for the time of one call.
pub fn address_of<T: ?Sized>(value: &mut T) -> u64 {
    (&raw mut *value).cast::<u8>() as u64
}

/// An address far below all that the kernel places by itself, and far from the next: a hole there stays one, whatever
/// other threads map.
fn place(bytes: u64) -> *mut c_void {
    static NEXT: AtomicU64 = AtomicU64::new(0x10_0000_0000);
    const APART: u64 = 64 << 20;
    NEXT.fetch_add(bytes + APART, Ordering::Relaxed) as *mut c_void
}

/// A mapping that is touched by faulting copies only. Unmapped when dropped.
#[derive(Debug)]
pub struct Memory {
    base: u64,
    bytes: u64,
}

impl Memory {
    /// `pages` pages of anonymous memory.
    pub fn pages(pages: u64) -> Memory {
        let bytes = pages * PAGE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: nothing is replaced.
        let base = unsafe { mm::mmap_anonymous(place(bytes), bytes as usize, protection, flags) };
        Memory {
            base: base.expect("memory for a test") as u64,
            bytes,
        }
    }

    /// A shared mapping of a fresh memory file, and the file.
    pub fn shared(pages: u64) -> (Memory, OwnedFd) {
        let bytes = pages * PAGE;
        let file = swiommu_mem::fd::memfd("test", bytes).expect("a memory file");
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `pages`.
        let base = unsafe {
            mm::mmap(
                place(bytes),
                bytes as usize,
                protection,
                MapFlags::SHARED | MapFlags::FIXED_NOREPLACE,
                file.as_fd(),
                0,
            )
        };
        (
            Memory {
                base: base.expect("memory for a test") as u64,
                bytes,
            },
            file,
        )
    }

    /// Its first address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes at an offset.
    pub fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut to = vec![0; bytes];
        client()
            .read(UserAddr(self.base + offset), &mut to)
            .expect("the test's own memory");
        to
    }

    /// Stores bytes at an offset.
    pub fn write(&self, offset: u64, from: &[u8]) {
        client()
            .write(UserAddr(self.base + offset), from)
            .expect("the test's own memory");
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        client()
            .fill(UserAddr(self.base), byte, self.bytes)
            .expect("the test's own memory");
    }

    /// mprotect, which the engine is not told of.
    pub fn protect(&self, readable: bool, writable: bool) {
        let mut flags = MprotectFlags::empty();
        flags.set(MprotectFlags::READ, readable);
        flags.set(MprotectFlags::WRITE, writable);
        // SAFETY: no reference into the mapping exists.
        unsafe { mm::mprotect(self.base as *mut _, self.bytes as usize, flags) }.expect("mprotect");
    }

    /// New anonymous memory over pages of this mapping: MAP_FIXED. The engine must have been told.
    pub fn replace(&self, offset: u64, bytes: u64) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        assert!(offset + bytes <= self.bytes);
        // SAFETY: the pages replaced are this mapping's own, to which no reference exists.
        unsafe {
            mm::mmap_anonymous(
                (self.base + offset) as *mut _,
                bytes as usize,
                protection,
                flags,
            )
        }
        .expect("mmap over the test's own memory");
    }

    /// Unmaps pages of this mapping. The engine must have been told.
    pub fn unmap(&self, offset: u64, bytes: u64) {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: the pages are this mapping's own, to which no reference exists.
        unsafe { mm::munmap((self.base + offset) as *mut _, bytes as usize) }.expect("munmap");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own. A test that unmaps pages by itself
        // replaces them again before it ends.
        let _ = unsafe { mm::munmap(self.base as *mut _, self.bytes as usize) };
    }
}
