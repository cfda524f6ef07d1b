//! edu as a DMA engine, behind a container of its own.

use swiommu_abi::vfio::TYPE1V2_IOMMU;

use super::memory::Memory;
use super::vfio::RW;
use super::{Fd, Model, World, edu, machine};

/// Where edu keeps its buffer.
const BUFFER: u64 = 0x40000;
/// Bytes of the buffer.
pub const BUFFER_BYTES: u64 = 4096;
/// Where the rig maps the page it loads edu's buffer from.
pub const SCRATCH: u64 = 0x7000_0000;

/// A machine of one edu, opened, bus master on, with a page to load the buffer from.
pub struct Rig {
    /// The device.
    pub device: Fd,
    /// Its group.
    pub group: Fd,
    /// Its container, type1v2.
    pub container: Fd,
    /// The world.
    pub world: World,
    scratch: Memory,
}

impl Rig {
    /// Behind a model.
    pub fn new(model: Model) -> Rig {
        Rig::on(World::new(machine(model, [edu(4, 4)])))
    }

    /// In a world whose group 4 is an edu at slot 4.
    pub fn on(world: World) -> Rig {
        Rig::with(world, TYPE1V2_IOMMU)
    }

    /// With a kind of IOMMU.
    pub fn with(world: World, kind: u64) -> Rig {
        let (container, group) = world.joined(4, kind);
        let device = group.device("0000:00:04.0").expect("the edu");
        device.bus_master(true);
        let scratch = Memory::pages(1);
        container
            .map(SCRATCH, scratch.base(), 4096, RW)
            .expect("MAP_DMA of the scratch page");
        Rig {
            device,
            group,
            container,
            world,
            scratch,
        }
    }

    /// The device writes `bytes` to memory at `iova`.
    pub fn write(&self, iova: u64, bytes: &[u8]) {
        self.load_buffer(bytes);
        self.post(iova, bytes.len() as u64);
    }

    /// Fills the beginning of the device's buffer.
    pub fn load_buffer(&self, bytes: &[u8]) {
        self.scratch.write(0, bytes);
        self.fetch(SCRATCH, bytes.len() as u64);
    }

    /// The beginning of the device's buffer.
    pub fn buffer(&self, bytes: usize) -> Vec<u8> {
        self.post(SCRATCH, bytes as u64);
        self.scratch.read(0, bytes)
    }

    /// What the device reads from memory at `iova`; where it reads nothing, the bytes are 0xee.
    pub fn read(&self, iova: u64, bytes: usize) -> Vec<u8> {
        self.load_buffer(&vec![0xee; bytes]);
        self.fetch(iova, bytes as u64);
        self.buffer(bytes)
    }

    /// The device reads memory into its buffer.
    pub fn fetch(&self, iova: u64, bytes: u64) {
        dma(&self.device, iova, BUFFER, bytes, 1);
    }

    /// The device writes its buffer to memory.
    pub fn post(&self, iova: u64, bytes: u64) {
        dma(&self.device, BUFFER, iova, bytes, 3);
    }
}

/// One command of an edu.
pub fn dma(device: &Fd, source: u64, destination: u64, count: u64, command: u64) {
    for (register, value) in [
        (0x80, source),
        (0x88, destination),
        (0x90, count),
        (0x98, command),
    ] {
        device.store(register, 8, value);
    }
}

/// The edu reads memory into its buffer.
pub fn load(device: &Fd, iova: u64, bytes: u64) {
    dma(device, iova, BUFFER, bytes, 1);
}

/// The edu writes its buffer to memory.
pub fn store(device: &Fd, iova: u64, bytes: u64) {
    dma(device, BUFFER, iova, bytes, 3);
}
