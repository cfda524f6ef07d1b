//! Arithmetic with exact flags: each operation is carried out by the host's own instruction of the same width, with
//! the client's status flags loaded before and taken after. Flags that the manuals leave undefined come out as this
//! CPU makes them, as they would have for the client.
#![allow(unsafe_code)] // inline assembly; it touches registers and its own stack word only

use super::registers::STATUS_FLAGS;
use std::arch::asm;

/// A result and the status flags after it.
pub(super) type Flagged = (u64, u64);

/// Bit 1 of the flags register is always set.
const FIXED: u64 = 2;

/// One instruction on operands in `a` and `b`, at each width.
macro_rules! operation {
    (@one $text:expr, $ty:ty, $class:ident, $a:ident, $flags:ident, $($b:tt)*) => {{
        let mut value = $a as $ty;
        let mut status = $flags & STATUS_FLAGS | FIXED;
        // SAFETY: pure register arithmetic; the two stack words are pushed and popped in balance.
        unsafe {
            asm!(
                "push {f}", "popfq", $text, "pushfq", "pop {f}",
                f = inout(reg) status, a = inout($class) value, $($b)*
            );
        }
        (u64::from(value), status & STATUS_FLAGS)
    }};
    (two $name:ident, $op:literal, wide) => {
        pub(super) fn $name(bytes: u8, a: u64, b: u64, flags: u64) -> Flagged {
            match bytes {
                2 => operation!(@one concat!($op, " {a:x}, {b:x}"), u16, reg, a, flags, b = in(reg) b as u16),
                4 => operation!(@one concat!($op, " {a:e}, {b:e}"), u32, reg, a, flags, b = in(reg) b as u32),
                8 => operation!(@one concat!($op, " {a:r}, {b:r}"), u64, reg, a, flags, b = in(reg) b),
                _ => unreachable!("this operation has no 8-bit form"),
            }
        }
    };
    (two $name:ident, $op:literal) => {
        pub(super) fn $name(bytes: u8, a: u64, b: u64, flags: u64) -> Flagged {
            match bytes {
                1 => operation!(@one concat!($op, " {a}, {b}"), u8, reg_byte, a, flags, b = in(reg_byte) b as u8),
                2 => operation!(@one concat!($op, " {a:x}, {b:x}"), u16, reg, a, flags, b = in(reg) b as u16),
                4 => operation!(@one concat!($op, " {a:e}, {b:e}"), u32, reg, a, flags, b = in(reg) b as u32),
                _ => operation!(@one concat!($op, " {a:r}, {b:r}"), u64, reg, a, flags, b = in(reg) b),
            }
        }
    };
    (shift $name:ident, $op:literal) => {
        pub(super) fn $name(bytes: u8, a: u64, b: u64, flags: u64) -> Flagged {
            match bytes {
                1 => operation!(@one concat!($op, " {a}, cl"), u8, reg_byte, a, flags, in("cl") b as u8),
                2 => operation!(@one concat!($op, " {a:x}, cl"), u16, reg, a, flags, in("cl") b as u8),
                4 => operation!(@one concat!($op, " {a:e}, cl"), u32, reg, a, flags, in("cl") b as u8),
                _ => operation!(@one concat!($op, " {a:r}, cl"), u64, reg, a, flags, in("cl") b as u8),
            }
        }
    };
    (single $name:ident, $op:literal) => {
        pub(super) fn $name(bytes: u8, a: u64, flags: u64) -> Flagged {
            match bytes {
                1 => operation!(@one concat!($op, " {a}"), u8, reg_byte, a, flags,),
                2 => operation!(@one concat!($op, " {a:x}"), u16, reg, a, flags,),
                4 => operation!(@one concat!($op, " {a:e}"), u32, reg, a, flags,),
                _ => operation!(@one concat!($op, " {a:r}"), u64, reg, a, flags,),
            }
        }
    };
}

operation!(two add, "add");
operation!(two or, "or");
operation!(two adc, "adc");
operation!(two sbb, "sbb");
operation!(two and, "and");
operation!(two sub, "sub");
operation!(two xor, "xor");
operation!(two cmp, "cmp");
operation!(two test, "test");
operation!(two imul, "imul", wide);
operation!(two bsf, "bsf", wide);
operation!(two bsr, "bsr", wide);
operation!(two bt, "bt", wide);
operation!(two bts, "bts", wide);
operation!(two btr, "btr", wide);
operation!(two btc, "btc", wide);
operation!(shift rol, "rol");
operation!(shift ror, "ror");
operation!(shift rcl, "rcl");
operation!(shift rcr, "rcr");
operation!(shift shl, "shl");
operation!(shift shr, "shr");
operation!(shift sar, "sar");
operation!(single inc, "inc");
operation!(single dec, "dec");
operation!(single neg, "neg");
