//! mmap and its kin.
#![allow(unsafe_code)] // C functions

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_HUGETLB, MAP_PRIVATE, MAP_TYPE, PROT_WRITE};

use crate::map::{self, Request};
use crate::sys::{ret, ret_int};
use crate::{audit, files, guard, mock};

/// `mmap` with its return address.
pub(super) extern "C" fn mmap_sited(
    address: usize,
    bytes: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: u64,
    site: usize,
) -> *mut c_void {
    let request = Request {
        address,
        bytes,
        prot,
        flags,
        fd,
        offset,
    };
    if flags & MAP_ANONYMOUS == 0
        && let Some(file) = files::ours(fd)
    {
        let result = map::file(site, &file, request);
        guard::enter(|| drop(file));
        return ret(result) as *mut c_void;
    }
    let gone = if flags & MAP_FIXED != 0 {
        map::take_away(site, address, bytes)
    } else {
        Vec::new()
    };
    if flags & MAP_TYPE != MAP_PRIVATE && flags & MAP_ANONYMOUS == 0 && prot & PROT_WRITE != 0 {
        map::note_shared_file(fd);
    }
    // SAFETY: the client's call.
    let mut result = unsafe { request.raw() };
    if flags & MAP_HUGETLB != 0 && !guard::inside() {
        // SAFETY: the client's call.
        result = unsafe { mock::without_huge_pages(&request, result) };
    }
    if !gone.is_empty() {
        guard::enter(|| drop(gone));
    }
    ret(result) as *mut c_void
}

pub(super) extern "C" fn munmap_sited(first: usize, bytes: usize, site: usize) -> c_int {
    // SAFETY: the client's call.
    ret_int(unsafe { map::unmap(site, first, bytes) })
}

pub(super) extern "C" fn madvise_sited(
    first: usize,
    bytes: usize,
    advice: c_int,
    site: usize,
) -> c_int {
    // SAFETY: the client's call.
    ret_int(unsafe { map::advise(site, first, bytes, advice) })
}

extern "C" fn posix_madvise_sited(first: usize, bytes: usize, advice: c_int, site: usize) -> c_int {
    // libc ignores POSIX_MADV_DONTNEED: it must not destroy data.
    if advice == libc::POSIX_MADV_DONTNEED {
        return 0;
    }
    // SAFETY: the client's call.
    -(unsafe { map::advise(site, first, bytes, advice) }) as c_int
}

pub(super) extern "C" fn mremap_sited(
    old: usize,
    old_bytes: usize,
    new_bytes: usize,
    flags: c_int,
    to: usize,
    site: usize,
) -> *mut c_void {
    // SAFETY: the client's call.
    ret(unsafe { map::remap(site, old, old_bytes, new_bytes, flags, to) }) as *mut c_void
}

extern "C" fn munmap_inside(first: usize, bytes: usize) -> c_int {
    audit::pass(|| munmap_sited(first, bytes, 0))
}

extern "C" fn madvise_inside(first: usize, bytes: usize, advice: c_int) -> c_int {
    audit::pass(|| madvise_sited(first, bytes, advice, 0))
}

extern "C" fn mremap_inside(
    old: usize,
    old_bytes: usize,
    new_bytes: usize,
    flags: c_int,
    to: usize,
) -> *mut c_void {
    audit::pass(|| mremap_sited(old, old_bytes, new_bytes, flags, to, 0))
}

extern "C" fn mmap_inside(
    address: usize,
    bytes: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: u64,
) -> *mut c_void {
    audit::pass(|| mmap_sited(address, bytes, prot, flags, fd, offset, 0))
}

/// What libc calls inside itself (free, realloc, thread stacks), and the functions here that take the calls.
pub(super) fn inside() -> [(&'static CStr, *const ()); 4] {
    [
        (c"munmap", munmap_inside as *const ()),
        (c"madvise", madvise_inside as *const ()),
        (c"mremap", mremap_inside as *const ()),
        (c"mmap", mmap_inside as *const ()),
    ]
}

/// One of these could not be caught: pages that libc gives back while they are pinned are not kept.
pub(super) fn unseen() {
    UNSEEN.store(true, Ordering::Relaxed);
}

/// A function of libc could not be caught.
static UNSEEN: AtomicBool = AtomicBool::new(false);

/// Whether libc takes memory away behind our back.
pub fn is_libc_unseen() -> bool {
    UNSEEN.load(Ordering::Relaxed)
}

/// `mmap` has six arguments: its return address goes on the stack as the seventh.
macro_rules! mmap_like {
    ($($name:ident)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of libc.")]
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "mov rax, [rsp]", "push rax", "call {inner}", "pop rcx", "ret", inner = sym mmap_sited
            )
        }
    )* };
}

mmap_like! { mmap mmap64 }

sited! {
    fn munmap, "rdx" => munmap_sited;
    fn madvise, "rcx" => madvise_sited;
    fn posix_madvise, "rcx" => posix_madvise_sited;
    fn mremap, "r9" => mremap_sited;
}

export! {
    fn mprotect(first: usize, bytes: usize, prot: c_int) -> c_int { ret_int(map::protect(first, bytes, prot)) }
}
