//! [`Mapping`]: memory of our own that is touched only by faulting copies.
#![allow(unsafe_code)] // maps, unmaps and copies to raw memory

use crate::raw::errno;
use crate::{Client, MemFault, UserAddr};
use rustix::mm::{self, MapFlags, MsyncFlags, ProtFlags};
use std::os::fd::BorrowedFd;
use swiommu_abi::Errno;

/// A shared file mapping of our own (a medium, a BAR): read and written only by faulting copies, because the file
/// may be truncated under it by anyone. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: UserAddr,
    bytes: u64,
}

impl Mapping {
    /// Maps the first `bytes` bytes of the file, shared, read-only unless `write`. `EINVAL` for an empty range,
    /// `EACCES` if the descriptor's mode forbids it. A file shorter than that maps; the part beyond faults.
    pub fn of_file(fd: BorrowedFd<'_>, bytes: u64, write: bool) -> Result<Mapping, Errno> {
        Mapping::of_file_part(fd, 0, bytes, write)
    }

    /// [`Mapping::of_file`] from `offset` on, a multiple of the file's page size.
    pub fn of_file_part(
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<Mapping, Errno> {
        let protection = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let length = usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: a mapping at an address the kernel chooses replaces nothing.
        let base = unsafe {
            mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                fd,
                offset,
            )
        };
        base.map(|base| Mapping {
            base: UserAddr(base as u64),
            bytes,
        })
        .map_err(errno)
    }

    /// Anonymous private memory, zero, not accounted until touched.
    pub fn anonymous(bytes: u64) -> Result<Mapping, Errno> {
        let length = usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: as in `of_file`.
        let base = unsafe { mm::mmap_anonymous(std::ptr::null_mut(), length, protection, flags) };
        base.map(|base| Mapping {
            base: UserAddr(base as u64),
            bytes,
        })
        .map_err(errno)
    }

    /// Where it lies.
    pub fn base(&self) -> UserAddr {
        self.base
    }

    /// Its size in bytes, as asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies out of it. What lies beyond its size, or beyond the end of its file, is a fault.
    #[inline]
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), MemFault> {
        let inside = self.inside(offset, to.len());
        let from = self.at(offset);
        self.memory().read(from, &mut to[..inside])?;
        if inside < to.len() {
            Err(past(from, inside))
        } else {
            Ok(())
        }
    }

    /// Copies into it. What lies beyond its size, or beyond the end of its file, is a fault.
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), MemFault> {
        let inside = self.inside(offset, from.len());
        let to = self.at(offset);
        self.memory().write(to, &from[..inside])?;
        if inside < from.len() {
            Err(past(to, inside))
        } else {
            Ok(())
        }
    }

    /// Writes dirty pages back to the file and waits: msync(MS_SYNC).
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the range is our own mapping; msync changes no byte of it.
        unsafe { mm::msync(self.base.0 as *mut _, self.bytes as usize, MsyncFlags::SYNC) }
            .map_err(errno)
    }

    fn memory(&self) -> Client {
        // SAFETY: whoever reads or writes has handlers installed, as for every access of this crate; the mapping is
        // ours and no reference into it exists.
        unsafe { Client::local() }
    }

    fn at(&self, offset: u64) -> UserAddr {
        UserAddr(self.base.0 + offset.min(self.bytes))
    }

    fn inside(&self, offset: u64, bytes: usize) -> usize {
        (self.bytes.saturating_sub(offset)).min(bytes as u64) as usize
    }
}

#[cold]
fn past(first: UserAddr, done: usize) -> MemFault {
    MemFault {
        done: done as u64,
        at: UserAddr(first.0 + done as u64),
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by the constructor and nothing points into it but this value.
        let unmapped = unsafe { mm::munmap(self.base.0 as *mut _, self.bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}
