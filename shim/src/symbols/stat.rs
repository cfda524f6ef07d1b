//! stat, statx, access and their variants.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_char, c_int, c_uint};

use libc::{AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

use crate::stat as show;
use crate::sys::{self, ret_int, syscall};
use crate::{files, paths};

#[inline]
unsafe fn stat_at(dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
    // SAFETY: the client's path and buffer; the kernel checks the buffer and writes it before `show` touches it.
    unsafe {
        let Some(place) = paths::resolve(dir, path) else {
            if flags & AT_EMPTY_PATH != 0 && !path.is_null() && *path == 0 && dir >= 0 {
                return show::of_fd(dir, to);
            }
            return ret_int(syscall!(
                sys::SYS_newfstatat,
                dir as isize,
                path,
                to,
                flags as isize
            ));
        };
        let result = syscall!(
            sys::SYS_newfstatat,
            AT_FDCWD as isize,
            place.kernel(),
            to,
            flags as isize
        );
        if result == 0
            && let Some(device) = show::node_device(&place, (*to).st_mode)
        {
            show::show(to, Some(device));
        }
        ret_int(result)
    }
}

unsafe fn access_at(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    // SAFETY: the client's path, or our own.
    unsafe {
        let place = paths::resolve(dir, path);
        let (dir, path) = place
            .as_ref()
            .map_or((dir, path), |place| (AT_FDCWD, place.kernel()));
        if flags == 0 {
            return ret_int(syscall!(
                sys::SYS_faccessat,
                dir as isize,
                path,
                mode as isize
            ));
        }
        ret_int(syscall!(
            sys::SYS_faccessat2,
            dir as isize,
            path,
            mode as isize,
            flags as isize
        ))
    }
}

export! {
    fn stat(path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, 0) }
    fn stat64(path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, 0) }
    fn lstat(path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW) }
    fn lstat64(path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW) }
    fn fstat(fd: c_int, to: *mut libc::stat) -> c_int { show::of_fd(fd, to) }
    fn fstat64(fd: c_int, to: *mut libc::stat) -> c_int { show::of_fd(fd, to) }
    fn fstatat(dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
        stat_at(dir, path, to, flags)
    }
    fn fstatat64(dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
        stat_at(dir, path, to, flags)
    }
    fn __xstat(_version: c_int, path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, 0) }
    fn __xstat64(_version: c_int, path: *const c_char, to: *mut libc::stat) -> c_int { stat_at(AT_FDCWD, path, to, 0) }
    fn __lxstat(_version: c_int, path: *const c_char, to: *mut libc::stat) -> c_int {
        stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW)
    }
    fn __lxstat64(_version: c_int, path: *const c_char, to: *mut libc::stat) -> c_int {
        stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW)
    }
    fn __fxstat(_version: c_int, fd: c_int, to: *mut libc::stat) -> c_int { show::of_fd(fd, to) }
    fn __fxstat64(_version: c_int, fd: c_int, to: *mut libc::stat) -> c_int { show::of_fd(fd, to) }
    fn __fxstatat(_version: c_int, dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
        stat_at(dir, path, to, flags)
    }
    fn __fxstatat64(_version: c_int, dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
        stat_at(dir, path, to, flags)
    }
    fn statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut libc::statx) -> c_int {
        let place = paths::resolve(dir, path);
        let (at, name) = place.as_ref().map_or((dir, path), |place| (AT_FDCWD, place.kernel()));
        let result = syscall!(sys::SYS_statx, at as isize, name, flags as isize, mask, to);
        if result == 0 {
            let empty = flags & AT_EMPTY_PATH != 0 && !path.is_null() && *path == 0 && dir >= 0;
            if let Some(place) = &place {
                if let Some(device) = show::node_device(place, u32::from((*to).stx_mode)) {
                    show::show_x(to, Some(device));
                }
            } else if empty && let Some(file) = files::ours(dir) {
                show::show_x(to, show::device(&file));
            }
        }
        ret_int(result)
    }
    fn access(path: *const c_char, mode: c_int) -> c_int { access_at(AT_FDCWD, path, mode, 0) }
    fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        access_at(dir, path, mode, flags)
    }
    fn euidaccess(path: *const c_char, mode: c_int) -> c_int { access_at(AT_FDCWD, path, mode, AT_EACCESS) }
    fn eaccess(path: *const c_char, mode: c_int) -> c_int { access_at(AT_FDCWD, path, mode, AT_EACCESS) }
}
