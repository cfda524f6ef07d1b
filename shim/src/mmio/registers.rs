//! The interrupted register file.
#![allow(unsafe_code)] // reads and edits the vector state of a signal frame

use iced_x86::{ConditionCode, Register};
use std::arch::x86_64::__cpuid_count;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The flags that arithmetic sets: CF, PF, AF, ZF, SF, OF.
pub const STATUS_FLAGS: u64 = 0x8d5;
/// The direction flag.
pub(super) const DIRECTION: u64 = 1 << 10;

const CARRY: u64 = 1;
const PARITY: u64 = 1 << 2;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;

/// All that an instruction can see of the thread it belongs to.
#[derive(Debug)]
pub struct Registers {
    /// By hardware number: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub gpr: [u64; 16],
    /// The next instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Vector registers, where they lie.
    pub vectors: VectorFile,
}

/// The signal frame's indices of `gpr`, in its order.
const FRAME: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

impl Registers {
    /// The registers a signal interrupted.
    ///
    /// # Safety
    /// 1. `context` is the third argument of a running `SA_SIGINFO` handler of this thread.
    /// 2. The result is dropped before that handler returns.
    pub unsafe fn of_context(context: *mut libc::ucontext_t) -> Registers {
        // SAFETY: obligation 1: the context and the vector state it points to are live.
        let frame = unsafe { &(*context).uc_mcontext };
        let gpr = FRAME.map(|index| frame.gregs[index as usize] as u64);
        Registers {
            gpr,
            rip: frame.gregs[libc::REG_RIP as usize] as u64,
            rflags: frame.gregs[libc::REG_EFL as usize] as u64,
            // SAFETY: obligations 1 and 2.
            vectors: unsafe { VectorFile::of_frame(frame.fpregs.cast()) },
        }
    }

    /// Puts general registers, rip and flags back; vector registers were changed in place.
    ///
    /// # Safety
    /// `context` is as in [`Registers::of_context`].
    pub unsafe fn to_context(&self, context: *mut libc::ucontext_t) {
        // SAFETY: the context is live and this thread's alone.
        let frame = unsafe { &mut (*context).uc_mcontext };
        for (index, value) in FRAME.iter().zip(self.gpr) {
            frame.gregs[*index as usize] = value as i64;
        }
        frame.gregs[libc::REG_RIP as usize] = self.rip as i64;
        frame.gregs[libc::REG_EFL as usize] = self.rflags as i64;
    }

    /// A general register's value, zero-extended. `None` for other registers.
    pub(super) fn get(&self, register: Register) -> Option<u64> {
        let whole = self.gpr[index(register)?];
        Some(match register.size() {
            1 if is_high_byte(register) => whole >> 8 & 0xff,
            1 => whole & 0xff,
            2 => whole & 0xffff,
            4 => whole & 0xffff_ffff,
            _ => whole,
        })
    }

    /// Sets a general register as an instruction does: 32 bits clear the upper half, 8 and 16 keep the rest.
    pub(super) fn set(&mut self, register: Register, value: u64) -> Option<()> {
        let whole = &mut self.gpr[index(register)?];
        *whole = match register.size() {
            1 if is_high_byte(register) => *whole & !0xff00 | (value & 0xff) << 8,
            1 => *whole & !0xff | value & 0xff,
            2 => *whole & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
        Some(())
    }

    /// What a register contributes to an address: its value, or a segment's base.
    pub(super) fn for_address(&self, register: Register) -> Option<u64> {
        match register {
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            Register::FS => Some(segment_base(ARCH_GET_FS)),
            Register::GS => Some(segment_base(ARCH_GET_GS)),
            other => self.get(other),
        }
    }

    /// Replaces the status flags.
    pub(super) fn set_status(&mut self, flags: u64) {
        self.rflags = self.rflags & !STATUS_FLAGS | flags & STATUS_FLAGS;
    }

    /// Whether a condition of setcc, cmovcc holds; `None` for no condition.
    pub(super) fn holds(&self, condition: ConditionCode) -> Option<bool> {
        let flag = |bit: u64| self.rflags & bit != 0;
        let less = flag(SIGN) != flag(OVERFLOW);
        Some(match condition {
            ConditionCode::None => return None,
            ConditionCode::o => flag(OVERFLOW),
            ConditionCode::no => !flag(OVERFLOW),
            ConditionCode::b => flag(CARRY),
            ConditionCode::ae => !flag(CARRY),
            ConditionCode::e => flag(ZERO),
            ConditionCode::ne => !flag(ZERO),
            ConditionCode::be => flag(CARRY) || flag(ZERO),
            ConditionCode::a => !flag(CARRY) && !flag(ZERO),
            ConditionCode::s => flag(SIGN),
            ConditionCode::ns => !flag(SIGN),
            ConditionCode::p => flag(PARITY),
            ConditionCode::np => !flag(PARITY),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || flag(ZERO),
            ConditionCode::g => !less && !flag(ZERO),
        })
    }

    /// The zero flag.
    pub(super) fn is_zero(&self) -> bool {
        self.rflags & ZERO != 0
    }
}

fn index(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

const ARCH_GET_FS: usize = 0x1003;
const ARCH_GET_GS: usize = 0x1004;

/// The base of fs or gs of this thread, which is the interrupted one.
fn segment_base(which: usize) -> u64 {
    let mut base = 0u64;
    // SAFETY: arch_prctl(2) with these codes writes one word to the address given.
    unsafe {
        std::arch::asm!(
            "syscall",
            inout("rax") libc::SYS_arch_prctl => _, in("rdi") which, in("rsi") &raw mut base,
            out("rcx") _, out("r11") _, options(nostack)
        );
    }
    base
}

/// The vector registers, as an XSAVE image or two plain arrays.
#[derive(Debug)]
pub struct VectorFile {
    /// Sixteen xmm registers of 16 bytes.
    low: Option<NonNull<u128>>,
    /// The upper halves of sixteen ymm registers.
    high: Option<NonNull<u128>>,
    /// XSTATE_BV of the image: which components it holds.
    present: Option<NonNull<u64>>,
}

/// Offsets in the signal frame's XSAVE image (Intel SDM volume 1, 13.4; Linux `struct _fpx_sw_bytes`).
const XMM: usize = 160;
const SOFTWARE: usize = 464;
const XSTATE_BV: usize = 512;
const MAGIC1: u32 = 0x4650_5853;
const SSE_STATE: u64 = 2;
const AVX_STATE: u64 = 4;

impl VectorFile {
    /// No vector registers: every vector instruction is unknown.
    pub const NONE: VectorFile = VectorFile {
        low: None,
        high: None,
        present: None,
    };

    /// Sixteen lower and, with AVX, sixteen upper halves.
    ///
    /// # Safety
    /// Both point to sixteen values that nothing else accesses while the result lives.
    pub unsafe fn of_arrays(low: NonNull<u128>, high: Option<NonNull<u128>>) -> VectorFile {
        VectorFile {
            low: Some(low),
            high,
            present: None,
        }
    }

    /// # Safety
    /// `image` is null or the `fpregs` of a live signal frame, which outlives the result.
    unsafe fn of_frame(image: *mut u8) -> VectorFile {
        if image.is_null() {
            return VectorFile::NONE;
        }
        let low = NonNull::new(image.wrapping_add(XMM).cast());
        // SAFETY: the kernel reserves these software bytes of the 512-byte legacy image for itself and fills them.
        let (magic, features) = unsafe {
            let software = image.add(SOFTWARE);
            (
                software.cast::<u32>().read_unaligned(),
                software.add(8).cast::<u64>().read_unaligned(),
            )
        };
        if magic != MAGIC1 {
            return VectorFile {
                low,
                high: None,
                present: None,
            };
        }
        let present = NonNull::new(image.wrapping_add(XSTATE_BV).cast());
        let high = if features & AVX_STATE == 0 {
            None
        } else {
            NonNull::new(image.wrapping_add(avx_offset()).cast())
        };
        VectorFile { low, high, present }
    }

    /// The lower half of register `number`.
    pub(super) fn low(&self, number: usize) -> Option<u128> {
        (number < 16).then_some(())?;
        // SAFETY: the constructors' obligations; the number is checked.
        Some(unsafe { self.low?.add(number).read_unaligned() })
    }

    /// The upper half, zero when the image says that it is in its initial state.
    pub(super) fn high(&self, number: usize) -> Option<u128> {
        (number < 16).then_some(())?;
        let high = self.high?;
        // SAFETY: as in `low`; the component word belongs to the image.
        unsafe {
            let held = self
                .present
                .is_none_or(|present| present.read_unaligned() & AVX_STATE != 0);
            Some(if held {
                high.add(number).read_unaligned()
            } else {
                0
            })
        }
    }

    /// Sets the lower half.
    pub(super) fn set_low(&mut self, number: usize, value: u128) -> Option<()> {
        (number < 16).then_some(())?;
        // SAFETY: as in `low`.
        unsafe {
            self.low?.add(number).write_unaligned(value);
            if let Some(present) = self.present {
                present.write_unaligned(present.read_unaligned() | SSE_STATE);
            }
        }
        Some(())
    }

    /// Sets the upper half.
    pub(super) fn set_high(&mut self, number: usize, value: u128) -> Option<()> {
        (number < 16).then_some(())?;
        let high = self.high?;
        // SAFETY: as in `high`; a component that was in its initial state is made explicit first.
        unsafe {
            if let Some(present) = self.present {
                let held = present.read_unaligned();
                if held & AVX_STATE == 0 {
                    (0..16).for_each(|n| high.add(n).write_unaligned(0));
                    present.write_unaligned(held | AVX_STATE);
                }
            }
            high.add(number).write_unaligned(value);
        }
        Some(())
    }
}

/// Where the upper halves lie in an XSAVE image: CPUID leaf 0xd, sub-leaf 2. Asked once, it is slow in a VM.
fn avx_offset() -> usize {
    static OFFSET: AtomicUsize = AtomicUsize::new(0);
    match OFFSET.load(Ordering::Relaxed) {
        0 => {
            let offset = __cpuid_count(0xd, 2).ebx as usize;
            OFFSET.store(offset, Ordering::Relaxed);
            offset
        }
        known => known,
    }
}
