//! Registers of the function and of a channel, its states, and its interrupts.

use super::*;
use per_channel::*;

#[test]
fn each_model_says_what_it_is() {
    for (model, device, version) in [
        (IoatModel::Skylake, 0x2021, 0x33),
        (IoatModel::Icelake, 0x0b00, 0x34),
    ] {
        let config = IoatConfig {
            model,
            ..IoatConfig::default()
        };
        let mut rig = Rig::with(&config);
        assert_eq!(rig.ioat.identity().device, device);
        assert_eq!(rig.read(general::CBVER, 1), version);
        assert_eq!(
            (rig.read(general::CHANCNT, 1), rig.read(general::XFERCAP, 1)),
            (1, 20)
        );
        assert_eq!(rig.read(general::DMACAPABILITY, 4), 0x40);
    }
}

#[test]
fn a_configuration_outside_its_bounds_is_refused() {
    for (channels, transfer, good) in [
        (1, 4096, true),
        (8, 1 << 20, true),
        (0, 4096, false),
        (9, 4096, false),
        (1, 2048, false),
        (1, 5000, false),
        (1, 2 << 20, false),
    ] {
        let model = IoatModel::Skylake;
        let config = IoatConfig {
            model,
            channels,
            transfer,
        };
        let made = Ioat::new(&config).map(drop);
        assert_eq!(
            made,
            if good { Ok(()) } else { Err(Errno::EINVAL) },
            "{config:?}"
        );
    }
}

#[test]
fn registers_are_read_in_any_aligned_size_and_their_neighbours_with_them() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(0, 4), 0x1401);
    assert_eq!(rig.read(8, 8), 0x33);
    rig.set(CHANCMP, 0x1122_3344_5566_7788);
    let at = BLOCK + CHANCMP;
    assert_eq!(rig.read(at + 4, 4), 0x1122_3344);
    assert_eq!(rig.read(at + 3, 1), 0x55);
    rig.write(at + 4, 4, 0xaaaa_bbbb);
    rig.write(at + 2, 2, 0xcccc);
    assert_eq!(rig.get(CHANCMP), 0xaaaa_bbbb_cccc_7788);
    assert!(rig.bus.misuse.is_empty() && rig.bus.unmodelled.is_empty());
}

#[test]
fn an_access_that_is_not_aligned_is_misuse_and_does_nothing() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(1, 2), 0xffff);
    rig.write(BLOCK + CHANCMP + 4, 8, u64::MAX);
    assert_eq!((rig.get(CHANCMP), rig.bus.misuse.len()), (0, 2));
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut rig = Rig::new();
    rig.write(general::CHANCNT, 1, 5);
    rig.set(CHANSTS, 5);
    assert_eq!(rig.bus.misuse.len(), 2);
    rig.write(0x1000, 4, 1);
    rig.write(2 * BLOCK, 4, 1);
    rig.write(general::INTRDELAY, 2, 1);
    rig.set(CHANERRMSK, 1);
    assert_eq!(rig.bus.unmodelled.len(), 4);
    rig.write(general::INTRDELAY, 2, 0);
    rig.set(CHANERRMSK, 0);
    assert_eq!(rig.bus.unmodelled.len(), 4);
}

#[test]
fn whoever_reads_a_channel_first_has_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.get(CHANCTRL) & 0x100, 0);
    assert_eq!(rig.get(CHANCTRL) & 0x100, 0x100);
    rig.set(CHANCTRL, 0x10c);
    assert_eq!(rig.get(CHANCTRL), 0x10c);
    rig.set(CHANCTRL, 0);
    assert_eq!(rig.get(CHANCTRL), 0);
}

#[test]
fn a_channel_goes_through_its_states() {
    let mut rig = Rig::new();
    rig.describe(0, 8, NULL, 0, 0);
    assert_eq!(rig.state(), HALTED);
    rig.set(CHANCMD, 4);
    assert_eq!(rig.state(), HALTED);
    rig.set(CHAINADDR, CHAIN);
    assert_eq!(rig.get(CHANSTS), ARMED);
    rig.set(CHANCMD, 4);
    assert_eq!(rig.state(), SUSPENDED);
    rig.run(1);
    assert_eq!(rig.get(CHANSTS), CHAIN | DONE);
    rig.set(CHANCMD, 4);
    assert_eq!(rig.get(CHANSTS), CHAIN | SUSPENDED);
    rig.set(CHANCMD, 0x20);
    assert_eq!((rig.get(CHANSTS), rig.get(CHANCMD)), (HALTED, 0));
    assert_eq!(rig.get(CHANCMP), STATUS);
}

#[test]
fn a_count_starts_nothing_in_a_channel_that_is_suspended_or_halted() {
    let mut rig = Rig::new();
    rig.describe(0, 8, COMPLETION | NULL, 0, 0);
    rig.set(CHANCMP, STATUS);
    rig.set(DMACOUNT, 1);
    rig.set(CHAINADDR, CHAIN);
    rig.set(CHANCMD, 4);
    rig.set(DMACOUNT, 1);
    assert_eq!((rig.peek(STATUS), rig.bus.remarks.len()), (0, 2));
    rig.set(CHAINADDR, CHAIN);
    rig.set(DMACOUNT, 1);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
}

#[test]
fn a_command_that_is_none_halts_the_channel() {
    for command in [0x24, 0x01, 0x08, 0x80] {
        let mut rig = Rig::new();
        rig.set(CHAINADDR, CHAIN);
        rig.set(CHANCMD, command);
        assert_eq!(
            (rig.state(), rig.errors(), rig.bus.misuse.len()),
            (HALTED, error::COMMAND, 1)
        );
    }
}

#[test]
fn ones_clear_errors_and_zeroes_do_not() {
    let mut rig = Rig::new();
    rig.set(CHANCMD, 1);
    rig.run(1); // a descriptor of zeroes: no length
    let both = error::COMMAND | error::LENGTH;
    assert_eq!(rig.errors(), both);
    rig.set(CHANERR, error::LENGTH.into());
    assert_eq!(rig.errors(), error::COMMAND);
    rig.set(CHANERR, both.into());
    assert_eq!(rig.errors(), 0);
}

#[test]
fn a_channel_interrupts_once_until_it_is_armed_again() {
    let mut rig = Rig::new();
    rig.write(general::INTRCTRL, 1, 8);
    for index in 0..4 {
        rig.describe(index, 8, INTERRUPT | NULL, 0, 0);
    }
    rig.run(2);
    assert_eq!(rig.bus.messages, [0]);
    assert_eq!(rig.get(CHANCTRL) & 1, 1);
    rig.set(CHANCTRL, 0);
    rig.set(DMACOUNT, 3);
    assert_eq!(rig.bus.messages, [0]);
    rig.set(CHANCTRL, 1);
    assert_eq!(rig.get(CHANCTRL) & 1, 0);
    rig.set(DMACOUNT, 4);
    assert_eq!(rig.bus.messages, [0, 0]);
    assert!(!rig.bus.line);
}

#[test]
fn each_channel_has_a_vector_and_a_chain_of_its_own() {
    let mut rig = Rig::with(&IoatConfig {
        channels: 3,
        ..IoatConfig::default()
    });
    rig.write(general::INTRCTRL, 1, 8);
    rig.describe(0, 8, INTERRUPT, 0x2_0000, 0x8000);
    rig.write(3 * BLOCK + CHAINADDR, 8, CHAIN);
    rig.write(3 * BLOCK + DMACOUNT, 2, 1);
    assert_eq!(rig.bus.messages, [2]);
    assert_eq!(rig.read(3 * BLOCK + CHANSTS, 8), CHAIN | DONE);
    assert_eq!(rig.read(2 * BLOCK + CHANSTS, 8), HALTED);
    assert_eq!(rig.ioat.identity().msix.expect("MSI-X").vectors, 3);
}

#[test]
fn without_vectors_the_line_is_asserted_until_the_cause_is_read() {
    let mut rig = Rig::new();
    rig.describe(0, 8, INTERRUPT | NULL, 0, 0);
    rig.run(1);
    assert!(!rig.bus.line && rig.bus.messages.is_empty());
    rig.write(general::INTRCTRL, 1, 1);
    assert!(rig.bus.line && rig.bus.messages == [0]);
    assert_eq!(rig.read(general::INTRCTRL, 1), 7);
    assert!(!rig.bus.line);
    assert_eq!(rig.read(general::INTRCTRL, 1), 2);
    rig.write(general::INTRCTRL, 1, 1);
    assert!(rig.bus.line);
    assert_eq!(rig.read(general::ATTNSTATUS, 4), 1);
    assert!(!rig.bus.line && rig.read(general::ATTNSTATUS, 4) == 0);
}

#[test]
fn a_function_level_reset_leaves_nothing() {
    let mut rig = Rig::new();
    rig.write(general::INTRCTRL, 1, 1);
    rig.describe(0, 8, INTERRUPT | NULL, 0, 0);
    rig.run(1);
    assert!(rig.bus.line);
    rig.ioat.reset(&mut rig.bus);
    assert!(!rig.bus.line && rig.get(CHANSTS) == HALTED && rig.get(CHANCMP) == 0);
    assert_eq!(rig.read(general::ATTNSTATUS, 4), 0);
}
