//! open and its variants.
#![allow(unsafe_code)] // C functions

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::IntoRawFd;

use libc::{AT_FDCWD, O_CLOEXEC, O_CREAT, O_PATH, O_TRUNC, O_WRONLY, mode_t};
use swiommu_abi::Errno;
use swiommu_engine::door::NewFile;

use crate::files::{self, Mark};
use crate::paths::{self, Path};
use crate::remote::registry;
use crate::{attributes, engine, guard, mock, process, stat, sys};

/// # Safety
/// As `openat`.
#[inline]
pub unsafe fn open_at(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
    site: usize,
) -> c_int {
    // SAFETY: the caller's path.
    if let Some(fd) = unsafe { mock::open_proc(path, flags) } {
        return fd;
    }
    // SAFETY: the caller's path.
    match unsafe { paths::resolve(dir, path) } {
        None => {
            // SAFETY: as above.
            let ours = unsafe { names_pagemap(path) }.then(|| machine_file(PAGEMAP, flags, site));
            // SAFETY: as above.
            ours.flatten()
                .unwrap_or_else(|| fresh(unsafe { sys::openat(dir, path, flags, mode) }))
        }
        Some(place) => at_place(&place, flags, mode, site),
    }
}

/// Which page frames the client's memory lies in: the machine's to say when bus addresses are physical ones.
const PAGEMAP: &str = "/proc/self/pagemap";

/// Whether a path names this process's page frames.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn names_pagemap(path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: a C string: bytes are read up to the first that differs.
    let elsewhere = unsafe { libc::strncmp(path, c"/proc/".as_ptr(), 6) } != 0;
    if elsewhere || guard::inside() {
        return false;
    }
    // SAFETY: a C string of more than 6 bytes.
    let rest = unsafe { CStr::from_ptr(path.add(6)) }.to_bytes();
    let Some(process) = rest.strip_suffix(b"/pagemap") else {
        return false;
    };
    let number = || core::str::from_utf8(process).ok()?.parse().ok();
    matches!(process, b"self" | b"thread-self") || number() == Some(sys::pid())
}

/// A number that the kernel just made is nobody's from before.
fn fresh(fd: isize) -> c_int {
    if fd >= 0 {
        files::remove(fd as c_int);
    }
    sys::ret_int(fd)
}

/// Opens what was looked up: a node of the machine, or a file of the tree.
pub fn at_place(place: &Path, flags: c_int, mode: mode_t, site: usize) -> c_int {
    if place.in_dev()
        && flags & O_PATH == 0
        && flags & (O_CREAT | libc::O_EXCL) != O_CREAT | libc::O_EXCL
        && stat::is_node(place)
        && let Some(fd) = node(place, flags, site)
    {
        return fd;
    }
    let fd = match attributes::is_place(place) {
        true => sys::ret_int(attributes::open(place, flags)),
        // SAFETY: our own string.
        false => fresh(unsafe { sys::openat(AT_FDCWD, place.kernel(), flags, mode) }),
    };
    if fd >= 0 && (place.overlaid || flags & libc::O_DIRECTORY != 0) {
        remember(fd, place);
    }
    fd
}

/// Marks a descriptor of the tree (or of a directory above overlaid ones).
pub fn remember(fd: c_int, place: &Path) {
    if process::is_borrowed() {
        return;
    }
    files::mark(fd, Mark::Tree);
    if place.in_dev() {
        files::mark(fd, Mark::Nodes);
    }
}

/// Opens a device node: `None` if the machine has none of this name.
fn node(place: &Path, flags: c_int, site: usize) -> Option<c_int> {
    if flags & libc::O_DIRECTORY != 0 {
        sys::set_errno(libc::ENOTDIR);
        return Some(-1);
    }
    machine_file(place.text(), flags, site)
}

/// Opens a file that the machine answers for: `None` if it does not.
fn machine_file(path: &str, flags: c_int, site: usize) -> Option<c_int> {
    // What a process that has ended was the last to have is free by now.
    registry::reap();
    let Some(engine) = engine::get() else {
        return Some(sys::fail(Errno::EIO) as c_int);
    };
    let answer = engine::call(site, |call| engine.open(call, path))?;
    Some(match answer {
        Ok(new) => install(new, flags & O_CLOEXEC != 0),
        Err(errno) => sys::fail(errno) as c_int,
    })
}

/// Gives a new file its number.
pub fn install(new: NewFile, close_on_exec: bool) -> c_int {
    let fd = new.object.into_raw_fd();
    if !close_on_exec {
        // SAFETY: no addresses.
        unsafe { sys::syscall!(sys::SYS_fcntl, fd as isize, libc::F_SETFD, 0) };
    }
    if files::put_node(fd, new.file) {
        return fd;
    }
    sys::close(fd);
    sys::fail(Errno::EMFILE) as c_int
}

extern "C" fn open_sited(path: *const c_char, flags: c_int, mode: mode_t, site: usize) -> c_int {
    // SAFETY: the client's call of `open`.
    unsafe { open_at(AT_FDCWD, path, flags, mode, site) }
}

extern "C" fn openat_sited(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
    site: usize,
) -> c_int {
    // SAFETY: the client's call of `openat`.
    unsafe { open_at(dir, path, flags, mode, site) }
}

extern "C" fn open_2_sited(path: *const c_char, flags: c_int, site: usize) -> c_int {
    open_sited(path, flags, 0, site)
}

extern "C" fn openat_2_sited(dir: c_int, path: *const c_char, flags: c_int, site: usize) -> c_int {
    openat_sited(dir, path, flags, 0, site)
}

sited! {
    fn open, "rcx" => open_sited;
    fn open64, "rcx" => open_sited;
    fn __open, "rcx" => open_sited;
    fn __open64, "rcx" => open_sited;
    fn __open_2, "rdx" => open_2_sited;
    fn __open64_2, "rdx" => open_2_sited;
    fn openat, "r8" => openat_sited;
    fn openat64, "r8" => openat_sited;
    fn __openat_2, "rcx" => openat_2_sited;
    fn __openat64_2, "rcx" => openat_2_sited;
}

export! {
    fn creat(path: *const c_char, mode: mode_t) -> c_int {
        open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode, 0)
    }
    fn creat64(path: *const c_char, mode: mode_t) -> c_int {
        open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode, 0)
    }
}
