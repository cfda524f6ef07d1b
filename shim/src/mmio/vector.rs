//! SSE and AVX moves, and the 64-byte direct store.

use super::memory::{Machine, no_page};
use super::{Done, Halt};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// Which part of a vector register moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Some low bytes; a load clears the rest of the lower half.
    Low(u8),
    /// The low 8 bytes; a load keeps the others.
    LowHalf,
    /// The high 8 bytes of the lower half; a load keeps the others.
    HighHalf,
    /// The whole register.
    Whole,
}

/// The part that a move's mnemonic names, and whether it is VEX-encoded, which clears what it does not set.
fn part(i: &Instruction) -> Option<(Part, bool)> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Movd | M::Movss => (Part::Low(4), false),
        M::Movq | M::Movsd => (Part::Low(8), false),
        M::Vmovd | M::Vmovss => (Part::Low(4), true),
        M::Vmovq | M::Vmovsd => (Part::Low(8), true),
        M::Movlps | M::Movlpd => (Part::LowHalf, false),
        M::Movhps | M::Movhpd => (Part::HighHalf, false),
        M::Movdqa | M::Movdqu | M::Movups | M::Movupd | M::Movaps | M::Movapd => {
            (Part::Whole, false)
        }
        M::Movntdq | M::Movntps | M::Movntpd | M::Movntdqa | M::Lddqu => (Part::Whole, false),
        M::Vmovdqa | M::Vmovdqu | M::Vmovups | M::Vmovupd | M::Vmovaps | M::Vmovapd => {
            (Part::Whole, true)
        }
        M::Vmovntdq | M::Vmovntps | M::Vmovntpd | M::Vmovntdqa | M::Vlddqu => (Part::Whole, true),
        _ => return None,
    })
}

/// Carries out a vector move.
pub(super) fn run(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if i.mnemonic() == Mnemonic::Movdir64b {
        return direct_store(m, i);
    }
    let (part, vex) = part(i).ok_or(Halt::Unknown)?;
    match (i.op_count(), i.op0_kind(), i.op1_kind()) {
        (2, OpKind::Register, OpKind::Memory) => load(m, i, part, vex),
        (2, OpKind::Memory, OpKind::Register) => store(m, i, part),
        _ => Err(Halt::Unknown),
    }
}

/// The register's number and whether it is a ymm.
fn vector(register: Register) -> Done<(usize, bool)> {
    if register.is_xmm() || register.is_ymm() {
        return Ok((register.number(), register.is_ymm()));
    }
    Err(Halt::Unknown)
}

fn load(m: &mut Machine<'_>, i: &Instruction, part: Part, vex: bool) -> Done {
    let (number, wide) = vector(i.op0_register())?;
    let at = m.address(i, 1)?;
    let old = m.registers.vectors.low(number).ok_or(Halt::Unknown)?;
    let low = match part {
        Part::Low(bytes) => u128::from(m.load(at, bytes)?),
        Part::LowHalf => old >> 64 << 64 | u128::from(m.load(at, 8)?),
        Part::HighHalf => u128::from(old as u64) | u128::from(m.load(at, 8)?) << 64,
        Part::Whole => load16(m, at)?,
    };
    let high = if wide {
        load16(m, at.wrapping_add(16))?
    } else {
        0
    };
    let vectors = &mut m.registers.vectors;
    if vex {
        vectors.set_high(number, high).ok_or(Halt::Unknown)?;
    }
    vectors.set_low(number, low).ok_or(Halt::Unknown)
}

fn store(m: &mut Machine<'_>, i: &Instruction, part: Part) -> Done {
    let (number, wide) = vector(i.op1_register())?;
    let at = m.address(i, 0)?;
    let low = m.registers.vectors.low(number).ok_or(Halt::Unknown)?;
    match part {
        Part::Low(bytes) => m.store(at, bytes, low as u64),
        Part::LowHalf => m.store(at, 8, low as u64),
        Part::HighHalf => m.store(at, 8, (low >> 64) as u64),
        Part::Whole => {
            let high = if wide {
                Some(m.registers.vectors.high(number).ok_or(Halt::Unknown)?)
            } else {
                None
            };
            store16(m, at, low)?;
            high.map_or(Ok(()), |high| store16(m, at.wrapping_add(16), high))
        }
    }
}

fn load16(m: &mut Machine<'_>, at: u64) -> Done<u128> {
    let low = m.load(at, 8)?;
    Ok(u128::from(low) | u128::from(m.load(at.wrapping_add(8), 8)?) << 64)
}

fn store16(m: &mut Machine<'_>, at: u64, value: u128) -> Done {
    m.store(at, 8, value as u64)?;
    m.store(at.wrapping_add(8), 8, (value >> 64) as u64)
}

/// MOVDIR64B: 64 bytes from memory to the address in a register, which a device receives as one write.
fn direct_store(m: &mut Machine<'_>, i: &Instruction) -> Done {
    if !matches!(
        i.code(),
        Code::Movdir64b_r64_m512 | Code::Movdir64b_r32_m512
    ) {
        return Err(Halt::Unknown);
    }
    let to = m.registers.get(i.op0_register()).ok_or(Halt::Unknown)?;
    let from = m.address(i, 1)?;
    let mut data = [0; 64];
    for (piece, at) in data.chunks_exact_mut(8).zip((from..).step_by(8)) {
        piece.copy_from_slice(&m.load(at, 8)?.to_le_bytes());
    }
    if m.bus.is_trapped(to) {
        return m.bus.write64(to, &data).ok_or(no_page(to));
    }
    let stored = m.client.write(swiommu_mem::UserAddr(to), &data);
    stored.map_err(|fault| Halt::Fault(fault.at))
}
