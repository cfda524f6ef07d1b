//! Extended attributes, asked of the file that the path really is.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_char, c_int, c_void};

use libc::{size_t, ssize_t};

use crate::paths;
use crate::sys::{ret, ret_int, syscall};

/// The kernel's path for a path of the client.
macro_rules! with_path {
    ($path:ident, $number:ident $(, $arg:expr)*) => {{
        let place = paths::resolve_cwd($path);
        syscall!(libc::$number, place.as_ref().map_or($path, paths::Path::kernel) $(, $arg)*)
    }};
}

export! {
    fn getxattr(path: *const c_char, name: *const c_char, to: *mut c_void, room: size_t) -> ssize_t {
        ret(with_path!(path, SYS_getxattr, name, to, room))
    }
    fn lgetxattr(path: *const c_char, name: *const c_char, to: *mut c_void, room: size_t) -> ssize_t {
        ret(with_path!(path, SYS_lgetxattr, name, to, room))
    }
    fn listxattr(path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        ret(with_path!(path, SYS_listxattr, to, room))
    }
    fn llistxattr(path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        ret(with_path!(path, SYS_llistxattr, to, room))
    }
    fn statfs(path: *const c_char, to: *mut libc::statfs) -> c_int { ret_int(with_path!(path, SYS_statfs, to)) }
    fn statfs64(path: *const c_char, to: *mut libc::statfs) -> c_int { ret_int(with_path!(path, SYS_statfs, to)) }
}
