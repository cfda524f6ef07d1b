//! Attributes: files of the tree below /sys that a program writes, and the host's side of the machine acts.
//!
//! The file itself never receives a byte: a write goes to `hostdrv` in this process, and its errno is the write's. A
//! descriptor is marked when it is opened, and the standard ones of a program that was started with them redirected.
//! Writes that streams make inside libc are caught at libc's own `write`; static programs and raw system calls are
//! out of reach.
#![allow(unsafe_code)] // the client's memory through the kernel's structs

use std::ffi::c_int;
use std::path::Path as FsPath;

use libc::{AT_FDCWD, O_ACCMODE, O_CREAT, O_EXCL, O_RDONLY, O_TRUNC, O_WRONLY, S_IFMT, S_IFREG};
use swiommu_abi::Errno;
use swiommu_engine::hostdrv;
use swiommu_engine::machine::tree::DEBUGFS;
use swiommu_mem::UserAddr;

use crate::files::{self, Mark};
use crate::paths::{self, Path};
use crate::sys::{self, fail, syscall};
use crate::{audit, config, engine, guard, process};

/// What one write carries at most, as in sysfs.
const PAGE: usize = 4096;

/// Whether a path of the tree lies where attributes are. What debugfs holds is kept as it is written.
pub fn is_place(place: &Path) -> bool {
    place.overlaid
        && place.client().starts_with(b"/sys/")
        && !place.client().starts_with(DEBUGFS.as_bytes())
}

/// Opens a file or directory of sysfs: nothing is created or cut there, and a file's mode binds root too.
pub fn open(place: &Path, flags: c_int) -> isize {
    let plain = flags & !(O_CREAT | O_EXCL | O_TRUNC);
    // SAFETY: our own string.
    let fd = unsafe { sys::openat(AT_FDCWD, place.kernel(), plain, 0) };
    if fd < 0 {
        let absent = fd == -(libc::ENOENT as isize) && flags & O_CREAT != 0;
        return match absent && has_directory(place) {
            true => -(libc::EACCES as isize),
            false => fd,
        };
    }
    // a number that the kernel just made is nobody's from before
    files::remove(fd as c_int);
    if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
        sys::close(fd as c_int);
        return -(libc::EEXIST as isize);
    }
    let writes = flags & O_ACCMODE != O_RDONLY;
    let Some(mode) = mode(fd as c_int).filter(|mode| mode & S_IFMT == S_IFREG) else {
        return fd;
    };
    let reads = flags & O_ACCMODE != O_WRONLY;
    if flags & libc::O_PATH == 0 && (writes && mode & 0o222 == 0 || reads && mode & 0o444 == 0) {
        sys::close(fd as c_int);
        return -(libc::EACCES as isize);
    }
    if writes {
        mark(fd as c_int);
    }
    fd
}

/// Marks a descriptor: what is written to it is written to an attribute.
pub fn mark(fd: c_int) {
    if !process::is_borrowed() {
        files::mark(fd, Mark::Attribute);
    }
}

fn has_directory(place: &Path) -> bool {
    let path = FsPath::new(place.text());
    let Some((config, parent)) = config::get().zip(path.parent()) else {
        return false;
    };
    let root = String::from_utf8_lossy(&config.root);
    FsPath::new(&*root)
        .join(parent.strip_prefix("/").unwrap_or(parent))
        .is_dir()
}

fn mode(fd: c_int) -> Option<u32> {
    // SAFETY: a struct of integers, which the kernel fills in.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (syscall!(sys::SYS_fstat, fd as isize, &raw mut stat) == 0).then_some(stat.st_mode)
    }
}

/// Looks at the descriptors that a shell redirects: the program before us may have opened an attribute.
pub fn inherited() {
    for fd in 0..3 {
        // SAFETY: no addresses.
        let flags = unsafe { syscall!(sys::SYS_fcntl, fd, libc::F_GETFL) };
        if flags >= 0
            && flags as c_int & O_ACCMODE != O_RDONLY
            && client_path(fd as c_int, |path| path.starts_with("/sys/")) == Some(true)
        {
            files::mark(fd as c_int, Mark::Attribute);
        }
    }
}

/// Runs `work` on the path a descriptor leads to, as the client sees it. `None`: not into the tree.
fn client_path<T>(fd: c_int, work: impl FnOnce(&str) -> T) -> Option<T> {
    let config = config::get()?;
    let mut name = [0; 32];
    let mut buffer = [0; libc::PATH_MAX as usize];
    let bytes = sys::readlink(AT_FDCWD, paths::fd_link(fd, &mut name), &mut buffer);
    let path = buffer.get(..usize::try_from(bytes).ok()?)?;
    // a file that was replaced is still the attribute; one whose device is gone is not there under this name either
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let path = paths::strip(path, &config.root)?;
    core::str::from_utf8(path).ok().map(work)
}

/// Whether a write to this descriptor is a write to an attribute.
#[inline]
pub fn is_open(fd: c_int) -> bool {
    files::marked(fd, Mark::Attribute) && !guard::inside()
}

/// A write of these buffers to an attribute, as one value.
///
/// # Safety
/// The vectors' addresses may be anything.
#[cold]
pub unsafe fn write(fd: c_int, vectors: &[(usize, usize)]) -> isize {
    let mut value = [0u8; PAGE];
    let mut len = 0;
    for &(from, bytes) in vectors {
        let bytes = bytes.min(PAGE - len);
        let to = &mut value[len..len + bytes];
        if engine::client().read(UserAddr(from as u64), to).is_err() {
            return fail(Errno::EFAULT);
        }
        len += bytes;
    }
    if len == 0 {
        return 0;
    }
    let stored = client_path(fd, |path| {
        let run = config::get().map_or("", |config| &config.run);
        audit::pass(|| guard::enter(|| hostdrv::store(FsPath::new(run), path, &value[..len])))
    });
    match stored {
        Some(Ok(())) => len as isize,
        Some(Err(errno)) => fail(errno),
        // the number was closed by other means and leads elsewhere now
        // SAFETY: the caller's vectors.
        None => sys::ret(unsafe { plain(fd, vectors) }),
    }
}

/// # Safety
/// As [`write`].
unsafe fn plain(fd: c_int, vectors: &[(usize, usize)]) -> isize {
    let vectors: Vec<libc::iovec> = guard::enter(|| {
        let vector = |&(base, bytes): &(usize, usize)| libc::iovec {
            iov_base: base as *mut _,
            iov_len: bytes,
        };
        vectors.iter().map(vector).collect()
    });
    // SAFETY: the kernel checks the client's addresses; the vectors are ours.
    unsafe {
        syscall!(
            sys::SYS_writev,
            fd as isize,
            vectors.as_ptr(),
            vectors.len()
        )
    }
}
