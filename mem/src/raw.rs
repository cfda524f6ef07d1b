//! System calls that rustix does not have, and errno values as they come back.
#![allow(unsafe_code)] // system calls on addresses

use std::arch::asm;
use std::num::NonZeroU32;
use swiommu_abi::Errno;

/// The same number in our own type. A number outside 1..=4095 cannot come from a system call.
pub(crate) fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error()).expect("a system call's errno lies in 1..=4095")
}

/// Numbers of the system calls on x86-64.
const PROCESS_VM_READV: usize = 310;
const PROCESS_VM_WRITEV: usize = 311;

/// Copies `bytes` bytes from another process's `theirs` to `ours`, or the other way with `write`: bytes copied.
///
/// # Safety
/// `ours` is memory of the caller, good for `bytes` bytes and for writing unless `write`.
pub(crate) unsafe fn process_vm(
    write: bool,
    process: NonZeroU32,
    ours: usize,
    theirs: u64,
    bytes: usize,
) -> Result<usize, rustix::io::Errno> {
    let local = [ours, bytes];
    let remote = [theirs as usize, bytes];
    let number = if write {
        PROCESS_VM_WRITEV
    } else {
        PROCESS_VM_READV
    };
    let result: isize;
    // SAFETY: the kernel checks the other process's addresses; ours are good by contract. It preserves all registers
    // but these.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") process.get() as usize, in("rsi") local.as_ptr(), in("rdx") 1usize,
            in("r10") remote.as_ptr(), in("r8") 1usize, in("r9") 0usize,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    usize::try_from(result).map_err(|_| rustix::io::Errno::from_raw_os_error(-result as i32))
}
