//! Faulting pages in, with the answers of `pin_user_pages(FOLL_LONGTERM)`.
//!
//! `MADV_POPULATE_READ` and `_WRITE` take the same faults as pinning does but name the failures differently. Two
//! refusals of pinning have no counterpart and are made here: a writable shared mapping of a file whose filesystem
//! tracks dirty pages cannot be pinned for writing for long (`mm/gup.c`, since Linux 6.5).
#![allow(unsafe_code)] // madvise on client ranges

use crate::raw::errno;
use crate::{ADDRESS_END, Client, PAGE, UserAddr, maps};
use rustix::io::Errno as Raw;
use rustix::mm::{Advice, madvise};
use std::sync::atomic::{AtomicBool, Ordering};
use swiommu_abi::Errno;

static SHARED_FILES: AtomicBool = AtomicBool::new(false);

/// Says that the client made a writable shared mapping of an ordinary file (not of shared memory or hugetlbfs).
/// From then on pins for writing look at what lies under them.
pub fn note_shared_file_mapping() {
    SHARED_FILES.store(true, Ordering::Relaxed);
}

impl Client {
    /// Faults every page that `bytes` bytes at `first` touch in, for writing if `write`, and answers with the errno
    /// of a long-term pin: `EFAULT` for a hole, for memory without the permission, for a page its file or device
    /// cannot provide, for a writable shared file mapping when `write`; `ENOMEM` when memory ran out. Pages before
    /// the one refused may have been faulted in.
    pub fn populate(&self, first: UserAddr, bytes: u64, write: bool) -> Result<(), Errno> {
        if bytes == 0 {
            return Ok(());
        }
        let last = first
            .0
            .checked_add(bytes - 1)
            .filter(|&last| last < ADDRESS_END)
            .ok_or(Errno::EFAULT)?;
        let base = first.0 & !(PAGE - 1);
        let length = (last | (PAGE - 1)) - base + 1;
        if write
            && SHARED_FILES.load(Ordering::Relaxed)
            && maps::has_shared_file(base, base + length - 1)?
        {
            return Err(Errno::EFAULT);
        }
        let advice = if write {
            Advice::LinuxPopulateWrite
        } else {
            Advice::LinuxPopulateRead
        };
        loop {
            // SAFETY: populating changes no byte that the client sees; the range is page-aligned and checked.
            match unsafe { madvise(base as *mut _, length as usize, advice) } {
                Ok(()) => return Ok(()),
                Err(Raw::INTR | Raw::AGAIN) => {}
                Err(refusal) => return Err(pin_errno(refusal, base, length)),
            }
        }
    }
}

/// What pinning would have answered where populating answered `refusal`.
#[cold]
fn pin_errno(refusal: Raw, base: u64, length: u64) -> Errno {
    match refusal {
        // Memory without the permission, device memory, SIGBUS or SIGSEGV, a poisoned page.
        Raw::INVAL | Raw::FAULT | Raw::HWPOISON => Errno::EFAULT,
        // A hole and exhausted memory share a number; only a range without holes ran out.
        Raw::NOMEM if maps::has_hole(base, base + length - 1) => Errno::EFAULT,
        other => errno(other),
    }
}
