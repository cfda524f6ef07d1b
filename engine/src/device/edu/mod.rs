//! QEMU's educational device (docs/specs/edu.rst): identification, a factorial, interrupts, and DMA to and from a buffer
//! of 4 KiB. 1234:11e8, conventional PCI, 1 MiB of registers.
//!
//! A computation and a transfer are done before the store that starts them returns, so their busy bits are never seen
//! set. Where the document is silent, what QEMU does holds.

#[cfg(test)]
mod tests;

use crate::machine::EduConfig;
use crate::pci::{Bar, Bus, Device, Doing, Identity, Role};
use swiommu_abi::Errno;

/// Registers.
mod reg {
    pub const IDENTIFICATION: u64 = 0x00;
    pub const LIVENESS: u64 = 0x04;
    pub const FACTORIAL: u64 = 0x08;
    pub const STATUS: u64 = 0x20;
    pub const INTERRUPT_STATUS: u64 = 0x24;
    pub const INTERRUPT_RAISE: u64 = 0x60;
    pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    /// From here on registers are 8 bytes, and may be accessed so.
    pub const WIDE: u64 = 0x80;
    pub const DMA_SOURCE: u64 = 0x80;
    pub const DMA_DESTINATION: u64 = 0x88;
    pub const DMA_COUNT: u64 = 0x90;
    pub const DMA_COMMAND: u64 = 0x98;
}

/// Version 1.0.
const IDENTIFICATION: u32 = 0x0100_00ed;
/// Status: raise an interrupt after the factorial.
const STATUS_INTERRUPT: u32 = 0x80;
/// Interrupt status of the factorial and of DMA.
const FACTORIAL_DONE: u32 = 0x001;
const DMA_DONE: u32 = 0x100;
/// DMA command: start, to memory (else from memory), interrupt at the end.
const DMA_RUN: u64 = 1;
const DMA_TO_MEMORY: u64 = 2;
const DMA_INTERRUPT: u64 = 4;

/// Where DMA commands name the device's own buffer.
const BUFFER: u64 = 0x40000;
const BUFFER_BYTES: usize = 4096;

/// The device.
#[derive(Debug)]
pub struct Edu {
    /// The addresses it can drive.
    dma_mask: u64,
    state: State,
    buffer: Box<[u8; BUFFER_BYTES]>,
}

/// What a power-on clears.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    source: u64,
    destination: u64,
    count: u64,
    command: u64,
}

impl Edu {
    /// # Errors
    /// EINVAL for more than 64 address bits.
    pub fn new(config: &EduConfig) -> Result<Edu, Errno> {
        let bits = match config.dma_bits {
            0 => 28,
            bits @ 1..=64 => u32::from(bits),
            _ => return Err(Errno::EINVAL),
        };
        Ok(Edu {
            dma_mask: u64::MAX >> (64 - bits),
            state: State::default(),
            buffer: Box::new([0; BUFFER_BYTES]),
        })
    }

    fn raise(&mut self, bus: &mut dyn Bus, interrupts: u32) {
        let s = &mut self.state;
        s.interrupts |= interrupts;
        if s.interrupts != 0 {
            bus.message(0);
            bus.intx(true);
        }
    }

    fn acknowledge(&mut self, bus: &mut dyn Bus, interrupts: u32) {
        self.state.interrupts &= !interrupts;
        if self.state.interrupts == 0 {
            bus.intx(false);
        }
    }

    /// The address as its pins can drive it.
    fn clamp(&self, bus: &mut dyn Bus, address: u64) -> u64 {
        let driven = address & self.dma_mask;
        if driven != address {
            let bits = 64 - self.dma_mask.leading_zeros();
            bus.misuse(format_args!(
                "edu: DMA address {address:#x} has more than {bits} bits, {driven:#x} is used"
            ));
        }
        driven
    }

    fn transfer(&mut self, bus: &mut dyn Bus) {
        let State {
            source,
            destination,
            count,
            command,
            ..
        } = self.state;
        let to_memory = command & DMA_TO_MEMORY != 0;
        let (memory, own) = if to_memory {
            (destination, source)
        } else {
            (source, destination)
        };
        let first = own.wrapping_sub(BUFFER);
        match first.checked_add(count) {
            Some(end) if end <= BUFFER_BYTES as u64 => {
                let part = first as usize..end as usize;
                let iova = self.clamp(bus, memory);
                let doing = if to_memory { "edu DMA to memory" } else { "edu DMA from memory" };
                bus.doing(Doing { what: doing, queue: None, command: None });
                // The device has no way to say that a transfer failed.
                let _ = if to_memory {
                    bus.write(iova, &self.buffer[part])
                } else {
                    bus.read(iova, &mut self.buffer[part])
                };
            }
            _ => bus.misuse(format_args!(
                "edu: DMA of {count} bytes at {own:#x} is not inside the buffer {BUFFER:#x}..={:#x}",
                BUFFER + BUFFER_BYTES as u64 - 1
            )),
        }
        self.state.command &= !DMA_RUN;
        if command & DMA_INTERRUPT != 0 {
            self.raise(bus, DMA_DONE);
        }
    }

    /// Whether an access of this size is allowed there; a report if not.
    fn allows(bus: &mut dyn Bus, offset: u64, bytes: u8, access: &str) -> bool {
        let allowed = bytes == 4 || bytes == 8 && offset >= reg::WIDE;
        if !allowed {
            bus.misuse(format_args!(
                "edu: {access} of {bytes} bytes at {offset:#x} (4 bytes, or 8 from 0x80 on)"
            ));
        }
        allowed
    }
}

/// The factorial modulo 2^32. From 34 on 2^32 divides it.
fn factorial(n: u32) -> u32 {
    if n >= 34 {
        0
    } else {
        (1..=n).fold(1, u32::wrapping_mul)
    }
}

/// What the function is.
pub fn identity() -> Identity {
    let mut bars = [Bar::None; 6];
    bars[0] = Bar::Memory {
        bytes: 1 << 20,
        wide: false,
        prefetch: false,
    };
    Identity {
        vendor: 0x1234,
        device: 0x11e8,
        subsystem: (0x1af4, 0x1100),
        class: 0x00_ff_00,
        revision: 0x10,
        bars,
        interrupt_pin: 1,
        msi: 1,
        msix: None,
        express: false,
        role: Role::default(),
    }
}

impl Device for Edu {
    fn identity(&self) -> Identity {
        identity()
    }

    fn read(&mut self, bus: &mut dyn Bus, _: u8, offset: u64, bytes: u8) -> u64 {
        let s = &self.state;
        let value = match offset {
            _ if !Edu::allows(bus, offset, bytes, "read") => u64::MAX,
            reg::IDENTIFICATION => IDENTIFICATION.into(),
            reg::LIVENESS => s.liveness.into(),
            reg::FACTORIAL => s.factorial.into(),
            reg::STATUS => s.status.into(),
            reg::INTERRUPT_STATUS => s.interrupts.into(),
            reg::DMA_SOURCE => s.source,
            reg::DMA_DESTINATION => s.destination,
            reg::DMA_COUNT => s.count,
            reg::DMA_COMMAND => s.command,
            _ => u64::MAX,
        };
        if bytes == 8 {
            value
        } else {
            value & ((1 << (8 * bytes)) - 1)
        }
    }

    fn write(&mut self, bus: &mut dyn Bus, _: u8, offset: u64, bytes: u8, value: u64) {
        if !Edu::allows(bus, offset, bytes, "write") {
            return;
        }
        let low = value as u32;
        match offset {
            reg::LIVENESS => self.state.liveness = !low,
            reg::FACTORIAL => {
                self.state.factorial = factorial(low);
                if self.state.status & STATUS_INTERRUPT != 0 {
                    self.raise(bus, FACTORIAL_DONE);
                }
            }
            reg::STATUS => self.state.status = low & STATUS_INTERRUPT,
            reg::INTERRUPT_RAISE => self.raise(bus, low),
            reg::INTERRUPT_ACKNOWLEDGE => self.acknowledge(bus, low),
            reg::DMA_SOURCE => self.state.source = value,
            reg::DMA_DESTINATION => self.state.destination = value,
            reg::DMA_COUNT => self.state.count = value,
            reg::DMA_COMMAND => {
                if value & DMA_RUN != 0 {
                    self.state.command = value;
                    self.transfer(bus);
                }
            }
            reg::IDENTIFICATION | reg::INTERRUPT_STATUS => {
                bus.misuse(format_args!(
                    "edu: write to the read-only register {offset:#x}"
                ));
            }
            _ => bus.misuse(format_args!(
                "edu: write to {offset:#x}, where there is no register"
            )),
        }
    }

    fn reset(&mut self, bus: &mut dyn Bus) {
        self.state = State::default();
        self.buffer.fill(0);
        bus.intx(false);
    }

    fn close(&mut self) {}
}
