//! Executes one instruction on the CPU with a chosen register file.
#![allow(unsafe_code)] // writes and runs machine code

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::arch::asm;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A register file in the layout of the assembly below.
#[repr(C, align(64))]
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub gpr: [u64; 16],
    pub rflags: u64,
    host_rsp: u64,
    code: u64,
    _pad: [u64; 5],
    /// Lower and upper half of each ymm register.
    pub ymm: [[u128; 2]; 16],
}

impl State {
    pub fn new(gpr: [u64; 16], rflags: u64, ymm: [[u128; 2]; 16]) -> State {
        State {
            gpr,
            rflags,
            host_rsp: 0,
            code: 0,
            _pad: [0; 5],
            ymm,
        }
    }
}

static mut STATE: State = State {
    gpr: [0; 16],
    rflags: 0,
    host_rsp: 0,
    code: 0,
    _pad: [0; 5],
    ymm: [[0; 2]; 16],
};

/// Bytes of memory that instructions under test may touch; half of it traps.
pub const ARENA: usize = 8192;

/// The page that holds the instruction, and the memory it works on. One test at a time has them.
pub struct Cpu {
    code: *mut u8,
    pub arena: *mut u8,
}

// SAFETY: used under the lock of `cpu` only.
unsafe impl Send for Cpu {}

pub fn cpu() -> MutexGuard<'static, Cpu> {
    static CPU: std::sync::LazyLock<Mutex<Cpu>> = std::sync::LazyLock::new(|| {
        let map = |protection, bytes| {
            // SAFETY: the kernel chooses the address.
            unsafe { mmap_anonymous(null_mut(), bytes, protection, MapFlags::PRIVATE) }
                .unwrap()
                .cast::<u8>()
        };
        let data = ProtFlags::READ | ProtFlags::WRITE;
        let code = map(data | ProtFlags::EXEC, 4096);
        let arena = map(data, ARENA + 4096).wrapping_add(2048);
        Mutex::new(Cpu { code, arena })
    });
    CPU.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cpu {
    /// Where the instruction is put.
    pub fn rip(&self) -> u64 {
        self.code as u64
    }

    pub fn memory(&self) -> Vec<u8> {
        // SAFETY: the arena is mapped and nothing else touches it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.arena, ARENA) }.to_vec()
    }

    pub fn set_memory(&mut self, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.arena, ARENA) }.copy_from_slice(bytes);
    }

    /// Runs one instruction. The caller chooses instructions that touch nothing but the arena.
    pub fn run(&mut self, instruction: &[u8], state: &State) -> State {
        // The instruction, then `jmp [code + 0x800]`, where the way back is stored.
        let mut code = instruction.to_vec();
        let back = 0x800 - (code.len() as i32 + 6);
        code.extend([0xff, 0x25]);
        code.extend(back.to_le_bytes());
        // SAFETY: the code page is ours and writable; STATE is used under the lock only.
        unsafe {
            self.code.copy_from(code.as_ptr(), code.len());
            STATE = State {
                code: self.code as u64,
                ..state.clone()
            };
            if std::arch::is_x86_feature_detected!("avx") {
                enter_avx()
            } else {
                enter_sse()
            }
            (&raw const STATE).read()
        }
    }
}

macro_rules! enter {
    ($name:ident, $move:literal, $vector:literal) => {
        /// # Safety
        /// STATE holds a register file and the address of code that ends by jumping through its slot.
        unsafe fn $name() {
            // SAFETY: every register is saved or declared clobbered; the stack is switched back.
            unsafe {
                asm!(
                    "push rbx", "push rbp",
                    "lea r15, [rip + {state}]",
                    "lea rax, [rip + 2f]",
                    "mov rcx, [r15 + 144]",
                    "mov [rcx + 0x800], rax",
                    "mov [r15 + 136], rsp",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " ", $vector, "\\n, [r15 + 192 + 32*\\n]"),
                    ".endr",
                    "push qword ptr [r15 + 128]", "popfq",
                    "mov rax, [r15]", "mov rcx, [r15 + 8]", "mov rdx, [r15 + 16]", "mov rbx, [r15 + 24]",
                    "mov rsp, [r15 + 32]", "mov rbp, [r15 + 40]", "mov rsi, [r15 + 48]", "mov rdi, [r15 + 56]",
                    "mov r8, [r15 + 64]", "mov r9, [r15 + 72]", "mov r10, [r15 + 80]", "mov r11, [r15 + 88]",
                    "mov r12, [r15 + 96]", "mov r13, [r15 + 104]", "mov r14, [r15 + 112]", "mov r15, [r15 + 120]",
                    "jmp [rip + {state} + 144]",
                    "2:",
                    "mov [rip + {state} + 120], r15",
                    "lea r15, [rip + {state}]",
                    "mov [r15], rax", "mov [r15 + 8], rcx", "mov [r15 + 16], rdx", "mov [r15 + 24], rbx",
                    "mov [r15 + 32], rsp", "mov [r15 + 40], rbp", "mov [r15 + 48], rsi", "mov [r15 + 56], rdi",
                    "mov [r15 + 64], r8", "mov [r15 + 72], r9", "mov [r15 + 80], r10", "mov [r15 + 88], r11",
                    "mov [r15 + 96], r12", "mov [r15 + 104], r13", "mov [r15 + 112], r14",
                    "mov rsp, [r15 + 136]",
                    "pushfq", "pop qword ptr [r15 + 128]", "cld",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " [r15 + 192 + 32*\\n], ", $vector, "\\n"),
                    ".endr",
                    "pop rbp", "pop rbx",
                    state = sym STATE,
                    out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
                    out("r14") _, out("r15") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                );
            }
        }
    };
}

enter!(enter_sse, "movups", "xmm");
enter!(enter_avx, "vmovdqu", "ymm");
