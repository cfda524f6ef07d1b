//! The client's paths and the run's tree: which paths lead into it, and back.
//!
//! A path is judged by its text: `.` and doubled slashes vanish, and `..` before the overlay's directory is resolved
//! lexically; what follows an overlaid sysfs directory is left to the kernel, because symbolic links lie there, and so is
//! where `..` leaves it. A path
//! that cannot be ours is recognised by its first bytes, without allocation or system call.
#![allow(unsafe_code)] // C strings

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use swiommu_engine::machine::tree::{LISTED, OVERLAY, is_overlaid};

use crate::config::{self, Config};
use crate::files::{self, Mark};
use crate::{guard, mock, sys};

const CAPACITY: usize = 2 * libc::PATH_MAX as usize;

/// Whether relative paths may lead into the tree: the working directory is in it, or above an overlaid directory.
static NEAR: AtomicBool = AtomicBool::new(false);

/// A path that had to be looked at: where it leads.
pub struct Path {
    bytes: MaybeUninit<[u8; CAPACITY]>,
    root: usize,
    len: usize,
    /// It leads into the run's tree.
    pub overlaid: bool,
}

impl Path {
    fn new(root: &[u8]) -> Path {
        let mut path = Path {
            bytes: MaybeUninit::uninit(),
            root: 0,
            len: 0,
            overlaid: false,
        };
        path.push(root);
        path.root = path.len;
        path
    }

    fn push(&mut self, text: &[u8]) -> bool {
        if self.len + text.len() + 2 > CAPACITY {
            return false;
        }
        // SAFETY: the bytes fit, as just checked, and `text` is not part of this path.
        unsafe {
            let to = self.bytes.as_mut_ptr().cast::<u8>().add(self.len);
            core::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
        }
        self.len += text.len();
        true
    }

    fn all(&self) -> &[u8] {
        // SAFETY: the first `len` bytes were written.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    /// The absolute path as the client means it.
    pub fn client(&self) -> &[u8] {
        &self.all()[self.root..]
    }

    /// The same as text, empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        core::str::from_utf8(self.client()).unwrap_or("")
    }

    /// The path for the kernel, NUL-terminated.
    pub fn kernel(&self) -> *const c_char {
        let start = if self.overlaid { 0 } else { self.root };
        // SAFETY: `finish` wrote the NUL at `len`; start <= len.
        unsafe { self.bytes.as_ptr().cast::<c_char>().add(start) }
    }

    /// Before `..` at the top of an overlaid part of /sys: links may have led elsewhere, so the path becomes that of the
    /// directory where it really lies. `false` where there is none in the tree.
    fn settle(&mut self) -> bool {
        if !self.client().starts_with(b"/sys/") {
            return false;
        }
        let mut real = [0; libc::PATH_MAX as usize];
        // SAFETY: `push` always leaves room for two bytes more, so the path is a C string.
        let fd = unsafe {
            self.bytes.as_mut_ptr().cast::<u8>().add(self.len).write(0);
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
            sys::openat(libc::AT_FDCWD, self.bytes.as_ptr().cast(), flags, 0)
        };
        if fd < 0 {
            return false;
        }
        let root = &self.all()[..self.root];
        let real = directory(fd as c_int, &mut real).and_then(|real| strip(real, root));
        sys::close(fd as c_int);
        let Some(real) = real else { return false };
        self.len = self.root;
        self.push(real)
    }

    fn pop(&mut self) {
        let cut = self
            .client()
            .iter()
            .rposition(|byte| *byte == b'/')
            .unwrap_or(0);
        self.len = self.root + cut;
    }

    /// Appends the components of `text`. `depth`: how far below an overlaid directory we are, once in one.
    fn walk(&mut self, text: &[u8], below: &mut Option<(usize, usize)>) -> bool {
        for part in text.split(|byte| *byte == b'/') {
            match (part, *below) {
                (b"" | b".", _) => {}
                (b"..", Some((at, depth))) if depth > 0 => {
                    if self.client().starts_with(b"/dev/") {
                        self.pop();
                    } else if !self.push(b"/..") {
                        return false;
                    }
                    *below = Some((at, depth - 1));
                }
                (b"..", Some(_)) if self.settle() => {
                    self.pop();
                    let (mut parent, bytes) = ([0; libc::PATH_MAX as usize], self.client().len());
                    parent[..bytes].copy_from_slice(self.client());
                    self.len = self.root;
                    *below = None;
                    if !self.walk(&parent[..bytes], below) {
                        return false;
                    }
                }
                (b"..", here) => {
                    self.len = here.map_or(self.len, |(at, _)| at);
                    self.pop();
                    *below = None;
                }
                (part, here) => {
                    if !(self.push(b"/") && self.push(part)) {
                        return false;
                    }
                    *below = match here {
                        Some((at, depth)) => Some((at, depth + 1)),
                        None => (is_overlaid(self.client()) || mock::is_overlaid(self.client()))
                            .then_some((self.len, 0)),
                    };
                }
            }
        }
        true
    }

    fn finish(&mut self, overlaid: bool, slash: bool) {
        self.overlaid = overlaid || self.client() == LISTED.as_bytes();
        if self.client().is_empty() || slash && !self.client().ends_with(b"/") {
            self.push(b"/");
        }
        // SAFETY: `push` always leaves room for two bytes more.
        unsafe { self.bytes.as_mut_ptr().cast::<u8>().add(self.len).write(0) }
    }

    /// Whether overlaid directories lie below this one.
    pub fn above_overlay(&self) -> bool {
        let client = self.client();
        let client = client.strip_suffix(b"/").unwrap_or(client);
        OVERLAY.iter().any(|prefix| {
            prefix.as_bytes().starts_with(client)
                && prefix.as_bytes().get(client.len()) == Some(&b'/')
        })
    }

    /// Whether it may name a device node: it lies in an overlaid part of /dev.
    pub fn in_dev(&self) -> bool {
        self.overlaid && self.client().starts_with(b"/dev/")
    }
}

/// Where a path of the client leads, if it is not plainly the kernel's alone.
///
/// # Safety
/// `path` is null or a C string.
#[inline]
pub unsafe fn resolve(dir: c_int, path: *const c_char) -> Option<Path> {
    if path.is_null() {
        return None;
    }
    // SAFETY: a C string: bytes are read up to its NUL only.
    let (first, second) = unsafe {
        let first = *path as u8;
        (first, if first == b'/' { *path.add(1) as u8 } else { 0 })
    };
    let near = match (first, second) {
        (0, _) => false,
        // SAFETY: a C string.
        (b'/', b'd' | b's' | b'/' | b'.' | 0) => true,
        // SAFETY: a C string.
        (b'/', _) => unsafe { !libc::strstr(path, c"/..".as_ptr()).is_null() },
        _ if dir == libc::AT_FDCWD => NEAR.load(Ordering::Relaxed),
        _ => files::marked(dir, Mark::Tree),
    };
    if !near || guard::inside() {
        return None;
    }
    // SAFETY: a C string.
    look(
        dir,
        unsafe { CStr::from_ptr(path) }.to_bytes(),
        config::get()?,
    )
}

/// The same with an absolute or cwd-relative path.
///
/// # Safety
/// As [`resolve`].
#[inline]
pub unsafe fn resolve_cwd(path: *const c_char) -> Option<Path> {
    // SAFETY: the caller's.
    unsafe { resolve(libc::AT_FDCWD, path) }
}

#[inline(never)]
fn look(dir: c_int, text: &[u8], config: &Config) -> Option<Path> {
    let mut path = Path::new(&config.root);
    let mut below = None;
    let absolute = text.starts_with(b"/");
    let mut base_in_tree = false;
    if !absolute {
        let mut buffer = [0; libc::PATH_MAX as usize];
        let base = directory(dir, &mut buffer)?;
        let inside = strip(base, &config.root);
        base_in_tree = inside.is_some();
        path.walk(inside.unwrap_or(base), &mut below)
            .then_some(())?;
    }
    path.walk(text, &mut below).then_some(())?;
    let slash = text.ends_with(b"/") || text.ends_with(b"/.");
    path.finish(below.is_some(), slash);
    // A path that neither leads into the tree nor out of it is the kernel's, as the client wrote it.
    (path.overlaid || base_in_tree || path.above_overlay()).then_some(path)
}

/// The absolute path of a directory descriptor or of the working directory, as the kernel names it.
fn directory(dir: c_int, buffer: &mut [u8]) -> Option<&[u8]> {
    let bytes = if dir == libc::AT_FDCWD {
        // SAFETY: the buffer and its length are ours; the length counts the NUL.
        unsafe { sys::syscall!(sys::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) - 1 }
    } else {
        let mut name = [0; 32];
        sys::readlink(libc::AT_FDCWD, fd_link(dir, &mut name), buffer)
    };
    let path = buffer.get(..usize::try_from(bytes).ok()?)?;
    path.starts_with(b"/").then_some(path)
}

/// `/proc/self/fd/N` without allocation.
pub fn fd_link(fd: c_int, buffer: &mut [u8; 32]) -> &CStr {
    const START: &[u8] = b"/proc/self/fd/";
    buffer.fill(0);
    buffer[..START.len()].copy_from_slice(START);
    let mut digits = [0u8; 10];
    let mut rest = fd.unsigned_abs();
    let mut count = 0;
    while count == 0 || rest > 0 {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    for index in 0..count {
        buffer[START.len() + index] = digits[count - 1 - index];
    }
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"/")
}

/// `path` without the tree's root, `/` for the root itself; `None` if it lies elsewhere.
pub fn strip<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    match path.strip_prefix(root)? {
        b"" => Some(b"/"),
        rest if rest.starts_with(b"/") => Some(rest),
        _ => None,
    }
}

/// Turns a path of the tree in `buffer[..len]` into the client's; returns its length.
pub fn reverse(buffer: &mut [u8], len: usize) -> usize {
    let Some(config) = config::get() else {
        return len;
    };
    let Some(bytes) = strip(&buffer[..len], &config.root).map(<[u8]>::len) else {
        return len;
    };
    if bytes == 1 && len == config.root.len() {
        buffer[0] = b'/';
        return 1;
    }
    buffer.copy_within(len - bytes..len, 0);
    bytes
}

/// The same for a C string, in place.
///
/// # Safety
/// `text` is null or a writable C string.
pub unsafe fn reverse_string(text: *mut c_char) {
    if text.is_null() || config::get().is_none() {
        return;
    }
    // SAFETY: a writable C string; the result is never longer.
    unsafe {
        let len = libc::strlen(text);
        let bytes = core::slice::from_raw_parts_mut(text.cast::<u8>(), len + 1);
        let new = reverse(bytes, len);
        bytes[new] = 0;
    }
}

/// The working directory changed, or the process began: looks where it is.
pub fn working_directory_changed() {
    let Some(config) = config::get() else { return };
    let mut buffer = [0; libc::PATH_MAX as usize];
    let near = directory(libc::AT_FDCWD, &mut buffer).is_some_and(|here| {
        let mut path = Path::new(&config.root);
        path.walk(here, &mut None) && {
            path.finish(false, false);
            strip(here, &config.root).is_some() || path.above_overlay()
        }
    });
    NEAR.store(near, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "paths/tests.rs"]
mod tests;
