//! fork, vfork and exit: which process we are, and what a child inherits.
//!
//! A child of fork has copies of the table and of the mappings but not the parent's engine: what it inherited is
//! answered there ([`remote`]). Files that it opens itself get an engine of its own. A child of vfork shares our memory
//! under another id: what it closes is its own copy of the descriptor, never ours.
#![allow(unsafe_code)] // registration with libc

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering};

use crate::remote::file::Inherited;
use crate::{engine, files, guard, heap, remote, signals, sys, traps};

static OWNER: AtomicI32 = AtomicI32::new(0);
/// A byte that is 0 in a child of fork until the child has been put right.
static WITNESS: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the caller runs in memory that belongs to another process: between vfork and exec.
pub fn is_borrowed() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != sys::pid()
}

extern "C" fn before_fork() {
    remote::quiesce();
    engine::quiesce();
    traps::quiesce();
    signals::threads::quiesce();
    heap::quiesce();
}

extern "C" fn in_parent() {
    heap::resume();
    signals::threads::resume();
    traps::resume();
    engine::resume();
    remote::resume();
}

extern "C" fn in_child() {
    become_child();
}

/// Whether this process is a child that was made behind libc's back (a raw fork or clone) and still believes to be its
/// parent; it is put right here. One load when there is nothing to do.
#[inline]
pub fn check() {
    // SAFETY: the witness is a mapped byte that is never unmapped.
    if let Some(witness) = unsafe { WITNESS.load(Ordering::Relaxed).as_ref() }
        && witness.load(Ordering::Relaxed) == 0
    {
        become_child();
    }
}

/// Makes the byte that the kernel wipes in every child with its own memory.
fn plant_witness() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: a new page; advice on it.
    unsafe {
        let Ok(page) = mmap_anonymous(
            std::ptr::null_mut(),
            4096,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        ) else {
            return;
        };
        if sys::syscall!(sys::SYS_madvise, page, 4096, libc::MADV_WIPEONFORK as isize) == 0 {
            WITNESS.store(page.cast(), Ordering::Release);
            bear_witness();
        }
    }
}

fn bear_witness() {
    // SAFETY: as in `check`.
    if let Some(witness) = unsafe { WITNESS.load(Ordering::Relaxed).as_ref() } {
        witness.store(1, Ordering::Relaxed);
    }
}

#[cold]
fn become_child() {
    bear_witness();
    heap::resume();
    signals::threads::resume();
    guard::forked();
    let parent = OWNER.swap(sys::pid(), Ordering::Relaxed);
    guard::enter(|| {
        engine::forked();
        remote::forked();
        let mut inherited = Inherited::new(parent as u32);
        files::forked(|number, file| inherited.behind(number, file));
        traps::forked(|file| inherited.mapped(file));
        remote::settled();
    });
    crate::audit::forked();
    if let Some(config) = crate::config::get() {
        crate::config::announce(config);
    }
}

extern "C" fn at_exit() {
    engine::exit();
    crate::audit::report();
}

/// Registers with libc. Ours are the first handlers: in fork's order they run last before it and first after it.
pub fn install() {
    unsafe extern "C" {
        fn __register_atfork(
            before: extern "C" fn(),
            parent: extern "C" fn(),
            child: extern "C" fn(),
            library: *const core::ffi::c_void,
        ) -> core::ffi::c_int;
    }
    OWNER.store(sys::pid(), Ordering::Relaxed);
    plant_witness();
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    unsafe {
        __register_atfork(before_fork, in_parent, in_child, core::ptr::null());
        libc::atexit(at_exit);
    }
}
