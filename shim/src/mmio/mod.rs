//! Trapped register accesses: one instruction of the client, carried out on its behalf.
//!
//! A register page with side effects is mapped without permissions. The fault handler gives the interrupted
//! registers and the bytes at rip to [`emulate`], which decodes the instruction and performs it: operands in trapped
//! pages go to a [`Bus`], all others are ordinary client memory. Covered is what compilers, memcpy implementations
//! and drivers use on device memory; anything else is [`Stop::Unknown`], which becomes a report.
//!
//! | file | what |
//! |---|---|
//! | `registers` | the interrupted register file, and its way out of and back into a signal frame |
//! | `integer` | moves, arithmetic, bit tests, exchanges, push and pop |
//! | `alu` | arithmetic with exact flags: the same operation, run on the host |
//! | `string` | movs, stos, lods, cmps, scas with their prefixes |
//! | `vector` | SSE and AVX moves, and 64-byte direct stores |
//!
//! An access wider than 8 bytes reaches the bus as 8-byte pieces, ascending, like the bursts of a bridge; one that
//! crosses a page is split into bytes. Locked instructions are a read and a write here: a device sees the two, as it
//! would behind a bus without locked cycles, and the caller serialises accesses to one device.
//!
//! Nothing is changed on failure except that a string instruction keeps the progress it made, as on a CPU.

mod alu;
mod integer;
mod memory;
mod registers;
mod string;
#[cfg(test)]
mod tests;
mod vector;

pub use registers::{Registers, VectorFile};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use memory::Machine;
use swiommu_mem::{Client, UserAddr};

/// The longest instruction in bytes.
pub const INSTRUCTION_MAX: usize = 15;

/// Where trapped accesses go. Addresses are the client's; sizes are 1, 2, 4 or 8 bytes and never cross a page.
pub trait Bus {
    /// Whether the page of this address traps.
    fn is_trapped(&self, at: u64) -> bool;
    /// A register read; only the low `bytes` bytes count. `None`: no page is there at this moment.
    fn read(&mut self, at: u64, bytes: u8) -> Option<u64>;
    /// A register write of the low `bytes` bytes. `None` as for [`Bus::read`].
    fn write(&mut self, at: u64, bytes: u8, value: u64) -> Option<()>;
    /// A direct store of 64 bytes (MOVDIR64B), which a device receives as one. By default, eight writes.
    fn write64(&mut self, at: u64, data: &[u8; 64]) -> Option<()> {
        let mut pieces = data.chunks_exact(8).zip((at..).step_by(8));
        pieces.try_for_each(|(piece, at)| {
            let piece = piece.try_into().expect("a piece has 8 bytes");
            self.write(at, 8, u64::from_le_bytes(piece))
        })
    }
}

/// Why an instruction was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Not one of the forms above: its name in the decoder's words and its bytes.
    Unknown {
        /// For a report.
        text: String,
    },
    /// An operand in ordinary memory could not be touched: the client deserves a SIGSEGV with this address.
    Fault {
        /// The address that faulted.
        at: UserAddr,
    },
    /// A page of registers is not there at this moment: the client deserves a SIGBUS with this address.
    NoPage {
        /// The address of the access.
        at: UserAddr,
    },
}

/// Carries out the instruction at `registers.rip`, whose bytes `code` begins with (as many as could be read, up to
/// [`INSTRUCTION_MAX`]). On success rip is behind it.
pub fn emulate(
    registers: &mut Registers,
    code: &[u8],
    client: Client,
    bus: &mut dyn Bus,
) -> Result<(), Stop> {
    let mut decoder = Decoder::with_ip(64, code, registers.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut machine = Machine {
        registers,
        client,
        bus,
    };
    let done = if instruction.is_invalid() {
        Err(Halt::Unknown)
    } else if instruction.is_string_instruction() {
        string::run(&mut machine, &instruction)
    } else {
        match integer::run(&mut machine, &instruction) {
            Err(Halt::Unknown) => vector::run(&mut machine, &instruction),
            other => other,
        }
    };
    match done {
        Ok(()) => {
            registers.rip = instruction.next_ip();
            Ok(())
        }
        Err(Halt::Fault(at)) => Err(Stop::Fault { at }),
        Err(Halt::NoPage(at)) => Err(Stop::NoPage { at }),
        Err(Halt::Unknown) => Err(Stop::Unknown {
            text: describe(&instruction, code),
        }),
    }
}

/// Builds the decoder's tables, which it does lazily and with allocations: to be called once outside of a handler.
pub fn warm_up() {
    let nop = Decoder::with_ip(64, &[0x90], 0, DecoderOptions::NONE).decode();
    debug_assert_eq!(nop.code(), Code::Nopd);
}

/// Inside, failure carries no text, so that trying costs nothing.
enum Halt {
    Unknown,
    Fault(UserAddr),
    NoPage(UserAddr),
}

type Done<T = ()> = Result<T, Halt>;

#[cold]
fn describe(instruction: &Instruction, code: &[u8]) -> String {
    use std::fmt::Write;
    let length = if instruction.is_invalid() {
        code.len()
    } else {
        instruction.len()
    };
    let mut text = format!("{:?} (", instruction.code());
    for byte in &code[..length.min(code.len())] {
        let _ = write!(text, "{byte:02x}");
    }
    text.push(')');
    text
}
