//! The NVM command set.

use super::driver::{BYTES, DATA, LIST};
use super::*;

const FUA: u32 = 1 << 30;
const DEAC: u32 = 1 << 25;
const PAGE: u64 = 4096;

fn pattern(driver: &mut Driver, at: u64, bytes: u64, seed: u8) {
    for i in 0..bytes {
        driver.bus.memory[(at + i) as usize] = (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed;
    }
}

/// Writes `blocks` blocks of a pattern at DATA and reads them back elsewhere through the given PRPs.
fn write_then_read(driver: &mut Driver, blocks: u32, to: u64, write: (u64, u64), read: (u64, u64)) {
    let bytes = u64::from(blocks) * 512;
    assert_eq!(
        driver.io(io_op::WRITE, 8, blocks, 0, write),
        Status::SUCCESS
    );
    assert_eq!(driver.io(io_op::READ, 8, blocks, 0, read), Status::SUCCESS);
    let (wrote, got) = (driver.at(write.0, bytes).to_vec(), driver.at(to, bytes));
    assert!(wrote == got, "data differ");
}

#[test]
fn what_was_written_is_read_back_through_every_kind_of_prp() {
    let mut driver = Driver::new();
    let target = DATA + 0x20_0000;
    pattern(&mut driver, DATA, 0x10_0000, 1);
    // Within one page, with an offset in it.
    write_then_read(
        &mut driver,
        1,
        target + 0x200,
        (DATA + 0x400, 0),
        (target + 0x200, 0),
    );
    // One and two pages.
    write_then_read(&mut driver, 8, target, (DATA, 0), (target, 0));
    write_then_read(
        &mut driver,
        16,
        target,
        (DATA, DATA + PAGE),
        (target, target + PAGE),
    );
    // An offset that is no multiple of the block: a block lies in two pages.
    let (from, to) = (DATA + 0x104, target + 0x304);
    write_then_read(&mut driver, 8, to, (from, DATA + PAGE), (to, target + PAGE));
    // Lists, contiguous and with a list that does not begin at its page's start.
    driver.list(LIST, &(1..64).map(|i| DATA + i * PAGE).collect::<Vec<_>>());
    driver.list(
        LIST + 0x2008,
        &(1..64).map(|i| target + i * PAGE).collect::<Vec<_>>(),
    );
    write_then_read(
        &mut driver,
        512,
        target,
        (DATA, LIST),
        (target, LIST + 0x2008),
    );
}

#[test]
fn scattered_pages_and_chained_lists_are_followed() {
    let mut driver = Driver::new();
    pattern(&mut driver, DATA, 16 * PAGE, 9);
    // Pages in reverse order; the list's page has room for two entries, the second of which leads on.
    let page = |i: u64| DATA + i * PAGE;
    let order: Vec<u64> = (0..8).rev().map(page).collect();
    driver.list(LIST + PAGE - 16, &[order[1], LIST + PAGE]);
    driver.list(LIST + PAGE, &order[2..]);
    assert_eq!(
        driver.io(io_op::WRITE, 0, 64, FUA, (order[0], LIST + PAGE - 16)),
        Status::SUCCESS
    );
    let durable = driver.durable();
    for (i, &at) in order.iter().enumerate() {
        assert!(
            durable[i * 4096..(i + 1) * 4096] == *driver.at(at, PAGE),
            "page {i}"
        );
    }
    // A pointer in the only slot of its page.
    driver.list(LIST + 2 * PAGE - 8, &[LIST]);
    driver.list(LIST, &order[1..]);
    driver.fill(DATA + 0x10_0000, 8 * PAGE, 0);
    assert_eq!(
        driver.io(io_op::COMPARE, 0, 64, 0, (order[0], LIST + 2 * PAGE - 8)),
        Status::SUCCESS
    );
}

#[test]
fn the_largest_transfer_is_mdts() {
    let mut driver = Driver::with(|c| c.namespaces[0].bytes = 8 << 20);
    pattern(&mut driver, DATA, 2 << 20, 3);
    driver.list(LIST, &(1..512).map(|i| DATA + i * PAGE).collect::<Vec<_>>());
    assert_eq!(
        driver.io(io_op::WRITE, 0, 4096, 0, (DATA, LIST)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::COMPARE, 0, 4096, 0, (DATA, LIST)),
        Status::SUCCESS
    );
    for opcode in [io_op::READ, io_op::WRITE, io_op::COMPARE] {
        assert_eq!(
            driver.io(opcode, 0, 4097, 0, (DATA, LIST)),
            Status::INVALID_FIELD
        );
    }
    // It does not hold where no data move.
    assert_eq!(
        driver.io(io_op::WRITE_ZEROES, 0, 8192, 0, (0, 0)),
        Status::SUCCESS
    );
}

#[test]
fn prps_with_a_bad_offset_are_refused() {
    let mut driver = Driver::new();
    driver.list(LIST, &[DATA + PAGE, DATA + 2 * PAGE + 4]);
    for (blocks, prp) in [
        (1, (DATA + 1, 0)),
        (16, (DATA, DATA + PAGE + 8)),
        (24, (DATA, LIST + 4)),
        (24, (DATA, LIST)),
    ] {
        assert_eq!(
            driver.io(io_op::READ, 0, blocks, 0, prp),
            Status::PRP_OFFSET_INVALID,
            "{prp:x?}"
        );
    }
    driver.list(LIST, &[DATA + PAGE, DATA + 2 * PAGE]);
    assert_eq!(
        driver.io(io_op::READ, 0, 24, 0, (DATA, LIST)),
        Status::SUCCESS
    );
}

#[test]
fn blocks_beyond_the_namespace_are_refused() {
    let mut driver = Driver::new();
    let last = BYTES / 512 - 1;
    for opcode in [
        io_op::READ,
        io_op::WRITE,
        io_op::COMPARE,
        io_op::WRITE_ZEROES,
    ] {
        assert_eq!(
            driver.io(opcode, last, 1, 0, (DATA, 0)),
            Status::SUCCESS,
            "{opcode}"
        );
        for (block, count) in [(last, 2), (last + 1, 1), (u64::MAX, 1), (u64::MAX - 3, 8)] {
            assert_eq!(
                driver.io(opcode, block, count, 0, (DATA, 0)),
                Status::LBA_OUT_OF_RANGE,
                "{opcode} {block}"
            );
        }
    }
}

#[test]
fn namespaces_that_are_not_there_are_refused() {
    let mut driver = Driver::new();
    for nsid in [0, 2, 0xffff_fffe, 0xffff_ffff] {
        for opcode in [
            io_op::READ,
            io_op::WRITE,
            io_op::COMPARE,
            io_op::WRITE_ZEROES,
            io_op::DATASET_MANAGEMENT,
        ] {
            let command = Command {
                opcode,
                nsid,
                prp1: DATA,
                ..Command::default()
            };
            assert_eq!(
                driver.run(1, command).status,
                Status::INVALID_NAMESPACE,
                "{opcode} on {nsid:#x}"
            );
        }
    }
    let flush = |nsid| Command {
        opcode: io_op::FLUSH,
        nsid,
        ..Command::default()
    };
    assert_eq!(driver.run(1, flush(0xffff_ffff)).status, Status::SUCCESS);
    assert_eq!(driver.run(1, flush(2)).status, Status::INVALID_NAMESPACE);
}

#[test]
fn blocked_memory_is_a_data_transfer_error() {
    let mut driver = Driver::new();
    driver.bus.blocked.push(DATA..DATA + PAGE);
    driver.list(LIST, &[DATA + PAGE, DATA + 2 * PAGE]);
    for opcode in [
        io_op::READ,
        io_op::WRITE,
        io_op::COMPARE,
        io_op::DATASET_MANAGEMENT,
    ] {
        assert_eq!(
            driver.io(opcode, 0, 1, 0, (DATA, 0)),
            Status::DATA_TRANSFER_ERROR
        );
        assert_eq!(
            driver.io(opcode, 0, 1, 0, (u64::MAX - 3, 0)),
            Status::DATA_TRANSFER_ERROR
        );
    }
    driver.bus.blocked[0] = LIST..LIST + 8;
    assert_eq!(
        driver.io(io_op::READ, 0, 24, 0, (DATA, LIST)),
        Status::DATA_TRANSFER_ERROR
    );
    assert_eq!(driver.bus.doing.what, "posting a completion");
    driver.bus.blocked.clear();
    assert_eq!(
        driver.io(io_op::READ, 0, 24, 0, (DATA, LIST)),
        Status::SUCCESS
    );
}

#[test]
fn a_write_that_fails_in_memory_leaves_other_blocks_alone() {
    let mut driver = Driver::new();
    driver.fill(DATA, 2 * PAGE, 0x11);
    assert_eq!(
        driver.io(io_op::WRITE, 0, 16, 0, (DATA, DATA + PAGE)),
        Status::SUCCESS
    );
    driver.bus.blocked.push(DATA + PAGE..DATA + 2 * PAGE);
    driver.fill(DATA, PAGE, 0x22);
    assert_eq!(
        driver.io(io_op::WRITE, 8, 16, 0, (DATA, DATA + PAGE)),
        Status::DATA_TRANSFER_ERROR
    );
    driver.bus.blocked.clear();
    assert_eq!(driver.io(io_op::READ, 0, 8, 0, (DATA, 0)), Status::SUCCESS);
    assert!(driver.at(DATA, PAGE).iter().all(|&b| b == 0x11));
}

#[test]
fn compare_finds_one_wrong_byte() {
    let mut driver = Driver::new();
    pattern(&mut driver, DATA, 2 * PAGE, 5);
    assert_eq!(
        driver.io(io_op::WRITE, 3, 16, 0, (DATA, DATA + PAGE)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::COMPARE, 3, 16, 0, (DATA, DATA + PAGE)),
        Status::SUCCESS
    );
    driver.bus.memory[DATA as usize + 8191] ^= 1;
    assert_eq!(
        driver.io(io_op::COMPARE, 3, 16, 0, (DATA, DATA + PAGE)),
        Status::COMPARE_FAILURE
    );
}

#[test]
fn write_zeroes_zeroes_exactly_its_blocks_with_and_without_deallocation() {
    for (flags, cached) in [(0, true), (DEAC, true), (0, false), (DEAC | FUA, false)] {
        let mut driver = Driver::new();
        driver.fill(DATA, 4 * PAGE, 0xee);
        driver.list(LIST, &[DATA + PAGE, DATA + 2 * PAGE, DATA + 3 * PAGE]);
        let fua = if cached { 0 } else { FUA };
        assert_eq!(
            driver.io(io_op::WRITE, 0, 32, fua, (DATA, LIST)),
            Status::SUCCESS
        );
        assert_eq!(
            driver.io(io_op::WRITE_ZEROES, 5, 21, flags, (0, 0)),
            Status::SUCCESS
        );
        assert_eq!(
            driver.io(io_op::READ, 0, 32, 0, (DATA, LIST)),
            Status::SUCCESS
        );
        for (block, data) in driver.at(DATA, 4 * PAGE).chunks(512).enumerate() {
            let expected = if (5..26).contains(&block) { 0 } else { 0xee };
            assert!(data.iter().all(|&b| b == expected), "block {block}");
        }
    }
}

#[test]
fn deallocated_ranges_read_zeroes_and_hints_change_nothing() {
    let mut driver = Driver::new();
    driver.fill(DATA, 2 * PAGE, 0xee);
    assert_eq!(
        driver.io(io_op::WRITE, 0, 16, 0, (DATA, DATA + PAGE)),
        Status::SUCCESS
    );
    let range = |first: u64, blocks: u32| {
        let mut b = [0; 16];
        b[4..8].copy_from_slice(&blocks.to_le_bytes());
        b[8..16].copy_from_slice(&first.to_le_bytes());
        b
    };
    let dsm = |driver: &mut Driver, ranges: &[[u8; 16]], attributes: u32| {
        for (i, range) in ranges.iter().enumerate() {
            let at = DATA as usize + i * 16;
            driver.bus.memory[at..at + 16].copy_from_slice(range);
        }
        let cdw = [ranges.len() as u32 - 1, attributes, 0, 0, 0, 0];
        driver
            .run(
                1,
                Command {
                    opcode: io_op::DATASET_MANAGEMENT,
                    nsid: 1,
                    prp1: DATA,
                    cdw,
                    ..Command::default()
                },
            )
            .status
    };
    // Out of range: nothing happens, not even to the good range before it.
    assert_eq!(
        dsm(&mut driver, &[range(0, 4), range(2047, 2)], 4),
        Status::LBA_OUT_OF_RANGE
    );
    assert_eq!(dsm(&mut driver, &[range(0, 16)], 3), Status::SUCCESS);
    assert_eq!(
        dsm(&mut driver, &[range(1, 2), range(8, 0), range(15, 1)], 4),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::READ, 0, 16, 0, (DATA, DATA + PAGE)),
        Status::SUCCESS
    );
    for (block, data) in driver.at(DATA, 2 * PAGE).chunks(512).enumerate() {
        let expected = if [1, 2, 15].contains(&block) { 0 } else { 0xee };
        assert!(data.iter().all(|&b| b == expected), "block {block}");
    }
}

#[test]
fn a_read_only_namespace_is_write_protected() {
    let mut driver = Driver::with(|c| c.namespaces[0].read_only = true);
    for opcode in [io_op::WRITE, io_op::WRITE_ZEROES] {
        assert_eq!(
            driver.io(opcode, 0, 1, 0, (DATA, 0)),
            Status::WRITE_PROTECTED
        );
    }
    let cdw = [0, 4, 0, 0, 0, 0];
    let dsm = Command {
        opcode: io_op::DATASET_MANAGEMENT,
        nsid: 1,
        prp1: DATA,
        cdw,
        ..Command::default()
    };
    assert_eq!(driver.run(1, dsm).status, Status::WRITE_PROTECTED);
    assert_eq!(driver.io(io_op::READ, 0, 1, 0, (DATA, 0)), Status::SUCCESS);
    assert_eq!(driver.io(io_op::FLUSH, 0, 1, 0, (0, 0)), Status::SUCCESS);
}

#[test]
fn what_is_not_modelled_is_refused_and_named() {
    let mut driver = Driver::new();
    for opcode in [0x04, 0x0c, 0x0d, 0x80] {
        assert_eq!(
            driver.io(opcode, 0, 1, 0, (DATA, 0)),
            Status::INVALID_OPCODE
        );
    }
    let read = Command {
        opcode: io_op::READ,
        nsid: 1,
        prp1: DATA,
        ..Command::default()
    };
    for flags in [0x01, 0x02, 0x40, 0x80] {
        assert_eq!(
            driver.run(1, Command { flags, ..read }).status,
            Status::INVALID_FIELD,
            "flags {flags:#x}"
        );
    }
    assert_eq!(
        driver.io(io_op::WRITE, 0, 1, 1 << 20, (DATA, 0)),
        Status::INVALID_FIELD
    );
    assert_eq!(driver.bus.unmodelled.len(), 9);
    assert!(driver.bus.unmodelled[0].contains("WRITE UNCORRECTABLE"));
    assert_eq!(driver.run(1, read).status, Status::SUCCESS);
}

#[test]
fn namespaces_do_not_share_blocks() {
    let mut driver = Driver::with(|c| {
        let second = c.namespaces[0].clone();
        c.namespaces.push(second);
    });
    driver.fill(DATA, 512, 1);
    driver.fill(DATA + 512, 512, 2);
    let io = |opcode, nsid, prp1| Command {
        opcode,
        nsid,
        prp1,
        ..Command::default()
    };
    assert_eq!(
        driver.run(1, io(io_op::WRITE, 1, DATA)).status,
        Status::SUCCESS
    );
    assert_eq!(
        driver.run(1, io(io_op::WRITE, 2, DATA + 512)).status,
        Status::SUCCESS
    );
    assert_eq!(
        driver.run(1, io(io_op::COMPARE, 1, DATA)).status,
        Status::SUCCESS
    );
    assert_eq!(
        driver.run(1, io(io_op::COMPARE, 2, DATA)).status,
        Status::COMPARE_FAILURE
    );
}

#[test]
fn blocks_of_4096_bytes_work_the_same() {
    let mut driver = Driver::with(|c| c.block = 4096);
    pattern(&mut driver, DATA, 2 * PAGE, 7);
    assert_eq!(
        driver.io(io_op::WRITE, 255, 1, 0, (DATA, 0)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::WRITE, 256, 1, 0, (DATA, 0)),
        Status::LBA_OUT_OF_RANGE
    );
    // An unaligned buffer: the block lies in two pages.
    assert_eq!(
        driver.io(io_op::WRITE, 0, 1, 0, (DATA + 0x80, DATA + PAGE)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::COMPARE, 0, 1, 0, (DATA + 0x80, DATA + PAGE)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.io(io_op::COMPARE, 255, 1, 0, (DATA, 0)),
        Status::SUCCESS
    );
}
