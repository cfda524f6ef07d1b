//! A namespace's medium: a raw file or block device, mapped shared.
//!
//! What is written here survives the process. Reads and short writes go through the mapping, long writes and hole punching
//! through the descriptor, used only while it still is the file we opened (a client may close numbers it does not know).

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::Path;
use swiommu_abi::Errno;
use swiommu_mem::Mapping;

/// The medium could not be read or written: shorter than it was, or out of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MediumError;

/// From this size on a write is a system call: page faults on fresh pages cost more than the copy.
pub(super) const CALL_LEAST: u64 = 16 << 10;

/// Zeroes to write from.
static ZEROES: [u8; 16384] = [0; 16384];

#[derive(Debug)]
pub(super) struct Medium {
    mapping: Mapping,
    /// `Some` until dropped.
    file: Option<OwnedFd>,
    /// Device and inode of `file`.
    identity: (u64, u64),
    read_only: bool,
    /// Written to since the last [`Medium::sync`].
    unsynced: bool,
}

impl Medium {
    /// Opens and maps the first `bytes` bytes of `path`.
    pub fn open(path: &Path, bytes: u64, read_only: bool) -> Result<Medium, Errno> {
        let access = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let file =
            rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let stat = rustix::fs::fstat(&file).map_err(errno)?;
        let mapping = Mapping::of_file(file.as_fd(), bytes, !read_only)?;
        Ok(Medium {
            mapping,
            file: Some(file),
            identity: (stat.st_dev, stat.st_ino),
            read_only,
            unsynced: false,
        })
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The mapping, to move data from.
    pub fn source(&self) -> &Mapping {
        &self.mapping
    }

    /// The mapping, to move data to.
    pub fn target(&mut self) -> &Mapping {
        debug_assert!(!self.read_only);
        self.unsynced = true;
        &self.mapping
    }

    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), MediumError> {
        self.mapping.read(offset, to).map_err(|_| MediumError)
    }

    pub fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), MediumError> {
        if from.len() as u64 >= CALL_LEAST
            && let Some(written) = self.write_by_call(offset, from)
        {
            return written;
        }
        self.target().write(offset, from).map_err(|_| MediumError)
    }

    /// The descriptor for a write up to `end`, if it can be used.
    pub fn target_file(&mut self, end: u64) -> Option<BorrowedFd<'_>> {
        debug_assert!(!self.read_only);
        self.unsynced = true;
        self.own_file(end).map(AsFd::as_fd)
    }

    /// Writes through the descriptor; `None` = it cannot be used.
    fn write_by_call(&mut self, offset: u64, from: &[u8]) -> Option<Result<(), MediumError>> {
        self.unsynced = true;
        let file = self.own_file(offset + from.len() as u64)?;
        let mut done = 0;
        while done < from.len() {
            match rustix::io::pwrite(file, &from[done..], offset + done as u64) {
                Ok(0) => return Some(Err(MediumError)),
                Ok(written) => done += written,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Some(Err(MediumError)),
            }
        }
        Some(Ok(()))
    }

    /// Makes the range read zeroes, giving its space back if `deallocate` and the file can.
    pub fn zero(&mut self, first: u64, bytes: u64, deallocate: bool) -> Result<(), MediumError> {
        if bytes == 0 || deallocate && self.punch(first, bytes) {
            self.unsynced = true;
            return Ok(());
        }
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(ZEROES.len() as u64);
            self.write(first + done, &ZEROES[..piece as usize])?;
            done += piece;
        }
        Ok(())
    }

    fn punch(&self, first: u64, bytes: u64) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.own_file(first + bytes)
            .is_some_and(|file| rustix::fs::fallocate(file, flags, first, bytes).is_ok())
    }

    /// The descriptor, if its number still is the file we opened and the file still is `end` bytes long.
    fn own_file(&self, end: u64) -> Option<&OwnedFd> {
        let file = self.file.as_ref()?;
        let stat = rustix::fs::fstat(file).ok()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let long_enough = !regular || stat.st_size as u64 >= end;
        ((stat.st_dev, stat.st_ino) == self.identity && long_enough).then_some(file)
    }

    /// Asks the host to make durable what was written.
    pub fn sync(&mut self) -> Result<(), MediumError> {
        if self.unsynced {
            self.mapping.sync().map_err(|_| MediumError)?;
            self.unsynced = false;
        }
        Ok(())
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // A number that is the client's by now is not ours to close.
        if self.own_file(0).is_none()
            && let Some(file) = self.file.take()
        {
            let _ = file.into_raw_fd();
        }
    }
}

fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error()).unwrap_or(Errno::EIO)
}
