//! Asynchronous events and ABORT.

use super::driver::{DATA, ENTRIES};
use super::*;

fn request(cid: u16) -> Command {
    Command {
        opcode: admin_op::ASYNC_EVENT_REQUEST,
        cid,
        ..Command::default()
    }
}

fn submit(driver: &mut Driver, command: Command) {
    driver.place(0, command);
    driver.ring(0);
}

fn read_log(driver: &mut Driver, id: u32, retain: u32) {
    let cdw = [id | retain << 15 | 15 << 16, 0, 0, 0, 0, 0];
    driver.admin_ok(Command {
        opcode: admin_op::GET_LOG_PAGE,
        nsid: 0xffff_ffff,
        prp1: DATA,
        cdw,
        ..Command::default()
    });
}

fn set_feature(driver: &mut Driver, id: u32, value: u32) {
    driver.admin_ok(Command {
        opcode: admin_op::SET_FEATURES,
        cdw: [id, value, 0, 0, 0, 0],
        ..Command::default()
    });
}

#[test]
fn a_wrong_doorbell_completes_a_waiting_request() {
    let mut driver = Driver::enabled(|_| {});
    submit(&mut driver, request(0x100));
    assert!(driver.peek(0).is_none());
    driver.bus.messages.clear();
    driver.ring_raw(8, 1);
    let event = driver.peek(0).expect("an event");
    assert_eq!(
        (event.cid, event.result, event.status),
        (0x100, 0x01_00_00, Status::SUCCESS)
    );
    assert_eq!(driver.bus.messages, [0]);
    driver.consume(0);
}

#[test]
fn an_event_waits_for_a_request() {
    let mut driver = Driver::enabled(|_| {});
    driver.run(
        0,
        Command {
            opcode: admin_op::KEEP_ALIVE,
            ..Command::default()
        },
    );
    driver.ring_raw(0, ENTRIES);
    assert!(driver.peek(0).is_none());
    submit(&mut driver, request(0x101));
    assert_eq!(
        driver.peek(0).map(|c| (c.cid, c.result)),
        Some((0x101, 0x01_01_00))
    );
    driver.consume(0);
}

#[test]
fn a_reported_type_is_masked_until_its_log_is_read() {
    let mut driver = Driver::enabled(|_| {});
    submit(&mut driver, request(0x100));
    submit(&mut driver, request(0x101));
    driver.ring_raw(8, 1);
    assert!(driver.peek(0).is_some());
    driver.consume(0);
    driver.ring_raw(8, 1);
    assert!(driver.peek(0).is_none(), "masked");
    read_log(&mut driver, 1, 1);
    driver.ring_raw(8, 1);
    assert!(driver.peek(0).is_none(), "RAE retains it");
    read_log(&mut driver, 1, 0);
    driver.ring_raw(8, 1);
    assert_eq!(driver.peek(0).map(|c| c.cid), Some(0x101));
    driver.consume(0);
}

#[test]
fn requests_are_limited() {
    let mut driver = Driver::enabled(|_| {});
    for cid in 0x100..0x104 {
        submit(&mut driver, request(cid));
        assert!(driver.peek(0).is_none());
    }
    assert_eq!(driver.run(0, request(0)).status, Status::AER_LIMIT_EXCEEDED);
    driver.ring_raw(8, 1);
    assert_eq!(
        driver.peek(0).map(|c| c.cid),
        Some(0x100),
        "first come, first served"
    );
    driver.consume(0);
    submit(&mut driver, request(0x100));
    assert!(driver.peek(0).is_none());
}

#[test]
fn a_waiting_request_can_be_aborted_and_nothing_else() {
    let mut driver = Driver::enabled(|_| {});
    let abort = |sq: u32, cid: u32| Command {
        opcode: admin_op::ABORT,
        cdw: [cid << 16 | sq, 0, 0, 0, 0, 0],
        ..Command::default()
    };
    submit(&mut driver, request(0x100));
    for (sq, cid) in [(0, 0x101), (1, 0x100)] {
        assert_eq!(driver.admin_ok(abort(sq, cid)), 1, "not aborted");
    }
    submit(
        &mut driver,
        Command {
            cid: 7,
            ..abort(0, 0x100)
        },
    );
    let (aborted, abort) = (driver.peek(0).expect("two"), driver.peek(0).expect("two"));
    driver.consume(0);
    assert_eq!(
        (aborted.cid, aborted.status),
        (0x100, Status::ABORT_REQUESTED)
    );
    assert_eq!(
        (abort.cid, abort.status, abort.result),
        (7, Status::SUCCESS, 0)
    );
    driver.ring_raw(8, 1);
    assert!(driver.peek(0).is_none());
}

#[test]
fn the_identifier_of_a_waiting_request_cannot_be_used_again() {
    let mut driver = Driver::enabled(|_| {});
    submit(&mut driver, request(0x100));
    submit(
        &mut driver,
        Command {
            opcode: admin_op::KEEP_ALIVE,
            cid: 0x100,
            ..Command::default()
        },
    );
    assert_eq!(driver.peek(0).map(|c| c.status), Some(Status::CID_CONFLICT));
    assert_eq!(driver.bus.misuse.len(), 1);
}

#[test]
fn the_temperature_warns_only_if_asked() {
    let mut driver = Driver::enabled(|_| {});
    submit(&mut driver, request(0x100));
    set_feature(&mut driver, 4, 300);
    assert!(driver.peek(0).is_none(), "not configured");
    set_feature(&mut driver, 0xb, 2);
    let event = driver.peek(0).expect("an event");
    assert_eq!((event.cid, event.result), (0x100, 0x02_01_01));
    driver.consume(0);
    read_log(&mut driver, 2, 0);
    assert_eq!(driver.at(DATA, 1), [2], "critical warning: temperature");
    set_feature(&mut driver, 4, 400);
    read_log(&mut driver, 2, 0);
    assert_eq!(driver.at(DATA, 1), [0]);
    set_feature(&mut driver, 0xb, 1 << 8);
    assert_eq!(driver.bus.unmodelled.len(), 1);
}

#[test]
fn an_event_waits_for_room_in_the_completion_queue() {
    let mut driver = Driver::enabled(|_| {});
    submit(&mut driver, request(0x100));
    for cid in 1..u16::try_from(ENTRIES).expect("few") {
        submit(
            &mut driver,
            Command {
                opcode: admin_op::KEEP_ALIVE,
                cid,
                ..Command::default()
            },
        );
    }
    driver.ring_raw(8, 1);
    let seen: Vec<u16> = std::iter::from_fn(|| driver.peek(0))
        .map(|c| c.cid)
        .collect();
    assert_eq!(seen, (1..ENTRIES as u16).collect::<Vec<_>>());
    driver.consume(0);
    assert_eq!(driver.peek(0).map(|c| c.cid), Some(0x100));
}
