//! Directory streams.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_char, c_int};

use libc::{DIR, DT_CHR, DT_REG, dirent};

use super::fd::closed_by_libc;
use super::open::remember;
use crate::files::{self, Mark};
use crate::paths;
use crate::real::real;

/// The tree's plain files under /dev are nodes to the client.
#[inline]
unsafe fn as_client(entry: *mut dirent, nodes: bool) -> *mut dirent {
    // SAFETY: an entry that libc just returned.
    unsafe {
        if nodes && !entry.is_null() && (*entry).d_type == DT_REG {
            (*entry).d_type = DT_CHR;
        }
    }
    entry
}

#[inline]
unsafe fn nodes(dir: *mut DIR) -> bool {
    // SAFETY: the client's directory stream.
    files::marked(unsafe { libc::dirfd(dir) }, Mark::Nodes)
}

type Select = usize;

unsafe fn scan(
    place: Option<&paths::Path>,
    names: *mut *mut *mut dirent,
    work: impl FnOnce(Option<*const c_char>) -> c_int,
) -> c_int {
    let count = work(place.map(paths::Path::kernel));
    if place.is_some_and(paths::Path::in_dev) {
        for index in 0..count.max(0) as usize {
            // SAFETY: libc wrote `count` entries.
            unsafe { as_client(*(*names).add(index), true) };
        }
    }
    count
}

export! {
    fn opendir(path: *const c_char) -> *mut DIR {
        let real = real!(opendir: fn(*const c_char) -> *mut DIR);
        let Some(place) = paths::resolve_cwd(path) else { return real(path) };
        let dir = real(place.kernel());
        if !dir.is_null() {
            remember(libc::dirfd(dir), &place);
        }
        dir
    }
    fn readdir(dir: *mut DIR) -> *mut dirent {
        as_client(real!(readdir: fn(*mut DIR) -> *mut dirent)(dir), nodes(dir))
    }
    fn readdir64(dir: *mut DIR) -> *mut dirent {
        as_client(real!(readdir64: fn(*mut DIR) -> *mut dirent)(dir), nodes(dir))
    }
    fn readdir_r(dir: *mut DIR, entry: *mut dirent, result: *mut *mut dirent) -> c_int {
        let answer = real!(readdir_r: fn(*mut DIR, *mut dirent, *mut *mut dirent) -> c_int)(dir, entry, result);
        if answer == 0 {
            as_client(*result, nodes(dir));
        }
        answer
    }
    fn readdir64_r(dir: *mut DIR, entry: *mut dirent, result: *mut *mut dirent) -> c_int {
        let answer = real!(readdir64_r: fn(*mut DIR, *mut dirent, *mut *mut dirent) -> c_int)(dir, entry, result);
        if answer == 0 {
            as_client(*result, nodes(dir));
        }
        answer
    }
    fn closedir(dir: *mut DIR) -> c_int {
        if !dir.is_null() {
            closed_by_libc(libc::dirfd(dir));
        }
        real!(closedir: fn(*mut DIR) -> c_int)(dir)
    }
    fn scandir(path: *const c_char, names: *mut *mut *mut dirent, select: Select, order: Select) -> c_int {
        let real = real!(scandir: fn(*const c_char, *mut *mut *mut dirent, Select, Select) -> c_int);
        let place = paths::resolve_cwd(path);
        scan(place.as_ref(), names, |kernel| real(kernel.unwrap_or(path), names, select, order))
    }
    fn scandir64(path: *const c_char, names: *mut *mut *mut dirent, select: Select, order: Select) -> c_int {
        let real = real!(scandir64: fn(*const c_char, *mut *mut *mut dirent, Select, Select) -> c_int);
        let place = paths::resolve_cwd(path);
        scan(place.as_ref(), names, |kernel| real(kernel.unwrap_or(path), names, select, order))
    }
    fn scandirat(
        dir: c_int, path: *const c_char, names: *mut *mut *mut dirent, select: Select, order: Select
    ) -> c_int {
        let real = real!(scandirat: fn(c_int, *const c_char, *mut *mut *mut dirent, Select, Select) -> c_int);
        let place = paths::resolve(dir, path);
        scan(place.as_ref(), names, |kernel| real(dir, kernel.unwrap_or(path), names, select, order))
    }
}
