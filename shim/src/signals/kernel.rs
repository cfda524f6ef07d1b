//! Signal system calls without libc, whose functions of these names are the ones we replace.
#![allow(unsafe_code)] // raw system calls

use super::Set;
use std::arch::{asm, naked_asm};

/// The kernel's `struct sigaction` on x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Action {
    /// 0 is the default, 1 is to ignore.
    pub handler: usize,
    /// `SA_*`, without `SA_RESTORER`.
    pub flags: u64,
    pub restorer: usize,
    pub mask: Set,
}

const SA_RESTORER: u64 = 0x0400_0000;

/// Returns from a handler. Unwinders know it by these exact bytes, as they know libc's.
#[unsafe(naked)]
extern "C" fn restore() {
    naked_asm!("mov rax, 15", "syscall")
}

/// # Safety
/// The arguments are valid for the system call, which must not end or change what Rust relies on.
unsafe fn call(number: i64, a: usize, b: usize, c: usize, d: usize) -> Result<usize, i32> {
    let answer: isize;
    // SAFETY: the caller's obligation; the clobbers are those of the syscall instruction.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            out("rcx") _, out("r11") _, options(nostack)
        );
    }
    if answer < 0 {
        Err(-answer as i32)
    } else {
        Ok(answer as usize)
    }
}

/// rt_sigaction: sets `new`, if given, and answers what was there.
///
/// # Safety
/// A handler in `new` is an async-signal-safe function of the kind its flags say.
pub(super) unsafe fn sigaction(signal: i32, new: Option<Action>) -> Result<Action, i32> {
    let new = new.map(|action| Action {
        flags: action.flags | SA_RESTORER,
        restorer: restore as *const () as usize,
        ..action
    });
    let new_at = new
        .as_ref()
        .map_or(0, |action| std::ptr::from_ref(action) as usize);
    let mut old = Action::default();
    // SAFETY: both structs are live; the rest is the caller's obligation.
    unsafe {
        call(
            libc::SYS_rt_sigaction,
            signal as usize,
            new_at,
            &raw mut old as usize,
            8,
        )?
    };
    old.flags &= !SA_RESTORER;
    Ok(old)
}

/// rt_sigprocmask of this thread: the old mask.
pub(super) fn sigprocmask(how: i32, set: Option<Set>) -> Result<Set, i32> {
    let set_at = set
        .as_ref()
        .map_or(0, |set| std::ptr::from_ref(set) as usize);
    let mut old: Set = 0;
    // SAFETY: both words are live; masks change nothing Rust relies on.
    unsafe {
        call(
            libc::SYS_rt_sigprocmask,
            how as usize,
            set_at,
            &raw mut old as usize,
            8,
        )?
    };
    Ok(old)
}

/// Runs `f` with every signal blocked, SIGSYS too: so its system calls must not be dispatched by an audit.
pub(super) fn blocked<T>(f: impl FnOnce() -> T) -> T {
    crate::audit::pass(|| {
        let old = sigprocmask(libc::SIG_SETMASK, Some(Set::MAX)).unwrap_or(0);
        let value = f();
        let _ = sigprocmask(libc::SIG_SETMASK, Some(old));
        value
    })
}

/// sigaltstack.
///
/// # Safety
/// `new` is memory that stays mapped until another stack replaces it.
pub(super) unsafe fn sigaltstack(new: &libc::stack_t) -> Result<(), i32> {
    // SAFETY: the struct is live; the memory is the caller's obligation.
    unsafe {
        call(
            libc::SYS_sigaltstack,
            std::ptr::from_ref(new) as usize,
            0,
            0,
            0,
        )
    }
    .map(drop)
}

/// Id of this process.
pub(super) fn process() -> u32 {
    // SAFETY: getpid has no arguments.
    unsafe { call(libc::SYS_getpid, 0, 0, 0, 0) }.unwrap_or(0) as u32
}

/// Id of this thread.
pub(super) fn thread() -> u32 {
    // SAFETY: gettid has no arguments.
    unsafe { call(libc::SYS_gettid, 0, 0, 0, 0) }.unwrap_or(0) as u32
}

/// Queues a signal to this very thread, with all that is known about it, or without where the queue is full.
///
/// # Safety
/// `info` points to the siginfo of a delivered signal.
pub(super) unsafe fn queue_to_self(signal: i32, info: *const libc::siginfo_t) {
    let (process, thread) = (process() as usize, thread() as usize);
    // SAFETY: the siginfo is live.
    let queued = unsafe {
        call(
            libc::SYS_rt_tgsigqueueinfo,
            process,
            thread,
            signal as usize,
            info as usize,
        )
    };
    if queued.is_err() {
        raise(signal);
    }
}

/// Sends a plain signal to this very thread.
pub(super) fn raise(signal: i32) {
    let (process, thread) = (process() as usize, thread() as usize);
    // SAFETY: sending a signal to oneself; what it does is the client's choice.
    let _ = unsafe { call(libc::SYS_tgkill, process, thread, signal as usize, 0) };
}

/// Whether this process has a thread of that id.
pub(super) fn has_thread(thread: u32) -> bool {
    // SAFETY: signal 0 is sent to nobody.
    unsafe { call(libc::SYS_tgkill, process() as usize, thread as usize, 0, 0) }.is_ok()
}
