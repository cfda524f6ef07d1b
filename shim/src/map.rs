//! Mappings of our files in the client's address space.
//!
//! A mapping is one reservation of PROT_NONE pages at the address the kernel chose (or the client fixed); the spans
//! that are plain memory are then mapped over it from the descriptor's own object. Register spans stay PROT_NONE.
#![allow(unsafe_code)] // mmap

use std::ffi::c_int;
use std::sync::Arc;

use libc::{
    MAP_32BIT, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_NORESERVE,
    MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, PROT_EXEC, PROT_NONE,
    PROT_WRITE,
};
use swiommu_abi::Errno;
use swiommu_engine::door::{File, Span};
use swiommu_mem::UserAddr;

use crate::remote::share;
use crate::sys::{self, syscall};
use crate::traps::{self, Range};
use crate::{engine, guard};

const PAGE: usize = 4096;

/// A request as the client made it.
#[derive(Clone, Copy)]
pub struct Request {
    /// Hint, or the address with MAP_FIXED.
    pub address: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// PROT_*.
    pub prot: c_int,
    /// MAP_*.
    pub flags: c_int,
    /// The descriptor.
    pub fd: c_int,
    /// Offset in the file.
    pub offset: u64,
}

impl Request {
    /// The system call as it is.
    ///
    /// # Safety
    /// With MAP_FIXED, what lies there goes.
    pub unsafe fn raw(&self) -> isize {
        // SAFETY: the caller's.
        unsafe {
            syscall!(
                sys::SYS_mmap,
                self.address,
                self.bytes,
                self.prot as isize,
                self.flags as isize,
                self.fd as isize,
                self.offset
            )
        }
    }
}

/// Whole pages of a length, or `None` if there is no such range at `first`.
fn pages(first: usize, bytes: usize) -> Option<usize> {
    let whole = bytes.checked_add(PAGE - 1)? & !(PAGE - 1);
    (whole != 0 && first.is_multiple_of(PAGE)).then_some(())?;
    first.checked_add(whole - 1)?;
    Some(whole)
}

fn negative(errno: Errno) -> isize {
    -(errno.raw() as isize)
}

/// File systems whose pages can be pinned for writing although a file is behind them: hugetlbfs, ramfs, tmpfs.
const IN_MEMORY: [u32; 3] = [0x9584_58f6, 0x8584_58f6, 0x0102_1994];

/// The client maps a file shared and writable: pinning such memory for writing is refused on most file systems.
pub fn note_shared_file(fd: c_int) {
    if fd < 0 {
        return;
    }
    // SAFETY: the number is borrowed for one system call, which checks it.
    let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    if rustix::fs::fstatfs(file).is_ok_and(|fs| !IN_MEMORY.contains(&(fs.f_type as u32))) {
        swiommu_mem::note_shared_file_mapping();
    }
}

/// Maps one of our files: the address or a negated errno.
pub fn file(site: usize, file: &Arc<dyn File>, request: Request) -> isize {
    let shared = matches!(request.flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE);
    let fixed = request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let at = if fixed { request.address } else { 0 };
    let (Some(bytes), true, true) = (
        pages(at, request.bytes),
        shared,
        request.offset.is_multiple_of(PAGE as u64),
    ) else {
        return negative(Errno::EINVAL);
    };
    if request.prot & PROT_EXEC != 0 {
        // The file lies on a file system without execution, as the kernel's anonymous inodes do.
        return negative(Errno::EPERM);
    }
    let write = request.prot & PROT_WRITE != 0;
    let spans = match engine::call(site, |call| {
        file.mmap(call, request.offset, bytes as u64, write)
    }) {
        Ok(spans) => spans,
        Err(errno) => return negative(errno),
    };
    debug_assert_eq!(
        spans.iter().map(|(bytes, _)| *bytes).sum::<u64>(),
        bytes as u64,
        "spans add up"
    );
    let gone = if request.flags & MAP_FIXED != 0 {
        take_away(site, request.address, bytes)
    } else {
        Vec::new()
    };
    // SAFETY: new pages, or the ones the client said to replace.
    let base = unsafe {
        Request {
            bytes,
            prot: PROT_NONE,
            flags: request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT)
                | MAP_PRIVATE
                | MAP_ANONYMOUS
                | MAP_NORESERVE,
            fd: -1,
            offset: 0,
            ..request
        }
        .raw()
    };
    drop_inside(gone);
    if base < 0 {
        return base;
    }
    match fill(file, request, base as usize, &spans) {
        Ok(ranges) => {
            traps::insert(ranges);
            announce(base as usize, bytes, Some((file, request.offset)));
            base
        }
        Err(errno) => {
            // SAFETY: our own reservation, which the client has not seen.
            unsafe { syscall!(sys::SYS_munmap, base, bytes) };
            errno
        }
    }
}

/// Maps the memory spans over the reservation.
fn fill(
    file: &Arc<dyn File>,
    request: Request,
    base: usize,
    spans: &[(u64, Span)],
) -> Result<Vec<Range>, isize> {
    let mut ranges = Vec::with_capacity(spans.len());
    let mut done = 0;
    for (bytes, span) in spans {
        let offset = request.offset + done as u64;
        let piece = Request {
            address: base + done,
            bytes: *bytes as usize,
            prot: request.prot,
            flags: MAP_SHARED | MAP_FIXED | request.flags & (MAP_POPULATE | MAP_LOCKED),
            fd: request.fd,
            offset,
        };
        let memory = match *span {
            Span::Memory => Some(piece),
            Span::Trap => None,
            Span::Elsewhere { object, offset } => Some(Request {
                fd: object,
                offset,
                ..piece
            }),
        };
        if let Some(memory) = memory {
            // SAFETY: inside our own reservation.
            let result = unsafe { memory.raw() };
            if result < 0 {
                return Err(result);
            }
        }
        ranges.push(Range {
            first: piece.address,
            last: piece.address + piece.bytes - 1,
            file: Arc::clone(file),
            offset,
            prot: request.prot,
            trap: *span == Span::Trap,
        });
        done += piece.bytes;
    }
    Ok(ranges)
}

fn announce(first: usize, bytes: usize, file: Option<(&Arc<dyn File>, u64)>) {
    if let Some(engine) = engine::existing() {
        guard::enter(|| engine.mapped(UserAddr(first as u64), bytes as u64, file));
    }
}

fn drop_inside(gone: Vec<Range>) {
    if !gone.is_empty() {
        guard::enter(|| drop(gone));
    }
}

/// The client is about to take this memory away: pinned pages move aside, our mappings there are forgotten. What is
/// returned keeps their files alive until the pages are gone.
pub fn take_away(site: usize, first: usize, bytes: usize) -> Vec<Range> {
    let Some(bytes) = pages(first, bytes) else {
        return Vec::new();
    };
    engine::vacate(site, first, bytes);
    if guard::inside() || !traps::any(first, first + bytes - 1) {
        return Vec::new();
    }
    let gone = traps::remove(first, first + bytes - 1);
    for range in &gone {
        announce(range.first, range.last - range.first + 1, None);
    }
    gone
}

/// munmap.
///
/// # Safety
/// The client's word that nothing lives there.
pub unsafe fn unmap(site: usize, first: usize, bytes: usize) -> isize {
    let gone = take_away(site, first, bytes);
    // SAFETY: the caller's.
    let result = unsafe { syscall!(sys::SYS_munmap, first, bytes) };
    drop_inside(gone);
    result
}

/// mprotect: register pages stay PROT_NONE and remember what the client asked for.
///
/// # Safety
/// The client's word.
pub unsafe fn protect(first: usize, bytes: usize, prot: c_int) -> isize {
    let raw = |first: usize, bytes: usize| {
        // SAFETY: the caller's.
        unsafe { syscall!(sys::SYS_mprotect, first, bytes, prot as isize) }
    };
    let Some(whole) = pages(first, bytes)
        .filter(|whole| !guard::inside() && traps::any(first, first + whole - 1))
    else {
        return raw(first, bytes);
    };
    let last = first + whole - 1;
    let mut next = first;
    for range in traps::within(first, last).iter().filter(|range| range.trap) {
        if next < range.first {
            let result = raw(next, range.first - next);
            if result < 0 {
                return result;
            }
        }
        next = range.last + 1;
    }
    if next <= last {
        let result = raw(next, last - next + 1);
        if result < 0 {
            return result;
        }
    }
    traps::protect(first, last, prot);
    0
}

/// mremap. A mapping of ours can shrink and move but not grow, as the kernel's device mappings.
///
/// # Safety
/// The client's word.
pub unsafe fn remap(
    site: usize,
    old: usize,
    old_bytes: usize,
    new_bytes: usize,
    flags: c_int,
    to: usize,
) -> isize {
    // SAFETY: the caller's.
    let raw = || unsafe {
        syscall!(
            sys::SYS_mremap,
            old,
            old_bytes,
            new_bytes,
            flags as isize,
            to
        )
    };
    if guard::inside() {
        return raw();
    }
    let mut gone = Vec::new();
    if flags & libc::MREMAP_FIXED != 0 {
        gone = take_away(site, to, new_bytes);
    }
    let ours = match (pages(old, old_bytes), pages(0, new_bytes)) {
        (Some(whole), Some(new)) if traps::any(old, old + whole - 1) => Some((whole, new)),
        _ => None,
    };
    let result = match ours {
        None => {
            engine::vacate(site, old, old_bytes);
            raw()
        }
        Some((whole, new)) if new > whole => negative(Errno::EFAULT),
        Some((whole, new)) => {
            let result = raw();
            if result >= 0 {
                let moved = traps::remove(old, old + whole - 1);
                announce(old, whole, None);
                let keep = moved
                    .iter()
                    .filter_map(|range| range.part(old, old + new - 1))
                    .map(|range| Range {
                        first: range.first - old + result as usize,
                        last: range.last - old + result as usize,
                        ..range
                    });
                let keep: Vec<Range> = guard::enter(|| keep.collect());
                if let Some(range) = keep.first() {
                    announce(range.first, new, Some((&range.file, range.offset)));
                }
                traps::insert(keep);
                gone.extend(moved);
            }
            result
        }
    };
    drop_inside(gone);
    result
}

/// madvise: advice that takes pages away lets pinned ones move aside first.
///
/// # Safety
/// The client's word.
pub unsafe fn advise(site: usize, first: usize, bytes: usize, advice: c_int) -> isize {
    if matches!(
        advice,
        libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_REMOVE | MADV_DONTNEED_LOCKED
    ) {
        engine::vacate(site, first, bytes);
        share::discarded(first, bytes);
    }
    // SAFETY: the caller's.
    unsafe { syscall!(sys::SYS_madvise, first, bytes, advice as isize) }
}

const MADV_DONTNEED_LOCKED: c_int = 24;
