//! One channel: its registers, its states, and the chain of descriptors that it works through.

use super::descriptor::{self, Defect, Descriptor, Operation};
use super::interrupts::Interrupts;
use crate::pci::{Bus, BusError, Doing};

/// Bits of CHANERR, all of which halt the channel.
pub mod error {
    pub const SOURCE: u32 = 1 << 0;
    pub const DESTINATION: u32 = 1 << 1;
    pub const NEXT: u32 = 1 << 2;
    pub const NEXT_ALIGNMENT: u32 = 1 << 3;
    pub const CHAIN_ADDRESS: u32 = 1 << 4;
    pub const COMMAND: u32 = 1 << 5;
    pub const READ_DATA: u32 = 1 << 8;
    pub const WRITE_DATA: u32 = 1 << 9;
    pub const CONTROL: u32 = 1 << 10;
    pub const LENGTH: u32 = 1 << 11;
    pub const COMPLETION_ADDRESS: u32 = 1 << 12;
}

/// Bits of CHANCTRL.
mod chanctrl {
    /// Reads whether the interrupt is disarmed; a 1 arms it.
    pub const DISARMED: u16 = 1 << 0;
    pub const ERROR_COMPLETION: u16 = 1 << 2;
    pub const ERROR_INTERRUPT: u16 = 1 << 4;
    pub const IN_USE: u16 = 1 << 8;
    /// Error completion, abort on any error, error interrupt, descriptor snooping, completion by cache.
    pub const KEPT: u16 = 0x023c;
}

/// Commands of CHANCMD.
mod chancmd {
    pub const SUSPEND: u8 = 1 << 2;
    pub const RESET: u8 = 1 << 5;
}

/// The low bits of CHANSTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At work: only ever seen in completions of descriptors that others follow.
    Active = 0,
    /// All descriptors are done.
    Done = 1,
    /// By command.
    Suspended = 2,
    /// By an error or a reset.
    Halted = 3,
    /// It has a chain, and no descriptor to do.
    Armed = 4,
}

/// What a channel works with that is not its own.
pub struct Shared<'a> {
    pub bus: &'a mut dyn Bus,
    pub interrupts: &'a mut Interrupts,
    /// What a copy passes through.
    pub buffer: &'a mut [u8],
    /// The most bytes of a descriptor.
    pub longest: u64,
}

/// A channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    index: u16,
    state: State,
    control: u16,
    in_use: bool,
    /// It interrupted, and was not armed since.
    disarmed: bool,
    /// DMACOUNT, and how many descriptors of the chain are done; both wrap around.
    count: u16,
    done: u16,
    /// Address of the last descriptor done since the last reset, or 0.
    completed: u64,
    /// CHAINADDR, and whether the descriptor there is still the next.
    chain: u64,
    fresh: bool,
    next: u64,
    /// CDAR.
    current: u64,
    /// CHANCMP.
    completion: u64,
    /// CHANERR and CHANERRMSK.
    errors: u32,
    error_mask: u32,
}

impl Channel {
    /// As after power-on.
    pub fn new(index: u16) -> Channel {
        Channel {
            index,
            state: State::Halted,
            control: 0,
            in_use: false,
            disarmed: false,
            count: 0,
            done: 0,
            completed: 0,
            chain: 0,
            fresh: false,
            next: 0,
            current: 0,
            completion: 0,
            errors: 0,
            error_mask: 0,
        }
    }

    /// CHANSTS.
    pub fn status(&self) -> u64 {
        self.completed | self.state as u64
    }

    /// CHANCTRL, without claiming the channel.
    pub fn control(&self) -> u16 {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        self.control | bit(self.disarmed, chanctrl::DISARMED) | bit(self.in_use, chanctrl::IN_USE)
    }

    /// Reads CHANCTRL: whoever finds the channel not in use has it.
    pub fn claim(&mut self) -> u16 {
        let value = self.control();
        self.in_use = true;
        value
    }

    /// Writes CHANCTRL.
    pub fn set_control(&mut self, value: u16) {
        self.control = value & chanctrl::KEPT;
        self.in_use &= value & chanctrl::IN_USE != 0;
        self.disarmed &= value & chanctrl::DISARMED == 0;
    }

    /// DMACOUNT.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// CHAINADDR.
    pub fn chain(&self) -> u64 {
        self.chain
    }

    /// CHANCMP.
    pub fn completion(&self) -> u64 {
        self.completion
    }

    /// CDAR.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// CHANERR.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// CHANERRMSK.
    pub fn error_mask(&self) -> u32 {
        self.error_mask
    }

    /// Writes CHAINADDR: a new chain, counted from 0.
    pub fn set_chain(&mut self, value: u64) {
        self.chain = value;
        self.next = value;
        self.fresh = true;
        (self.count, self.done) = (0, 0);
        self.state = State::Armed;
    }

    /// Writes CHANCMP.
    pub fn set_completion(&mut self, value: u64) {
        self.completion = value;
    }

    /// Writes CHANERR: ones clear.
    pub fn clear_errors(&mut self, value: u32) {
        self.errors &= !value;
    }

    /// Writes CHANERRMSK.
    pub fn set_error_mask(&mut self, value: u32) {
        self.error_mask = value;
    }

    /// Writes CHANCMD. A reset leaves CHANCTRL, CHANCMP and CHANERR alone: drivers do not write them again.
    pub fn command(&mut self, with: &mut Shared<'_>, value: u8) {
        match value {
            0 => {}
            chancmd::SUSPEND => {
                if self.state != State::Halted {
                    self.state = State::Suspended;
                }
            }
            chancmd::RESET => {
                self.state = State::Halted;
                (self.count, self.done) = (0, 0);
                (self.completed, self.current) = (0, 0);
            }
            _ => {
                with.bus.misuse(format_args!(
                    "ioat: {value:#04x} in CHANCMD is neither suspend (0x04) nor reset (0x20)"
                ));
                self.halt(with, error::COMMAND);
            }
        }
    }

    /// Writes DMACOUNT, and does what descriptors there are now.
    pub fn set_count(&mut self, with: &mut Shared<'_>, value: u16) {
        self.count = value;
        if !matches!(self.state, State::Armed | State::Done) {
            with.bus.remark(format_args!(
                "ioat: DMACOUNT was written while channel {} was suspended or halted: it starts with a write of CHAINADDR",
                self.index
            ));
            return;
        }
        while self.done != self.count {
            if let Err(error) = self.step(with) {
                self.halt(with, error);
                return;
            }
        }
    }

    fn doing(&self, bus: &mut dyn Bus, what: &'static str) {
        bus.doing(Doing {
            what,
            queue: Some(self.index),
            command: None,
        });
    }

    /// Does the next descriptor.
    fn step(&mut self, with: &mut Shared<'_>) -> Result<(), u32> {
        let descriptor = self.fetch(with)?;
        self.carry_out(with, &descriptor)?;
        self.done = self.done.wrapping_add(1);
        self.completed = self.current;
        self.next = descriptor.next;
        self.fresh = false;
        self.state = match self.done == self.count {
            true => State::Done,
            false => State::Active,
        };
        if descriptor.completion {
            self.complete(with.bus)?;
        }
        if descriptor.interrupt {
            self.interrupt(with);
        }
        Ok(())
    }

    fn fetch(&mut self, with: &mut Shared<'_>) -> Result<Descriptor, u32> {
        let at = self.next;
        let (alignment, address) = match self.fresh {
            true => (error::CHAIN_ADDRESS, error::CHAIN_ADDRESS),
            false => (error::NEXT_ALIGNMENT, error::NEXT),
        };
        if !at.is_multiple_of(descriptor::BYTES) {
            with.bus.misuse(format_args!(
                "ioat: descriptor address {at:#x} is no multiple of {}",
                descriptor::BYTES
            ));
            return Err(alignment);
        }
        self.current = at;
        let mut raw = [0; descriptor::BYTES as usize];
        self.doing(with.bus, "fetching a descriptor");
        with.bus.read(at, &mut raw).map_err(|BusError| address)?;
        Descriptor::parse(&raw, with.longest).map_err(|Defect { error, what }| {
            with.bus
                .misuse(format_args!("ioat: descriptor at {at:#x}: {what}"));
            error
        })
    }

    fn carry_out(&self, with: &mut Shared<'_>, descriptor: &Descriptor) -> Result<(), u32> {
        let total = u64::from(descriptor.bytes);
        let what = match descriptor.operation {
            Operation::Null => return Ok(()),
            Operation::Copy { .. } => "copying",
            Operation::Fill { pattern } => {
                let most = with.buffer.len().min(total.next_multiple_of(8) as usize);
                let (words, _) = with.buffer[..most].as_chunks_mut();
                words.fill(pattern.to_le_bytes());
                "filling"
            }
        };
        self.doing(with.bus, what);
        let mut moved = 0;
        while moved < total {
            let bytes = (with.buffer.len() as u64).min(total - moved);
            let piece = &mut with.buffer[..bytes as usize];
            if let Operation::Copy { source } = descriptor.operation {
                let read = with.bus.read(source + moved, piece);
                read.map_err(|BusError| error::READ_DATA)?;
            }
            let written = with.bus.write(descriptor.destination + moved, piece);
            written.map_err(|BusError| error::WRITE_DATA)?;
            moved += bytes;
        }
        Ok(())
    }

    /// Writes the status to where CHANCMP says.
    fn complete(&self, bus: &mut dyn Bus) -> Result<(), u32> {
        let at = self.completion;
        if !at.is_multiple_of(8) {
            bus.misuse(format_args!("ioat: CHANCMP {at:#x} is no multiple of 8"));
            return Err(error::COMPLETION_ADDRESS);
        }
        self.doing(bus, "writing a completion");
        let written = bus.write(at, &self.status().to_le_bytes());
        written.map_err(|BusError| error::COMPLETION_ADDRESS)
    }

    /// Interrupts once for each time that it is armed.
    fn interrupt(&mut self, with: &mut Shared<'_>) {
        if !self.disarmed {
            self.disarmed = true;
            with.interrupts.raise(with.bus, self.index);
        }
    }

    fn halt(&mut self, with: &mut Shared<'_>, error: u32) {
        self.errors |= error;
        self.state = State::Halted;
        let told = self.control & chanctrl::ERROR_COMPLETION != 0;
        if told
            && error != error::COMPLETION_ADDRESS
            && let Err(error) = self.complete(with.bus)
        {
            self.errors |= error;
        }
        if self.control & chanctrl::ERROR_INTERRUPT != 0 {
            self.interrupt(with);
        }
    }
}
