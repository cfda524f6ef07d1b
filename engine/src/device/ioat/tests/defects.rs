//! Every defect of a descriptor, every DMA that can be blocked: which error it is, and that the channel halts there.

use super::*;
use per_channel::*;

/// The second of three descriptors is this; the error.
fn second(size: u32, control: u32, source: u64, destination: u64) -> u32 {
    let mut rig = Rig::new();
    rig.describe(0, 8, COMPLETION, 0x2_0000, 0x8000);
    rig.describe(1, size, control | COMPLETION, source, destination);
    rig.describe(2, 8, FILL | COMPLETION, 0x77, 0x9000);
    rig.set(CHANCTRL, 0xc);
    rig.run(3);
    let errors = rig.errors();
    if errors == 0 {
        assert_eq!(rig.peek(STATUS), (CHAIN + 128) | DONE);
        assert_eq!((rig.peek(0x9000), rig.bus.misuse.len()), (0x77, 0));
    } else {
        assert_eq!(
            rig.get(CHANSTS),
            CHAIN | HALTED,
            "the first is the last done"
        );
        assert_eq!((rig.peek(STATUS), rig.peek(0x9000)), (CHAIN | HALTED, 0));
        assert_eq!(rig.get(CDAR), CHAIN + 64);
        rig.set(DMACOUNT, 4);
        assert_eq!(rig.peek(0x9000), 0);
    }
    errors
}

#[test]
fn each_defect_of_a_descriptor_has_its_error() {
    let most = 1 << 20;
    for (size, control, source, destination, expected) in [
        (8, 0, 0x2_0000, 0x8000, 0),
        (8, 0x71e, 0x2_0000, 0x8000, 0),
        (8, FILL | 0x114, 0, 0x8000, 0),
        (most, NULL, 0, 0, 0),
        (0, 0, 0x2_0000, 0x8000, error::LENGTH),
        (0, NULL, 0, 0, error::LENGTH),
        (most + 1, 0, 0x2_0000, 0x8000, error::LENGTH),
        (8, 0x40, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0x80, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0x800, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0x80_0000, 0x2_0000, 0x8000, error::CONTROL),
        (8, FILL | NULL, 0, 0x8000, error::CONTROL),
        (8, FILL | 2, 0, 0x8000, error::CONTROL),
        (8, 0x8700_0000, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0x8900_0000, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0xff00_0000, 0x2_0000, 0x8000, error::CONTROL),
        (8, 0, u64::MAX - 6, 0x8000, error::SOURCE),
        (8, 0, 0x2_0000, u64::MAX - 6, error::DESTINATION),
        (8, FILL, 0, u64::MAX, error::DESTINATION),
        (8, 0, u64::MAX - 7, 0x8000, error::READ_DATA),
        (8, 0, MEMORY as u64, 0x8000, error::READ_DATA),
        (8, 0, 0x2_0000, MEMORY as u64, error::WRITE_DATA),
        (8, FILL, 0, MEMORY as u64, error::WRITE_DATA),
    ] {
        let errors = second(size, control, source, destination);
        assert_eq!(
            errors, expected,
            "{size} bytes, {control:#x}, {source:#x} to {destination:#x}"
        );
    }
}

#[test]
fn the_largest_transfer_is_what_xfercap_says() {
    let config = IoatConfig {
        transfer: 4096,
        ..IoatConfig::default()
    };
    for (size, expected) in [(4096, 0), (4097, error::LENGTH)] {
        let mut rig = Rig::with(&config);
        rig.describe(0, size, 0, 0x2_0000, 0x8000);
        rig.run(1);
        assert_eq!(rig.read(general::XFERCAP, 1), 12);
        assert_eq!(rig.errors(), expected);
    }
}

#[test]
fn a_chain_that_cannot_be_followed_has_its_error() {
    for (chain, next, expected) in [
        (CHAIN + 32, 0, error::CHAIN_ADDRESS),
        (MEMORY as u64, 0, error::CHAIN_ADDRESS),
        (CHAIN, CHAIN + 8, error::NEXT_ALIGNMENT),
        (CHAIN, MEMORY as u64, error::NEXT),
        (CHAIN, CHAIN, 0),
    ] {
        let mut rig = Rig::new();
        rig.place(CHAIN, 8, 0, 0x2_0000, 0x8000, next);
        rig.set(CHAINADDR, chain);
        rig.set(DMACOUNT, 2);
        assert_eq!(rig.errors(), expected, "{chain:#x}, {next:#x}");
        assert_eq!(rig.state(), if expected == 0 { DONE } else { HALTED });
    }
}

#[test]
fn a_completion_that_cannot_be_written_halts_after_the_transfer() {
    for at in [STATUS + 4, MEMORY as u64] {
        let mut rig = Rig::new();
        rig.set(CHANCTRL, 4);
        rig.describe(0, 8, COMPLETION, 0x2_0000, 0x8000);
        rig.set(CHANCMP, at);
        rig.set(CHAINADDR, CHAIN);
        rig.set(DMACOUNT, 1);
        assert_eq!(rig.errors(), error::COMPLETION_ADDRESS);
        assert_eq!(rig.get(CHANSTS), CHAIN | HALTED);
        assert_eq!(rig.peek(0x8000), rig.peek(0x2_0000));
    }
}

#[test]
fn an_error_completes_and_interrupts_only_if_asked() {
    for (control, completed, interrupts) in [(0, false, 0), (4, true, 0), (0x10, false, 1)] {
        let mut rig = Rig::new();
        rig.write(general::INTRCTRL, 1, 8);
        rig.set(CHANCTRL, control);
        rig.describe(0, 8, INTERRUPT | COMPLETION, MEMORY as u64, 0x8000);
        rig.run(1);
        assert_eq!(rig.peek(STATUS), if completed { HALTED } else { 0 });
        assert_eq!(rig.bus.messages.len(), interrupts);
    }
}

#[test]
fn after_a_reset_the_rest_of_a_chain_can_be_done() {
    let mut rig = Rig::new();
    rig.describe(0, 8, COMPLETION, MEMORY as u64, 0x8000);
    rig.describe(1, 8, COMPLETION, 0x2_0000, 0x8000);
    rig.run(2);
    assert_eq!(rig.state(), HALTED);
    let errors = rig.get(CHANERR);
    rig.set(CHANERR, errors);
    rig.set(CHANCMD, 0x20);
    rig.set(CHAINADDR, CHAIN + 64);
    assert_eq!(rig.get(CHANSTS), ARMED);
    rig.set(DMACOUNT, 1);
    assert_eq!(
        (rig.peek(STATUS), rig.get(CHANERR)),
        ((CHAIN + 64) | DONE, 0)
    );
    assert_eq!(rig.peek(0x8000), rig.peek(0x2_0000));
}
