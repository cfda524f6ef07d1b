//! Arbitrary register accesses and commands: no panic, no access outside memory, and a reset always helps.
//!
//! [`accesses`] and [`commands`] are plain functions of bytes, for a coverage-guided fuzzer as well.

use super::driver::{DATA, LIST};
use super::*;
use crate::pci::Device;
use proptest::prelude::*;

/// Takes numbers from bytes, zeroes when they run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        out
    }
    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Reads and writes registers, the interesting ones more often.
pub fn accesses(data: &[u8]) {
    const LIKELY: [u64; 12] = [
        0x14, 0x14, 0x1c, 0x24, 0x28, 0x30, 0x20, 0xc, 0x1000, 0x1004, 0x1008, 0x100c,
    ];
    let mut driver = Driver::new();
    let mut bytes = Bytes(data);
    while !bytes.0.is_empty() {
        let kind = bytes.u8();
        let offset = match kind & 3 {
            0 => u64::from(bytes.u32()) % reg::BYTES,
            _ => LIKELY[usize::from(bytes.u8()) % LIKELY.len()],
        };
        let size = 1 << (kind >> 2 & 3);
        let offset = offset.min(reg::BYTES - u64::from(size));
        let value = if kind & 0x10 != 0 {
            bytes.u64()
        } else {
            u64::from(bytes.u8())
        };
        if kind & 0x20 != 0 {
            driver.nvme.read(&mut driver.bus, 0, offset, size);
        } else {
            driver.nvme.write(&mut driver.bus, 0, offset, size, value);
        }
    }
    recovers(&mut driver);
}

/// Submits commands to both queues, with plausible fields more often than not.
pub fn commands(data: &[u8]) {
    let mut driver = Driver::new();
    let mut bytes = Bytes(data);
    let mut cid = 0;
    while !bytes.0.is_empty() && driver.get(reg::CSTS) == 1 {
        let kind = bytes.u8();
        let queue = usize::from(kind & 1);
        let address = |bytes: &mut Bytes<'_>| match bytes.u8() {
            n @ 0..128 => DATA + u64::from(n) * 0x400,
            n @ 128..192 => LIST + u64::from(n & 63) * 8,
            _ => bytes.u64(),
        };
        let opcode = if kind & 2 != 0 {
            bytes.u8()
        } else {
            bytes.u8() % 13
        };
        let flags = if kind & 4 != 0 { bytes.u8() } else { 0 };
        let nsid = if kind & 8 != 0 { bytes.u32() } else { 1 };
        let (prp1, prp2) = (address(&mut bytes), address(&mut bytes));
        for i in 0..4 {
            let entry = address(&mut bytes);
            driver.list(LIST + i * 8, &[entry]);
        }
        let mut cdw = [0; 6];
        for dword in &mut cdw {
            *dword = if kind & 0x10 != 0 {
                bytes.u32()
            } else {
                u32::from(bytes.u8())
            };
        }
        cid += 1;
        driver.place(
            queue,
            Command {
                opcode,
                flags,
                cid,
                nsid,
                prp1,
                prp2,
                cdw,
            },
        );
        // Deleted queues ring nothing; completions may come, or not (an event request, a full queue).
        driver.ring(queue);
        if driver.peek(queue).is_some() {
            driver.consume(queue);
        }
    }
    recovers(&mut driver);
}

fn recovers(driver: &mut Driver) {
    driver.nvme.reset(&mut driver.bus);
    driver.enable();
    driver.create_pair(1, 8);
    driver.fill(DATA, 4096, 0x42);
    assert_eq!(driver.io(io_op::WRITE, 0, 8, 0, (DATA, 0)), Status::SUCCESS);
    assert_eq!(
        driver.io(io_op::COMPARE, 0, 8, 0, (DATA, 0)),
        Status::SUCCESS
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_register_accesses_leave_a_controller_that_a_reset_brings_back(data in prop::collection::vec(any::<u8>(), 0..512)) {
        accesses(&data);
    }

    #[test]
    fn any_commands_leave_a_controller_that_a_reset_brings_back(data in prop::collection::vec(any::<u8>(), 0..2048)) {
        commands(&data);
    }
}
