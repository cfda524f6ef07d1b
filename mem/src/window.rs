//! [`Window`]: addresses of ours at which another process's pages appear.
#![allow(unsafe_code)] // maps over its own reservation

use crate::raw::errno;
use crate::{ADDRESS_END, PAGE, UserAddr};
use rustix::mm::{self, Advice, MapFlags, MremapFlags, ProtFlags};
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use swiommu_abi::Errno;

/// Reserved addresses, inaccessible until pages are shown at them. Not inherited over fork. Unmapped when dropped.
#[derive(Debug)]
pub struct Window {
    base: u64,
    bytes: u64,
}

impl Window {
    /// Reserves `bytes` bytes, a multiple of 4096 and not 0.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(bytes: u64) -> Result<Window, Errno> {
        let length = usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a mapping at an address the kernel chooses replaces nothing.
        let base = unsafe { mm::mmap_anonymous(null_mut(), length, ProtFlags::empty(), flags) }
            .map_err(errno)? as u64;
        Ok(Window { base, bytes })
    }

    /// Its first address.
    pub fn base(&self) -> UserAddr {
        UserAddr(self.base)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of a part of it, if it is whole pages and lies inside.
    fn part(&self, offset: u64, bytes: u64) -> Result<*mut std::ffi::c_void, Errno> {
        let inside = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.bytes);
        if bytes == 0 || !inside || !(offset | bytes).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        Ok((self.base + offset) as *mut _)
    }

    /// Shows `bytes` bytes of a file from `at` on at `offset`.
    ///
    /// # Errors
    /// `EINVAL` unless all are whole pages inside of the window, else what mmap says.
    pub fn show(
        &self,
        offset: u64,
        bytes: u64,
        file: BorrowedFd<'_>,
        at: u64,
    ) -> Result<(), Errno> {
        let place = self.part(offset, bytes)?;
        let map = |prot| {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: the place lies in our own reservation, and nothing holds a reference into it.
            unsafe { mm::mmap(place, bytes as usize, prot, flags, file, at) }
        };
        map(ProtFlags::READ | ProtFlags::WRITE)
            .or_else(|_| map(ProtFlags::READ))
            .map_err(errno)?;
        self.keep_from_children(offset, bytes);
        Ok(())
    }

    /// Shows the shared memory that lies at `from` in this process at `offset` too.
    ///
    /// # Errors
    /// `EINVAL` unless both are whole pages and it lies inside of the window; what mremap says: `EFAULT` where nothing
    /// is mapped, `EINVAL` for private memory.
    pub fn alias(&self, offset: u64, bytes: u64, from: UserAddr) -> Result<(), Errno> {
        let place = self.part(offset, bytes)?;
        if from.0 >= ADDRESS_END || !from.0.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        // SAFETY: an old size of 0 leaves the mapping at `from` as it is; the place is our own reservation.
        unsafe {
            mm::mremap_fixed(
                from.0 as *mut _,
                0,
                bytes as usize,
                MremapFlags::MAYMOVE,
                place,
            )
        }
        .map_err(errno)?;
        self.keep_from_children(offset, bytes);
        Ok(())
    }

    fn keep_from_children(&self, offset: u64, bytes: u64) {
        // SAFETY: advice on our own mapping. Where it fails a child keeps the pages alive, no more.
        let _ = unsafe {
            mm::madvise(
                (self.base + offset) as *mut _,
                bytes as usize,
                Advice::LinuxDontFork,
            )
        };
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the range is our own reservation, and nothing holds a reference into it.
        let unmapped = unsafe { mm::munmap(self.base as *mut _, self.bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Mapping, fd, install_handlers};
    use std::os::fd::AsFd;

    fn client() -> Client {
        install_handlers();
        // SAFETY: the handlers are installed; the tests touch their own mappings.
        unsafe { Client::local() }
    }

    #[test]
    fn pages_of_a_file_appear_where_they_are_shown_and_nowhere_else() {
        let client = client();
        let file = fd::memfd("x", 2 * PAGE).unwrap();
        let window = Window::reserve(3 * PAGE).unwrap();
        window.show(PAGE, PAGE, file.as_fd(), PAGE).unwrap();
        let at = |page: u64| UserAddr(window.base().0 + page * PAGE);
        client.write(at(1), b"here").unwrap();
        let mut back = [0; 4];
        rustix::io::pread(&file, &mut back, PAGE).unwrap();
        assert_eq!(&back, b"here");
        assert!(client.write(at(0), b"x").is_err() && client.write(at(2), b"x").is_err());
    }

    #[test]
    fn shared_memory_of_ours_appears_a_second_time() {
        let client = client();
        let file = fd::memfd("x", PAGE).unwrap();
        let memory = Mapping::of_file(file.as_fd(), PAGE, true).unwrap();
        let window = Window::reserve(PAGE).unwrap();
        window.alias(0, PAGE, memory.base()).unwrap();
        client.write(window.base(), b"twice").unwrap();
        let mut back = [0; 5];
        memory.read(0, &mut back).unwrap();
        assert_eq!(&back, b"twice");
    }

    #[test]
    fn a_part_that_is_not_whole_pages_inside_is_refused() {
        let file = fd::memfd("x", 4 * PAGE).unwrap();
        let window = Window::reserve(2 * PAGE).unwrap();
        for (offset, bytes) in [(0, 3 * PAGE), (PAGE, 2 * PAGE), (8, PAGE), (0, 8), (0, 0)] {
            let shown = window.show(offset, bytes, file.as_fd(), 0);
            assert_eq!(shown, Err(Errno::EINVAL), "{offset:#x} {bytes:#x}");
        }
        assert_eq!(
            window.show(u64::MAX - PAGE + 1, PAGE, file.as_fd(), 0),
            Err(Errno::EINVAL)
        );
    }
}
