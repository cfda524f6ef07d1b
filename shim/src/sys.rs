//! System calls without libc, and the errno convention around them.
//!
//! Every wrapper of this library that does not need libc's own state calls the kernel here, so nothing of ours can
//! come back in through an interposed symbol. A result is the kernel's: `-4095..=-1` is a negated errno.
#![allow(unsafe_code)] // the system call instruction and libc's errno

use core::arch::asm;
use std::ffi::{c_char, c_int, c_long};

use swiommu_abi::Errno;

pub use libc::{
    SYS_chdir, SYS_close, SYS_close_range, SYS_dup, SYS_dup2, SYS_dup3, SYS_execve, SYS_execveat,
    SYS_faccessat, SYS_faccessat2, SYS_fchdir, SYS_fcntl, SYS_fstat, SYS_getcwd, SYS_getpid,
    SYS_gettid, SYS_ioctl, SYS_lseek, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
    SYS_newfstatat, SYS_openat, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64, SYS_pwritev,
    SYS_pwritev2, SYS_read, SYS_readlinkat, SYS_readv, SYS_statx, SYS_write, SYS_writev,
};

/// One system call. Unused arguments are 0.
///
/// # Safety
/// As for the system call itself: addresses given to it are the caller's responsibility.
#[inline]
pub unsafe fn call6(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let result: isize;
    // SAFETY: the kernel preserves everything but rax, rcx and r11; what the call does to memory is the caller's word.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// `syscall!(number, arguments...)`: a raw system call whose arguments are cast to `usize`.
macro_rules! syscall {
    (@pad $n:expr; $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr $(, 0)*) => {
        $crate::sys::call6($n, $a as usize, $b as usize, $c as usize, $d as usize, $e as usize, $f as usize)
    };
    ($n:expr $(, $arg:expr)* $(,)?) => { $crate::sys::syscall!(@fill $n; [$($arg),*]) };
    (@fill $n:expr; []) => { $crate::sys::syscall!(@pad $n; 0, 0, 0, 0, 0, 0) };
    (@fill $n:expr; [$a:expr]) => { $crate::sys::syscall!(@pad $n; $a, 0, 0, 0, 0, 0) };
    (@fill $n:expr; [$a:expr, $b:expr]) => { $crate::sys::syscall!(@pad $n; $a, $b, 0, 0, 0, 0) };
    (@fill $n:expr; [$a:expr, $b:expr, $c:expr]) => { $crate::sys::syscall!(@pad $n; $a, $b, $c, 0, 0, 0) };
    (@fill $n:expr; [$a:expr, $b:expr, $c:expr, $d:expr]) => { $crate::sys::syscall!(@pad $n; $a, $b, $c, $d, 0, 0) };
    (@fill $n:expr; [$a:expr, $b:expr, $c:expr, $d:expr, $e:expr]) => { $crate::sys::syscall!(@pad $n; $a, $b, $c, $d, $e, 0) };
    (@fill $n:expr; [$a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr]) => {
        syscall!(@pad $n; $a, $b, $c, $d, $e, $f)
    };
}
pub(crate) use syscall;

/// Sets the calling thread's `errno`.
#[inline]
pub fn set_errno(number: i32) {
    // SAFETY: libc's pointer to this thread's errno is always valid.
    unsafe { *libc::__errno_location() = number }
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

/// A kernel result as libc returns it: -1 and `errno` on failure.
#[inline]
pub fn ret(result: isize) -> isize {
    if (-4095..0).contains(&result) {
        set_errno(-result as i32);
        return -1;
    }
    result
}

/// The same for functions that return `int`.
#[inline]
pub fn ret_int(result: isize) -> c_int {
    ret(result) as c_int
}

/// -1 with this errno.
#[cold]
pub fn fail(errno: Errno) -> isize {
    set_errno(errno.raw());
    -1
}

/// Closes a descriptor with the kernel alone.
pub fn close(fd: c_int) -> isize {
    // SAFETY: close takes no addresses.
    unsafe { syscall!(SYS_close, fd as isize) }
}

/// This process's id, from the kernel (right in a vfork child too).
pub fn pid() -> i32 {
    // SAFETY: no arguments.
    unsafe { syscall!(SYS_getpid) as i32 }
}

/// `openat` of a NUL-terminated path.
///
/// # Safety
/// `path` may be any address: the kernel checks it.
pub unsafe fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: u32) -> isize {
    // SAFETY: the kernel checks the path's address.
    unsafe { syscall!(SYS_openat, dir as isize, path, flags, mode) }
}

/// `readlinkat` into a buffer of ours. Negative: an errno.
pub fn readlink(dir: c_int, path: &std::ffi::CStr, to: &mut [u8]) -> isize {
    // SAFETY: the buffer is ours and its length is given.
    unsafe {
        syscall!(
            SYS_readlinkat,
            dir as isize,
            path.as_ptr(),
            to.as_mut_ptr(),
            to.len()
        )
    }
}

/// Writes the parts to stderr in one system call, so that lines of several threads do not mix.
pub fn stderr(parts: &[&str]) {
    let mut vectors = [libc::iovec {
        iov_base: core::ptr::null_mut(),
        iov_len: 0,
    }; 12];
    let count = parts.len().min(vectors.len());
    for (vector, part) in vectors.iter_mut().zip(parts) {
        vector.iov_base = part.as_ptr() as *mut _;
        vector.iov_len = part.len();
    }
    // SAFETY: the vectors point to live strings, which writev only reads.
    unsafe {
        syscall!(SYS_writev, 2, vectors.as_ptr(), count);
    }
}
