//! Queues: creation and deletion with every error the specification names, wrap, phase, and full completion queues.

use super::driver::{DATA, ENTRIES, IO_CQ, IO_SQ};
use super::*;

const MEMORY: u64 = super::driver::MEMORY as u64;

fn create(opcode: u8, id: u16, entries: u32, flags: u32, base: u64) -> Command {
    let size = (entries - 1) << 16 | u32::from(id);
    Command {
        opcode,
        prp1: base,
        cdw: [size, flags, 0, 0, 0, 0],
        ..Command::default()
    }
}

fn create_cq(id: u16) -> Command {
    create(admin_op::CREATE_CQ, id, ENTRIES, 1, IO_CQ)
}

fn create_sq(id: u16, cq: u32) -> Command {
    create(admin_op::CREATE_SQ, id, ENTRIES, 1 | cq << 16, IO_SQ)
}

fn delete(opcode: u8, id: u32) -> Command {
    Command {
        opcode,
        cdw: [id, 0, 0, 0, 0, 0],
        ..Command::default()
    }
}

fn read() -> Command {
    Command {
        opcode: io_op::READ,
        nsid: 1,
        prp1: DATA,
        ..Command::default()
    }
}

#[test]
fn completion_queues_that_cannot_be_are_refused() {
    let mut driver = Driver::enabled(|_| {});
    let cases = [
        (
            Command {
                cdw: [0x7_0000, 1, 0, 0, 0, 0],
                ..create_cq(1)
            },
            Status::INVALID_QUEUE_ID,
        ),
        (create_cq(5), Status::INVALID_QUEUE_ID),
        (create_cq(0xffff), Status::INVALID_QUEUE_ID),
        (
            create(admin_op::CREATE_CQ, 1, 1, 1, IO_CQ),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            create(admin_op::CREATE_CQ, 1, 4097, 1, IO_CQ),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            create(admin_op::CREATE_CQ, 1, ENTRIES, 0, IO_CQ),
            Status::INVALID_FIELD,
        ),
        (
            create(admin_op::CREATE_CQ, 1, ENTRIES, 1, IO_CQ + 16),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            create(admin_op::CREATE_CQ, 1, ENTRIES, 3 | 5 << 16, IO_CQ),
            Status::INVALID_VECTOR,
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(driver.admin(command), expected, "{command:?}");
    }
    assert_eq!(
        driver.admin(create(admin_op::CREATE_CQ, 1, 4096, 3 | 4 << 16, IO_CQ)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.admin(create_cq(1)),
        Status::INVALID_QUEUE_ID,
        "it exists"
    );
}

#[test]
fn submission_queues_that_cannot_be_are_refused() {
    let mut driver = Driver::enabled(|_| {});
    assert_eq!(
        driver.admin(create_sq(1, 1)),
        Status::CQ_INVALID,
        "not created yet"
    );
    assert_eq!(driver.admin(create_cq(1)), Status::SUCCESS);
    let cases = [
        (create_sq(1, 0), Status::INVALID_QUEUE_ID),
        (create_sq(1, 2), Status::CQ_INVALID),
        (create_sq(1, 0xffff), Status::CQ_INVALID),
        (create_sq(0, 1), Status::INVALID_QUEUE_ID),
        (create_sq(5, 1), Status::INVALID_QUEUE_ID),
        (
            create(admin_op::CREATE_SQ, 1, 1, 1 | 1 << 16, IO_SQ),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            create(admin_op::CREATE_SQ, 1, 8, 1 << 16, IO_SQ),
            Status::INVALID_FIELD,
        ),
        (
            create(admin_op::CREATE_SQ, 1, 8, 1 | 1 << 16, IO_SQ + 64),
            Status::PRP_OFFSET_INVALID,
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(driver.admin(command), expected, "{command:?}");
    }
    assert_eq!(driver.admin(create_sq(1, 1)), Status::SUCCESS);
    assert_eq!(
        driver.admin(create_sq(1, 1)),
        Status::INVALID_QUEUE_ID,
        "it exists"
    );
    assert_eq!(
        driver.admin(create_sq(2, 1)),
        Status::SUCCESS,
        "a second one on the same completion queue"
    );
}

#[test]
fn queues_are_deleted_submission_first() {
    let mut driver = Driver::new();
    assert_eq!(
        driver.admin(delete(admin_op::DELETE_CQ, 1)),
        Status::INVALID_QUEUE_DELETION
    );
    for id in [0, 2, 5, 0xffff] {
        assert_eq!(
            driver.admin(delete(admin_op::DELETE_SQ, id)),
            Status::INVALID_QUEUE_ID
        );
        assert_eq!(
            driver.admin(delete(admin_op::DELETE_CQ, id)),
            Status::INVALID_QUEUE_ID
        );
    }
    assert_eq!(
        driver.admin(delete(admin_op::DELETE_SQ, 1)),
        Status::SUCCESS
    );
    driver.ring_raw(2, 1);
    assert!(driver.bus.misuse[0].contains("submission queue 1, which does not exist"));
    assert_eq!(
        driver.admin(delete(admin_op::DELETE_CQ, 1)),
        Status::SUCCESS
    );
    driver.create_pair(1, ENTRIES);
    assert_eq!(driver.run(1, read()).status, Status::SUCCESS);
}

#[test]
fn entry_sizes_must_be_set_before_io_queues() {
    let mut driver = Driver::cold(|_| {});
    driver.enable();
    driver.set(reg::CC, 1);
    assert_eq!(driver.admin(create_cq(1)), Status::INVALID_QUEUE_SIZE);
    driver.set(reg::CC, 1 | 4 << 20);
    assert_eq!(driver.admin(create_cq(1)), Status::SUCCESS);
    assert_eq!(driver.admin(create_sq(1, 1)), Status::INVALID_QUEUE_SIZE);
    driver.set(reg::CC, 1 | 6 << 16 | 4 << 20);
    assert_eq!(driver.admin(create_sq(1, 1)), Status::SUCCESS);
    assert_eq!(driver.bus.misuse.len(), 2);
}

#[test]
fn queues_wrap_and_the_phase_turns() {
    let mut driver = Driver::new();
    for i in 0..5 * ENTRIES {
        let done = driver.run(1, read());
        assert_eq!(
            (done.status, u32::from(done.sq_head)),
            (Status::SUCCESS, (i + 1) % ENTRIES)
        );
    }
    assert!(driver.bus.misuse.is_empty());
}

#[test]
fn a_batch_is_one_interrupt_on_the_queue_s_vector() {
    let mut driver = Driver::with(|c| c.queues = 4);
    driver.create_pair(3, ENTRIES);
    driver.bus.messages.clear();
    for cid in 1..=5 {
        driver.place(3, Command { cid, ..read() });
    }
    assert!(driver.peek(3).is_none());
    driver.ring(3);
    let cids: Vec<u16> = std::iter::from_fn(|| driver.peek(3))
        .map(|c| c.cid)
        .collect();
    assert_eq!(
        (cids, &driver.bus.messages[..]),
        (vec![1, 2, 3, 4, 5], &[3][..])
    );
}

#[test]
fn a_queue_without_interrupts_sends_none() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(create_cq(1));
    driver.admin_ok(create_sq(1, 1));
    driver.attach(1, IO_SQ, IO_CQ, ENTRIES);
    driver.bus.messages.clear();
    driver.place(1, read());
    driver.ring(1);
    assert!(driver.peek(1).is_some() && driver.bus.messages.is_empty() && !driver.bus.line);
}

#[test]
fn a_full_completion_queue_holds_commands_back_until_there_is_room() {
    let mut driver = Driver::enabled(|_| {});
    // A completion queue of 3 entries holds 2.
    driver.admin_ok(create(admin_op::CREATE_CQ, 1, 3, 3 | 1 << 16, IO_CQ));
    driver.admin_ok(create_sq(1, 1));
    driver.attach(1, IO_SQ, IO_CQ, ENTRIES);
    driver.set_completion_entries(1, 3);
    for cid in 1..=5 {
        driver.place(1, Command { cid, ..read() });
    }
    driver.ring(1);
    let mut seen = Vec::new();
    while let Some(first) = driver.peek(1) {
        seen.push(first.cid);
        seen.extend(std::iter::from_fn(|| driver.peek(1)).map(|c| c.cid));
        assert!(seen.len() % 2 == 0 || seen.len() == 5);
        driver.consume(1);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert!(driver.bus.misuse.is_empty(), "{:?}", driver.bus.misuse);
}

#[test]
fn two_submission_queues_share_a_completion_queue() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(create(admin_op::CREATE_CQ, 1, 4, 1, IO_CQ));
    let (second_sq, _) = Driver::places(2);
    driver.admin_ok(create_sq(1, 1));
    driver.admin_ok(create(
        admin_op::CREATE_SQ,
        2,
        ENTRIES,
        1 | 1 << 16,
        second_sq,
    ));
    driver.attach(1, IO_SQ, IO_CQ, ENTRIES);
    driver.attach(2, second_sq, IO_CQ, ENTRIES);
    driver.set_completion_entries(1, 4);
    for cid in [1, 2] {
        driver.place(1, Command { cid, ..read() });
        driver.place(
            2,
            Command {
                cid: cid + 10,
                ..read()
            },
        );
    }
    driver.ring(1);
    driver.ring(2);
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.extend(std::iter::from_fn(|| driver.peek(1)).map(|c| (c.sq, c.cid)));
        driver.consume(1);
    }
    assert_eq!(seen, [(1, 1), (1, 2), (2, 11), (2, 12)]);
    assert_eq!(
        driver.admin(delete(admin_op::DELETE_SQ, 1)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.admin(delete(admin_op::DELETE_CQ, 1)),
        Status::INVALID_QUEUE_DELETION
    );
}

#[test]
fn wrong_doorbells_are_misuse_and_change_nothing() {
    let mut driver = Driver::new();
    let before = driver.bus.memory.clone();
    // Beyond the queue, the same again, no such queue, consumed what was not posted.
    for (index, value) in [
        (2, ENTRIES),
        (2, 0),
        (3, 0),
        (3, 1),
        (3, ENTRIES),
        (4, 1),
        (5, 1),
        (0x3ff, 0),
    ] {
        let reports = driver.bus.misuse.len();
        driver.ring_raw(index, value);
        assert_eq!(
            driver.bus.misuse.len(),
            reports + 1,
            "doorbell {index} = {value}"
        );
    }
    assert!(before == driver.bus.memory);
    assert_eq!(driver.run(1, read()).status, Status::SUCCESS);
}

#[test]
fn a_submission_queue_cannot_be_overfilled() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(create(admin_op::CREATE_CQ, 1, 2, 1, IO_CQ));
    driver.admin_ok(create_sq(1, 1));
    driver.attach(1, IO_SQ, IO_CQ, ENTRIES);
    // One command completes, the rest wait for room: the ring is 8, its head at 1.
    driver.ring_raw(2, 7);
    driver.ring_raw(2, 0);
    assert!(driver.bus.misuse.is_empty());
    driver.ring_raw(2, 1);
    assert_eq!(driver.bus.misuse.len(), 1);
}

#[test]
fn a_queue_at_the_top_of_the_address_space_is_an_error_and_no_panic() {
    let mut driver = Driver::enabled(|_| {});
    let top = u64::MAX - 0xfff;
    assert_eq!(
        driver.admin(create(admin_op::CREATE_CQ, 1, 4096, 1, top)),
        Status::SUCCESS
    );
    assert_eq!(
        driver.admin(create(admin_op::CREATE_SQ, 1, 4096, 1 | 1 << 16, top)),
        Status::SUCCESS
    );
    driver.ring_raw(2, 4095);
    assert_eq!(driver.get(reg::CSTS), 3);
    assert!(driver.bus.memory.len() as u64 == MEMORY);
}
