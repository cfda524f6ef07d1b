//! Descriptors that came from another process: through a socket, or over an exec.
//!
//! The kernel object's name says which process has the engine behind it (`swiommu_mem::fd::OBJECT`), its inode which
//! file it is.
#![allow(unsafe_code)] // control messages of the client

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use swiommu_engine::door::File;
use swiommu_engine::service;
use swiommu_mem::fd::{self, OBJECT};

use super::file::RemoteFile;
use super::registry;
use crate::{config, files, guard, sys};

/// Finds out what a new number of the client is; most are nothing of ours.
pub fn descriptor(number: c_int) {
    let Some(config) = config::get() else { return };
    let Some(owner) = owner_of(number) else {
        return;
    };
    let file = guard::enter(|| -> Option<Arc<dyn File>> {
        // SAFETY: the number is borrowed for system calls, which check it.
        let object = unsafe { BorrowedFd::borrow_raw(number) };
        if owner == sys::pid() as u32 {
            return registry::behind(object);
        }
        let ours = fd::duplicate(object).ok()?;
        let key = rustix::fs::fstat(ours.as_fd()).ok()?.st_ino;
        let file = RemoteFile::ask_for(owner, key, ours).ok()?;
        Some(Arc::new(file))
    });
    match file {
        Some(file) => {
            crate::ready();
            files::put(number, file);
        }
        None => sys::stderr(&[
            "swiommu: a descriptor came from process ",
            &owner.to_string(),
            " of ",
            &config.run,
            ", which does not answer for it\n",
        ]),
    }
}

/// The process that a number's kernel object names, if it is one of ours.
fn owner_of(number: c_int) -> Option<u32> {
    let mut path = [0; 32];
    use std::io::Write;
    write!(&mut path[..31], "/proc/self/fd/{number}").ok()?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let mut name = [0; 64];
    let length = usize::try_from(sys::readlink(libc::AT_FDCWD, path, &mut name)).ok()?;
    let text = std::str::from_utf8(name.get(..length)?).ok()?;
    let rest = text.strip_prefix("/memfd:")?.strip_prefix(OBJECT)?;
    rest.split(' ').next()?.parse().ok()
}

/// The descriptors that a message brought.
///
/// # Safety
/// `message` was just filled in by a successful recvmsg.
pub unsafe fn received(message: *const libc::msghdr) {
    if guard::inside() || config::get().is_none() {
        return;
    }
    // SAFETY: the kernel wrote the control messages, whose lengths libc's macros follow.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(message);
        while let Some(head) = part.as_ref() {
            if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = head.cmsg_len - (libc::CMSG_LEN(0) as usize);
                let numbers = libc::CMSG_DATA(part).cast::<c_int>();
                for index in 0..bytes / size_of::<c_int>() {
                    let number = numbers.add(index).read_unaligned();
                    files::remove(number);
                    descriptor(number);
                }
            }
            part = libc::CMSG_NXTHDR(message, part);
        }
    }
}

/// In a new program: what was left open over the exec. Nothing to do while no process of the run serves others.
pub fn inherited(run: &str) {
    if service::processes(Path::new(run)).is_empty() {
        return;
    }
    let numbers: Vec<c_int> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers {
        descriptor(number);
    }
}
