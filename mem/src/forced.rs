//! Access to pinned pages that the client has protected since.
//!
//! The kernel pins pages, not protections: after mprotect(PROT_NONE) a device goes on. Here the page is reached through
//! /proc/self/mem, which ignores protections. Slow, and only for pages that a mapping pinned before.

use crate::raw::errno;
use crate::{Client, MemFault, UserAddr};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use swiommu_abi::Errno;

fn open() -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        "/proc/self/mem",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(errno)
}

impl Client {
    /// [`Client::read`] that ignores the page's protection. A hole is still a fault.
    pub fn read_forced(&self, from: UserAddr, to: &mut [u8]) -> Result<(), MemFault> {
        let moved =
            open().and_then(|memory| rustix::io::pread(memory, &mut *to, from.0).map_err(errno));
        whole(from, moved.unwrap_or(0), to.len())
    }

    /// [`Client::write`] that ignores the page's protection. A hole is still a fault.
    pub fn write_forced(&self, to: UserAddr, from: &[u8]) -> Result<(), MemFault> {
        let moved = open().and_then(|memory| rustix::io::pwrite(memory, from, to.0).map_err(errno));
        whole(to, moved.unwrap_or(0), from.len())
    }
}

fn whole(at: UserAddr, moved: usize, wanted: usize) -> Result<(), MemFault> {
    let done = moved as u64;
    if moved == wanted {
        Ok(())
    } else {
        Err(MemFault {
            done,
            at: UserAddr(at.0 + done),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)] // maps and protects a page
    use super::*;
    use crate::{Mapping, PAGE, install_handlers};

    #[test]
    fn a_protected_page_is_reached_and_a_hole_is_not() {
        install_handlers();
        // SAFETY: the client is this process.
        let client = unsafe { Client::local() };
        let page = Mapping::anonymous(2 * PAGE).unwrap();
        page.write(PAGE - 4, b"tail").unwrap();
        // SAFETY: the pages belong to `page`, which is only touched by faulting copies.
        unsafe {
            rustix::mm::mprotect(
                page.base().0 as *mut _,
                PAGE as usize,
                rustix::mm::MprotectFlags::empty(),
            )
        }
        .unwrap();
        let at = UserAddr(page.base().0 + PAGE - 4);
        let mut got = [0; 4];
        assert!(client.read(at, &mut got).is_err());
        client.read_forced(at, &mut got).unwrap();
        assert_eq!(&got, b"tail");
        client.write_forced(at, b"done").unwrap();
        client.read_forced(at, &mut got).unwrap();
        assert_eq!(&got, b"done");
        assert_eq!(
            client
                .read_forced(UserAddr(4096), &mut got)
                .unwrap_err()
                .done,
            0
        );
    }
}
