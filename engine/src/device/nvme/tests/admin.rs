//! IDENTIFY and features.

use super::driver::{BYTES, DATA};
use super::*;

fn identify(cns: u32, nsid: u32) -> Command {
    Command {
        opcode: admin_op::IDENTIFY,
        nsid,
        prp1: DATA,
        cdw: [cns, 0, 0, 0, 0, 0],
        ..Command::default()
    }
}

fn get(id: u32, select: u32) -> Command {
    Command {
        opcode: admin_op::GET_FEATURES,
        nsid: 1,
        cdw: [id | select << 8, 0, 0, 0, 0, 0],
        ..Command::default()
    }
}

fn set(id: u32, value: u32) -> Command {
    Command {
        opcode: admin_op::SET_FEATURES,
        cdw: [id, value, 0, 0, 0, 0],
        ..Command::default()
    }
}

fn u32_at(driver: &Driver, at: u64) -> u32 {
    u32::from_le_bytes(driver.at(DATA + at, 4).try_into().expect("4 bytes"))
}

#[test]
fn the_controller_identifies_itself() {
    let mut driver = Driver::enabled(|c| c.serial = "S1".into());
    driver.fill(DATA, 4096, 0xff);
    assert_eq!(driver.admin(identify(1, 0)), Status::SUCCESS);
    assert_eq!(driver.at(DATA + 4, 20), b"S1                  ");
    assert_eq!(driver.at(DATA + 77, 1), [9], "MDTS: 2 MiB");
    assert_eq!(u32_at(&driver, 80), 0x0001_0400);
    assert_eq!(driver.at(DATA + 512, 2), [0x66, 0x44]);
    assert_eq!(u32_at(&driver, 516), 1, "NN");
    assert_eq!(u32_at(&driver, 520) & 0xffff, 0b1_1101, "ONCS");
    assert_eq!(driver.at(DATA + 525, 1), [0b111], "VWC");
    assert!(
        driver
            .at(DATA + 768, 40)
            .starts_with(b"nqn.2014-08.org.nvmexpress:swiommu:S1\0")
    );
}

#[test]
fn a_controller_without_a_cache_says_so() {
    let mut driver = Driver::enabled(|c| c.cache = 0);
    assert_eq!(driver.admin(identify(1, 0)), Status::SUCCESS);
    assert_eq!(driver.at(DATA + 525, 1), [0b110]);
    assert_eq!(driver.admin(get(6, 0)), Status::INVALID_FIELD);
    assert_eq!(driver.admin(set(6, 1)), Status::INVALID_FIELD);
}

#[test]
fn a_namespace_identifies_itself() {
    for (block, lg2) in [(512, 9), (4096, 12)] {
        let mut driver = Driver::enabled(|c| c.block = block);
        assert_eq!(driver.admin(identify(0, 1)), Status::SUCCESS);
        assert_eq!(u64::from(u32_at(&driver, 0)), BYTES >> lg2, "NSZE");
        assert_eq!(driver.at(DATA + 26, 1), [0], "FLBAS");
        assert_eq!(driver.at(DATA + 33, 1), [0b1001], "DLFEAT");
        assert_eq!(u32_at(&driver, 128), lg2 << 16, "LBAF0: no metadata");
    }
    let mut driver = Driver::enabled(|c| c.namespaces[0].read_only = true);
    assert_eq!(driver.admin(identify(0, 1)), Status::SUCCESS);
    assert_eq!(driver.at(DATA + 99, 1), [1], "NSATTR: write protected");
}

#[test]
fn namespaces_are_listed_and_described() {
    let mut driver = Driver::enabled(|c| {
        let medium = c.namespaces[0].clone();
        c.namespaces = vec![medium; 3];
    });
    assert_eq!(driver.admin(identify(2, 0)), Status::SUCCESS);
    assert_eq!([0, 4, 8, 12].map(|at| u32_at(&driver, at)), [1, 2, 3, 0]);
    assert_eq!(driver.admin(identify(2, 2)), Status::SUCCESS);
    assert_eq!([0, 4].map(|at| u32_at(&driver, at)), [3, 0]);
    assert_eq!(driver.admin(identify(2, 3)), Status::SUCCESS);
    assert_eq!(u32_at(&driver, 0), 0);
    let mut seen = Vec::new();
    for nsid in 1..=3 {
        assert_eq!(driver.admin(identify(3, nsid)), Status::SUCCESS);
        assert_eq!(driver.at(DATA, 4), [3, 16, 0, 0], "a UUID");
        seen.push(driver.at(DATA + 4, 16).to_vec());
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
    assert_eq!(driver.admin(identify(6, 0)), Status::SUCCESS);
    assert!(driver.at(DATA, 4096).iter().all(|&b| b == 0));
}

#[test]
fn identify_refuses_what_is_not_there() {
    let mut driver = Driver::enabled(|_| {});
    for nsid in [0, 2, 0xffff_ffff] {
        assert_eq!(driver.admin(identify(0, nsid)), Status::INVALID_NAMESPACE);
        assert_eq!(driver.admin(identify(3, nsid)), Status::INVALID_NAMESPACE);
    }
    assert_eq!(
        driver.admin(identify(2, 0xffff_fffe)),
        Status::INVALID_NAMESPACE
    );
    for cns in [4, 5, 7, 0x10, 0xff] {
        assert_eq!(driver.admin(identify(cns, 1)), Status::INVALID_FIELD);
    }
    let zoned = Command {
        cdw: [6, 2 << 24, 0, 0, 0, 0],
        ..identify(6, 0)
    };
    assert_eq!(driver.admin(zoned), Status::INVALID_FIELD);
    assert_eq!(driver.bus.unmodelled.len(), 6);
    assert_eq!(
        driver.admin(Command {
            prp1: DATA + 2,
            ..identify(1, 0)
        }),
        Status::PRP_OFFSET_INVALID
    );
    assert_eq!(
        driver.admin(Command {
            flags: 0x40,
            ..identify(1, 0)
        }),
        Status::INVALID_FIELD
    );
    assert_eq!(
        driver.admin(Command {
            flags: 0x01,
            ..identify(1, 0)
        }),
        Status::INVALID_FIELD
    );
    driver.bus.blocked.push(DATA..DATA + 1);
    assert_eq!(driver.admin(identify(1, 0)), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn identify_data_may_lie_in_two_pages() {
    let mut driver = Driver::enabled(|_| {});
    let command = Command {
        prp1: DATA + 0xff0,
        prp2: DATA + 0x5000,
        ..identify(1, 0)
    };
    assert_eq!(driver.admin(command), Status::SUCCESS);
    assert_eq!(driver.at(DATA + 0xff0 + 4, 7), b"swiommu");
    assert_eq!(driver.at(DATA + 0x5000 + 512 - 16, 2), [0x66, 0x44]);
}

#[test]
fn features_are_set_and_read_back() {
    let mut driver = Driver::enabled(|_| {});
    for (id, value) in [(1, 0x0203_0403), (5, 20), (6, 0), (0xb, 2), (0xf, 5000)] {
        driver.admin_ok(Command {
            nsid: u32::from(id == 5),
            ..set(id, value)
        });
        assert_eq!(driver.admin_ok(get(id, 0)), value, "feature {id:#x}");
    }
    assert_eq!(driver.admin_ok(get(0xf, 1)), 0);
    driver.admin_ok(set(0xf, 1));
    assert_eq!(
        driver.admin_ok(get(0xf, 0)),
        100,
        "rounded up to the granularity"
    );
    driver.admin_ok(set(0xf, 0));
    assert_eq!(driver.admin_ok(get(6, 2)), 1, "saved is the default");
    assert_eq!(driver.admin_ok(get(6, 3)), 0b100);
    assert_eq!(driver.admin_ok(get(5, 3)), 0b110);
    assert_eq!(driver.admin_ok(get(2, 0)), 0);
    assert_eq!(driver.admin(get(6, 4)), Status::INVALID_FIELD);
}

#[test]
fn features_survive_no_reset() {
    let mut driver = Driver::enabled(|_| {});
    driver.admin_ok(set(6, 0));
    driver.set(reg::CC, 0);
    driver.enable();
    assert_eq!(driver.admin_ok(get(6, 0)), 1);
}

#[test]
fn features_that_cannot_be_set_are_refused() {
    let mut driver = Driver::enabled(|_| {});
    let cases = [
        (set(2, 1), Status::INVALID_FIELD),
        (
            Command {
                nsid: 1,
                ..set(5, 1 << 16)
            },
            Status::INVALID_FIELD,
        ),
        (set(5, 1), Status::INVALID_NAMESPACE),
        (set(4, 2 << 20), Status::INVALID_FIELD),
        (set(4, 3 << 16), Status::INVALID_FIELD),
        (set(7, 0xffff), Status::INVALID_FIELD),
        (set(7, 0xffff_0000), Status::INVALID_FIELD),
        (set(1 | 1 << 31, 0), Status::FEATURE_NOT_SAVEABLE),
        (
            Command {
                nsid: 1,
                ..set(1, 0)
            },
            Status::FEATURE_NOT_NS_SPECIFIC,
        ),
        (
            Command {
                nsid: 9,
                ..set(1, 0)
            },
            Status::INVALID_NAMESPACE,
        ),
        (set(0, 0), Status::INVALID_FIELD),
        (set(8, 0), Status::INVALID_FIELD),
        (get(0x80, 0), Status::INVALID_FIELD),
    ];
    for (command, expected) in cases {
        assert_eq!(driver.admin(command), expected, "{command:?}");
    }
    // What qemu's driver does with cache=none.
    driver.admin_ok(Command {
        nsid: 1,
        ..set(6, 0)
    });
}

#[test]
fn the_number_of_queues_is_asked_before_there_are_any() {
    let mut driver = Driver::enabled(|_| {});
    assert_eq!(driver.admin_ok(set(7, 0x00ff_00ff)), 0x0003_0003);
    assert_eq!(driver.admin_ok(get(7, 0)), 0x0003_0003);
    driver.create_pair(1, 8);
    assert_eq!(driver.admin(set(7, 1)), Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn a_disabled_cache_is_written_back_and_written_through() {
    let mut driver = Driver::new();
    driver.fill(DATA, 512, 0x33);
    driver.io(io_op::WRITE, 0, 1, 0, (DATA, 0));
    assert_eq!(driver.durable()[0], 0);
    driver.admin_ok(set(6, 0));
    assert_eq!(driver.durable()[0], 0x33);
    driver.io(io_op::WRITE, 1, 1, 0, (DATA, 0));
    assert_eq!(driver.durable()[512], 0x33);
    driver.admin_ok(set(6, 1));
    driver.io(io_op::WRITE, 2, 1, 0, (DATA, 0));
    assert_eq!(driver.durable()[1024], 0);
}

#[test]
fn unknown_admin_commands_are_refused_and_named() {
    let mut driver = Driver::enabled(|_| {});
    for opcode in [0x03, 0x0d, 0x10, 0x7c, 0x80, 0x84, 0xff] {
        assert_eq!(
            driver.admin(Command {
                opcode,
                ..Command::default()
            }),
            Status::INVALID_OPCODE
        );
    }
    assert!(
        driver
            .bus
            .unmodelled
            .iter()
            .any(|u| u.contains("FORMAT NVM"))
    );
    assert_eq!(driver.bus.unmodelled.len(), 7);
}

#[test]
fn a_client_that_keeps_alive_is_left_alone_and_one_that_does_not_is_given_up() {
    use crate::pci::Device;
    let mut driver = Driver::enabled(|_| {});
    assert!(!driver.nvme.tick(&mut driver.bus), "no timer, no ticks");
    driver.admin_ok(set(0xf, 3_600_000));
    driver.admin_ok(Command {
        opcode: admin_op::KEEP_ALIVE,
        ..Command::default()
    });
    assert!(driver.nvme.tick(&mut driver.bus));
    assert_eq!(driver.get(reg::CSTS), 1);
    driver.admin_ok(set(0xf, 100));
    while driver.get(reg::CSTS) & 2 == 0 {
        driver.nvme.tick(&mut driver.bus);
    }
    assert!(driver.bus.misuse[0].contains("KEEP ALIVE"));
}
