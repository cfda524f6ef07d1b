//! recvmsg: descriptors that arrive from another process may be ours.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_int, c_uint};

use libc::{mmsghdr, msghdr, ssize_t, timespec};

use crate::real::real;
use crate::remote::adopt;

export! {
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
