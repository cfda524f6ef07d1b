//! A driver of an NVMe controller: an admin queue and one I/O queue in a few pages that are mapped at one address.

use super::Fd;
use super::memory::Memory;

/// Pages the queues and the data need.
pub const PAGES: u64 = 16;
/// Where the data begins in them.
pub const DATA: u64 = 0x8000;
const ENTRIES: u32 = 16;

/// The driver's side: its memory and how far it is in each queue. It outlives the controller it talks to.
pub struct Driver {
    /// Its memory, to be mapped at `iova`.
    pub memory: Memory,
    iova: u64,
    tails: [u32; 2],
    heads: [u32; 2],
    phases: [bool; 2],
}

impl Driver {
    /// Before it has talked to a controller.
    pub fn new(iova: u64) -> Driver {
        Driver {
            memory: Memory::pages(PAGES),
            iova,
            tails: [0; 2],
            heads: [0; 2],
            phases: [true; 2],
        }
    }

    /// Enables a controller and makes the I/O queue.
    pub fn start(&mut self, device: &Fd) {
        device.bus_master(true);
        device.store(0x24, 4, u64::from((ENTRIES - 1) << 16 | (ENTRIES - 1)));
        device.store(0x28, 8, self.iova);
        device.store(0x30, 8, self.iova + 0x1000);
        device.store(0x14, 4, 0x0046_0001);
        assert_eq!(device.load(0x1c, 4), 1, "ready");
        let queue = 1 | (ENTRIES - 1) << 16;
        for (opcode, at, flags) in [(5, 0x3000, 3 | 1 << 16), (1, 0x2000, 1 | 1 << 16)] {
            self.put(0, opcode, 0, [self.iova + at, 0], [queue, flags, 0]);
            self.ring(device, 0);
            assert_eq!(self.done(device, 0), Some((0, 0)));
        }
    }

    /// Writes a command to a queue: opcode, command identifier, PRPs, dwords 10 to 12. The namespace is 1.
    pub fn put(&mut self, queue: usize, opcode: u8, cid: u16, prps: [u64; 2], dwords: [u32; 3]) {
        let mut entry = [0u8; 64];
        entry[0] = opcode;
        entry[2..4].copy_from_slice(&cid.to_le_bytes());
        entry[4] = u8::from(queue == 1);
        entry[24..32].copy_from_slice(&prps[0].to_le_bytes());
        entry[32..40].copy_from_slice(&prps[1].to_le_bytes());
        for (at, dword) in dwords.iter().enumerate() {
            entry[40 + at * 4..44 + at * 4].copy_from_slice(&dword.to_le_bytes());
        }
        let at = queue as u64 * 0x2000 + u64::from(self.tails[queue]) * 64;
        self.memory.write(at, &entry);
        self.tails[queue] = (self.tails[queue] + 1) % ENTRIES;
    }

    /// Tells the controller what was put.
    pub fn ring(&self, device: &Fd, queue: usize) {
        device.store(0x1000 + queue as u64 * 8, 4, u64::from(self.tails[queue]));
    }

    /// The next completion, if it is there: command identifier and status.
    pub fn done(&mut self, device: &Fd, queue: usize) -> Option<(u16, u16)> {
        let at = queue as u64 * 0x2000 + 0x1000 + u64::from(self.heads[queue]) * 16;
        let entry = self.memory.read(at, 16);
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        if (half(14) & 1 == 1) != self.phases[queue] {
            return None;
        }
        self.heads[queue] = (self.heads[queue] + 1) % ENTRIES;
        self.phases[queue] ^= self.heads[queue] == 0;
        device.store(0x1004 + queue as u64 * 8, 4, u64::from(self.heads[queue]));
        Some((half(12), half(14) >> 1))
    }

    /// Puts a WRITE (or READ) of one block of 512 bytes from (or to) the data area.
    pub fn put_block(&mut self, write: bool, cid: u16, block: u32, data: u64) {
        let opcode = if write { 1 } else { 2 };
        self.put(1, opcode, cid, [self.iova + DATA + data, 0], [block, 0, 0]);
    }

    /// Reads a block.
    pub fn read_block(&mut self, device: &Fd, block: u32) -> Vec<u8> {
        self.put_block(false, 999, block, 0x7000);
        self.ring(device, 1);
        assert_eq!(self.done(device, 1), Some((999, 0)));
        self.memory.read(DATA + 0x7000, 512)
    }
}
