//! Golden entries, and each fault with its twin: the same entry without the defect translates.

use super::*;
use crate::{Access, Config, Fault, Iommu, Iova, Kind, MapError, Pa, Prot, Upper, lock};
use std::sync::Arc;

const STREAM: StreamId = StreamId(0x03a5);

fn unit(scalable: bool) -> (Arc<Iommu>, Arc<crate::Domain>) {
    let config = Config {
        kind: Kind::Vtd { scalable },
        ..Config::default()
    };
    let iommu = Iommu::new(config).unwrap();
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

/// The words of the entries on the way: root, context, PASID directory, PASID.
fn walk(iommu: &Iommu) -> Vec<(&'static Table, usize)> {
    let tables = lock(&iommu.tables);
    let Upper::Vtd(vtd) = &tables.upper else {
        panic!("not VT-d")
    };
    let (root_word, number, words) = vtd.place(STREAM);
    let root = page::at(vtd.root);
    let contexts = page::at(root.load(root_word) & ADDRESS);
    let mut way = vec![(root, root_word), (contexts, number * words)];
    if vtd.scalable {
        let directory = page::at(contexts.load(number * words) & ADDRESS);
        way.extend([(directory, 0), (page::at(directory.load(0) & ADDRESS), 0)]);
    }
    way
}

/// Changes word `offset` of step `step`, sees the reason and the code, changes it back.
fn with_defect(scalable: bool, step: usize, offset: usize, flip: u64, reason: Reason, code: u8) {
    let (iommu, _domain) = unit(scalable);
    let (table, low) = walk(&iommu)[step];
    assert_eq!(translate(&iommu, 0x1000, Access::Read), Ok(0x5000));
    let good = table.load(low + offset);
    table.store(low + offset, good ^ flip);
    let fault = translate(&iommu, 0x1000, Access::Read).unwrap_err();
    assert_eq!((fault.reason, fault.vtd_reason()), (reason, Some(code)));
    table.store(low + offset, good);
    assert_eq!(translate(&iommu, 0x1000, Access::Read), Ok(0x5000));
    assert_eq!(iommu.faults().faults, [fault]);
}

#[test]
fn legacy_entries_are_the_ones_of_the_specification() {
    let (iommu, domain) = unit(false);
    let way = walk(&iommu);
    assert_eq!(way[0].1, 3 * 2, "root entry of bus 3");
    assert_eq!(way[1].1, 0xa5 * 2, "context entry of function a5h");
    let (contexts, low) = way[1];
    assert_eq!(contexts.load(low), domain.root() | 1);
    assert_eq!(
        contexts.load(low + 1),
        u64::from(domain.id()) << 8 | 2,
        "48 bits are width 2"
    );
}

#[test]
fn scalable_entries_are_the_ones_of_the_specification() {
    let (iommu, domain) = unit(true);
    let way = walk(&iommu);
    assert_eq!(way[0].1, 3 * 2 + 1, "upper half of the root entry of bus 3");
    assert_eq!(
        way[1].1,
        0x25 * 4,
        "the upper context table begins with function 80h"
    );
    let (pasids, low) = way[3];
    assert_eq!(
        pasids.load(low),
        domain.root() | 1 << 9 | 2 << 6 | 2 << 2 | 1
    );
    assert_eq!(pasids.load(low + 1), u64::from(domain.id()));
}

#[test]
fn every_legacy_step_faults_with_its_reason() {
    with_defect(false, 0, 0, 1, Reason::RootNotPresent, 0x1);
    with_defect(false, 0, 0, 1 << 5, Reason::RootReserved, 0xa);
    with_defect(false, 0, 1, 1, Reason::RootReserved, 0xa);
    with_defect(false, 1, 0, 1, Reason::ContextNotPresent, 0x2);
    with_defect(false, 1, 0, 2 << 2, Reason::ContextInvalid, 0x3);
    with_defect(false, 1, 1, 5, Reason::ContextInvalid, 0x3);
    with_defect(false, 1, 0, 1 << 7, Reason::ContextReserved, 0xb);
    with_defect(false, 1, 1, 1 << 40, Reason::ContextReserved, 0xb);
}

#[test]
fn every_scalable_step_faults_with_its_reason() {
    with_defect(true, 0, 0, 1, Reason::RootNotPresent, 0x39);
    with_defect(true, 0, 0, 1 << 5, Reason::RootReserved, 0x3a);
    with_defect(true, 1, 0, 1, Reason::ContextNotPresent, 0x41);
    with_defect(true, 1, 0, 1 << 6, Reason::ContextReserved, 0x42);
    with_defect(true, 1, 1, 1 << 19, Reason::ContextInvalid, 0x43);
    with_defect(true, 2, 0, 1, Reason::PasidDirectoryNotPresent, 0x51);
    with_defect(true, 2, 0, 1 << 4, Reason::PasidDirectoryReserved, 0x52);
    with_defect(true, 3, 0, 1, Reason::PasidNotPresent, 0x59);
    with_defect(true, 3, 0, 3 << 6, Reason::PasidInvalid, 0x5b);
    with_defect(true, 3, 5, 1, Reason::PasidReserved, 0x5a);
}

#[test]
fn page_faults_have_the_codes_of_their_mode() {
    for (scalable, codes) in [
        (false, [0x6, 0x5, 0x5, 0x4, 0xe]),
        (true, [0x86, 0x85, 0x85, 0x84, 0x87]),
    ] {
        let (iommu, domain) = unit(scalable);
        let cases = [
            (0x2000, Access::Read, Reason::NotPresent),
            (0x2000, Access::Write, Reason::NotPresent),
            (0x1000, Access::Write, Reason::WriteDenied),
            (1 << 48, Access::Read, Reason::BeyondWidth),
            (0xfee0_0000, Access::Read, Reason::InterruptWindow),
        ];
        for ((iova, access, reason), code) in cases.into_iter().zip(codes) {
            let fault = translate(&iommu, iova, access).unwrap_err();
            assert_eq!((fault.reason, fault.vtd_reason()), (reason, Some(code)));
            assert_eq!(fault.amd_event(), None);
        }
        domain
            .map(Iova(0x2000), Pa(0x8000), 0x1000, Prot::WRITE)
            .unwrap();
        assert_eq!(translate(&iommu, 0x2000, Access::Write), Ok(0x8000));
        assert_eq!(
            translate(&iommu, 0x2000, Access::Read).unwrap_err().reason,
            Reason::ReadDenied
        );
        assert_eq!(iommu.faults().faults.len(), 6);
        assert_eq!(iommu.faults().faults.len(), 0);
    }
}

#[test]
fn a_reserved_bit_in_a_paging_entry_is_a_fault() {
    let (iommu, domain) = unit(true);
    let top = page::at(domain.root());
    let good = top.load(0);
    top.store(0, good | 1 << 7);
    let fault = translate(&iommu, 0x1000, Access::Read).unwrap_err();
    assert_eq!(
        (fault.reason, fault.vtd_reason()),
        (Reason::PageReserved, Some(0x7a))
    );
    top.store(0, good);
    assert_eq!(translate(&iommu, 0x1000, Access::Read), Ok(0x5000));
}

#[test]
fn permissions_are_the_and_over_the_levels() {
    let (iommu, domain) = unit(true);
    let top = page::at(domain.root());
    top.store(0, top.load(0) & !1);
    assert_eq!(
        translate(&iommu, 0x1000, Access::Read).unwrap_err().reason,
        Reason::ReadDenied
    );
    assert_eq!(
        domain.lookup(Iova(0x1000)),
        Some((Pa(0x5000), Prot::empty(), 0x1000))
    );
}

#[test]
fn a_record_reads_like_the_register() {
    let (iommu, _domain) = unit(false);
    let fault = translate(&iommu, 0x2345, Access::Read).unwrap_err();
    assert_eq!(
        fault.record(),
        [0x2000, 1 << 63 | 1 << 62 | 6 << 32 | 0x03a5]
    );
    assert_eq!(
        fault.to_string(),
        "DMA read by 03:14.5 at 0x2345: page not present (fault reason 0x06)"
    );
}

#[test]
fn the_fault_record_is_bounded_and_says_so() {
    let (iommu, _domain) = unit(false);
    for _ in 0..256 {
        translate(&iommu, 0x9000, Access::Read).unwrap_err();
    }
    let log = iommu.faults();
    assert_eq!((log.faults.len(), log.overflow), (256, false));
    for _ in 0..257 {
        translate(&iommu, 0x9000, Access::Read).unwrap_err();
    }
    let log = iommu.faults();
    assert_eq!((log.faults.len(), log.overflow), (256, true));
    assert!(!iommu.faults().overflow);
}

#[test]
fn a_stream_is_blocked_before_attach_and_after_detach() {
    let (iommu, domain) = unit(true);
    let mut port = iommu.port(STREAM);
    let mut read = || {
        port.begin()
            .translate(Iova(0x1000), 1, Access::Read)
            .map(|run| run.pa.0)
    };
    assert_eq!(read(), Ok(0x5000));
    iommu.detach(STREAM);
    assert_eq!(read().unwrap_err().reason, Reason::ContextNotPresent);
    let other = iommu.domain();
    other
        .map(Iova(0x1000), Pa(0x7000), 0x1000, Prot::READ)
        .unwrap();
    iommu.attach(STREAM, &other);
    assert_eq!(read(), Ok(0x7000));
    iommu.attach(STREAM, &domain);
    assert_eq!(read(), Ok(0x5000));
    let fresh = iommu
        .port(StreamId(0x0400))
        .begin()
        .translate(Iova(0), 1, Access::Read)
        .unwrap_err();
    assert_eq!(fresh.reason, Reason::RootNotPresent);
}

#[test]
fn map_refuses_by_cause() {
    let (_iommu, domain) = unit(true);
    let map = |first, pa, bytes, prot| domain.map(Iova(first), Pa(pa), bytes, prot);
    let all = Prot::all();
    assert_eq!(map(0x3000, 0, 0, all), Err(MapError::Empty));
    assert_eq!(map(0x3000, 0, 0x1000, Prot::empty()), Err(MapError::Empty));
    assert_eq!(map(0x3800, 0, 0x1000, all), Err(MapError::Misaligned));
    assert_eq!(map(0x3000, 0x10, 0x1000, all), Err(MapError::Misaligned));
    assert_eq!(map(0x3000, 0, 0x1001, all), Err(MapError::Misaligned));
    assert_eq!(
        map((1 << 48) - 0x1000, 0, 0x2000, all),
        Err(MapError::BeyondAperture)
    );
    assert_eq!(
        map(u64::MAX - 0xfff, 0, 0x2000, all),
        Err(MapError::BeyondAperture)
    );
    assert_eq!(
        map(0x3000, (1 << 52) - 0x1000, 0x2000, all),
        Err(MapError::PhysicalWidth)
    );
    assert_eq!(map(0, 0, 0x3000, all), Err(MapError::AlreadyMapped));
    assert_eq!(
        domain.lookup(Iova(0)),
        None,
        "a refused mapping leaves nothing"
    );
    assert_eq!(map((1 << 48) - 0x1000, 0, 0x1000, all), Ok(()));
    assert_eq!(map(0xfedf_f000, 0, 0x1000, all), Ok(()));
}

#[test]
fn a_width_that_does_not_exist_is_refused() {
    let config = |kind, address_width| Config {
        kind,
        address_width,
        iotlb: false,
    };
    let legacy = Kind::Vtd { scalable: false };
    assert!(Iommu::new(config(legacy, 40)).is_err());
    assert!(Iommu::new(config(legacy, 39)).is_ok());
    assert!(Iommu::new(config(Kind::Amd, 31)).is_err());
    assert!(Iommu::new(config(Kind::Amd, 65)).is_err());
    assert!(Iommu::new(config(Kind::Amd, 40)).is_ok());
    assert_eq!(
        Iommu::new(config(legacy, 48)).unwrap().page_sizes(),
        0x4020_1000
    );
}
