//! Intel's I/O Acceleration Technology (QuickData, CBDMA): a function that copies and fills memory, by chains of
//! descriptors in memory. Sky Lake's is 8086:2021, version 3.3; Ice Lake's 8086:0b00, version 3.4.
//!
//! A store to DMACOUNT carries out all descriptors before it returns, so no channel is ever seen active. What the
//! registers are: Linux's `drivers/dma/ioat/{hw,registers}.h` and Intel's Xeon datasheets, volume 2, "CB_BAR".

mod channel;
mod descriptor;
mod interrupts;
#[cfg(test)]
mod tests;

use channel::{Channel, Shared};
use interrupts::Interrupts;

use crate::machine::{IoatConfig, IoatModel};
use crate::pci::{Bar, Bus, Device, Identity, Msix, Role};
use swiommu_abi::Errno;

/// Most channels a function has.
pub const CHANNELS_MOST: u8 = 8;
/// Most and least bytes of a descriptor: a page, and 1 MiB.
pub const TRANSFER: std::ops::RangeInclusive<u64> = 1 << 12..=1 << 20;

/// Bytes of a block of registers: the function's own, then one for each channel.
const BLOCK: u64 = 0x80;
/// What a copy passes through: small enough to stay in the processor's cache.
const BUFFER: usize = 32 << 10;
/// DMACAPABILITY: fills. Copies need no bit; XOR, P+Q, CRC, page breaks and direct cache access are not there.
const CAPABILITY: u32 = 1 << 6;
/// DMA_COMP: understands what versions 2 and 3 do.
const COMPATIBLE: u16 = 6;

/// A register: its offset in the block, and how many bytes it has.
type Register = (u64, u64);

/// The function's own registers.
mod general {
    use super::Register;
    pub const CHANCNT: u64 = 0x00;
    pub const XFERCAP: u64 = 0x01;
    pub const GENCTRL: u64 = 0x02;
    pub const INTRCTRL: u64 = 0x03;
    pub const ATTNSTATUS: u64 = 0x04;
    pub const CBVER: u64 = 0x08;
    pub const PERPORTOFFSET: u64 = 0x0a;
    pub const INTRDELAY: u64 = 0x0c;
    pub const CS_STATUS: u64 = 0x0e;
    pub const DMACAPABILITY: u64 = 0x10;
    pub const ALL: &[Register] = &[
        (CHANCNT, 1),
        (XFERCAP, 1),
        (GENCTRL, 1),
        (INTRCTRL, 1),
        (ATTNSTATUS, 4),
        (CBVER, 1),
        (PERPORTOFFSET, 2),
        (INTRDELAY, 2),
        (CS_STATUS, 2),
        (DMACAPABILITY, 4),
    ];
}

/// A channel's registers.
mod per_channel {
    use super::Register;
    pub const CHANCTRL: u64 = 0x00;
    pub const DMA_COMP: u64 = 0x02;
    pub const CHANCMD: u64 = 0x04;
    pub const DMACOUNT: u64 = 0x06;
    pub const CHANSTS: u64 = 0x08;
    pub const CHAINADDR: u64 = 0x10;
    pub const CHANCMP: u64 = 0x18;
    pub const CDAR: u64 = 0x20;
    pub const CHANERR: u64 = 0x28;
    pub const CHANERRMSK: u64 = 0x2c;
    pub const ALL: &[Register] = &[
        (CHANCTRL, 2),
        (DMA_COMP, 2),
        (CHANCMD, 1),
        (DMACOUNT, 2),
        (CHANSTS, 8),
        (CHAINADDR, 8),
        (CHANCMP, 8),
        (CDAR, 8),
        (CHANERR, 4),
        (CHANERRMSK, 4),
    ];
}

/// The device.
#[derive(Debug)]
pub struct Ioat {
    identity: Identity,
    version: u8,
    longest_lg2: u8,
    interrupts: Interrupts,
    channels: Vec<Channel>,
    buffer: Box<[u8]>,
}

impl Ioat {
    /// # Errors
    /// EINVAL for no channels or too many, or a largest transfer that is no power of two in [`TRANSFER`].
    pub fn new(config: &IoatConfig) -> Result<Ioat, Errno> {
        let channels = 1..=CHANNELS_MOST;
        let transfer = config.transfer.is_power_of_two() && TRANSFER.contains(&config.transfer);
        if !channels.contains(&config.channels) || !transfer {
            return Err(Errno::EINVAL);
        }
        Ok(Ioat {
            identity: identity(config),
            version: match config.model {
                IoatModel::Skylake => 0x33,
                IoatModel::Icelake => 0x34,
            },
            longest_lg2: config.transfer.ilog2() as u8,
            interrupts: Interrupts::default(),
            channels: (0..config.channels.into()).map(Channel::new).collect(),
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// The registers of the block at `offset`, the channel it belongs to, and where in the block `offset` is.
    fn block(&self, offset: u64) -> (&'static [Register], Option<usize>, u64) {
        let (block, within) = (offset / BLOCK, offset % BLOCK);
        match block.checked_sub(1).map(|channel| channel as usize) {
            None => (general::ALL, None, within),
            Some(channel) if channel < self.channels.len() => {
                (per_channel::ALL, Some(channel), within)
            }
            Some(_) => (&[], None, within),
        }
    }

    /// Reads a whole register, with what a read of it does.
    fn get(&mut self, bus: &mut dyn Bus, channel: Option<usize>, register: u64) -> u64 {
        let Some(channel) = channel else {
            return match register {
                general::CHANCNT => self.channels.len() as u64,
                general::XFERCAP => self.longest_lg2.into(),
                general::INTRCTRL => self.interrupts.read_control(bus).into(),
                general::ATTNSTATUS => self.interrupts.read_attention(bus).into(),
                general::CBVER => self.version.into(),
                general::DMACAPABILITY => CAPABILITY.into(),
                _ => 0,
            };
        };
        match register {
            per_channel::CHANCTRL => self.channels[channel].claim().into(),
            per_channel::DMA_COMP => COMPATIBLE.into(),
            per_channel::CHANSTS => self.channels[channel].status(),
            per_channel::CDAR => self.channels[channel].current(),
            per_channel::CHANERR => self.channels[channel].errors().into(),
            register => self.held(Some(channel), register),
        }
    }

    /// What a register keeps of the bytes that a write leaves out. Commands, and bits that are cleared by ones, keep
    /// nothing.
    fn held(&self, channel: Option<usize>, register: u64) -> u64 {
        let Some(channel) = channel.map(|channel| &self.channels[channel]) else {
            return 0;
        };
        match register {
            per_channel::CHANCTRL => (channel.control() & !1).into(),
            per_channel::DMACOUNT => channel.count().into(),
            per_channel::CHAINADDR => channel.chain(),
            per_channel::CHANCMP => channel.completion(),
            per_channel::CHANERRMSK => channel.error_mask().into(),
            _ => 0,
        }
    }

    /// Writes a whole register.
    fn set(&mut self, bus: &mut dyn Bus, channel: Option<usize>, register: u64, value: u64) {
        match channel {
            None => self.set_general(bus, register, value),
            Some(channel) => self.set_channel(bus, channel, register, value),
        }
    }

    fn set_general(&mut self, bus: &mut dyn Bus, register: u64, value: u64) {
        match register {
            general::INTRCTRL => self.interrupts.write_control(bus, value as u8),
            general::GENCTRL | general::INTRDELAY => {
                if value != 0 {
                    bus.unmodelled(format_args!(
                        "ioat: debugging and interrupt delays (write of {value:#x} at {register:#x})"
                    ));
                }
            }
            _ => bus.misuse(format_args!(
                "ioat: write to the read-only register {register:#x}"
            )),
        }
    }

    fn set_channel(&mut self, bus: &mut dyn Bus, channel: usize, register: u64, value: u64) {
        let mut with = Shared {
            bus,
            interrupts: &mut self.interrupts,
            buffer: &mut self.buffer,
            longest: 1 << self.longest_lg2,
        };
        let channel = &mut self.channels[channel];
        match register {
            per_channel::CHANCTRL => channel.set_control(value as u16),
            per_channel::CHANCMD => channel.command(&mut with, value as u8),
            per_channel::DMACOUNT => channel.set_count(&mut with, value as u16),
            per_channel::CHAINADDR => channel.set_chain(value),
            per_channel::CHANCMP => channel.set_completion(value),
            per_channel::CHANERR => channel.clear_errors(value as u32),
            per_channel::CHANERRMSK => {
                channel.set_error_mask(value as u32);
                if value != 0 {
                    with.bus
                        .unmodelled(format_args!("ioat: CHANERRMSK: errors cannot be masked"));
                }
            }
            _ => with.bus.misuse(format_args!(
                "ioat: write to the read-only channel register {register:#x}"
            )),
        }
    }

    /// Whether an access is aligned; a report if not.
    fn aligned(bus: &mut dyn Bus, offset: u64, bytes: u8) -> bool {
        let aligned = offset.is_multiple_of(bytes.into());
        if !aligned {
            bus.misuse(format_args!(
                "ioat: access of {bytes} bytes at {offset:#x}, which is not aligned"
            ));
        }
        aligned
    }
}

/// The lowest `bytes` bytes, 1..=8.
fn ones(bytes: u64) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

/// Moves the byte at `from` to where the byte at `to` is: down if that is lower.
fn shift(value: u64, from: u64, to: u64) -> u64 {
    match from.checked_sub(to) {
        Some(up) => value << (8 * up),
        None => value >> (8 * (to - from)),
    }
}

/// Those of `registers` that an access of `bytes` bytes at `within` touches.
fn touched(
    registers: &'static [Register],
    within: u64,
    bytes: u64,
) -> impl Iterator<Item = Register> {
    let past = within + bytes;
    registers
        .iter()
        .copied()
        .filter(move |(at, width)| *at < past && within < at + width)
}

/// What the function is.
pub fn identity(config: &IoatConfig) -> Identity {
    let mut bars = [Bar::None; 6];
    bars[0] = Bar::Memory {
        bytes: 16 << 10,
        wide: true,
        prefetch: false,
    };
    Identity {
        vendor: 0x8086,
        device: match config.model {
            IoatModel::Skylake => 0x2021,
            IoatModel::Icelake => 0x0b00,
        },
        subsystem: (0x8086, 0),
        class: 0x08_80_00,
        revision: 4,
        bars,
        interrupt_pin: 1,
        msi: 0,
        msix: Some(Msix {
            vectors: config.channels.into(),
            table: (0, 0x2000),
            pba: (0, 0x3000),
        }),
        express: true,
        role: Role::default(),
    }
}

impl Device for Ioat {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&mut self, bus: &mut dyn Bus, _: u8, offset: u64, bytes: u8) -> u64 {
        if !Ioat::aligned(bus, offset, bytes) {
            return ones(bytes.into());
        }
        let (registers, channel, within) = self.block(offset);
        let mut value = 0;
        for (at, _) in touched(registers, within, bytes.into()) {
            value |= shift(self.get(bus, channel, at), at, within);
        }
        value & ones(bytes.into())
    }

    fn write(&mut self, bus: &mut dyn Bus, _: u8, offset: u64, bytes: u8, value: u64) {
        if !Ioat::aligned(bus, offset, bytes) {
            return;
        }
        let (registers, channel, within) = self.block(offset);
        let given = value & ones(bytes.into());
        let mut any = false;
        for (at, width) in touched(registers, within, bytes.into()) {
            any = true;
            let written = shift(ones(bytes.into()), within, at);
            let kept = self.held(channel, at) & !written;
            let whole = (shift(given, within, at) | kept) & ones(width);
            self.set(bus, channel, at, whole);
        }
        if !any {
            bus.unmodelled(format_args!("ioat: write of {bytes} bytes at {offset:#x}"));
        }
    }

    fn reset(&mut self, bus: &mut dyn Bus) {
        self.interrupts = Interrupts::default();
        for (index, channel) in (0..).zip(&mut self.channels) {
            *channel = Channel::new(index);
        }
        bus.intx(false);
    }

    fn close(&mut self) {}
}
