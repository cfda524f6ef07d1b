//! FILE streams and glob: libc opens and closes inside.
#![allow(unsafe_code)] // C functions

use std::ffi::{CStr, c_char, c_int};

use libc::{FILE, O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::fd::{close_raw, closed_by_libc};
use super::open::{at_place, remember};
use crate::real::real;
use crate::{attributes, guard, mock, paths, stat, sys};

/// The open flags of a stream mode, as far as a device node cares.
fn flags(mode: &[u8]) -> c_int {
    let base = match mode.first() {
        Some(b'w') => O_WRONLY | O_CREAT | O_TRUNC,
        Some(b'a') => O_WRONLY | O_CREAT | O_APPEND,
        _ => O_RDONLY,
    };
    mode.iter()
        .skip(1)
        .fold(base, |flags, letter| match letter {
            b'+' => flags & !O_WRONLY | O_RDWR,
            b'e' => flags | O_CLOEXEC,
            b'x' => flags | O_EXCL,
            _ => flags,
        })
}

type Open = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut FILE;

unsafe fn open_stream(path: *const c_char, mode: *const c_char, real: Open) -> *mut FILE {
    // SAFETY: the client's strings, or our own.
    unsafe {
        if mock::is_on() && !mode.is_null() {
            let flags = flags(CStr::from_ptr(mode).to_bytes());
            if let Some(fd) = mock::open_proc(path, flags) {
                return stream_of(fd, mode);
            }
        }
        let Some(place) = paths::resolve_cwd(path) else {
            return real(path, mode);
        };
        let ours = attributes::is_place(&place) || place.in_dev() && stat::is_node(&place);
        if !ours || mode.is_null() {
            let file = real(place.kernel(), mode);
            if !file.is_null() && place.overlaid {
                remember(libc::fileno(file), &place);
            }
            return file;
        }
        let fd = at_place(&place, flags(CStr::from_ptr(mode).to_bytes()), 0o666, 0);
        stream_of(fd, mode)
    }
}

/// A stream on a descriptor; null for none.
unsafe fn stream_of(fd: c_int, mode: *const c_char) -> *mut FILE {
    if fd < 0 {
        return std::ptr::null_mut();
    }
    // SAFETY: the client's mode.
    let file = unsafe { libc::fdopen(fd, mode) };
    if file.is_null() {
        close_raw(fd);
    }
    file
}

type Reopen = unsafe extern "C" fn(*const c_char, *const c_char, *mut FILE) -> *mut FILE;

unsafe fn reopen(
    path: *const c_char,
    mode: *const c_char,
    file: *mut FILE,
    real: Reopen,
) -> *mut FILE {
    // SAFETY: the client's call; libc closes the old descriptor inside.
    unsafe {
        if path.is_null() {
            let ours = !mode.is_null() && attributes::is_open(libc::fileno(file));
            return match ours {
                true => real(path, uncut(mode).as_ptr(), file),
                false => real(path, mode, file),
            };
        }
        closed_by_libc(libc::fileno(file));
        match paths::resolve_cwd(path) {
            None => real(path, mode, file),
            Some(place) if attributes::is_place(&place) && !mode.is_null() => {
                reopen_attribute(&place, mode, file, real)
            }
            Some(place) => real(place.kernel(), mode, file),
        }
    }
}

/// libc opens the file by itself, after our own open showed that it may and how.
unsafe fn reopen_attribute(
    place: &paths::Path,
    mode: *const c_char,
    file: *mut FILE,
    real: Reopen,
) -> *mut FILE {
    // SAFETY: the client's strings and our own; without a name libc does nothing but close the stream.
    unsafe {
        let fd = at_place(place, flags(CStr::from_ptr(mode).to_bytes()), 0, 0);
        if fd < 0 {
            let errno = sys::errno();
            real(c"".as_ptr(), mode, file);
            sys::set_errno(errno);
            return std::ptr::null_mut();
        }
        let written = attributes::is_open(fd);
        close_raw(fd);
        let file = real(place.kernel(), uncut(mode).as_ptr(), file);
        if !file.is_null() {
            remember(libc::fileno(file), place);
            if written {
                attributes::mark(libc::fileno(file));
            }
        }
        file
    }
}

/// A mode that lets libc do the same without cutting the file. Longer ones than there are lose what nobody knows.
unsafe fn uncut(mode: *const c_char) -> [c_char; 32] {
    let mut copy = [0; 32];
    // SAFETY: the client's string.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    for (to, letter) in copy[..31].iter_mut().zip(mode) {
        *to = *letter as c_char;
    }
    if copy[0] == b'w' as c_char {
        copy[0] = b'a' as c_char;
    }
    copy
}

/// glibc's `glob_t`, whose alternative directory functions the `libc` crate does not name.
#[repr(C)]
pub struct Glob {
    count: usize,
    paths: *mut *mut c_char,
    offset: usize,
    flags: c_int,
    functions: [usize; 5],
}

const GLOB_ALTDIRFUNC: c_int = 1 << 9;

type GlobCall = unsafe extern "C" fn(*const c_char, c_int, usize, *mut Glob) -> c_int;

/// A pattern that may lead into the tree is matched with our own directory functions: the names that come out are the
/// client's.
unsafe fn glob_with(
    pattern: *const c_char,
    flags: c_int,
    error: usize,
    to: *mut Glob,
    real: GlobCall,
) -> c_int {
    // SAFETY: the client's call.
    unsafe {
        let plain =
            flags & GLOB_ALTDIRFUNC != 0 || pattern.is_null() || to.is_null() || guard::inside();
        if plain || paths::resolve_cwd(pattern).is_none() {
            return real(pattern, flags, error, to);
        }
        let old = if flags & libc::GLOB_APPEND != 0 {
            (*to).functions
        } else {
            [0; 5]
        };
        (*to).functions = [
            super::dir::closedir as *const () as usize,
            super::dir::readdir64 as *const () as usize,
            super::dir::opendir as *const () as usize,
            super::stat::lstat as *const () as usize,
            super::stat::stat as *const () as usize,
        ];
        let result = real(pattern, flags | GLOB_ALTDIRFUNC, error, to);
        (*to).functions = old;
        (*to).flags &= !GLOB_ALTDIRFUNC;
        result
    }
}

export! {
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
        open_stream(path, mode, real!(fopen: fn(*const c_char, *const c_char) -> *mut FILE))
    }
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE {
        open_stream(path, mode, real!(fopen64: fn(*const c_char, *const c_char) -> *mut FILE))
    }
    fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        reopen(path, mode, file, real!(freopen: fn(*const c_char, *const c_char, *mut FILE) -> *mut FILE))
    }
    fn freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        reopen(path, mode, file, real!(freopen64: fn(*const c_char, *const c_char, *mut FILE) -> *mut FILE))
    }
    fn fclose(file: *mut FILE) -> c_int {
        if !file.is_null() {
            closed_by_libc(libc::fileno(file));
        }
        real!(fclose: fn(*mut FILE) -> c_int)(file)
    }
    fn glob(pattern: *const c_char, flags: c_int, error: usize, to: *mut Glob) -> c_int {
        glob_with(pattern, flags, error, to, real!(glob: fn(*const c_char, c_int, usize, *mut Glob) -> c_int))
    }
    fn glob64(pattern: *const c_char, flags: c_int, error: usize, to: *mut Glob) -> c_int {
        glob_with(pattern, flags, error, to, real!(glob64: fn(*const c_char, c_int, usize, *mut Glob) -> c_int))
    }
}
