//! Registers: initialization, reset, shutdown, and what a driver must not do.

use super::driver::{ADMIN_CQ, ADMIN_SQ, DATA, ENTRIES};
use super::*;
use crate::pci::{Bar, Device};

const RDY: u32 = 1;
const CFS: u32 = 2;
const SHST: u32 = 0xc;
const ENABLE: u64 = 1 | 6 << 16 | 4 << 20;

fn identify() -> Command {
    Command {
        opcode: admin_op::IDENTIFY,
        prp1: DATA,
        cdw: [1, 0, 0, 0, 0, 0],
        ..Command::default()
    }
}

#[test]
fn capabilities_are_what_a_driver_needs() {
    let mut driver = Driver::cold(|_| {});
    let cap = driver.get64(reg::CAP);
    assert_eq!(cap & 0xffff, 4095, "MQES");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 24 & 0xff, 20, "TO");
    assert_eq!(cap >> 32 & 0xf, 0, "DSTRD");
    assert_eq!(cap >> 37 & 1, 1, "CSS: the NVM command set");
    assert_eq!((cap >> 48 & 0xf, cap >> 52 & 0xf), (0, 4), "MPSMIN, MPSMAX");
    assert_eq!(
        (u64::from(driver.get(0)), u64::from(driver.get(4))),
        (cap & 0xffff_ffff, cap >> 32)
    );
    assert_eq!(driver.get(reg::VS), 0x0001_0400);
    assert_eq!(
        driver.nvme.read(&mut driver.bus, 0, 10, 1),
        1,
        "a byte of VS"
    );
    assert_eq!(driver.get(reg::CSTS), 0);
}

#[test]
fn the_identity_is_an_nvme_controller_with_a_vector_per_queue() {
    let driver = Driver::cold(|_| {});
    let identity = driver.nvme.identity();
    assert_eq!(identity.class, 0x01_08_02);
    assert_eq!(
        identity.bars[0],
        Bar::Memory {
            bytes: 0x4000,
            wide: true,
            prefetch: false
        }
    );
    let msix = identity.msix.expect("MSI-X");
    assert_eq!(
        (msix.vectors, msix.table, msix.pba),
        (5, (0, 0x2000), (0, 0x3000))
    );
}

#[test]
fn it_is_ready_at_once_and_gone_at_once() {
    let mut driver = Driver::enabled(|_| {});
    assert_eq!(driver.get(reg::CSTS), RDY);
    assert_eq!(driver.admin(identify()), Status::SUCCESS);
    driver.set(reg::CC, 0);
    assert_eq!(driver.get(reg::CSTS), 0);
    assert_eq!(
        driver.get64(reg::ASQ),
        ADMIN_SQ,
        "a controller reset keeps the admin queue's place"
    );
    driver.enable();
    assert_eq!(driver.admin(identify()), Status::SUCCESS);
    assert!(driver.bus.misuse.is_empty(), "{:?}", driver.bus.misuse);
}

#[test]
fn admin_queue_addresses_stored_after_enabling_are_taken_and_reported() {
    let mut driver = Driver::cold(|_| {});
    driver.set(reg::AQA, u64::from(ENTRIES - 1) * 0x1_0001);
    driver.set64(reg::ASQ, ADMIN_SQ);
    driver.set(reg::CC, ENABLE);
    driver.set(reg::ACQ, ADMIN_CQ);
    driver.set(reg::ACQ + 4, 0);
    driver.attach(0, ADMIN_SQ, ADMIN_CQ, ENTRIES);
    assert_eq!(driver.admin(identify()), Status::SUCCESS);
    assert!(driver.bus.misuse.is_empty(), "{:?}", driver.bus.misuse);
    assert_eq!(driver.bus.remarks.len(), 2);
    assert!(driver.bus.remarks[0].contains("ACQ written after CC.EN"));
    driver.set64(reg::ASQ, 0x9000);
    assert!(driver.bus.misuse[0].contains("ASQ written while the admin queue is in use"));
    assert_eq!(driver.admin(identify()), Status::SUCCESS);
}

#[test]
fn an_admin_queue_that_cannot_be_is_fatal() {
    for (aqa, asq, acq) in [
        (0, ADMIN_SQ, ADMIN_CQ),
        (0x7_0000, ADMIN_SQ, ADMIN_CQ),
        (0x7_0007, ADMIN_SQ + 64, ADMIN_CQ),
        (0x7_0007, ADMIN_SQ, ADMIN_CQ + 16),
        (0x7_0007, 0, 0),
    ] {
        let mut driver = Driver::cold(|_| {});
        driver.set(reg::AQA, aqa);
        driver.set64(reg::ASQ, asq);
        driver.set64(reg::ACQ, acq);
        driver.set(reg::CC, ENABLE);
        driver.ring_raw(0, 1);
        assert_eq!(
            driver.get(reg::CSTS),
            RDY | CFS,
            "{aqa:#x} {asq:#x} {acq:#x}"
        );
        assert_eq!(driver.bus.misuse.len(), 1);
        driver.enable_after_failure();
    }
}

#[test]
fn a_configuration_that_cap_does_not_offer_is_fatal() {
    for bits in [1 << 4, 7 << 4, 5 << 7, 1 << 11] {
        let mut driver = Driver::cold(|_| {});
        driver.set(reg::CC, ENABLE | bits);
        assert_eq!(driver.get(reg::CSTS), CFS, "{bits:#x}");
    }
    let mut driver = Driver::cold(|_| {});
    driver.set(reg::CC, ENABLE | 4 << 7);
    assert_eq!(driver.get(reg::CSTS), RDY);
}

#[test]
fn larger_memory_pages_move_the_prp_boundaries() {
    let mut driver = Driver::cold(|_| {});
    driver.set(reg::AQA, u64::from(ENTRIES - 1) * 0x1_0001);
    driver.set64(reg::ASQ, ADMIN_SQ);
    driver.set64(reg::ACQ, ADMIN_CQ);
    driver.set(reg::CC, ENABLE | 2 << 7);
    driver.attach(0, ADMIN_SQ, ADMIN_CQ, ENTRIES);
    // Pages of 16 KiB: the 4 KiB at an odd page need no PRP2.
    let command = Command {
        prp1: DATA + 0x2800,
        ..identify()
    };
    assert_eq!(driver.admin(command), Status::SUCCESS);
    assert_eq!(driver.at(DATA + 0x2800 + 4, 7), b"swiommu");
    let command = Command {
        prp1: DATA + 0x3800,
        prp2: DATA + 0x1000,
        ..identify()
    };
    assert_eq!(driver.admin(command), Status::PRP_OFFSET_INVALID);
}

#[test]
fn an_unreadable_submission_queue_is_fatal() {
    let mut driver = Driver::enabled(|_| {});
    driver.bus.blocked.push(ADMIN_SQ..ADMIN_SQ + 64);
    driver.place(0, identify());
    driver.ring(0);
    assert_eq!(driver.get(reg::CSTS), RDY | CFS);
    assert_eq!(driver.bus.doing.what, "fetching a command");
    assert!(driver.peek(0).is_none() && driver.bus.messages.is_empty());
    driver.bus.blocked.clear();
    driver.enable_after_failure();
}

#[test]
fn an_unwritable_completion_queue_is_fatal() {
    let mut driver = Driver::enabled(|_| {});
    driver.bus.blocked.push(ADMIN_CQ..ADMIN_CQ + 16);
    driver.place(0, identify());
    driver.ring(0);
    assert_eq!(driver.get(reg::CSTS), RDY | CFS);
    assert_eq!(driver.bus.doing.what, "posting a completion");
    driver.bus.blocked.clear();
    driver.enable_after_failure();
}

#[test]
fn shutdown_writes_the_cache_back_and_stops_the_controller() {
    for kind in [1 << 14, 2 << 14] {
        let mut driver = Driver::new();
        driver.fill(DATA, 4096, 0x77);
        assert_eq!(driver.io(io_op::WRITE, 0, 8, 0, (DATA, 0)), Status::SUCCESS);
        assert_eq!(driver.durable()[0], 0, "a small write stays in the cache");
        driver.set(reg::CC, ENABLE | kind);
        assert_eq!(driver.get(reg::CSTS) & SHST, 8);
        assert!(driver.durable()[..4096].iter().all(|&b| b == 0x77));
        driver.place(0, identify());
        driver.ring(0);
        assert!(driver.peek(0).is_none());
        assert_eq!(driver.bus.misuse.len(), 1);
        driver.enable_after_failure();
    }
}

#[test]
fn a_controller_reset_keeps_the_cache_and_close_writes_it_back() {
    let mut driver = Driver::new();
    driver.fill(DATA, 512, 0x77);
    assert_eq!(driver.io(io_op::WRITE, 3, 1, 0, (DATA, 0)), Status::SUCCESS);
    driver.nvme.reset(&mut driver.bus);
    assert_eq!((driver.get(reg::CC), driver.get64(reg::ASQ)), (0, 0));
    driver.enable();
    driver.create_pair(1, ENTRIES);
    assert_eq!(
        driver.io(io_op::COMPARE, 3, 1, 0, (DATA, 0)),
        Status::SUCCESS
    );
    assert_eq!(driver.durable()[3 * 512], 0);
    driver.nvme.close();
    assert_eq!(driver.durable()[3 * 512], 0x77);
}

#[test]
fn a_subsystem_reset_says_that_it_happened() {
    let mut driver = Driver::enabled(|_| {});
    driver.set(reg::NSSR, 0x1234);
    assert_eq!(driver.get(reg::CSTS), RDY);
    driver.set(reg::NSSR, 0x4e56_4d65);
    assert_eq!((driver.get(reg::CSTS), driver.get(reg::CC)), (0x10, 0));
    driver.set(reg::CSTS, 0x10);
    assert_eq!(driver.get(reg::CSTS), 0);
}

#[test]
fn the_line_follows_the_queues_and_the_mask() {
    let mut driver = Driver::enabled(|_| {});
    driver.place(0, identify());
    driver.ring(0);
    assert!(driver.bus.line);
    driver.set(reg::INTMS, 1);
    assert_eq!(
        (
            driver.bus.line,
            driver.get(reg::INTMS),
            driver.get(reg::INTMC)
        ),
        (false, 1, 1)
    );
    driver.set(reg::INTMC, 1);
    assert!(driver.bus.line);
    assert!(driver.peek(0).is_some());
    driver.consume(0);
    assert!(!driver.bus.line);
    assert_eq!(driver.bus.messages, [0]);
}

#[test]
fn accesses_the_specification_does_not_define_are_misuse_without_effect() {
    let mut driver = Driver::enabled(|_| {});
    let before = (driver.get(reg::CC), driver.get(reg::CSTS));
    driver.nvme.write(&mut driver.bus, 0, reg::CC, 1, 0);
    driver.nvme.write(&mut driver.bus, 0, reg::CC + 2, 2, 0);
    driver.nvme.write(&mut driver.bus, 0, reg::CC, 8, 0);
    driver.set64(reg::DOORBELLS, 1);
    driver.set(reg::VS, 1);
    driver.set(reg::CAP, 1);
    driver.set(0x2ff0, 1);
    assert_eq!(driver.get(reg::DOORBELLS), 0);
    assert_eq!(driver.bus.misuse.len(), 8, "{:?}", driver.bus.misuse);
    assert_eq!((driver.get(reg::CC), driver.get(reg::CSTS)), before);
    driver.set(0x38, 1);
    assert_eq!(driver.bus.unmodelled.len(), 1);
}

#[test]
fn page_size_and_command_set_cannot_change_while_enabled() {
    let mut driver = Driver::enabled(|_| {});
    driver.set(reg::CC, ENABLE | 1 << 7);
    assert_eq!(u64::from(driver.get(reg::CC)), ENABLE);
    driver.set(reg::CC, ENABLE | 1 << 31);
    assert_eq!(driver.bus.misuse.len(), 2);
    assert_eq!(driver.admin(identify()), Status::SUCCESS);
}

#[test]
fn configurations_out_of_bounds_are_refused() {
    use crate::machine::{Medium, NvmeConfig};
    use swiommu_abi::Errno;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let medium = Medium {
        path: file.path().into(),
        bytes: 1 << 20,
        read_only: false,
    };
    let good = NvmeConfig {
        namespaces: vec![medium],
        ..NvmeConfig::default()
    };
    let make = |change: fn(&mut NvmeConfig)| {
        let mut config = good.clone();
        change(&mut config);
        super::super::Nvme::new(&config).err()
    };
    assert_eq!(make(|_| {}), None);
    assert_eq!(make(|c| c.block = 1024), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.queues = 0), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.queues = 65), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.namespaces.clear()), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.namespaces[0].bytes = 511), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.serial = "x".repeat(21)), Some(Errno::EINVAL));
    assert_eq!(make(|c| c.serial = "ü".into()), Some(Errno::EINVAL));
    assert_eq!(
        make(|c| c.namespaces[0].path = "/nonexistent/disk".into()),
        Some(Errno::ENOENT)
    );
}
