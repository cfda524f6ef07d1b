//! The functions that wait with a signal mask of their own: libc's own are called with a copy of the mask in which our
//! four signals are not blocked.
#![allow(unsafe_code, clippy::missing_safety_doc)] // C functions; their obligations are in the manual pages

use super::OURS;
use super::symbols::{Next, read_set, write_set};
use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec};

/// A copy of a set without our four.
///
/// # Safety
/// `set` is null or points to a signal set.
unsafe fn stripped(set: *const sigset_t) -> Option<sigset_t> {
    if set.is_null() {
        return None;
    }
    // SAFETY: the caller's obligation.
    let mut copy = unsafe { set.read() };
    // SAFETY: `copy` is a signal set.
    unsafe { write_set(&raw mut copy, read_set(set).unwrap_or(0) & !OURS) };
    Some(copy)
}

/// Defines a function of libc that takes a mask: the arguments before it, `mask`, those after it.
macro_rules! waits_with_a_mask {
    ($(#[$doc:meta] $name:ident ([$($before:ident: $b:ty),*], mask, [$($after:ident: $a:ty),*]);)*) => {$(
        #[$doc]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($before: $b,)* mask: *const sigset_t $(, $after: $a)*) -> c_int {
            type Function = unsafe extern "C" fn($($b,)* *const sigset_t $(, $a)*) -> c_int;
            const NAME: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
            static NEXT: Next = Next::new(NAME);
            // SAFETY: libc's function of this name and type; the mask is a copy that lives over the call.
            unsafe {
                let mask = stripped(mask);
                let mask = mask.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
                std::mem::transmute::<usize, Function>(NEXT.get())($($before,)* mask $(, $after)*)
            }
        }
    )*};
}

waits_with_a_mask! {
    #[doc = "sigsuspend(2)."]
    sigsuspend([], mask, []);
    #[doc = "ppoll(2)."]
    ppoll([fds: *mut pollfd, count: nfds_t, timeout: *const timespec], mask, []);
    #[doc = "ppoll(2) as fortified programs call it."]
    __ppoll_chk([fds: *mut pollfd, count: nfds_t, timeout: *const timespec], mask, [size: usize]);
    #[doc = "pselect(2)."]
    pselect(
        [count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec],
        mask,
        []
    );
    #[doc = "epoll_pwait(2)."]
    epoll_pwait([fd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int], mask, []);
    #[doc = "epoll_pwait2(2)."]
    epoll_pwait2([fd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec], mask, []);
}
