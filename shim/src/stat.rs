//! What stat shows of our descriptors and of the tree's nodes.
#![allow(unsafe_code)] // the kernel's structs, in the client's memory

use std::ffi::c_int;
use std::sync::Arc;

use libc::{AT_FDCWD, S_IFCHR, S_IFMT, S_IFREG};
use swiommu_engine::door::{CharDevice, File};

use crate::paths::Path;
use crate::sys::{self, syscall};
use crate::{guard, node};

/// Whether a path in the tree's /dev is a node, i.e. a regular file there.
pub fn is_node(place: &Path) -> bool {
    let mut stat: libc::stat = zeroed();
    // SAFETY: our own path and struct; the kernel's layout is libc's on x86-64.
    let result = unsafe {
        syscall!(
            sys::SYS_newfstatat,
            AT_FDCWD as isize,
            place.kernel(),
            &raw mut stat,
            0
        )
    };
    result == 0 && stat.st_mode & S_IFMT == S_IFREG
}

fn zeroed() -> libc::stat {
    // SAFETY: all zeroes is a value of this struct of integers.
    unsafe { std::mem::zeroed() }
}

/// Mode and device number of one of our descriptors.
fn mode(device: Option<CharDevice>) -> u32 {
    match device {
        Some(_) => S_IFCHR | 0o666,
        None => 0o600, // an anonymous inode: no type at all
    }
}

/// Makes a `struct stat` that the kernel filled in show one of our files.
///
/// # Safety
/// `to` was just filled in by the kernel.
pub unsafe fn show(to: *mut libc::stat, device: Option<CharDevice>) {
    // SAFETY: the kernel just wrote all of it.
    unsafe {
        (*to).st_mode = mode(device);
        (*to).st_size = 0;
        (*to).st_blocks = 0;
        (*to).st_rdev = device.map_or(0, |device| libc::makedev(device.major, device.minor));
    }
}

/// The same for `struct statx`.
///
/// # Safety
/// As [`show`].
pub unsafe fn show_x(to: *mut libc::statx, device: Option<CharDevice>) {
    // SAFETY: the kernel just wrote all of it.
    unsafe {
        (*to).stx_mode = mode(device) as u16;
        (*to).stx_size = 0;
        (*to).stx_blocks = 0;
        (*to).stx_rdev_major = device.map_or(0, |device| device.major);
        (*to).stx_rdev_minor = device.map_or(0, |device| device.minor);
    }
}

/// The device number that a file of ours shows.
pub fn device(file: &Arc<dyn File>) -> Option<CharDevice> {
    guard::enter(|| file.char_device())
}

/// The device number of a tree's file that stands for a node.
pub fn node_device(place: &Path, mode: u32) -> Option<CharDevice> {
    (place.in_dev() && mode & S_IFMT == S_IFREG).then(|| node::device(place.text()))
}

/// `fstat` of any descriptor.
///
/// # Safety
/// The kernel checks `to`.
pub unsafe fn of_fd(fd: c_int, to: *mut libc::stat) -> c_int {
    // SAFETY: the kernel checks the address.
    let result = unsafe { syscall!(sys::SYS_fstat, fd as isize, to) };
    if result == 0
        && let Some(file) = crate::files::ours(fd)
    {
        // SAFETY: just filled in.
        unsafe { show(to, device(&file)) };
    }
    sys::ret_int(result)
}
