//! unshare and setns: some namespaces are only for a process of one thread, and our own must not count.
#![allow(unsafe_code)] // C functions

use std::ffi::c_int;

use crate::remote::service::without_thread;
use crate::sys::{ret_int, syscall};

/// Whether the call minds other threads: namespaces of users and of times, and what threads share.
fn minds(flags: c_int) -> bool {
    let kinds = libc::CLONE_NEWUSER | CLONE_NEWTIME | libc::CLONE_THREAD | libc::CLONE_VM;
    flags & (kinds | libc::CLONE_SIGHAND) != 0
}

const CLONE_NEWTIME: c_int = 0x80;

export! {
    fn unshare(flags: c_int) -> c_int {
        let raw = || ret_int(syscall!(libc::SYS_unshare, flags as isize));
        if minds(flags) { without_thread(raw) } else { raw() }
    }
    fn setns(fd: c_int, kind: c_int) -> c_int {
        let raw = || ret_int(syscall!(libc::SYS_setns, fd as isize, kind as isize));
        // Without a kind the descriptor says it.
        if kind == 0 || minds(kind) || kind & libc::CLONE_NEWNS != 0 { without_thread(raw) } else { raw() }
    }
}
