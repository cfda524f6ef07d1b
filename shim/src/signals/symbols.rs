//! The interposed functions: what a client calls to arrange its signals.
//!
//! Each has the signature and the contract of the C function of its name; the obligations of the callers are those of
//! the manual page.
#![allow(unsafe_code, clippy::missing_safety_doc)] // C functions; their obligations are in the manual pages

use super::handler::{client_action, is_ready};
use super::kernel::{self, Action};
use super::{Set, bit, thread};
use libc::{c_int, sighandler_t, sigset_t, stack_t};
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers -1 with errno, or 0.
fn answer(result: Result<(), i32>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(number) => {
            // SAFETY: errno is a thread-local word.
            unsafe { *libc::__errno_location() = number };
            -1
        }
    }
}

/// The next definition of a function after ours.
pub(super) struct Next {
    name: &'static CStr,
    found: AtomicUsize,
}

impl Next {
    pub(super) const fn new(name: &'static CStr) -> Next {
        Next {
            name,
            found: AtomicUsize::new(0),
        }
    }

    /// Its address. Aborts when libc has no such function, which then nobody can have called.
    pub(super) fn get(&self) -> usize {
        match self.found.load(Ordering::Relaxed) {
            0 => {
                // SAFETY: a NUL-terminated name.
                let at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) } as usize;
                assert!(at != 0, "libc has no {:?}", self.name);
                self.found.store(at, Ordering::Relaxed);
                at
            }
            known => known,
        }
    }
}

/// The kernel's part of a C signal set.
///
/// # Safety
/// `set` is null or points to a signal set.
pub(super) unsafe fn read_set(set: *const sigset_t) -> Option<Set> {
    // SAFETY: the caller's obligation; the first word holds signals 1 to 64.
    (!set.is_null()).then(|| unsafe { set.cast::<Set>().read_unaligned() })
}

/// # Safety
/// `to` is null or points to a signal set.
pub(super) unsafe fn write_set(to: *mut sigset_t, set: Set) {
    if !to.is_null() {
        // SAFETY: the caller's obligation.
        unsafe { to.cast::<Set>().write_unaligned(set) };
    }
}

/// Signals that libc keeps to itself.
fn is_internal(signal: c_int) -> bool {
    signal == 32 || signal == 33
}

/// sigaction(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if is_internal(signal) {
        return answer(Err(libc::EINVAL));
    }
    // SAFETY: both pointers are null or as the manual page says.
    unsafe {
        let action = new.as_ref().map(|new| Action {
            handler: new.sa_sigaction,
            flags: new.sa_flags as u32 as u64,
            restorer: 0,
            mask: read_set(&raw const new.sa_mask).unwrap_or(0),
        });
        answer(client_action(signal, action).map(|before| {
            if let Some(old) = old.as_mut() {
                old.sa_sigaction = before.handler;
                old.sa_flags = before.flags as c_int;
                old.sa_mask = std::mem::zeroed();
                write_set(&raw mut old.sa_mask, before.mask);
            }
        }))
    }
}

/// Sets a handler by the old functions: the previous one, or SIG_ERR.
unsafe fn set_handler(
    signal: c_int,
    handler: sighandler_t,
    flags: c_int,
    mask: Set,
) -> sighandler_t {
    if is_internal(signal) || handler == libc::SIG_ERR {
        answer(Err(libc::EINVAL));
        return libc::SIG_ERR;
    }
    let action = Action {
        handler,
        flags: flags as u64,
        restorer: 0,
        mask,
    };
    // SAFETY: the caller's function takes one argument, as the flags say.
    match unsafe { client_action(signal, Some(action)) } {
        Ok(before) => before.handler,
        Err(number) => {
            answer(Err(number));
            libc::SIG_ERR
        }
    }
}

/// signal(2), with BSD semantics as glibc has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    let mask = if (1..=64).contains(&number) {
        bit(number)
    } else {
        0
    };
    // SAFETY: as the manual page says.
    unsafe { set_handler(number, handler, libc::SA_RESTART, mask) }
}

/// bsd_signal(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: as the manual page says.
    unsafe { signal(number, handler) }
}

/// sysv_signal(3): once, and not blocked meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: as the manual page says.
    unsafe { set_handler(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER, 0) }
}

/// What `signal` is called in programs built for System V semantics.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: as the manual page says.
    unsafe { sysv_signal(number, handler) }
}

/// SIG_HOLD of sigset(3).
const SIG_HOLD: sighandler_t = 2;

/// sigset(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigset(number: c_int, handler: sighandler_t) -> sighandler_t {
    if !(1..=64).contains(&number) || is_internal(number) {
        answer(Err(libc::EINVAL));
        return libc::SIG_ERR;
    }
    let how = if handler == SIG_HOLD {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    // SAFETY: as the manual page says; no action is set when the signal is only held.
    let before = unsafe {
        if handler == SIG_HOLD {
            client_action(number, None).map_or(libc::SIG_ERR, |action| action.handler)
        } else {
            set_handler(number, handler, 0, 0)
        }
    };
    if before == libc::SIG_ERR {
        return before;
    }
    match thread::client_mask(how, Some(bit(number))) {
        Ok(old) if old & bit(number) != 0 => SIG_HOLD,
        _ => before,
    }
}

/// A mask change: 0 or an errno.
unsafe fn change_mask(how: c_int, set: *const sigset_t, old: *mut sigset_t) -> Result<(), i32> {
    // SAFETY: as the manual page says.
    unsafe {
        // libc never lets its own two be blocked.
        let wanted = read_set(set).map(|set| set & !(bit(32) | bit(33)));
        let before = if is_ready() {
            thread::client_mask(how, wanted)?
        } else {
            kernel::sigprocmask(how, wanted)?
        };
        write_set(old, before);
        Ok(())
    }
}

/// sigprocmask(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigprocmask(
    how: c_int,
    set: *const sigset_t,
    old: *mut sigset_t,
) -> c_int {
    // SAFETY: as the manual page says.
    answer(unsafe { change_mask(how, set, old) })
}

/// pthread_sigmask(3), which answers the errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    set: *const sigset_t,
    old: *mut sigset_t,
) -> c_int {
    // SAFETY: as the manual page says.
    unsafe { change_mask(how, set, old) }.err().unwrap_or(0)
}

/// sigaltstack(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaltstack(new: *const stack_t, old: *mut stack_t) -> c_int {
    if !is_ready() {
        // SAFETY: as the manual page says.
        let raw = unsafe { libc::syscall(libc::SYS_sigaltstack, new, old) };
        return raw as c_int;
    }
    // SAFETY: as the manual page says.
    unsafe {
        answer(thread::client_stack(new.as_ref().copied()).map(|before| {
            if let Some(old) = old.as_mut() {
                *old = before;
            }
        }))
    }
}
