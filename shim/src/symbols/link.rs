//! Links, real paths and the working directory: paths that come back from the kernel are the client's.
#![allow(unsafe_code)] // C functions

use std::ffi::{CStr, c_char, c_int};
use std::ptr::null_mut;

use libc::{AT_FDCWD, PATH_MAX, size_t, ssize_t};
use swiommu_abi::Errno;

use crate::real::real;
use crate::sys::{self, fail, ret, ret_int, syscall};
use crate::{config, files, guard, paths, process};

const LONGEST: usize = PATH_MAX as usize;

/// The descriptor of this process that a path under /proc names, as its last component.
fn descriptor(text: &[u8]) -> Option<c_int> {
    let text = text.strip_prefix(b"/proc/")?;
    let (owner, rest) = text.split_at(text.iter().position(|byte| *byte == b'/')?);
    let number = |digits: &[u8]| core::str::from_utf8(digits).ok()?.parse::<c_int>().ok();
    let own = matches!(owner, b"self" | b"thread-self") || number(owner) == Some(sys::pid());
    own.then(|| number(rest.strip_prefix(b"/fd/")?)).flatten()
}

unsafe fn readlink_at(dir: c_int, path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
    // SAFETY: the client's path and buffer; results are copied within the room it gave.
    unsafe {
        let place = paths::resolve(dir, path);
        let (at, name) = place
            .as_ref()
            .map_or((dir, path), |place| (AT_FDCWD, place.kernel()));
        let plain = path.is_null() || guard::inside() || config::get().is_none();
        let ours = if plain {
            None
        } else {
            descriptor(CStr::from_ptr(path).to_bytes()).and_then(files::ours)
        };
        if let Some(file) = ours {
            let link = guard::enter(move || file.link());
            return give(link.as_bytes(), to, room);
        }
        if plain {
            return ret(syscall!(sys::SYS_readlinkat, at as isize, name, to, room));
        }
        if room == 0 || room > isize::MAX as usize {
            return fail(Errno::EINVAL);
        }
        let mut buffer = [0u8; LONGEST];
        let result = sys::readlink(at, CStr::from_ptr(name), &mut buffer);
        if result < 0 {
            return ret(result);
        }
        let len = paths::reverse(&mut buffer, result as usize);
        give(&buffer[..len], to, room)
    }
}

/// Copies a link's text into the client's buffer, cut to its room as the kernel does.
unsafe fn give(text: &[u8], to: *mut c_char, room: usize) -> ssize_t {
    let bytes = text.len().min(room);
    // SAFETY: the client's buffer has `room` bytes.
    unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), bytes) };
    bytes as ssize_t
}

/// realpath with libc's own, on the kernel's path, turned back.
unsafe fn real_path(path: *const c_char, to: *mut c_char) -> *mut c_char {
    let real = real!(realpath: fn(*const c_char, *mut c_char) -> *mut c_char);
    // SAFETY: the client's path and buffer (PATH_MAX bytes by contract).
    unsafe {
        let place = paths::resolve_cwd(path);
        let result = real(place.as_ref().map_or(path, paths::Path::kernel), to);
        if !guard::inside() {
            paths::reverse_string(result);
        }
        result
    }
}

/// `getcwd` into a buffer of the client, or a new one.
unsafe fn cwd(to: *mut c_char, room: size_t) -> *mut c_char {
    let mut buffer = [0u8; LONGEST];
    // SAFETY: our own buffer.
    let result = unsafe { syscall!(sys::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    if result < 0 {
        sys::set_errno(-result as i32);
        return null_mut();
    }
    let len = paths::reverse(&mut buffer, result as usize - 1);
    buffer[len] = 0;
    if room == 0 && !to.is_null() {
        return fail_null(Errno::EINVAL);
    }
    if room != 0 && room <= len {
        return fail_null(Errno::ERANGE);
    }
    // SAFETY: `room` is more than `len`: either the client's buffer or what malloc gave.
    unsafe {
        let to = if to.is_null() {
            libc::malloc(if room == 0 { len + 1 } else { room }).cast()
        } else {
            to
        };
        if !to.is_null() {
            core::ptr::copy_nonoverlapping(buffer.as_ptr(), to.cast::<u8>(), len + 1);
        }
        to
    }
}

fn fail_null(errno: Errno) -> *mut c_char {
    fail(errno);
    null_mut()
}

fn moved(result: isize) -> c_int {
    if result == 0 && !guard::inside() && !process::is_borrowed() {
        paths::working_directory_changed();
    }
    ret_int(result)
}

unsafe fn checked(room: size_t, needed: size_t) {
    unsafe extern "C" {
        fn __chk_fail() -> !;
    }
    if room < needed {
        // SAFETY: libc's own end of a process that overflows a buffer.
        unsafe { __chk_fail() }
    }
}

export! {
    fn readlink(path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        readlink_at(AT_FDCWD, path, to, room)
    }
    fn readlinkat(dir: c_int, path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        readlink_at(dir, path, to, room)
    }
    fn __readlink_chk(path: *const c_char, to: *mut c_char, room: size_t, buffer: size_t) -> ssize_t {
        checked(buffer, room);
        readlink_at(AT_FDCWD, path, to, room)
    }
    fn __readlinkat_chk(dir: c_int, path: *const c_char, to: *mut c_char, room: size_t, buffer: size_t) -> ssize_t {
        checked(buffer, room);
        readlink_at(dir, path, to, room)
    }
    fn realpath(path: *const c_char, to: *mut c_char) -> *mut c_char { real_path(path, to) }
    fn __realpath_chk(path: *const c_char, to: *mut c_char, buffer: size_t) -> *mut c_char {
        checked(buffer, LONGEST);
        real_path(path, to)
    }
    fn canonicalize_file_name(path: *const c_char) -> *mut c_char { real_path(path, null_mut()) }
    fn getcwd(to: *mut c_char, room: size_t) -> *mut c_char { cwd(to, room) }
    fn __getcwd_chk(to: *mut c_char, room: size_t, buffer: size_t) -> *mut c_char {
        checked(buffer, room);
        cwd(to, room)
    }
    fn get_current_dir_name() -> *mut c_char { cwd(null_mut(), 0) }
    fn chdir(path: *const c_char) -> c_int {
        let place = paths::resolve_cwd(path);
        moved(syscall!(sys::SYS_chdir, place.as_ref().map_or(path, paths::Path::kernel)))
    }
    fn fchdir(fd: c_int) -> c_int { moved(syscall!(sys::SYS_fchdir, fd as isize)) }
}
