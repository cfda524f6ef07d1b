//! `syscall`: calls by number that we also define by name go the same way.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_char, c_int, c_long};

use super::{alone, fd, io, ioctl, map, open, socket, stat};
use crate::sys::{ret, syscall};

export! {
    fn syscall(
        number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize
    ) -> c_long {
        let (path, second) = (a as *const c_char, b as *const c_char);
        match number {
            libc::SYS_open => open::open_at(libc::AT_FDCWD, path, b as c_int, c as u32, 0) as c_long,
            libc::SYS_openat => open::open_at(a as c_int, second, c as c_int, d as u32, 0) as c_long,
            libc::SYS_ioctl => ioctl::ioctl_sited(a as c_int, b as _, c, 0) as c_long,
            libc::SYS_close => fd::close_raw(a as c_int) as c_long,
            libc::SYS_close_range => fd::close_range(a as u32, b as u32, c as c_int) as c_long,
            libc::SYS_exit_group => super::exit::_exit(a as c_int),
            libc::SYS_dup => fd::dup(a as c_int) as c_long,
            libc::SYS_dup2 => fd::dup2(a as c_int, b as c_int) as c_long,
            libc::SYS_dup3 => fd::dup3(a as c_int, b as c_int, c as c_int) as c_long,
            libc::SYS_fcntl => fd::fcntl(a as c_int, b as c_int, c) as c_long,
            libc::SYS_read => io::read_sited(a as c_int, b, c, 0) as c_long,
            libc::SYS_write => io::write_sited(a as c_int, b, c, 0) as c_long,
            libc::SYS_pread64 => io::pread_sited(a as c_int, b, c, d as i64, 0) as c_long,
            libc::SYS_pwrite64 => io::pwrite_sited(a as c_int, b, c, d as i64, 0) as c_long,
            libc::SYS_mmap => map::mmap_sited(a, b, c as c_int, d as c_int, e as c_int, f as u64, 0) as c_long,
            libc::SYS_munmap => map::munmap_sited(a, b, 0) as c_long,
            libc::SYS_madvise => map::madvise_sited(a, b, c as c_int, 0) as c_long,
            libc::SYS_mremap => map::mremap_sited(a, b, c, d as c_int, e, 0) as c_long,
            libc::SYS_mprotect => map::mprotect(a, b, c as c_int) as c_long,
            libc::SYS_sendmsg => socket::sendmsg(a as c_int, b as *const _, c as c_int) as c_long,
            libc::SYS_recvmsg => socket::recvmsg(a as c_int, b as *mut _, c as c_int) as c_long,
            libc::SYS_unshare => alone::unshare(a as c_int) as c_long,
            libc::SYS_setns => alone::setns(a as c_int, b as c_int) as c_long,
            libc::SYS_stat => stat::stat(path, b as *mut _) as c_long,
            libc::SYS_lstat => stat::lstat(path, b as *mut _) as c_long,
            libc::SYS_fstat => stat::fstat(a as c_int, b as *mut _) as c_long,
            libc::SYS_newfstatat => stat::fstatat(a as c_int, second, c as *mut _, d as c_int) as c_long,
            libc::SYS_statx => stat::statx(a as c_int, second, c as c_int, d as u32, e as *mut _) as c_long,
            libc::SYS_fork | libc::SYS_clone => {
                crate::remote::offer();
                ret(syscall!(number, a, b, c, d, e, f)) as c_long
            }
            _ => ret(syscall!(number, a, b, c, d, e, f)) as c_long,
        }
    }
}
