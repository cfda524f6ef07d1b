//! GET LOG PAGE.

use super::driver::DATA;
use super::*;

fn log(id: u32, dwords: u32, offset: u64) -> Command {
    let cdw = [
        id | (dwords - 1) << 16,
        (dwords - 1) >> 16,
        offset as u32,
        (offset >> 32) as u32,
        0,
        0,
    ];
    Command {
        opcode: admin_op::GET_LOG_PAGE,
        nsid: 0xffff_ffff,
        prp1: DATA,
        cdw,
        ..Command::default()
    }
}

fn u64_at(driver: &Driver, at: u64) -> u64 {
    u64::from_le_bytes(driver.at(DATA + at, 8).try_into().expect("8 bytes"))
}

#[test]
fn failed_commands_are_in_the_error_log_latest_first() {
    let mut driver = Driver::new();
    driver.admin_ok(log(1, 1024, 0));
    assert!(
        driver.at(DATA, 4096).iter().all(|&b| b == 0),
        "nothing failed yet"
    );
    assert_eq!(
        driver.io(io_op::READ, 0x1234_5678, 1, 0, (DATA, 0)),
        Status::LBA_OUT_OF_RANGE
    );
    driver.admin(Command {
        opcode: 0xff,
        ..Command::default()
    });
    driver.admin_ok(log(1, 1024, 0));
    assert_eq!(
        (
            u64_at(&driver, 0),
            u64_at(&driver, 64),
            u64_at(&driver, 128)
        ),
        (2, 1, 0)
    );
    assert_eq!(driver.at(DATA + 64 + 8, 2), [1, 0], "queue 1");
    let status = u16::from_le_bytes([
        driver.at(DATA + 64 + 12, 2)[0],
        driver.at(DATA + 64 + 12, 2)[1],
    ]) >> 1;
    assert_eq!(status & 0x7ff, 0x80);
    assert_eq!(u64_at(&driver, 64 + 16), 0x1234_5678);
}

#[test]
fn the_error_log_keeps_the_last_entries() {
    let mut driver = Driver::enabled(|_| {});
    for _ in 0..70 {
        driver.admin(Command {
            opcode: 0xff,
            ..Command::default()
        });
    }
    driver.admin_ok(log(1, 1024, 0));
    assert_eq!((u64_at(&driver, 0), u64_at(&driver, 63 * 64)), (70, 7));
}

#[test]
fn the_health_log_counts() {
    let mut driver = Driver::new();
    driver.io(io_op::WRITE, 0, 8, 0, (DATA, 0));
    driver.io(io_op::READ, 0, 8, 0, (DATA, 0));
    driver.io(io_op::READ, 0, 8, 0, (DATA, 0));
    driver.io(io_op::READ, u64::MAX, 8, 0, (DATA, 0));
    driver.admin_ok(log(2, 128, 0));
    assert_eq!(
        (u64_at(&driver, 32), u64_at(&driver, 48)),
        (1, 1),
        "data units, rounded up"
    );
    assert_eq!(
        (u64_at(&driver, 64), u64_at(&driver, 80)),
        (2, 1),
        "commands"
    );
    assert_eq!(
        (u64_at(&driver, 160), u64_at(&driver, 176)),
        (0, 1),
        "media errors, error log entries"
    );
    assert_eq!(
        driver.admin(Command {
            nsid: 1,
            ..log(2, 128, 0)
        }),
        Status::INVALID_FIELD
    );
    assert_eq!(
        driver.admin(Command {
            nsid: 0,
            ..log(2, 128, 0)
        }),
        Status::SUCCESS
    );
}

#[test]
fn firmware_slots_and_effects_are_told() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(log(3, 128, 0));
    assert_eq!(driver.at(DATA, 1), [1]);
    assert!(
        driver
            .at(DATA + 8, 8)
            .starts_with(env!("CARGO_PKG_VERSION").as_bytes())
    );
    driver.admin_ok(log(5, 1024, 0));
    let effect = |at: usize, opcode: u8| driver.at(DATA, 4096)[at + usize::from(opcode) * 4];
    assert_eq!((effect(0, admin_op::IDENTIFY), effect(0, 0x80)), (1, 0));
    assert_eq!(
        (
            effect(1024, io_op::READ),
            effect(1024, io_op::WRITE),
            effect(1024, 4)
        ),
        (1, 3, 0)
    );
}

#[test]
fn pages_are_read_in_parts_and_end_in_zeroes() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(log(5, 1024, 0));
    let whole = driver.at(DATA, 4096).to_vec();
    driver.fill(DATA, 0x3000, 0xff);
    let command = Command {
        prp1: DATA + 0x800,
        prp2: DATA + 0x1000,
        ..log(5, 1024, 1024)
    };
    driver.admin_ok(command);
    assert_eq!(driver.at(DATA + 0x800, 3072), &whole[1024..]);
    assert!(driver.at(DATA + 0x800 + 3072, 1024).iter().all(|&b| b == 0));
    assert_eq!(driver.at(DATA + 0x1800, 1), [0xff]);
    driver.admin_ok(log(3, 1, 512));
    assert_eq!(driver.at(DATA, 4), [0; 4], "at the very end");
}

#[test]
fn what_is_no_log_page_is_refused() {
    let mut driver = Driver::enabled(|_| {});
    for id in [0, 4, 6, 0xd, 0x80, 0xff] {
        assert_eq!(driver.admin(log(id, 1, 0)), Status::INVALID_LOG_PAGE);
    }
    for offset in [2, 516, 1 << 40] {
        assert_eq!(
            driver.admin(log(3, 1, offset)),
            Status::INVALID_FIELD,
            "offset {offset}"
        );
    }
    assert_eq!(
        driver.admin(log(3, 0x8_0001, 0)),
        Status::INVALID_FIELD,
        "more than MDTS"
    );
    driver.bus.blocked.push(DATA..DATA + 4);
    assert_eq!(driver.admin(log(3, 1, 0)), Status::DATA_TRANSFER_ERROR);
}
