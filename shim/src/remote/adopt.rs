//! Descriptors that came from another process: through a socket, or over an exec.
//!
//! The kernel object's name says which process has the engine behind it (`swiommu_mem::fd::OBJECT`), its inode which
//! file it is.
#![allow(unsafe_code)] // control messages of the client

use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use swiommu_engine::door::File;
use swiommu_mem::fd;

use super::file::RemoteFile;
use super::registry;
use super::takeover::{self, Name};
use crate::{config, files, guard, sys};

/// Finds out what a new number of the client is; most are nothing of ours.
pub fn descriptor(number: c_int) {
    let Some(config) = config::get() else { return };
    // SAFETY: the number is borrowed for system calls, which check it.
    let object = unsafe { BorrowedFd::borrow_raw(number) };
    let Some(name) = Name::of(object) else {
        return;
    };
    let file = guard::enter(|| takeover::find(object).or_else(|| gone(&name, object)));
    match file {
        Some(file) => {
            crate::ready();
            files::put_node(number, file);
        }
        None => sys::stderr(&[
            "swiommu: a descriptor came from process ",
            &name.opener.to_string(),
            " of ",
            &config.run,
            ", which does not answer for it\n",
        ]),
    }
}

/// A file that was used by a process that is gone.
fn gone(name: &Name, object: BorrowedFd<'_>) -> Option<Arc<dyn File>> {
    let key = registry::inode(object)?;
    let file = RemoteFile::of_nobody(
        name.opener,
        key,
        fd::duplicate(object).ok()?,
        name.node.as_ref()?,
    );
    Some(Arc::new(file))
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

/// In a new program: what was left open over the exec.
pub fn inherited() {
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
