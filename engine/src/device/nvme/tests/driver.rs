//! A small driver: it owns the bus and the controller and speaks to it through registers and memory only.

use super::super::Nvme;
use super::super::bits::{MORE, Status, admin_op, reg};
use crate::device::fake_bus::FakeBus;
use crate::machine::{Medium, NvmeConfig};
use crate::pci::Device;
use tempfile::NamedTempFile;

/// Where the driver's memory goes.
pub const ADMIN_SQ: u64 = 0x1_0000;
pub const ADMIN_CQ: u64 = 0x2_0000;
pub const IO_SQ: u64 = 0x3_0000;
pub const IO_CQ: u64 = 0x4_0000;
/// One page for PRP lists; more may follow up to `DATA`.
pub const LIST: u64 = 0x5_0000;
/// Buffers, up to `MEMORY`.
pub const DATA: u64 = 0x10_0000;
pub const MEMORY: usize = 0x50_0000;
/// Entries of each queue.
pub const ENTRIES: u32 = 8;
/// Bytes of a test's medium.
pub const BYTES: u64 = 1 << 20;

/// A command to submit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Command {
    pub opcode: u8,
    pub flags: u8,
    pub cid: u16,
    pub nsid: u32,
    pub prp1: u64,
    pub prp2: u64,
    pub cdw: [u32; 6],
}

impl Command {
    pub fn bytes(&self) -> [u8; 64] {
        let mut b = [0; 64];
        b[0] = self.opcode;
        b[1] = self.flags;
        b[2..4].copy_from_slice(&self.cid.to_le_bytes());
        b[4..8].copy_from_slice(&self.nsid.to_le_bytes());
        b[24..32].copy_from_slice(&self.prp1.to_le_bytes());
        b[32..40].copy_from_slice(&self.prp2.to_le_bytes());
        for (slot, dword) in b[40..].chunks_exact_mut(4).zip(self.cdw) {
            slot.copy_from_slice(&dword.to_le_bytes());
        }
        b
    }
}

/// A completion as read from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub result: u32,
    pub sq_head: u16,
    pub sq: u16,
    pub cid: u16,
    /// Without the "more" bit.
    pub status: Status,
}

#[derive(Clone, Copy, Debug)]
struct Ring {
    sq: u64,
    cq: u64,
    entries: u32,
    cq_entries: u32,
    tail: u32,
    head: u32,
    phase: u8,
}

pub struct Driver {
    pub nvme: Nvme,
    pub bus: FakeBus,
    pub files: Vec<NamedTempFile>,
    rings: Vec<Option<Ring>>,
    cid: u16,
}

impl Driver {
    /// A controller with one namespace, powered on.
    pub fn cold(change: impl FnOnce(&mut NvmeConfig)) -> Driver {
        // A medium that shrinks is found out by a fault.
        swiommu_mem::install_handlers();
        let mut config = NvmeConfig {
            queues: 4,
            cache: 128 << 10,
            ..NvmeConfig::default()
        };
        config.namespaces = vec![Medium {
            path: "".into(),
            bytes: BYTES,
            read_only: false,
        }];
        change(&mut config);
        let files: Vec<NamedTempFile> = config
            .namespaces
            .iter_mut()
            .map(|medium| {
                let file = NamedTempFile::new().expect("a temporary file");
                file.as_file().set_len(medium.bytes).expect("a size");
                medium.path = file.path().into();
                file
            })
            .collect();
        let nvme = Nvme::new(&config).expect("a good configuration");
        Driver {
            nvme,
            bus: FakeBus::new(MEMORY),
            files,
            rings: vec![None; 5],
            cid: 0,
        }
    }

    /// Enabled, with its admin queue.
    pub fn enabled(change: impl FnOnce(&mut NvmeConfig)) -> Driver {
        let mut driver = Driver::cold(change);
        driver.enable();
        driver
    }

    /// Enabled, with I/O queue pair 1.
    pub fn new() -> Driver {
        Driver::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut NvmeConfig)) -> Driver {
        let mut driver = Driver::enabled(change);
        driver.create_pair(1, ENTRIES);
        driver
    }

    pub fn enable(&mut self) {
        self.set(reg::AQA, u64::from(ENTRIES - 1) * 0x1_0001);
        self.set64(reg::ASQ, ADMIN_SQ);
        self.set64(reg::ACQ, ADMIN_CQ);
        self.set(reg::CC, 1 | 6 << 16 | 4 << 20);
        self.rings.fill(None);
        self.attach(0, ADMIN_SQ, ADMIN_CQ, ENTRIES);
    }

    /// A reset brings a failed or shut down controller back.
    pub fn enable_after_failure(&mut self) {
        self.set(reg::CC, 0);
        assert_eq!(self.get(reg::CSTS), 0);
        self.enable();
        let identify = Command {
            opcode: admin_op::IDENTIFY,
            prp1: DATA,
            cdw: [1, 0, 0, 0, 0, 0],
            ..Command::default()
        };
        self.admin_ok(identify);
    }

    /// Notes a queue pair that was created.
    pub fn attach(&mut self, queue: usize, sq: u64, cq: u64, entries: u32) {
        self.bus.memory[cq as usize..(cq + 16 * u64::from(entries)) as usize].fill(0);
        self.rings[queue] = Some(Ring {
            sq,
            cq,
            entries,
            cq_entries: entries,
            tail: 0,
            head: 0,
            phase: 1,
        });
    }

    /// The completion queue of this pair has its own size.
    pub fn set_completion_entries(&mut self, queue: usize, entries: u32) {
        self.rings[queue]
            .as_mut()
            .expect("an attached queue")
            .cq_entries = entries;
    }

    pub fn create_pair(&mut self, queue: u16, entries: u32) {
        let (sq, cq) = Driver::places(queue);
        let size = (entries - 1) << 16 | u32::from(queue);
        let vector = u32::from(queue) << 16;
        self.admin_ok(Command {
            opcode: admin_op::CREATE_CQ,
            prp1: cq,
            cdw: [size, 3 | vector, 0, 0, 0, 0],
            ..Command::default()
        });
        self.admin_ok(Command {
            opcode: admin_op::CREATE_SQ,
            prp1: sq,
            cdw: [size, 1 | vector, 0, 0, 0, 0],
            ..Command::default()
        });
        self.attach(queue.into(), sq, cq, entries);
    }

    /// Where an I/O queue pair goes.
    pub fn places(queue: u16) -> (u64, u64) {
        let shift = u64::from(queue - 1) * 0x2000;
        (IO_SQ + shift, IO_CQ + shift)
    }

    pub fn get(&mut self, offset: u64) -> u32 {
        self.nvme.read(&mut self.bus, 0, offset, 4) as u32
    }

    pub fn get64(&mut self, offset: u64) -> u64 {
        self.nvme.read(&mut self.bus, 0, offset, 8)
    }

    pub fn set(&mut self, offset: u64, value: u64) {
        self.nvme.write(&mut self.bus, 0, offset, 4, value);
    }

    pub fn set64(&mut self, offset: u64, value: u64) {
        self.nvme.write(&mut self.bus, 0, offset, 8, value);
    }

    /// Puts a command into its queue without ringing.
    pub fn place(&mut self, queue: usize, command: Command) {
        let ring = self.rings[queue].as_mut().expect("an attached queue");
        let at = (ring.sq + 64 * u64::from(ring.tail)) as usize;
        self.bus.memory[at..at + 64].copy_from_slice(&command.bytes());
        ring.tail = (ring.tail + 1) % ring.entries;
    }

    pub fn ring(&mut self, queue: usize) {
        let tail = self.rings[queue].expect("an attached queue").tail;
        self.ring_raw(queue as u64 * 2, tail);
    }

    /// Writes the doorbell register `index`.
    pub fn ring_raw(&mut self, index: u64, value: u32) {
        self.set(reg::DOORBELLS + 4 * index, value.into());
    }

    /// The next completion, if there is one; the head doorbell stays as it was.
    pub fn peek(&mut self, queue: usize) -> Option<Completion> {
        let ring = self.rings[queue].as_mut().expect("an attached queue");
        let at = (ring.cq + 16 * u64::from(ring.head)) as usize;
        let b = &self.bus.memory[at..at + 16];
        let word = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        if b[14] & 1 != ring.phase {
            return None;
        }
        ring.head += 1;
        if ring.head == ring.cq_entries {
            (ring.head, ring.phase) = (0, ring.phase ^ 1);
        }
        Some(Completion {
            result: u32::from(word(0)) | u32::from(word(2)) << 16,
            sq_head: word(8),
            sq: word(10),
            cid: word(12),
            status: Status(word(14) >> 1 & !MORE),
        })
    }

    /// Tells the controller what was consumed.
    pub fn consume(&mut self, queue: usize) {
        let head = self.rings[queue].expect("an attached queue").head;
        self.ring_raw(queue as u64 * 2 + 1, head);
    }

    /// Submits one command and takes its completion.
    pub fn run(&mut self, queue: usize, mut command: Command) -> Completion {
        self.cid = self.cid % 0x7fff + 1;
        command.cid = self.cid;
        self.place(queue, command);
        self.ring(queue);
        let completion = self.peek(queue).expect("a completion");
        assert_eq!((completion.cid, completion.sq), (self.cid, queue as u16));
        self.consume(queue);
        completion
    }

    pub fn admin(&mut self, command: Command) -> Status {
        self.run(0, command).status
    }

    pub fn admin_ok(&mut self, command: Command) -> u32 {
        let done = self.run(0, command);
        assert_eq!(done.status, Status::SUCCESS, "{command:?}");
        done.result
    }

    /// An I/O command on queue 1 and namespace 1 with block, count and flags as READ and WRITE have them.
    pub fn io(
        &mut self,
        opcode: u8,
        block: u64,
        count: u32,
        flags: u32,
        prp: (u64, u64),
    ) -> Status {
        let cdw = [
            block as u32,
            (block >> 32) as u32,
            flags | (count - 1),
            0,
            0,
            0,
        ];
        self.run(
            1,
            Command {
                opcode,
                nsid: 1,
                prp1: prp.0,
                prp2: prp.1,
                cdw,
                ..Command::default()
            },
        )
        .status
    }

    pub fn fill(&mut self, at: u64, bytes: u64, value: u8) {
        self.bus.memory[at as usize..(at + bytes) as usize].fill(value);
    }

    pub fn at(&self, at: u64, bytes: u64) -> &[u8] {
        &self.bus.memory[at as usize..(at + bytes) as usize]
    }

    /// A PRP list at `at`.
    pub fn list(&mut self, at: u64, entries: &[u64]) {
        for (i, entry) in entries.iter().enumerate() {
            let at = at as usize + i * 8;
            self.bus.memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
    }

    /// What is on the medium of namespace 1.
    pub fn durable(&self) -> Vec<u8> {
        std::fs::read(self.files[0].path()).expect("the medium")
    }
}
