//! Operands: registers, immediates, trapped and ordinary memory.

use super::{Bus, Done, Halt, Registers};
use iced_x86::{Instruction, OpKind};
use swiommu_mem::{Client, PAGE, UserAddr};

/// An instruction's surroundings.
pub(super) struct Machine<'a> {
    pub registers: &'a mut Registers,
    pub client: Client,
    pub bus: &'a mut dyn Bus,
}

/// What an access to a register page that is not there is.
pub(super) fn no_page(at: u64) -> Halt {
    Halt::NoPage(UserAddr(at))
}

impl Machine<'_> {
    /// Reads 1, 2, 4 or 8 bytes.
    pub fn load(&mut self, at: u64, bytes: u8) -> Done<u64> {
        if crosses_page(at, bytes) {
            let mut value = 0;
            for i in (0..u64::from(bytes)).rev() {
                value = value << 8 | self.load(at.wrapping_add(i), 1)?;
            }
            return Ok(value);
        }
        if self.bus.is_trapped(at) {
            let value = self.bus.read(at, bytes);
            return value.map(|value| value & mask(bytes)).ok_or(no_page(at));
        }
        self.client
            .load(UserAddr(at), bytes)
            .map_err(|fault| Halt::Fault(fault.at))
    }

    /// Writes 1, 2, 4 or 8 bytes.
    pub fn store(&mut self, at: u64, bytes: u8, value: u64) -> Done {
        if crosses_page(at, bytes) {
            for i in 0..u64::from(bytes) {
                self.store(at.wrapping_add(i), 1, value >> (8 * i))?;
            }
            return Ok(());
        }
        if self.bus.is_trapped(at) {
            let written = self.bus.write(at, bytes, value & mask(bytes));
            return written.ok_or(no_page(at));
        }
        self.client
            .store(UserAddr(at), bytes, value)
            .map_err(|fault| Halt::Fault(fault.at))
    }

    /// The address of memory operand `operand`.
    pub fn address(&self, instruction: &Instruction, operand: u32) -> Done<u64> {
        let registers = &*self.registers;
        instruction
            .virtual_address(operand, 0, |register, _, _| registers.for_address(register))
            .ok_or(Halt::Unknown)
    }

    /// The value of a register, immediate or memory operand, zero-extended.
    pub fn value(&mut self, instruction: &Instruction, operand: u32) -> Done<u64> {
        match instruction.op_kind(operand) {
            OpKind::Register => self
                .registers
                .get(instruction.op_register(operand))
                .ok_or(Halt::Unknown),
            OpKind::Memory => {
                let at = self.address(instruction, operand)?;
                self.load(at, memory_bytes(instruction)?)
            }
            _ => instruction
                .try_immediate(operand)
                .map_err(|_| Halt::Unknown),
        }
    }

    /// Sets a register or memory operand.
    pub fn set(&mut self, instruction: &Instruction, operand: u32, value: u64) -> Done {
        match instruction.op_kind(operand) {
            OpKind::Register => self
                .registers
                .set(instruction.op_register(operand), value)
                .ok_or(Halt::Unknown),
            OpKind::Memory => {
                let at = self.address(instruction, operand)?;
                self.store(at, memory_bytes(instruction)?, value)
            }
            _ => Err(Halt::Unknown),
        }
    }
}

/// Size of an operand in bytes: 1, 2, 4 or 8.
pub(super) fn operand_bytes(instruction: &Instruction, operand: u32) -> Done<u8> {
    match instruction.op_kind(operand) {
        OpKind::Register if instruction.op_register(operand).is_gpr() => {
            Ok(instruction.op_register(operand).size() as u8)
        }
        OpKind::Memory => memory_bytes(instruction),
        _ => Err(Halt::Unknown),
    }
}

/// Size of the memory operand in bytes, if the integer unit could have it.
pub(super) fn memory_bytes(instruction: &Instruction) -> Done<u8> {
    match instruction.memory_size().size() {
        bytes @ (1 | 2 | 4 | 8) => Ok(bytes as u8),
        _ => Err(Halt::Unknown),
    }
}

/// The low `bytes` bytes.
pub(super) fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(bytes))
}

fn crosses_page(at: u64, bytes: u8) -> bool {
    at % PAGE + u64::from(bytes) > PAGE
}

/// The low `bytes` bytes as a signed number.
pub(super) fn sign_extend(value: u64, bytes: u8) -> u64 {
    let shift = 64 - 8 * u32::from(bytes);
    ((value << shift) as i64 >> shift) as u64
}
