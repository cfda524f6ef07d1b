//! Catching libc's own calls of its munmap, madvise, mremap, mmap and write.
//!
//! malloc gives memory back, and threads their stacks, without passing a public symbol: inside libc these calls are
//! direct; and streams write from within. So the function itself is redirected: its first five bytes become a jump to a page of ours nearby, which
//! jumps on to the replacement. The original is not kept; the replacement makes the system call itself.
//!
//! Nothing is overwritten on trust. The function is decoded first, and must be what these functions are in every
//! glibc: a few instructions that load the expected system call number, one `syscall`, and no branch that could land
//! in the bytes to be replaced. Anything else is [`Refused`] with the reason, and the run says what goes unseen then.
#![allow(unsafe_code)] // rewrites machine code of libc

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a function was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not one of these functions, or libc does not export it.
    Absent,
    /// Its code is not what was expected.
    Unfamiliar(&'static str),
    /// No page could be had within reach of a jump.
    NoRoom,
    /// The code could not be made writable: the errno.
    Protected(i32),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Absent => f.write_str("libc has no such function"),
            Refused::Unfamiliar(what) => write!(f, "its code is unfamiliar: {what}"),
            Refused::NoRoom => f.write_str("no free page lies within 2 GiB of it"),
            Refused::Protected(errno) => {
                write!(f, "its code cannot be made writable (errno {errno})")
            }
        }
    }
}

/// Bytes of the jump that replaces the beginning.
const JUMP: usize = 5;
/// How much code is looked at: all of them are shorter.
const WINDOW: usize = 256;

/// The system call behind a function.
fn number(name: &CStr) -> Option<u64> {
    Some(match name.to_bytes() {
        b"munmap" => libc::SYS_munmap as u64,
        b"madvise" => libc::SYS_madvise as u64,
        b"mremap" => libc::SYS_mremap as u64,
        b"mmap" => libc::SYS_mmap as u64,
        b"write" => libc::SYS_write as u64,
        _ => return None,
    })
}

/// Redirects libc's function `name` ("munmap", "madvise", "mremap", "mmap" or "write"), for good.
///
/// # Safety
/// 1. `replacement` has the function's C signature and contract (-1 and errno included), lives as long as the
///    process, makes its system call itself and never calls the function.
/// 2. It may be called from inside malloc, so it takes no lock that is held while allocating.
/// 3. No other thread is executing the function's first instructions: called once, by the library's constructor.
pub unsafe fn hook(name: &CStr, replacement: *const ()) -> Result<(), Refused> {
    let expected = number(name).ok_or(Refused::Absent)?;
    let entry = find(name).ok_or(Refused::Absent)?;
    // SAFETY: the window of a function in libc's text, which goes on for far more than these bytes behind it.
    let code = unsafe { std::slice::from_raw_parts(entry as *const u8, WINDOW) };
    check(code, entry, expected)?;
    let page = near_page(entry).ok_or(Refused::NoRoom)?;
    // SAFETY: the page is ours, fresh and writable; obligation 1 makes the target one to jump to.
    unsafe { lead_on(page, replacement as u64) }?;
    // SAFETY: the code was checked; obligation 3.
    unsafe { patch(entry, page) }
}

/// The function in libc itself, whoever else interposes it.
fn find(name: &CStr) -> Option<u64> {
    // SAFETY: libc is loaded already; the handle only counts a reference.
    unsafe {
        let libc = libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if libc.is_null() {
            return None;
        }
        let at = libc::dlsym(libc, name.as_ptr()) as u64;
        (at != 0).then_some(at)
    }
}

/// Whether the function at `entry` is the one expected and may have its beginning replaced.
fn check(code: &[u8], entry: u64, expected: u64) -> Result<(), Refused> {
    let mut loaded = None;
    let mut called = false;
    for instruction in &mut Decoder::with_ip(64, code, entry, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return Err(Refused::Unfamiliar("it does not decode"));
        }
        if lands_in_jump(&instruction, entry) {
            return Err(Refused::Unfamiliar("a branch leads into its first bytes"));
        }
        match instruction.code() {
            Code::Mov_r32_imm32 if instruction.op0_register() == Register::EAX => {
                loaded = Some(u64::from(instruction.immediate32()));
            }
            Code::Syscall if called => {
                return Err(Refused::Unfamiliar("it makes several system calls"));
            }
            Code::Syscall if loaded != Some(expected) => {
                return Err(Refused::Unfamiliar("it makes another system call"));
            }
            Code::Syscall => {
                called = true;
                continue;
            }
            _ => {}
        }
        match instruction.flow_control() {
            FlowControl::Return if called => return Ok(()),
            FlowControl::Return => {
                return Err(Refused::Unfamiliar("it returns before its system call"));
            }
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                return Err(Refused::Unfamiliar("it calls something else"));
            }
            FlowControl::UnconditionalBranch if !called => {
                return Err(Refused::Unfamiliar(
                    "it begins with a jump, perhaps another tool's",
                ));
            }
            _ => {}
        }
    }
    Err(Refused::Unfamiliar("it is too long"))
}

fn lands_in_jump(instruction: &Instruction, entry: u64) -> bool {
    let near = matches!(
        instruction.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    let target = instruction.near_branch_target();
    near && target > entry && target < entry + JUMP as u64
}

/// A fresh page within reach of a 32-bit displacement.
fn near_page(entry: u64) -> Option<u64> {
    const STEP: u64 = 1 << 20;
    let here = entry & !(STEP - 1);
    (1..1500u64)
        .flat_map(|i| [here.checked_sub(i * STEP), here.checked_add(i * STEP)])
        .flatten()
        .find_map(|hint| {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: replaces nothing.
            let page =
                unsafe { mm::mmap_anonymous(hint as *mut _, 4096, protection, flags) }.ok()? as u64;
            if page == hint {
                return Some(page);
            }
            // SAFETY: a kernel without the flag took the address for a hint: the page is ours and unwanted.
            let _ = unsafe { mm::munmap(page as *mut _, 4096) };
            None
        })
}

/// Writes `jmp [rip]` and the target, and makes the page executable.
///
/// # Safety
/// `page` is a writable page of ours that nothing uses.
unsafe fn lead_on(page: u64, target: u64) -> Result<(), Refused> {
    let mut code = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    code[6..].copy_from_slice(&target.to_le_bytes());
    // SAFETY: obligation of the caller.
    unsafe {
        (page as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len());
        protect(page, MprotectFlags::READ | MprotectFlags::EXEC)
    }
}

/// Replaces the first bytes of the function by a jump, in one store.
///
/// # Safety
/// `entry` is the checked function, `page` is near and executable.
unsafe fn patch(entry: u64, page: u64) -> Result<(), Refused> {
    if !entry.is_multiple_of(8) {
        return Err(Refused::Unfamiliar("it is not aligned"));
    }
    let distance = page.wrapping_sub(entry + JUMP as u64) as i64;
    let distance = i32::try_from(distance).map_err(|_| Refused::NoRoom)?;
    // SAFETY: the page of libc's text stays readable and executable throughout; the word is aligned, and every
    // state of it that a CPU can fetch is a whole instruction sequence.
    unsafe {
        protect(
            entry,
            MprotectFlags::READ | MprotectFlags::WRITE | MprotectFlags::EXEC,
        )?;
        let word = AtomicU64::from_ptr(entry as *mut u64);
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[0] = 0xe9;
        bytes[1..JUMP].copy_from_slice(&distance.to_le_bytes());
        word.store(u64::from_le_bytes(bytes), Ordering::SeqCst);
        protect(entry, MprotectFlags::READ | MprotectFlags::EXEC)
    }
}

/// # Safety
/// The page that holds `at` may have this protection.
unsafe fn protect(at: u64, protection: MprotectFlags) -> Result<(), Refused> {
    // SAFETY: obligation of the caller.
    unsafe { mm::mprotect((at & !4095) as *mut _, 4096, protection) }
        .map_err(|e| Refused::Protected(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: u64 = 0x1000;

    /// glibc 2.36's munmap up to its first return.
    const MUNMAP: [u8; 16] = [
        0xb8, 0x0b, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x01, 0xc3,
    ];

    fn refusal(code: &[u8]) -> &'static str {
        match check(code, ENTRY, 11) {
            Err(Refused::Unfamiliar(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_plain_wrapper_is_recognised_with_and_without_endbr64() {
        assert_eq!(check(&MUNMAP, ENTRY, 11), Ok(()));
        let marked = [&[0xf3, 0x0f, 0x1e, 0xfa][..], &MUNMAP].concat();
        assert_eq!(check(&marked, ENTRY, 11), Ok(()));
    }

    #[test]
    fn another_number_is_refused() {
        assert_eq!(
            check(&MUNMAP, ENTRY, 28),
            Err(Refused::Unfamiliar("it makes another system call"))
        );
    }

    #[test]
    fn a_function_that_is_hooked_already_is_refused() {
        assert!(
            refusal(&[0xe9, 0, 1, 0, 0, 0x0f, 0x05, 0xc3]).starts_with("it begins with a jump")
        );
    }

    #[test]
    fn a_branch_back_into_the_first_bytes_is_refused() {
        let looping = [
            0x31, 0xc0, 0x90, 0xb8, 0x0b, 0, 0, 0, 0x0f, 0x05, 0x75, 0xf6, 0xc3,
        ];
        assert_eq!(refusal(&looping), "a branch leads into its first bytes");
    }

    #[test]
    fn two_system_calls_no_system_call_and_calls_are_refused() {
        let twice = [0xb8, 0x0b, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x05, 0xc3];
        assert_eq!(refusal(&twice), "it makes several system calls");
        assert_eq!(refusal(&[0x90, 0xc3]), "it returns before its system call");
        assert_eq!(
            refusal(&[0xe8, 0, 0, 0, 0, 0xc3]),
            "it calls something else"
        );
        assert_eq!(refusal(&[0x90; WINDOW]), "it is too long");
        assert_eq!(refusal(&[0x06]), "it does not decode");
    }

    #[test]
    fn a_function_that_libc_does_not_wrap_this_way_is_absent() {
        // SAFETY: nothing is patched for an unknown name.
        let done = unsafe { hook(c"brk", std::ptr::null()) };
        assert_eq!(done, Err(Refused::Absent));
    }
}
