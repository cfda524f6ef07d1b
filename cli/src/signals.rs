//! Signals while the program runs: it is the one they are meant for.
//!
//! A terminal sends its signals (^C, ^\, hang-up) to the whole foreground process group, so the program has them
//! already and we only have to survive them. A signal that another process sends to us is passed on. Which one it
//! was, the kernel says in `si_code`. A signal that was ignored when we started stays so (nohup).
#![allow(unsafe_code)] // std has no signal handlers; the handler only loads an atomic and calls kill, which is async-signal-safe

use std::sync::atomic::{AtomicI32, Ordering};

/// Passed on to the program.
const FORWARDED: [i32; 9] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// The program's process id; 0 before it runs and after it ended.
static PROGRAM: AtomicI32 = AtomicI32::new(0);
/// A signal that came before the program ran; 0 if none.
static EARLY: AtomicI32 = AtomicI32::new(0);

extern "C" fn forward(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let from_a_process = unsafe { (*info).si_code } <= 0;
    if !from_a_process {
        return;
    }
    match PROGRAM.load(Ordering::SeqCst) {
        0 => EARLY.store(signal, Ordering::SeqCst),
        // SAFETY: kill takes no pointers and is async-signal-safe. The id is that of our child, not yet reaped: the
        // id is taken away before the child is waited for to the end.
        program => _ = unsafe { libc::kill(program, signal) },
    }
}

/// Takes over the signals. Call before the program starts: exec gives it back their defaults.
pub fn take_over() {
    for signal in FORWARDED {
        // SAFETY: both structs are plain old data, fully set before use (all zero is a valid sigaction: default
        // action, empty mask); the handler has the signature that SA_SIGINFO asks for and is async-signal-safe.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut old);
            if old.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = forward as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &new, std::ptr::null_mut());
        }
    }
}

/// The program runs: signals go to it, first the one that came too early.
pub fn program_runs(id: u32) {
    PROGRAM.store(id as i32, Ordering::SeqCst);
    let early = EARLY.swap(0, Ordering::SeqCst);
    if early != 0 {
        // SAFETY: kill takes no pointers; the id is that of our child, not yet reaped.
        unsafe { libc::kill(id as i32, early) };
    }
}

/// Waits until the program has ended, without reaping it: its id stays its own until this returns and signals are
/// no longer passed on.
pub fn wait_for_end(id: u32) {
    loop {
        // SAFETY: a zeroed siginfo_t is valid, and waitid writes only to it.
        let ended = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, id, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if ended == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            PROGRAM.store(0, Ordering::SeqCst);
            return;
        }
    }
}
