//! Golden entries, and each fault with its twin: the same entry without the defect translates.

use super::*;
use crate::radix::fmt::Format;
use crate::radix::fmt::amdv1::AmdV1;
use crate::{Access, AmdEvent, Config, Fault, Iommu, Iova, Kind, Pa, Prot, Upper, lock};
use std::sync::Arc;

const STREAM: StreamId = StreamId(0x0108);

fn unit() -> (Arc<Iommu>, Arc<crate::Domain>) {
    let iommu = Iommu::new(Config {
        kind: Kind::Amd,
        ..Config::default()
    })
    .unwrap();
    let domain = iommu.domain();
    domain
        .map(Iova(0x1000), Pa(0x5000), 0x1000, Prot::READ)
        .unwrap();
    iommu.attach(STREAM, &domain);
    (iommu, domain)
}

fn translate(iommu: &Arc<Iommu>, iova: u64, access: Access) -> Result<u64, Fault> {
    iommu
        .port(STREAM)
        .begin()
        .translate(Iova(iova), 8, access)
        .map(|run| run.pa.0)
}

fn device_entry(iommu: &Iommu) -> (&'static Table, usize) {
    let tables = lock(&iommu.tables);
    let Upper::Amd(amd) = &tables.upper else {
        panic!("not AMD")
    };
    let (number, low) = place(STREAM);
    (page::at(amd.pages[number]), low)
}

fn event(fault: Fault) -> (u8, u16) {
    let event = fault.amd_event().unwrap();
    assert_eq!(fault.vtd_reason(), None);
    (event.code, event.flags)
}

/// Flips bits of a word, sees the reason and event of a read, flips them back.
fn with_defect(
    iommu: &Arc<Iommu>,
    table: &Table,
    word: usize,
    flip: u64,
    reason: Reason,
    code: u8,
    flags: u16,
) {
    assert_eq!(translate(iommu, 0x1000, Access::Read), Ok(0x5000));
    let good = table.load(word);
    table.store(word, good ^ flip);
    let fault = translate(iommu, 0x1000, Access::Read).unwrap_err();
    assert_eq!((fault.reason, event(fault)), (reason, (code, flags)));
    table.store(word, good);
    assert_eq!(translate(iommu, 0x1000, Access::Read), Ok(0x5000));
}

#[test]
fn a_device_table_entry_is_the_one_of_the_specification() {
    let (iommu, domain) = unit();
    let (table, low) = device_entry(&iommu);
    assert_eq!(low, 8 * 4, "entry 108h is the ninth of its page");
    assert_eq!(
        table.load(low),
        domain.root() | 3 << 61 | 4 << 9 | 3 << 7 | 3
    );
    assert_eq!(table.load(low + 1), u64::from(domain.id()));
    assert_eq!(
        table.load(low + 4),
        3,
        "the neighbour is blocked: V and TV, nothing else"
    );
}

#[test]
fn every_defect_of_the_device_table_entry_is_reported() {
    let (iommu, _domain) = unit();
    let (table, low) = device_entry(&iommu);
    let illegal = AmdEvent::ILLEGAL_DEV_TABLE_ENTRY;
    with_defect(
        &iommu,
        table,
        low,
        1,
        Reason::DeviceEntryInvalid,
        illegal,
        0,
    );
    with_defect(
        &iommu,
        table,
        low,
        2,
        Reason::DeviceEntryInvalid,
        illegal,
        0,
    );
    with_defect(
        &iommu,
        table,
        low,
        3 << 9,
        Reason::DeviceEntryInvalid,
        illegal,
        0,
    );
    with_defect(
        &iommu,
        table,
        low,
        1 << 3,
        Reason::DeviceEntryReserved,
        illegal,
        AmdEvent::RZ,
    );
    with_defect(
        &iommu,
        table,
        low,
        1 << 61,
        Reason::DeviceBlocked,
        AmdEvent::IO_PAGE_FAULT,
        0,
    );
}

#[test]
fn page_faults_have_the_flags_of_their_cause() {
    let (iommu, _domain) = unit();
    let (pr, rw, pe) = (AmdEvent::PR, AmdEvent::RW, AmdEvent::PE);
    let cases = [
        (0x2000, Access::Read, Reason::NotPresent, 0),
        (0x2000, Access::Write, Reason::NotPresent, rw),
        (0x1000, Access::Write, Reason::WriteDenied, pr | rw | pe),
        (1 << 50, Access::Read, Reason::BeyondWidth, 0),
        (0xfee0_1000, Access::Read, Reason::InterruptWindow, 0),
    ];
    for (iova, access, reason, flags) in cases {
        let fault = translate(&iommu, iova, access).unwrap_err();
        assert_eq!(
            (fault.reason, event(fault)),
            (reason, (AmdEvent::IO_PAGE_FAULT, flags))
        );
    }
    assert_eq!(translate(&iommu, 0x1008, Access::Read), Ok(0x5008));
}

#[test]
fn reserved_bits_of_paging_entries_are_found() {
    let (iommu, domain) = unit();
    let flags = AmdEvent::PR | AmdEvent::RZ;
    let top = page::at(domain.root());
    with_defect(
        &iommu,
        top,
        0,
        1 << 57,
        Reason::PageReserved,
        AmdEvent::IO_PAGE_FAULT,
        flags,
    );
    // Next Level 7 at the top would be a page of 512 GiB; its size does not fit.
    with_defect(
        &iommu,
        top,
        0,
        4 << 9,
        Reason::PageReserved,
        AmdEvent::IO_PAGE_FAULT,
        flags,
    );
}

#[test]
fn skipped_levels_are_followed_when_their_address_bits_are_zero() {
    let (iommu, domain) = unit();
    let pool = &iommu.unit().pool;
    let leaf = pool.take().unwrap();
    leaf.store(3, AmdV1::leaf(0x9000, 0, 12, Prot::all()));
    // From the top (level 4 of the specification) straight to level 1, at 512 GiB.
    page::at(domain.root()).store(1, AmdV1::table(leaf.address(), 0));
    let base = 1 << 39;
    assert_eq!(translate(&iommu, base + 0x3008, Access::Write), Ok(0x9008));
    let skipped = translate(&iommu, base + 0x20_3008, Access::Write).unwrap_err();
    assert_eq!(skipped.reason, Reason::NotPresent);
    page::at(domain.root()).store(1, 0);
    pool.give(leaf.address());
}

#[test]
fn an_event_reads_like_the_log_entry() {
    let (iommu, domain) = unit();
    let fault = translate(&iommu, 0x2345, Access::Write).unwrap_err();
    let head = 0x2020 << 48 | u64::from(domain.id()) << 32 | 0x0108;
    assert_eq!(fault.record(), [head, 0x2345]);
    assert_eq!(
        fault.to_string(),
        "DMA write by 01:01.0 at 0x2345: page not present (IO_PAGE_FAULT flags=0x0020)"
    );
}

#[test]
fn a_stream_is_blocked_before_attach_and_after_detach() {
    let (iommu, _domain) = unit();
    iommu.detach(STREAM);
    assert_eq!(
        translate(&iommu, 0x1000, Access::Read).unwrap_err().reason,
        Reason::DeviceBlocked
    );
    let fresh = iommu
        .port(StreamId(0xffff))
        .begin()
        .translate(Iova(0), 1, Access::Read)
        .unwrap_err();
    assert_eq!(fresh.reason, Reason::DeviceBlocked);
}

#[test]
fn the_hypertransport_range_is_reserved_and_can_be_mapped_while_nothing_is_attached() {
    let (iommu, domain) = unit();
    assert_eq!(
        iommu.reserved(),
        [(0xfee0_0000, 0xfeef_ffff), (0xfd_0000_0000, 0xff_ffff_ffff)]
    );
    let map = |first| domain.map(Iova(first), Pa(0), 0x1000, Prot::READ);
    for first in [0xfd_0000_0000, 0xfc_ffff_f000, 0x100_0000_0000] {
        assert_eq!(map(first), Ok(()), "{first:#x}");
    }
}
