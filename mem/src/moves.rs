//! The instructions that may fault: moves of one width for a few bytes, a loop of 32-byte moves up to [`WIDE_MOST`],
//! `rep movsb` beyond, and single atomic accesses.
//!
//! `rep movsb` is one instruction pointer with an exact remainder in rcx, and as fast as memcpy for large sizes on
//! every CPU of the last decade. Below, its start-up cost shows. Of moves that fault nothing is known but that a prefix
//! may have been written; [`exact`] then repeats the copy byte-exactly. Repeating is sound because the bytes are the
//! same.
#![allow(unsafe_code)] // inline assembly on addresses that are not known to be mapped

use std::arch::asm;

/// A copy of these sizes is a loop of 32-byte moves, where the CPU has them.
const WIDE_LEAST: usize = 256;
/// See [`WIDE_LEAST`].
const WIDE_MOST: usize = 8192;

/// Without 32-byte moves `rep movsb` is used from this size on.
const STRING_LEAST: usize = 769;

/// What rdx holds when nothing faulted: no address we touch, they are below 2^47.
const NO_FAULT: u64 = u64::MAX;

/// Where a copy stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Bytes not moved; the rest is a prefix that was.
    pub left: usize,
    /// The address the CPU reported.
    pub at: u64,
}

/// An assembly body between labels 2 and 3 whose faults continue at 3 with rdx holding the address.
macro_rules! faulting {
    ([$($line:expr),+], $($operands:tt)*) => {
        asm!(
            "2:",
            $($line,)+
            "3:",
            ".pushsection swiommu_ex_table, \"aR\", @progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".long 3b - .",
            ".popsection",
            $($operands)*
        )
    };
}

/// Two overlapping moves of one width: the first and the last bytes of `n`. True if nothing faulted.
macro_rules! pair {
    ($name:ident, $class:ident, $size:literal, $width:tt, $load:literal) => {
        /// # Safety
        /// As [`copy`]; and `n` is between the width and twice the width.
        #[inline(always)]
        unsafe fn $name(to: *mut u8, from: *const u8, n: usize) -> bool {
            let fault: u64;
            // SAFETY: obligations 1 and 2 of `copy`: what may fault is covered by the table, what is written is
            // either client memory or the caller's own.
            unsafe {
                faulting!(
                    [
                        concat!($load, " {a", $width, "}, [{from}]"),
                        concat!($load, " {b", $width, "}, [{from} + {n} - ", $size, "]"),
                        concat!($load, " [{to}], {a", $width, "}"),
                        concat!($load, " [{to} + {n} - ", $size, "], {b", $width, "}")
                    ],
                    to = in(reg) to, from = in(reg) from, n = in(reg) n,
                    a = out($class) _, b = out($class) _,
                    inout("rdx") NO_FAULT => fault,
                    options(nostack, preserves_flags)
                );
            }
            fault == NO_FAULT
        }
    };
}

/// One move of exactly the width. True if it did not fault.
macro_rules! single {
    ($name:ident, $class:ident, $width:tt, $load:literal) => {
        /// # Safety
        /// As [`copy`]; and the size is the width.
        #[inline(always)]
        unsafe fn $name(to: *mut u8, from: *const u8) -> bool {
            let fault: u64;
            // SAFETY: as in the pairs.
            unsafe {
                faulting!(
                    [concat!($load, " {a", $width, "}, [{from}]"), concat!($load, " [{to}], {a", $width, "}")],
                    to = in(reg) to, from = in(reg) from, a = out($class) _,
                    inout("rdx") NO_FAULT => fault,
                    options(nostack, preserves_flags)
                );
            }
            fault == NO_FAULT
        }
    };
}

single!(move_1, reg_byte, "", "mov");
single!(move_2, reg, ":x", "mov");
single!(move_4, reg, ":e", "mov");
single!(move_8, reg, ":r", "mov");
single!(move_16, xmm_reg, "", "movups");
pair!(pair_2, reg, "2", ":x", "mov");
pair!(pair_4, reg, "4", ":e", "mov");
pair!(pair_8, reg, "8", ":r", "mov");
pair!(pair_16, xmm_reg, "16", "", "movups");

/// Moves `n` bytes. The error says exactly how many were not moved.
///
/// # Safety
/// 1. SIGSEGV and SIGBUS of this thread reach a handler that calls [`crate::recover`] first, and are not blocked.
/// 2. Each side is either memory of the caller's own, valid for the access, or an address below 2^47 of a client
///    whose memory may be changed by anyone at any time; the two sides do not overlap in the caller's own memory.
#[inline(always)]
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, n: usize) -> Result<(), Stop> {
    // SAFETY: the obligations are the caller's, passed on unchanged; each arm's size fits its move.
    unsafe {
        if n >= WIDE_LEAST {
            if n <= WIDE_MOST && is_x86_feature_detected!("avx") {
                return if wide(to, from, n) {
                    Ok(())
                } else {
                    exact(to, from, n)
                };
            }
            if n >= STRING_LEAST {
                return string(to, from, n);
            }
        }
        let moved = match n {
            0 => true,
            1 => move_1(to, from),
            2 => move_2(to, from),
            3 => pair_2(to, from, n),
            4 => move_4(to, from),
            8 => move_8(to, from),
            5..=7 => pair_4(to, from, n),
            9..=15 => pair_8(to, from, n),
            16 => move_16(to, from),
            17..=32 => pair_16(to, from, n),
            _ => blocks(to, from, n),
        };
        if moved { Ok(()) } else { exact(to, from, n) }
    }
}

/// 33 bytes and more: blocks of 32, the last one overlapping what came before.
///
/// # Safety
/// As [`copy`]; `n` is at least 32.
#[inline(always)]
unsafe fn blocks(to: *mut u8, from: *const u8, n: usize) -> bool {
    let mut at = 0;
    // SAFETY: passed on unchanged. Front blocks come first, so that a fault leaves only a prefix written.
    unsafe {
        while at + 32 < n {
            if !pair_16(to.wrapping_add(at), from.wrapping_add(at), 32) {
                return false;
            }
            at += 32;
        }
        pair_16(to.wrapping_add(n - 32), from.wrapping_add(n - 32), 32)
    }
}

/// 128 bytes and more: blocks of 128, the last one overlapping what came before.
///
/// # Safety
/// As [`copy`]; `n` is at least 128, and the CPU has AVX.
#[inline(always)]
unsafe fn wide(to: *mut u8, from: *const u8, n: usize) -> bool {
    let fault: u64;
    // SAFETY: as in the pairs. Front blocks come first, so that a fault leaves only a prefix written.
    unsafe {
        faulting!(
            [
                "4:",
                "vmovups ymm0, [{from}]",
                "vmovups ymm1, [{from} + 32]",
                "vmovups ymm2, [{from} + 64]",
                "vmovups ymm3, [{from} + 96]",
                "vmovups [{to}], ymm0",
                "vmovups [{to} + 32], ymm1",
                "vmovups [{to} + 64], ymm2",
                "vmovups [{to} + 96], ymm3",
                "sub {from}, -128",
                "sub {to}, -128",
                "cmp {to}, {end}",
                "jb 4b",
                "sub {from}, {to}",
                "vmovups ymm0, [{from} + {end}]",
                "vmovups ymm1, [{from} + {end} + 32]",
                "vmovups ymm2, [{from} + {end} + 64]",
                "vmovups ymm3, [{from} + {end} + 96]",
                "vmovups [{end}], ymm0",
                "vmovups [{end} + 32], ymm1",
                "vmovups [{end} + 64], ymm2",
                "vmovups [{end} + 96], ymm3"
            ],
            to = inout(reg) to => _, from = inout(reg) from => _, end = in(reg) to.wrapping_add(n - 128),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            inout("rdx") NO_FAULT => fault,
            options(nostack)
        );
        asm!("vzeroupper", options(nostack, nomem, preserves_flags));
    }
    fault == NO_FAULT
}

/// The byte-exact repetition of a small copy that faulted.
///
/// # Safety
/// As [`copy`].
#[cold]
#[inline(never)]
unsafe fn exact(to: *mut u8, from: *const u8, n: usize) -> Result<(), Stop> {
    // SAFETY: passed on unchanged.
    unsafe { string(to, from, n) }
}

/// `rep movsb`.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
unsafe fn string(to: *mut u8, from: *const u8, n: usize) -> Result<(), Stop> {
    let (left, fault): (usize, u64);
    // SAFETY: as in the pairs; the direction flag is clear, by the ABI and at every signal's entry.
    unsafe {
        faulting!(
            ["rep movsb"],
            inout("rcx") n => left, inout("rdi") to => _, inout("rsi") from => _,
            inout("rdx") NO_FAULT => fault,
            options(nostack, preserves_flags)
        );
    }
    if left == 0 {
        Ok(())
    } else {
        Err(Stop { left, at: fault })
    }
}

/// Sets `n` bytes. The error says exactly how many were not set.
///
/// # Safety
/// As [`copy`], for the one side.
#[inline(always)]
pub(crate) unsafe fn fill(to: *mut u8, byte: u8, n: usize) -> Result<(), Stop> {
    let (left, fault): (usize, u64);
    // SAFETY: as in `string`.
    unsafe {
        faulting!(
            ["rep stosb"],
            inout("rcx") n => left, inout("rdi") to => _, in("al") byte,
            inout("rdx") NO_FAULT => fault,
            options(nostack, preserves_flags)
        );
    }
    if left == 0 {
        Ok(())
    } else {
        Err(Stop { left, at: fault })
    }
}

/// A single load and a single store of one width; x86's ordinary accesses are Acquire and Release.
macro_rules! access {
    ($load:ident, $store:ident, $cas:ident, $ty:ty, $class:ident, $width:tt, $acc:tt) => {
        /// # Safety
        /// As [`copy`], for the one side.
        #[inline(always)]
        pub(crate) unsafe fn $load(from: u64) -> Option<$ty> {
            let (value, fault): ($ty, u64);
            // SAFETY: as in the pairs.
            unsafe {
                faulting!(
                    [concat!("mov {v", $width, "}, [{from}]")],
                    from = in(reg) from, v = out($class) value,
                    inout("rdx") NO_FAULT => fault,
                    options(nostack, preserves_flags)
                );
            }
            (fault == NO_FAULT).then_some(value)
        }

        /// # Safety
        /// As [`copy`], for the one side.
        #[inline(always)]
        pub(crate) unsafe fn $store(to: u64, value: $ty) -> Option<()> {
            let fault: u64;
            // SAFETY: as in the pairs.
            unsafe {
                faulting!(
                    [concat!("mov [{to}], {v", $width, "}")],
                    to = in(reg) to, v = in($class) value,
                    inout("rdx") NO_FAULT => fault,
                    options(nostack, preserves_flags)
                );
            }
            (fault == NO_FAULT).then_some(())
        }

        /// The value found; the new one was stored if that is `old`.
        ///
        /// # Safety
        /// As [`copy`], for the one side.
        #[inline(always)]
        pub(crate) unsafe fn $cas(at: u64, old: $ty, new: $ty) -> Option<$ty> {
            let (found, fault): ($ty, u64);
            // SAFETY: as in the pairs; the flags are declared clobbered by leaving out preserves_flags.
            unsafe {
                faulting!(
                    [concat!("lock cmpxchg [{at}], {v", $width, "}")],
                    at = in(reg) at, v = in($class) new,
                    inout($acc) old => found,
                    inout("rdx") NO_FAULT => fault,
                    options(nostack)
                );
            }
            (fault == NO_FAULT).then_some(found)
        }
    };
}

access!(load_1, store_1, swap_1, u8, reg_byte, "", "al");
access!(load_2, store_2, swap_2, u16, reg, ":x", "ax");
access!(load_4, store_4, swap_4, u32, reg, ":e", "eax");
access!(load_8, store_8, swap_8, u64, reg, ":r", "rax");
