//! Threads of our own in the client's process.
#![allow(unsafe_code)] // the signal mask, by a raw system call

use std::arch::asm;
use std::thread;

/// Starts a thread in which every signal is blocked: the client's handlers never run in a thread it does not know.
///
/// # Errors
/// What the kernel answered when it had no thread to give.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // signals wait for as long as it takes to start the thread, which inherits the mask
    let before = set_mask(u64::MAX);
    let started = thread::Builder::new().name(name.into()).spawn(work);
    set_mask(before);
    started.map(drop)
}

/// Sets the calling thread's signal mask, one bit a signal; returns what it was.
fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: rt_sigprocmask(SIG_SETMASK, &mask, &before, 8) reads and writes these two words of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_rt_sigprocmask => _,
            in("rdi") libc::SIG_SETMASK as i64, in("rsi") &raw const mask, in("rdx") &raw mut before, in("r10") 8u64,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_quiet_thread_blocks_every_signal_and_the_others_go_on_as_before() {
        let before = set_mask(0b100);
        let (say, hear) = channel();
        spawn("quiet", move || say.send(set_mask(u64::MAX)).unwrap()).unwrap();
        let inside = hear.recv().unwrap();
        // the kernel never blocks SIGKILL and SIGSTOP, a new thread never libc's own signal for cancellation
        let unblockable = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1) | 1 << (32 - 1);
        assert_eq!(inside | unblockable, u64::MAX);
        assert_eq!(set_mask(before), 0b100);
    }
}
