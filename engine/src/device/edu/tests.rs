//! Each register of the document, and what it forbids.

use super::*;
use crate::device::fake_bus::FakeBus;
use proptest::prelude::*;

struct Rig {
    edu: Edu,
    bus: FakeBus,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            edu: Edu::new(&EduConfig::default()).expect("the default"),
            bus: FakeBus::new(0x4000),
        }
    }
    fn get(&mut self, offset: u64) -> u64 {
        self.edu.read(&mut self.bus, 0, offset, 4)
    }
    fn set(&mut self, offset: u64, value: u64) {
        self.edu.write(
            &mut self.bus,
            0,
            offset,
            if offset < 0x80 { 4 } else { 8 },
            value,
        );
    }
    fn dma(&mut self, source: u64, destination: u64, count: u64, command: u64) {
        self.set(reg::DMA_SOURCE, source);
        self.set(reg::DMA_DESTINATION, destination);
        self.set(reg::DMA_COUNT, count);
        self.set(reg::DMA_COMMAND, command);
    }
}

#[test]
fn it_identifies_itself_and_is_alive() {
    let mut rig = Rig::new();
    assert_eq!(rig.get(0), 0x0100_00ed);
    rig.set(reg::LIVENESS, 0x1234_5678);
    assert_eq!(rig.get(reg::LIVENESS), 0xedcb_a987);
    assert!(rig.bus.misuse.is_empty());
}

#[test]
fn factorials_wrap_at_32_bits_and_are_done_at_once() {
    let mut rig = Rig::new();
    for (n, expected) in [
        (0, 1),
        (1, 1),
        (5, 120),
        (12, 479_001_600),
        (13, 1_932_053_504),
        (33, 0x8000_0000),
        (34, 0),
    ] {
        rig.set(reg::FACTORIAL, n);
        assert_eq!(
            (rig.get(reg::FACTORIAL), rig.get(reg::STATUS)),
            (expected, 0),
            "{n}!"
        );
    }
    rig.set(reg::FACTORIAL, 0xffff_ffff);
    assert_eq!(rig.get(reg::FACTORIAL), 0);
    assert!(rig.bus.messages.is_empty());
}

#[test]
fn a_factorial_interrupts_if_asked() {
    let mut rig = Rig::new();
    rig.set(reg::STATUS, 0x81);
    assert_eq!(rig.get(reg::STATUS), 0x80);
    rig.set(reg::FACTORIAL, 4);
    assert_eq!(
        (
            rig.get(reg::INTERRUPT_STATUS),
            rig.bus.messages.len(),
            rig.bus.line
        ),
        (1, 1, true)
    );
}

#[test]
fn the_line_stays_up_until_every_interrupt_is_acknowledged() {
    let mut rig = Rig::new();
    rig.set(reg::INTERRUPT_RAISE, 0x30);
    assert_eq!((rig.get(reg::INTERRUPT_STATUS), rig.bus.line), (0x30, true));
    rig.set(reg::INTERRUPT_ACKNOWLEDGE, 0x10);
    assert_eq!((rig.get(reg::INTERRUPT_STATUS), rig.bus.line), (0x20, true));
    rig.set(reg::INTERRUPT_ACKNOWLEDGE, 0x20);
    assert_eq!((rig.get(reg::INTERRUPT_STATUS), rig.bus.line), (0, false));
    rig.set(reg::INTERRUPT_RAISE, 0);
    assert!(!rig.bus.line && rig.bus.messages == [0]);
}

#[test]
fn data_goes_into_the_buffer_and_back_out() {
    let mut rig = Rig::new();
    rig.bus.memory[0x1000..0x1064].fill(0x5a);
    rig.dma(0x1000, 0x40000, 100, 1);
    rig.dma(0x40000, 0x2000, 100, 3 | 4);
    assert_eq!(rig.bus.memory[0x2000..0x2064], [0x5a; 100]);
    assert_eq!(rig.bus.memory[0x2064], 0);
    assert_eq!(rig.get(reg::DMA_COMMAND) & 1, 0);
    assert_eq!(
        (rig.get(reg::INTERRUPT_STATUS), &rig.bus.messages[..]),
        (0x100, &[0][..])
    );
}

#[test]
fn a_transfer_beyond_the_buffer_is_misuse_and_moves_nothing() {
    for (own, count) in [
        (0x40000, 4097),
        (0x40fff, 2),
        (0x3ffff, 1),
        (0x41000, 1),
        (0x40000, u64::MAX),
        (0, 16),
    ] {
        let mut rig = Rig::new();
        rig.dma(own, 0, count, 3);
        assert_eq!(
            (rig.bus.misuse.len(), rig.get(reg::DMA_COMMAND) & 1),
            (1, 0),
            "{own:#x} + {count:#x}"
        );
    }
    let mut rig = Rig::new();
    rig.dma(0x40fff, 0, 1, 3);
    rig.dma(0x40000, 0, 4096, 3);
    assert!(rig.bus.misuse.is_empty());
}

#[test]
fn addresses_beyond_28_bits_are_clamped_and_named() {
    let mut rig = Rig::new();
    rig.bus.memory[0x1000] = 7;
    rig.dma(0x1_0000_1000, 0x40000, 1, 1);
    assert_eq!(rig.bus.misuse.len(), 1);
    assert_eq!(rig.edu.buffer[0], 7);
    let wide = Edu::new(&EduConfig { dma_bits: 64 }).expect("64 bits");
    assert_eq!(wide.dma_mask, u64::MAX);
    assert_eq!(
        Edu::new(&EduConfig { dma_bits: 65 }).err(),
        Some(Errno::EINVAL)
    );
}

#[test]
fn a_blocked_transfer_still_finishes() {
    let mut rig = Rig::new();
    rig.bus.blocked.push(0..u64::MAX);
    rig.dma(0x1000, 0x40000, 8, 1 | 4);
    assert_eq!(
        (
            rig.get(reg::DMA_COMMAND) & 1,
            rig.get(reg::INTERRUPT_STATUS)
        ),
        (0, 0x100)
    );
}

#[test]
fn access_sizes_are_those_of_the_document() {
    let mut rig = Rig::new();
    assert_eq!(rig.edu.read(&mut rig.bus, 0, 0, 8), u64::MAX);
    assert_eq!(rig.edu.read(&mut rig.bus, 0, 0x80, 2), 0xffff);
    rig.edu.write(&mut rig.bus, 0, 4, 1, 1);
    assert_eq!((rig.get(reg::LIVENESS), rig.bus.misuse.len()), (0, 3));
    assert_eq!(rig.edu.read(&mut rig.bus, 0, 0x80, 8), 0);
    assert_eq!(rig.bus.misuse.len(), 3);
}

#[test]
fn a_reset_lowers_the_line() {
    let mut rig = Rig::new();
    rig.set(reg::INTERRUPT_RAISE, 1);
    rig.edu.reset(&mut rig.bus);
    assert!(!rig.bus.line && rig.get(reg::INTERRUPT_STATUS) == 0);
}

proptest! {
    #[test]
    fn any_accesses_leave_it_alive(accesses in prop::collection::vec((any::<bool>(), 0_u64..0xa0, 0_u32..4, any::<u64>()), 0..64)) {
        let mut rig = Rig::new();
        for (write, offset, size, value) in accesses {
            if write {
                rig.edu.write(&mut rig.bus, 0, offset, 1 << size, value & 0x4_1fff);
            } else {
                rig.edu.read(&mut rig.bus, 0, offset, 1 << size);
            }
        }
        rig.set(reg::LIVENESS, 1);
        prop_assert_eq!(rig.get(reg::LIVENESS), 0xffff_fffe);
    }
}
