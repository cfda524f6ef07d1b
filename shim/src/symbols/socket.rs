//! sendmsg and recvmsg: descriptors that go to another process, or arrive from one, may be ours.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_int, c_uint};

use libc::{mmsghdr, msghdr, ssize_t, timespec};

use swiommu_mem::UserAddr;

use crate::engine;
use crate::real::real;
use crate::remote::adopt;

/// Whoever is sent descriptors of ours can ask for them. The message is the client's, and looked at as such.
fn offer(message: *const msghdr) {
    let length = message as u64 + std::mem::offset_of!(msghdr, msg_controllen) as u64;
    if engine::client()
        .read_obj(UserAddr(length))
        .unwrap_or(0usize)
        != 0
    {
        crate::remote::offer();
    }
}

export! {
    fn sendmsg(socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        let real = real!(sendmsg: fn(c_int, *const msghdr, c_int) -> ssize_t);
        offer(message);
        real(socket, message, flags)
    }
    fn sendmmsg(socket: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        let real = real!(sendmmsg: fn(c_int, *mut mmsghdr, c_uint, c_int) -> c_int);
        for index in 0..count as usize {
            offer(messages.wrapping_add(index).cast());
        }
        real(socket, messages, count, flags)
    }
    fn recvmsg(socket: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        let real = real!(recvmsg: fn(c_int, *mut msghdr, c_int) -> ssize_t);
        let bytes = real(socket, message, flags);
        if bytes >= 0 && (*message).msg_controllen != 0 {
            adopt::received(message);
        }
        bytes
    }
    fn recvmmsg(
        socket: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec
    ) -> c_int {
        let real = real!(recvmmsg: fn(c_int, *mut mmsghdr, c_uint, c_int, *mut timespec) -> c_int);
        let got = real(socket, messages, count, flags, timeout);
        for index in 0..got.max(0) as usize {
            let message = &raw const (*messages.add(index)).msg_hdr;
            if (*message).msg_controllen != 0 {
                adopt::received(message);
            }
        }
        got
    }
}
