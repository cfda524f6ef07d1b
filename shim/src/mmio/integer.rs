//! Integer instructions with a memory operand.

use super::alu::{self, Flagged};
use super::memory::{Machine, mask, memory_bytes, operand_bytes, sign_extend};
use super::{Done, Halt};
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

/// Operation on operand size, first and second value, status flags.
type Binary = fn(u8, u64, u64, u64) -> Flagged;
type Unary = fn(u8, u64, u64) -> Flagged;

/// Carries out `i`, or says that it is not an integer instruction known here.
pub(super) fn run(m: &mut Machine<'_>, i: &Instruction) -> Done {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Mov | M::Movzx | M::Movnti | M::Movdiri => {
            // Refuses segment and control registers before anything is read.
            operand_bytes(i, 0)?;
            let value = m.value(i, 1)?;
            m.set(i, 0, value)
        }
        M::Movsx | M::Movsxd => {
            let value = sign_extend(m.value(i, 1)?, operand_bytes(i, 1)?);
            m.set(i, 0, value)
        }
        M::Movbe => {
            let value = m.value(i, 1)?.swap_bytes() >> (64 - 8 * u32::from(memory_bytes(i)?));
            m.set(i, 0, value)
        }
        M::Xchg => exchange(m, i),
        M::Xadd => exchange_add(m, i),
        M::Cmpxchg => compare_exchange(m, i),
        M::Push => push(m, i),
        M::Pop => pop(m, i),
        M::Not => {
            let value = !m.value(i, 0)?;
            m.set(i, 0, value)
        }
        M::Imul if i.op_count() == 3 => {
            let (bytes, a, b) = (memory_bytes(i)?, m.value(i, 1)?, m.value(i, 2)?);
            let (product, flags) = alu::imul(bytes, a, b, m.registers.rflags);
            m.set(i, 0, product)?;
            m.registers.set_status(flags);
            Ok(())
        }
        M::Clflush | M::Clflushopt | M::Clwb => Ok(()),
        _ => arithmetic(m, i),
    }
}

fn arithmetic(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if let Some(operation) = binary(i) {
        let (bytes, a, b) = (operand_bytes(i, 0)?, m.value(i, 0)?, m.value(i, 1)?);
        let (value, flags) = operation(bytes, a, b, m.registers.rflags);
        m.set(i, 0, value)?;
        m.registers.set_status(flags);
        return Ok(());
    }
    if let Some(operation) = compare(i) {
        let (bytes, a, b) = (operand_bytes(i, 0)?, m.value(i, 0)?, m.value(i, 1)?);
        let (_, flags) = operation(bytes, a, b, m.registers.rflags);
        m.registers.set_status(flags);
        return Ok(());
    }
    if let Some(operation) = unary(i) {
        let (bytes, a) = (operand_bytes(i, 0)?, m.value(i, 0)?);
        let (value, flags) = operation(bytes, a, m.registers.rflags);
        m.set(i, 0, value)?;
        m.registers.set_status(flags);
        return Ok(());
    }
    if let Some((operation, stores)) = bit(i) {
        return bit_test(m, i, operation, stores);
    }
    conditional(m, i)
}

fn binary(i: &Instruction) -> Option<Binary> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Add => alu::add,
        M::Or => alu::or,
        M::Adc => alu::adc,
        M::Sbb => alu::sbb,
        M::And => alu::and,
        M::Sub => alu::sub,
        M::Xor => alu::xor,
        M::Rol => alu::rol,
        M::Ror => alu::ror,
        M::Rcl => alu::rcl,
        M::Rcr => alu::rcr,
        M::Shl | M::Sal => alu::shl,
        M::Shr => alu::shr,
        M::Sar => alu::sar,
        M::Bsf => alu::bsf,
        M::Bsr => alu::bsr,
        M::Imul if i.op_count() == 2 => alu::imul,
        _ => return None,
    })
}

fn compare(i: &Instruction) -> Option<Binary> {
    match i.mnemonic() {
        Mnemonic::Cmp => Some(alu::cmp),
        Mnemonic::Test => Some(alu::test),
        _ => None,
    }
}

fn unary(i: &Instruction) -> Option<Unary> {
    match i.mnemonic() {
        Mnemonic::Inc => Some(alu::inc),
        Mnemonic::Dec => Some(alu::dec),
        Mnemonic::Neg => Some(alu::neg),
        _ => None,
    }
}

/// The operation and whether it stores a result.
fn bit(i: &Instruction) -> Option<(Binary, bool)> {
    match i.mnemonic() {
        Mnemonic::Bt => Some((alu::bt, false)),
        Mnemonic::Bts => Some((alu::bts, true)),
        Mnemonic::Btr => Some((alu::btr, true)),
        Mnemonic::Btc => Some((alu::btc, true)),
        _ => None,
    }
}

/// A bit in memory: a register's bit number is signed and reaches beyond the operand.
fn bit_test(m: &mut Machine<'_>, i: &Instruction, operation: Binary, stores: bool) -> Done {
    let bytes = memory_bytes(i)?;
    let bit = m.value(i, 1)?;
    let mut at = m.address(i, 0)?;
    if i.op1_kind() == OpKind::Register {
        let unit = (sign_extend(bit, bytes) as i64) >> (3 + bytes.trailing_zeros());
        at = at.wrapping_add_signed(unit * i64::from(bytes));
    }
    let old = m.load(at, bytes)?;
    let (value, flags) = operation(bytes, old, bit, m.registers.rflags);
    if stores {
        m.store(at, bytes, value)?;
    }
    m.registers.set_status(flags);
    Ok(())
}

/// setcc and cmovcc. A conditional move reads its memory whether or not it moves, and clears the upper half of a
/// 64-bit register even if it does not.
fn conditional(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if i.condition_code() == ConditionCode::None {
        return Err(Halt::Unknown);
    }
    let holds = m.registers.holds(i.condition_code()).ok_or(Halt::Unknown)?;
    match i.op_count() {
        1 if i.op0_kind() == OpKind::Memory => m.set(i, 0, u64::from(holds)),
        2 if i.op1_kind() == OpKind::Memory => {
            let (new, old) = (m.value(i, 1)?, m.value(i, 0)?);
            m.set(i, 0, if holds { new } else { old })
        }
        _ => Err(Halt::Unknown),
    }
}

fn exchange(m: &mut Machine<'_>, i: &Instruction) -> Done {
    let (a, b) = (m.value(i, 0)?, m.value(i, 1)?);
    // Memory first: it may fault, a register cannot.
    let (memory, register) = if i.op0_kind() == OpKind::Memory {
        (0, 1)
    } else {
        (1, 0)
    };
    let (to_memory, to_register) = if memory == 0 { (b, a) } else { (a, b) };
    // The address may use the register that is about to change.
    m.set(i, memory, to_memory)?;
    m.set(i, register, to_register)
}

fn exchange_add(m: &mut Machine<'_>, i: &Instruction) -> Done {
    let (bytes, old, addend) = (operand_bytes(i, 0)?, m.value(i, 0)?, m.value(i, 1)?);
    let (sum, flags) = alu::add(bytes, old, addend, m.registers.rflags);
    m.set(i, 0, sum)?;
    m.set(i, 1, old)?;
    m.registers.set_status(flags);
    Ok(())
}

/// The memory is written in either case, as the CPU does.
fn compare_exchange(m: &mut Machine<'_>, i: &Instruction) -> Done {
    let bytes = operand_bytes(i, 0)?;
    let accumulator = match bytes {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    let (found, new) = (m.value(i, 0)?, m.value(i, 1)?);
    let expected = m.registers.get(accumulator).ok_or(Halt::Unknown)?;
    let (_, flags) = alu::cmp(bytes, expected, found, m.registers.rflags);
    let equal = expected == found & mask(bytes);
    m.set(i, 0, if equal { new } else { found })?;
    if !equal {
        m.registers.set(accumulator, found).ok_or(Halt::Unknown)?;
    }
    m.registers.set_status(flags);
    Ok(())
}

const RSP: usize = 4;

fn push(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if i.op0_kind() != OpKind::Memory {
        return Err(Halt::Unknown);
    }
    let (bytes, value) = (memory_bytes(i)?, m.value(i, 0)?);
    let top = m.registers.gpr[RSP].wrapping_sub(u64::from(bytes));
    m.store(top, bytes, value)?;
    m.registers.gpr[RSP] = top;
    Ok(())
}

/// An address that uses rsp sees it incremented.
fn pop(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if i.op0_kind() != OpKind::Memory {
        return Err(Halt::Unknown);
    }
    let (bytes, top) = (memory_bytes(i)?, m.registers.gpr[RSP]);
    let value = m.load(top, bytes)?;
    m.registers.gpr[RSP] = top.wrapping_add(u64::from(bytes));
    m.set(i, 0, value)
        .inspect_err(|_| m.registers.gpr[RSP] = top)
}
