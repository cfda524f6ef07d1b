//! close, dup, fcntl: numbers that come and go.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_int, c_uint};

use swiommu_abi::Errno;

use crate::remote::registry;
use crate::sys::{self, fail, ret_int, syscall};
use crate::{engine, files, guard, process};

const CLOSE_RANGE_CLOEXEC: c_uint = 4;

/// Whether the engine keeps this number for itself: the client never opened it.
fn hidden(fd: c_int) -> bool {
    !guard::inside()
        && (swiommu_mem::fd::owns(fd) || engine::existing().is_some_and(|engine| engine.owns(fd)))
        && !process::is_borrowed()
}

pub(super) extern "C" fn close_sited(fd: c_int) -> c_int {
    close_raw(fd)
}

/// `close` with the kernel's result.
pub fn close_raw(fd: c_int) -> c_int {
    if guard::inside() {
        return ret_int(sys::close(fd));
    }
    if hidden(fd) {
        return fail(Errno::EBADF) as c_int;
    }
    let Some(file) = forget(fd) else {
        return ret_int(sys::close(fd));
    };
    let result = sys::close(fd);
    guard::enter(|| drop(file));
    registry::reap();
    ret_int(result)
}

/// Takes what stands behind a number out of the table, to be dropped when the kernel has closed it. `None`: not ours,
/// or the copy of a vfork child.
fn forget(fd: c_int) -> Option<std::sync::Arc<dyn swiommu_engine::door::File>> {
    let known = files::known(fd);
    if !known || process::is_borrowed() {
        return None;
    }
    let file = files::get(fd);
    files::remove(fd);
    file
}

/// libc is about to close this number itself.
pub fn closed_by_libc(fd: c_int) {
    if fd >= 0
        && let Some(file) = forget(fd)
    {
        guard::enter(|| drop(file));
    }
}

fn close_range_at(first: c_uint, last: c_uint, flags: c_uint) -> c_int {
    // SAFETY: no addresses.
    let raw =
        |first: c_uint, last: c_uint| unsafe { syscall!(sys::SYS_close_range, first, last, flags) };
    if first > last || guard::inside() || process::is_borrowed() {
        return ret_int(raw(first, last));
    }
    if flags & CLOSE_RANGE_CLOEXEC == 0 {
        files::remove_range(first, last);
    }
    let mut next = first;
    for fd in owned(first, last) {
        if next < fd {
            let result = raw(next, fd - 1);
            if result < 0 {
                return ret_int(result);
            }
        }
        next = fd + 1;
    }
    let result = if next <= last {
        ret_int(raw(next, last))
    } else {
        0
    };
    registry::reap();
    result
}

/// The engine's own numbers within a range.
fn owned(first: c_uint, last: c_uint) -> impl Iterator<Item = c_uint> {
    let engine = engine::existing();
    let owns = move |fd| swiommu_mem::fd::owns(fd) || engine.is_some_and(|engine| engine.owns(fd));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1 << 20);
    let end = last.min(limit.min(1 << 20) as c_uint);
    let any = engine.is_some() || swiommu_mem::fd::owns_any();
    (first..=if any { end } else { 0 }).filter(move |fd| owns(*fd as c_int))
}

fn duplicated(old: c_int, new: isize) -> c_int {
    if new >= 0 && !guard::inside() && !process_is_other(old, new as c_int) {
        files::duplicate(old, new as c_int);
        registry::reap();
    }
    ret_int(new)
}

fn process_is_other(old: c_int, new: c_int) -> bool {
    (files::known(old) || files::known(new)) && process::is_borrowed()
}

fn fcntl_at(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the client's call.
    let result = unsafe { syscall!(sys::SYS_fcntl, fd as isize, command as isize, argument) };
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, result),
        _ => ret_int(result),
    }
}

sited! {
    fn close, "rsi" => close_sited;
}

export! {
    fn __close(fd: c_int) -> c_int { close_raw(fd) }
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int { close_range_at(first, last, flags as c_uint) }
    fn closefrom(first: c_int) -> () {
        close_range_at(first.max(0) as c_uint, c_uint::MAX, 0);
    }
    fn dup(old: c_int) -> c_int { duplicated(old, syscall!(sys::SYS_dup, old as isize)) }
    fn dup2(old: c_int, new: c_int) -> c_int {
        if old != new && hidden(new) {
            return fail(Errno::EBADF) as c_int;
        }
        let result = syscall!(sys::SYS_dup2, old as isize, new as isize);
        if old == new { ret_int(result) } else { duplicated(old, result) }
    }
    fn __dup2(old: c_int, new: c_int) -> c_int { dup2(old, new) }
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        if old != new && hidden(new) {
            return fail(Errno::EBADF) as c_int;
        }
        duplicated(old, syscall!(sys::SYS_dup3, old as isize, new as isize, flags as isize))
    }
    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int { fcntl_at(fd, command, argument) }
    fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int { fcntl_at(fd, command, argument) }
    fn __fcntl(fd: c_int, command: c_int, argument: usize) -> c_int { fcntl_at(fd, command, argument) }
}
