//! The registers, the states, chains of descriptors and what is wrong with them.

mod chains;
mod defects;
mod fuzz;
mod registers;

use super::channel::error;
use super::*;
use crate::device::fake_bus::FakeBus;

/// Bytes of memory.
const MEMORY: usize = 0x4_0000;
/// Where a rig keeps its descriptors and completions.
const CHAIN: u64 = 0x1000;
const STATUS: u64 = 0x800;

/// Control words.
const INTERRUPT: u32 = 1;
const COMPLETION: u32 = 8;
const NULL: u32 = 0x20;
const FILL: u32 = 1 << 24;

/// CHANSTS.
const DONE: u64 = 1;
const SUSPENDED: u64 = 2;
const HALTED: u64 = 3;
const ARMED: u64 = 4;

/// A device and its bus.
struct Rig {
    ioat: Ioat,
    bus: FakeBus,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(&IoatConfig::default())
    }

    fn with(config: &IoatConfig) -> Rig {
        let mut bus = FakeBus::new(MEMORY);
        for (index, byte) in bus.memory.iter_mut().enumerate().skip(0x2_0000) {
            *byte = (index * 7 + index / 256) as u8;
        }
        let ioat = Ioat::new(config).expect("a good configuration");
        Rig { ioat, bus }
    }

    fn read(&mut self, offset: u64, bytes: u8) -> u64 {
        self.ioat.read(&mut self.bus, 0, offset, bytes)
    }

    fn write(&mut self, offset: u64, bytes: u8, value: u64) {
        self.ioat.write(&mut self.bus, 0, offset, bytes, value);
    }

    /// Channel 0's register.
    fn get(&mut self, register: u64) -> u64 {
        let width = width(register);
        self.read(BLOCK + register, width)
    }

    fn set(&mut self, register: u64, value: u64) {
        let width = width(register);
        self.write(BLOCK + register, width, value);
    }

    /// Writes descriptor `index` of the chain; the next one follows it.
    fn describe(&mut self, index: u64, size: u32, control: u32, source: u64, destination: u64) {
        let at = CHAIN + index * 64;
        self.place(at, size, control, source, destination, at + 64);
    }

    fn place(&mut self, at: u64, size: u32, control: u32, source: u64, to: u64, next: u64) {
        let head = u64::from(size) | u64::from(control) << 32;
        for (index, quad) in (0..).zip([head, source, to, next]) {
            self.poke(at + index * 8, quad);
        }
    }

    fn poke(&mut self, at: u64, quad: u64) {
        self.bus.memory[at as usize..at as usize + 8].copy_from_slice(&quad.to_le_bytes());
    }

    fn peek(&self, at: u64) -> u64 {
        let bytes = &self.bus.memory[at as usize..at as usize + 8];
        u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
    }

    /// Begins the chain, completions and all, and does `count` descriptors.
    fn run(&mut self, count: u16) {
        self.set(per_channel::CHANCMP, STATUS);
        self.set(per_channel::CHAINADDR, CHAIN);
        self.set(per_channel::DMACOUNT, count.into());
    }

    fn errors(&mut self) -> u32 {
        self.get(per_channel::CHANERR) as u32
    }

    fn state(&mut self) -> u64 {
        self.get(per_channel::CHANSTS) & 7
    }
}

fn width(register: u64) -> u8 {
    let found = per_channel::ALL.iter().find(|(at, _)| *at == register);
    found.expect("a register").1 as u8
}
