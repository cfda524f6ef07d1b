//! read, write and their positioned, vectored and fortified variants.
#![allow(unsafe_code)] // C functions

use std::ffi::c_int;
use std::sync::Arc;

use libc::{iovec, off_t, size_t, ssize_t};
use swiommu_abi::Errno;
use swiommu_engine::door::File;
use swiommu_mem::UserAddr;

use crate::sys::{self, fail, ret, syscall};
use crate::{attributes, audit, engine, files, guard};

/// The most one call moves, as in the kernel.
const MOST: usize = 0x7fff_f000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

/// Positioned transfer with one of our files.
fn at(
    file: Arc<dyn File>,
    way: Way,
    address: usize,
    bytes: usize,
    offset: off_t,
    site: usize,
) -> isize {
    if file.is_stream() {
        guard::enter(|| drop(file));
        return fail(Errno::ESPIPE);
    }
    let Ok(offset) = u64::try_from(offset) else {
        guard::enter(|| drop(file));
        return fail(Errno::EINVAL);
    };
    transfer(file, way, address, bytes, offset, site)
}

/// One call of the engine.
fn transfer(
    file: Arc<dyn File>,
    way: Way,
    address: usize,
    bytes: usize,
    offset: u64,
    site: usize,
) -> isize {
    let (address, bytes) = (UserAddr(address as u64), bytes.min(MOST) as u64);
    let result = engine::call(site, move |call| match way {
        Way::Read => file.pread(call, address, bytes, offset),
        Way::Write => file.pwrite(call, address, bytes, offset),
    });
    result.map_or_else(fail, |done| done as isize)
}

/// Transfer at the descriptor's position, which the object keeps.
fn here(
    fd: c_int,
    file: Arc<dyn File>,
    way: Way,
    address: usize,
    bytes: usize,
    site: usize,
) -> isize {
    if file.is_stream() {
        return transfer(file, way, address, bytes, 0, site);
    }
    // SAFETY: no addresses.
    let position = unsafe { syscall!(sys::SYS_lseek, fd as isize, 0, libc::SEEK_CUR) };
    let done = at(file, way, address, bytes, position as off_t, site);
    if done > 0 {
        // SAFETY: no addresses.
        unsafe { syscall!(sys::SYS_lseek, fd as isize, position + done, libc::SEEK_SET) };
    }
    done
}

/// Several buffers one after the other, up to the first short one. `offset`: `None` for the descriptor's position.
///
/// # Safety
/// `vectors` points to `count` vectors.
unsafe fn vectored(
    fd: c_int,
    file: Arc<dyn File>,
    way: Way,
    vectors: *const iovec,
    count: c_int,
    mut offset: Option<off_t>,
) -> isize {
    if !(0..=libc::UIO_MAXIOV).contains(&count) {
        guard::enter(|| drop(file));
        return fail(Errno::EINVAL);
    }
    let mut total = 0;
    for index in 0..count as usize {
        // SAFETY: within the caller's vectors.
        let vector = unsafe { vectors.add(index).read() };
        let again = Arc::clone(&file);
        let (address, bytes) = (vector.iov_base as usize, vector.iov_len);
        let done = match offset {
            Some(offset) => at(again, way, address, bytes, offset, 0),
            None => here(fd, again, way, address, bytes, 0),
        };
        if done < 0 {
            total = if total == 0 { done } else { total };
            break;
        }
        total += done;
        offset = offset.map(|offset| offset + done as off_t);
        if (done as usize) < bytes {
            break;
        }
    }
    guard::enter(|| drop(file));
    total
}

pub(super) extern "C" fn read_sited(fd: c_int, to: usize, bytes: size_t, site: usize) -> ssize_t {
    match files::ours(fd) {
        // SAFETY: the client's call.
        None => ret(unsafe { syscall!(sys::SYS_read, fd as isize, to, bytes) }),
        Some(file) => here(fd, file, Way::Read, to, bytes, site),
    }
}

pub(super) extern "C" fn write_sited(
    fd: c_int,
    from: usize,
    bytes: size_t,
    site: usize,
) -> ssize_t {
    match files::ours(fd) {
        // SAFETY: the client's call.
        None if attributes::is_open(fd) => unsafe { attributes::write(fd, &[(from, bytes)]) },
        // SAFETY: the client's call.
        None => ret(unsafe { syscall!(sys::SYS_write, fd as isize, from, bytes) }),
        Some(file) => here(fd, file, Way::Write, from, bytes, site),
    }
}

pub(super) extern "C" fn pread_sited(
    fd: c_int,
    to: usize,
    bytes: size_t,
    offset: off_t,
    site: usize,
) -> ssize_t {
    match files::ours(fd) {
        // SAFETY: the client's call.
        None => ret(unsafe { syscall!(sys::SYS_pread64, fd as isize, to, bytes, offset) }),
        Some(file) => at(file, Way::Read, to, bytes, offset, site),
    }
}

pub(super) extern "C" fn pwrite_sited(
    fd: c_int,
    from: usize,
    bytes: size_t,
    offset: off_t,
    site: usize,
) -> ssize_t {
    match files::ours(fd) {
        // SAFETY: the client's call.
        None if attributes::is_open(fd) => unsafe { attributes::write(fd, &[(from, bytes)]) },
        // SAFETY: the client's call.
        None => ret(unsafe { syscall!(sys::SYS_pwrite64, fd as isize, from, bytes, offset) }),
        Some(file) => at(file, Way::Write, from, bytes, offset, site),
    }
}

/// Several buffers to an attribute are one value.
///
/// # Safety
/// `vectors` points to `count` vectors.
unsafe fn write_attribute(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    const SEVERAL: usize = 16;
    let mut list = [(0, 0); SEVERAL];
    let count = usize::try_from(count).unwrap_or(0).min(SEVERAL);
    for (index, item) in list[..count].iter_mut().enumerate() {
        // SAFETY: within the caller's vectors.
        let vector = unsafe { vectors.add(index).read() };
        *item = (vector.iov_base as usize, vector.iov_len);
    }
    // SAFETY: addresses of the client.
    unsafe { attributes::write(fd, &list[..count]) }
}

extern "C" fn write_inside(fd: c_int, from: usize, bytes: size_t) -> ssize_t {
    audit::pass(|| write_sited(fd, from, bytes, 0))
}

/// libc's own `write`, by which streams give their buffers away.
pub(super) fn inside() -> (&'static std::ffi::CStr, *const ()) {
    (c"write", write_inside as *const ())
}

sited! {
    fn read, "rcx" => read_sited;
    fn write, "rcx" => write_sited;
    fn pread, "r8" => pread_sited;
    fn pread64, "r8" => pread_sited;
    fn pwrite, "r8" => pwrite_sited;
    fn pwrite64, "r8" => pwrite_sited;
}

/// A fortified read: more bytes than the buffer has is the client's overflow, reported by libc.
fn fortify(bytes: size_t, room: size_t) {
    unsafe extern "C" {
        fn __chk_fail() -> !;
    }
    if bytes > room {
        // SAFETY: libc's own end of a process that overflows a buffer.
        unsafe { __chk_fail() }
    }
}

unsafe fn vectored_at(
    fd: c_int,
    way: Way,
    vectors: *const iovec,
    count: c_int,
    offset: off_t,
    flags: Option<c_int>,
) -> ssize_t {
    let number = match (way, flags) {
        (Way::Read, None) => sys::SYS_preadv,
        (Way::Write, None) => sys::SYS_pwritev,
        (Way::Read, Some(_)) => sys::SYS_preadv2,
        (Way::Write, Some(_)) => sys::SYS_pwritev2,
    };
    // The second version means the descriptor's position by -1.
    let here = flags.is_some() && offset == -1;
    // SAFETY: the client's call.
    unsafe {
        match files::ours(fd) {
            None if way == Way::Write && attributes::is_open(fd) => {
                write_attribute(fd, vectors, count)
            }
            None => ret(syscall!(
                number,
                fd as isize,
                vectors,
                count as isize,
                offset,
                0,
                flags.unwrap_or(0) as isize
            )),
            Some(file) => vectored(fd, file, way, vectors, count, (!here).then_some(offset)),
        }
    }
}

export! {
    fn __read_chk(fd: c_int, to: usize, bytes: size_t, room: size_t) -> ssize_t {
        fortify(bytes, room);
        read_sited(fd, to, bytes, 0)
    }
    fn __pread_chk(fd: c_int, to: usize, bytes: size_t, offset: off_t, room: size_t) -> ssize_t {
        fortify(bytes, room);
        pread_sited(fd, to, bytes, offset, 0)
    }
    fn __pread64_chk(fd: c_int, to: usize, bytes: size_t, offset: off_t, room: size_t) -> ssize_t {
        fortify(bytes, room);
        pread_sited(fd, to, bytes, offset, 0)
    }
    fn readv(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
        match files::ours(fd) {
            None => ret(syscall!(sys::SYS_readv, fd as isize, vectors, count as isize)),
            Some(file) => vectored(fd, file, Way::Read, vectors, count, None),
        }
    }
    fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
        match files::ours(fd) {
            None if attributes::is_open(fd) => write_attribute(fd, vectors, count),
            None => ret(syscall!(sys::SYS_writev, fd as isize, vectors, count as isize)),
            Some(file) => vectored(fd, file, Way::Write, vectors, count, None),
        }
    }
    fn preadv(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        vectored_at(fd, Way::Read, vectors, count, offset, None)
    }
    fn preadv64(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        vectored_at(fd, Way::Read, vectors, count, offset, None)
    }
    fn pwritev(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        vectored_at(fd, Way::Write, vectors, count, offset, None)
    }
    fn pwritev64(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        vectored_at(fd, Way::Write, vectors, count, offset, None)
    }
    fn preadv2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        vectored_at(fd, Way::Read, vectors, count, offset, Some(flags))
    }
    fn preadv64v2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        vectored_at(fd, Way::Read, vectors, count, offset, Some(flags))
    }
    fn pwritev2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        vectored_at(fd, Way::Write, vectors, count, offset, Some(flags))
    }
    fn pwritev64v2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        vectored_at(fd, Way::Write, vectors, count, offset, Some(flags))
    }
    fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t {
        match files::ours(fd) {
            None => ret(syscall!(sys::SYS_lseek, fd as isize, offset, whence as isize)) as off_t,
            Some(file) => {
                guard::enter(|| drop(file));
                fail(Errno::ESPIPE) as off_t
            }
        }
    }
    fn lseek64(fd: c_int, offset: off_t, whence: c_int) -> off_t { lseek(fd, offset, whence) }
}
