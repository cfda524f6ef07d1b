//! The way out of a trap without the kernel: what rt_sigreturn would restore, restored here.
//!
//! A trap's handler is entered with the signal mask as it was (SA_NODEFER, an empty sa_mask) and runs on our alternate
//! stack, so returning from it changes nothing that a thread cannot change by itself: the registers. The kernel's way
//! takes a system call, a lock, and a check of what it reads; this one takes `xrstor` and `iretq`. It is left to the
//! kernel when signals were held back (its return lets them through), with a shadow stack (only the kernel may pop its
//! token), and with a frame in another layout than XSAVE's.
#![allow(unsafe_code)] // works on the interrupted registers

use std::arch::asm;

/// Where the kernel says what the frame's extended state holds: the end of the 512-byte legacy area
/// (`struct _fpx_sw_bytes`), first the magic number, then the size with the number behind the state.
const SOFTWARE_BYTES: usize = 464;
const MAGIC: u32 = 0x4650_5853;
const MAGIC_BEHIND: u32 = 0x4650_5845;
/// Code segment of 64-bit programs.
const CODE_64: u64 = 0x33;
/// `uc_flags`: the stack segment in the frame is valid.
const STACK_SEGMENT_VALID: u64 = 2;

#[repr(C)]
struct SoftwareBytes {
    magic: u32,
    extended_size: u32,
    features: u64,
    size: u32,
}

/// What `iretq` takes from the stack.
#[repr(C)]
struct Return {
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// The frame's extended state and the features in it, if it has XSAVE's layout.
fn extended(context: &libc::ucontext_t) -> Option<(*const u8, u64)> {
    let state = context.uc_mcontext.fpregs.cast::<u8>().cast_const();
    if state.is_null() || !(state as usize).is_multiple_of(64) {
        return None;
    }
    // SAFETY: the kernel's frame has a legacy area of 512 bytes; with the magic number it has `size` bytes of state and
    // four behind it.
    unsafe {
        let software = state.add(SOFTWARE_BYTES).cast::<SoftwareBytes>().read();
        if software.magic != MAGIC || software.size < 576 {
            return None;
        }
        let behind = state
            .add(software.size as usize)
            .cast::<u32>()
            .read_unaligned();
        (behind == MAGIC_BEHIND).then_some((state, software.features))
    }
}

/// Whether the thread has a shadow stack.
fn has_shadow_stack() -> bool {
    let pointer: u64;
    // SAFETY: reads the pointer; without shadow stacks the instruction does nothing.
    unsafe {
        asm!("rdsspq {0}", inout(reg) 0u64 => pointer, options(nomem, nostack, preserves_flags))
    };
    pointer != 0
}

/// Continues at the interrupted instruction with the registers of the frame. Returns if that is the kernel's to do.
///
/// # Safety
/// 1. `context` is that of a running handler of this thread, which the caller has nothing left to do in.
/// 2. The thread's signal mask is the interrupted one.
pub unsafe fn resume(context: &libc::ucontext_t) {
    let registers = &context.uc_mcontext.gregs;
    let segments = registers[libc::REG_CSGSFS as usize] as u64;
    let Some((state, features)) = extended(context) else {
        return;
    };
    if segments & 0xffff != CODE_64
        || context.uc_flags & STACK_SEGMENT_VALID == 0
        || has_shadow_stack()
    {
        return;
    }
    let back = Return {
        rip: registers[libc::REG_RIP as usize] as u64,
        cs: CODE_64,
        flags: registers[libc::REG_EFL as usize] as u64,
        rsp: registers[libc::REG_RSP as usize] as u64,
        ss: segments >> 48,
    };
    // SAFETY: the state is the kernel's own and was checked as the kernel would; `back` lies above the stack pointer
    // until `iretq` has read it, so a signal in between leaves it alone; every register is replaced, and nothing of
    // this call is left (obligation 1).
    unsafe {
        asm!(
            "xrstor64 [r8]",
            "mov rsp, rsi",
            "mov r8, [rdi]",
            "mov r9, [rdi + 8]",
            "mov r10, [rdi + 16]",
            "mov r11, [rdi + 24]",
            "mov r12, [rdi + 32]",
            "mov r13, [rdi + 40]",
            "mov r14, [rdi + 48]",
            "mov r15, [rdi + 56]",
            "mov rsi, [rdi + 72]",
            "mov rbp, [rdi + 80]",
            "mov rbx, [rdi + 88]",
            "mov rdx, [rdi + 96]",
            "mov rax, [rdi + 104]",
            "mov rcx, [rdi + 112]",
            "mov rdi, [rdi + 64]",
            "iretq",
            in("rdi") registers.as_ptr(),
            in("rsi") &raw const back,
            in("r8") state,
            in("eax") features as u32,
            in("edx") (features >> 32) as u32,
            options(noreturn)
        );
    }
}
