//! String instructions: either side may be a register page, the other one ordinary memory.

use super::memory::{Machine, memory_bytes};
use super::registers::DIRECTION;
use super::{Done, Halt, alu};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Which pointers an instruction moves, and their width.
struct Pointers {
    source: bool,
    sink: bool,
    /// rsi, rdi, rcx or esi, edi, ecx.
    registers: [Register; 3],
}

impl Pointers {
    fn of(i: &Instruction) -> Done<Pointers> {
        let kinds = [i.op0_kind(), i.op1_kind()];
        let has = |wanted: OpKind| kinds.contains(&wanted);
        let long = has(OpKind::MemorySegRSI) || has(OpKind::MemoryESRDI);
        let short = has(OpKind::MemorySegESI) || has(OpKind::MemoryESEDI);
        if !long && !short {
            return Err(Halt::Unknown);
        }
        Ok(Pointers {
            source: has(OpKind::MemorySegRSI) || has(OpKind::MemorySegESI),
            sink: has(OpKind::MemoryESRDI) || has(OpKind::MemoryESEDI),
            registers: if long {
                [Register::RSI, Register::RDI, Register::RCX]
            } else {
                [Register::ESI, Register::EDI, Register::ECX]
            },
        })
    }
}

/// Carries out a string instruction with its repetitions. On a fault the registers stand at the element that failed.
pub(super) fn run(m: &mut Machine<'_>, i: &Instruction) -> Done {
    let pointers = Pointers::of(i)?;
    let bytes = memory_bytes(i)?;
    let step = if m.registers.rflags & DIRECTION == 0 {
        i64::from(bytes)
    } else {
        -i64::from(bytes)
    };
    let repeated = i.has_rep_prefix() || i.has_repne_prefix();
    let compares = matches!(
        i.mnemonic(),
        Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Cmpsq
            | Mnemonic::Scasb
            | Mnemonic::Scasw
            | Mnemonic::Scasd
            | Mnemonic::Scasq
    );
    let [rsi, rdi, rcx] = pointers.registers;
    let mut left = if repeated {
        m.registers.get(rcx).ok_or(Halt::Unknown)?
    } else {
        1
    };
    while left != 0 {
        element(m, i, bytes)?;
        left -= 1;
        for (moves, register) in [(pointers.source, rsi), (pointers.sink, rdi)] {
            if moves {
                let now = m.registers.get(register).ok_or(Halt::Unknown)?;
                m.registers
                    .set(register, now.wrapping_add_signed(step))
                    .ok_or(Halt::Unknown)?;
            }
        }
        if repeated {
            m.registers.set(rcx, left).ok_or(Halt::Unknown)?;
        }
        let wanted = !i.has_repne_prefix();
        if compares && repeated && m.registers.is_zero() != wanted {
            break;
        }
    }
    Ok(())
}

/// One element, without moving the pointers.
fn element(m: &mut Machine<'_>, i: &Instruction, bytes: u8) -> Done {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => {
            let (to, from) = (m.address(i, 0)?, m.address(i, 1)?);
            let value = m.load(from, bytes)?;
            m.store(to, bytes, value)
        }
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
            let (to, value) = (m.address(i, 0)?, m.value(i, 1)?);
            m.store(to, bytes, value)
        }
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
            let from = m.address(i, 1)?;
            let value = m.load(from, bytes)?;
            m.set(i, 0, value)
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
            let (a, b) = (m.address(i, 0)?, m.address(i, 1)?);
            let (a, b) = (m.load(a, bytes)?, m.load(b, bytes)?);
            compare(m, bytes, a, b)
        }
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
            let (a, at) = (m.value(i, 0)?, m.address(i, 1)?);
            let b = m.load(at, bytes)?;
            compare(m, bytes, a, b)
        }
        _ => Err(Halt::Unknown),
    }
}

fn compare(m: &mut Machine<'_>, bytes: u8, a: u64, b: u64) -> Done {
    let (_, flags) = alu::cmp(bytes, a, b, m.registers.rflags);
    m.registers.set_status(flags);
    Ok(())
}
