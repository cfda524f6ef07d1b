//! Asks the kernel and the processor what they can do, by doing it once. For `swiommu doctor`.
#![allow(unsafe_code)] // the system calls in question act on raw addresses; each is made on a page of its own

use std::fs;
use std::io::{self, Error};

/// A page of our own for one probe.
struct Page(*mut libc::c_void);

const BYTES: usize = 4096;

impl Page {
    fn new() -> io::Result<Page> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            Err(Error::last_os_error())
        } else {
            Ok(Page(at))
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page is ours and no reference into it was ever made.
        unsafe { libc::munmap(self.0, BYTES) };
    }
}

fn answer(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Faulting pages in for writing without touching them (Linux 5.14).
pub fn madv_populate() -> io::Result<()> {
    let page = Page::new()?;
    // SAFETY: populating a private page of our own changes no content.
    answer(unsafe { libc::madvise(page.0, BYTES, libc::MADV_POPULATE_WRITE) }.into())
}

/// Moving pages away while their place stays mapped (Linux 5.7).
pub fn mremap_dontunmap() -> io::Result<()> {
    let page = Page::new()?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let hint = 0;
    // A raw call: older versions of glibc pass no address hint, and the kernel refuses what happens to be there instead.
    // SAFETY: the page is ours; it moves to an address of the kernel's choice, and nothing refers to it.
    let moved = unsafe { libc::syscall(libc::SYS_mremap, page.0, BYTES, BYTES, flags, hint) };
    answer(moved)?;
    drop(Page(moved as *mut libc::c_void));
    Ok(())
}

/// Asking what lies at an address without reading all of /proc/self/maps (Linux 6.11).
pub fn procmap_query() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    /// `_IOWR('f', 17, struct procmap_query)`, linux/fs.h.
    const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
    /// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
    const OR_NEXT: u64 = 0x10;
    let maps = fs::File::open("/proc/self/maps")?;
    let mut query = [0u64; 13];
    query[0] = size_of_val(&query) as u64;
    query[1] = OR_NEXT;
    // SAFETY: the kernel reads and writes the 104 bytes of the struct, which `query` is; the name and build id
    // addresses and sizes in it are zero, so it writes nowhere else.
    answer(unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, query.as_mut_ptr()) }.into())
}

/// Is io_uring allowed? (Asked with a bad address: "bad address" means yes.)
pub fn io_uring() -> io::Result<()> {
    // SAFETY: a null parameter block is refused with EFAULT before anything is made.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<u8>()) };
    match answer(result) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        other => other,
    }
}

/// Syscall User Dispatch, which `--audit` uses (Linux 5.11). Asked by switching it off, which it is.
pub fn syscall_user_dispatch() -> io::Result<()> {
    const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    // SAFETY: switching off what is off; no pointer is passed.
    answer(unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) }.into())
}

/// The version of the C library, such as 2.36.
pub fn glibc_version() -> String {
    // SAFETY: the function returns a static string.
    unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }
        .to_string_lossy()
        .into_owned()
}

/// Does the processor have an instruction set, by its name in /proc/cpuinfo?
pub fn processor_has(flag: &str) -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags.split_whitespace().any(|word| word == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_twice_the_kernel_answers_alike() {
        let probes = [
            madv_populate,
            mremap_dontunmap,
            procmap_query,
            io_uring,
            syscall_user_dispatch,
        ];
        for probe in probes {
            assert_eq!(probe().is_ok(), probe().is_ok());
        }
    }

    #[test]
    fn versions_and_flags_are_read() {
        assert!(glibc_version().starts_with("2."));
        assert!(processor_has("sse2") && !processor_has("no-such-flag"));
    }
}
