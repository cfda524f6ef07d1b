//! What a guest's IOMMU is made of: fault queues, nested page tables, virtual IOMMUs with devices, events and queues.

use rustix::event::PollFlags;
use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};
use swiommu_engine::door::Span;
use zerocopy::{FromBytes, IntoBytes};

use crate::support::Fd;
use crate::support::iommufd::FIXED;
use crate::support::memory::Memory;
use crate::support::mock::{Device, Mock, polled};

const PARENT: u32 = iommufd::HWPT_ALLOC_NEST_PARENT;
const FAULT: u32 = iommufd::HWPT_FAULT_ID_VALID;

/// A device on a nesting parent.
fn parent() -> (Mock, u32, Device, u32) {
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let parent = mock.iommu.hwpt(device.id, ioas, PARENT).unwrap();
    (mock, ioas, device, parent)
}

/// A device on a virtual IOMMU of its own, through a nested page table.
fn guest(virt_id: u64) -> (Mock, Device, u32, u32, u32) {
    let (mock, _, device, parent) = parent();
    let viommu = mock.viommu(device.id, parent, None).unwrap();
    let nested = mock.nested(device.id, viommu, 0, 0).unwrap();
    let vdevice = mock.vdevice(viommu, device.id, virt_id).unwrap();
    mock.replace(device, nested).unwrap();
    (mock, device, viommu, nested, vdevice)
}

/// A device whose page requests go to a queue.
fn faulting() -> (Mock, Device, u32, u32, Fd) {
    let (mock, _, device, parent) = parent();
    let (queue, fd) = mock.fault_queue();
    let nested = mock.nested(device.id, parent, FAULT, queue).unwrap();
    mock.replace(device, nested).unwrap();
    (mock, device, nested, queue, fd)
}

fn fault(fd: &Fd) -> Result<Option<iommufd::HwptPgfault>, Errno> {
    let mut bytes = [0; size_of::<iommufd::HwptPgfault>()];
    let done = fd.pread(0, &mut bytes)? as usize;
    let read = || iommufd::HwptPgfault::read_from_bytes(&bytes).expect("its size");
    Ok((done == bytes.len()).then(read))
}

fn answer(fd: &Fd, cookie: u32, code: u32) -> Result<u64, Errno> {
    fd.pwrite(0, iommufd::HwptPageResponse { cookie, code }.as_bytes())
}

#[test]
fn a_page_request_is_read_once_and_answered_once_by_its_cookie() {
    let (mock, device, _, _, fd) = faulting();
    assert_eq!(polled(&fd), PollFlags::OUT);
    assert_eq!(fault(&fd), Ok(None));
    mock.page_request(device.id, 0, 0xdead_b000);
    assert_eq!(polled(&fd), PollFlags::IN | PollFlags::OUT);
    let read = fault(&fd).unwrap().expect("a request");
    assert_eq!((read.dev_id, read.pasid, read.grpid), (device.id, 0, 5));
    assert_eq!((read.addr, read.cookie), (0xdead_b000, 1));
    assert_eq!(read.flags, iommufd::PGFAULT_FLAGS_LAST_PAGE);
    assert_eq!(polled(&fd), PollFlags::OUT);
    assert_eq!(answer(&fd, 2, 0), Err(Errno::EINVAL), "no such cookie");
    assert_eq!(answer(&fd, 1, 2), Err(Errno::EINVAL), "no such code");
    assert_eq!(answer(&fd, 1, 0), Ok(8));
    assert_eq!(answer(&fd, 1, 0), Err(Errno::EINVAL), "answered already");
}

#[test]
fn the_lowest_free_cookie_is_given_out() {
    let (mock, device, _, _, fd) = faulting();
    for addr in [1, 2, 3] {
        mock.page_request(device.id, 0, addr << 12);
        assert_eq!(fault(&fd).unwrap().unwrap().cookie, addr as u32);
    }
    answer(&fd, 2, iommufd::PAGE_RESP_INVALID).unwrap();
    mock.page_request(device.id, 0, 4 << 12);
    assert_eq!(fault(&fd).unwrap().unwrap().cookie, 2);
}

#[test]
fn a_transfer_of_a_part_of_a_record_is_refused_and_loses_nothing() {
    let (mock, device, _, _, fd) = faulting();
    mock.page_request(device.id, 0, 0);
    assert_eq!(fd.pread(0, &mut [0; 39]), Err(Errno::ESPIPE));
    assert_eq!(fd.pwrite(0, &[0; 7]), Err(Errno::ESPIPE));
    assert_eq!(
        fd.pread(0, &mut []),
        Err(Errno::EINVAL),
        "the first does not fit"
    );
    assert!(fault(&fd).unwrap().is_some());
    assert_eq!(fd.pread(0, &mut []), Ok(0));
}

#[test]
fn requests_of_an_attachment_that_is_gone_are_gone() {
    let (mock, device, nested, _, fd) = faulting();
    mock.page_request(device.id, 0, 1 << 12);
    assert_eq!(fault(&fd).unwrap().unwrap().cookie, 1);
    mock.page_request(device.id, 0, 2 << 12);
    let ioas = mock.iommu.ioas();
    mock.replace(device, ioas).unwrap();
    assert_eq!(polled(&fd), PollFlags::OUT);
    assert_eq!(fault(&fd), Ok(None));
    assert_eq!(answer(&fd, 1, 0), Err(Errno::EINVAL));
    mock.page_request(device.id, 0, 3 << 12);
    assert_eq!(fault(&fd), Ok(None), "nobody takes page requests now");
    mock.replace(device, nested).unwrap();
    mock.page_request(device.id, 0, 4 << 12);
    assert_eq!(fault(&fd).unwrap().unwrap().addr, 4 << 12);
}

#[test]
fn a_fault_queue_stays_while_its_descriptor_or_a_page_table_has_it() {
    let (mock, device, nested, queue, fd) = faulting();
    assert_eq!(mock.iommu.destroy(queue), Err(Errno::EBUSY));
    drop(fd);
    assert_eq!(mock.iommu.destroy(queue), Err(Errno::EBUSY));
    mock.iommu.destroy(device.selftest).unwrap();
    mock.iommu.destroy(nested).unwrap();
    assert_eq!(mock.iommu.destroy(queue), Ok(0));
}

#[test]
fn a_nested_page_table_needs_a_nesting_parent_of_the_clients_own() {
    let (mock, ioas, device, parent) = parent();
    let plain = mock.iommu.hwpt(device.id, ioas, 0).unwrap();
    for base in [plain, device.hwpt] {
        assert_eq!(mock.nested(device.id, base, 0, 0), Err(Errno::EINVAL));
    }
    assert_eq!(
        mock.nested(device.id, parent, PARENT, 0),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        mock.nested(device.id, parent, FAULT, 99),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        mock.iommu.hwpt(device.id, parent, 0),
        Err(Errno::EOPNOTSUPP),
        "no data"
    );
    let nested = mock.nested(device.id, parent, 0, 0).unwrap();
    assert_eq!(mock.nested(device.id, nested, 0, 0), Err(Errno::EINVAL));
    assert_eq!(mock.iommu.destroy(parent), Err(Errno::EBUSY));
    mock.iommu.destroy(nested).unwrap();
    mock.iommu.destroy(parent).unwrap();
}

#[test]
fn requests_before_a_wrong_one_are_done_and_counted() {
    let (mock, _, device, parent) = parent();
    let nested = mock.nested(device.id, parent, 0, 0).unwrap();
    let one = |flags, iotlb_id| test::HwptInvalidateSelftest { flags, iotlb_id };
    let holds = |index, value| mock.holds(test::OP_MD_CHECK_IOTLB, nested, index, value);
    let mut requests = [one(0, 1), one(0, 2), one(0, 4), one(0, 0)];
    let done = mock.invalidate(nested, &mut requests);
    assert_eq!(done, (2, Err(Errno::EINVAL)));
    assert!(holds(1, 0) && holds(2, 0) && holds(0, test::IOTLB_DEFAULT));
    let done = mock.invalidate(nested, &mut [one(2, 0)]);
    assert_eq!(done, (0, Err(Errno::EOPNOTSUPP)));
    let done = mock.invalidate(nested, &mut [one(test::INVALIDATE_FLAG_ALL, 0)]);
    assert_eq!(done, (1, Ok(0)));
    assert!((0..4).all(|index| holds(index, 0)));
    assert_eq!(
        mock.invalidate::<[u8; 9]>(nested, &mut [[0; 9]]).1,
        Err(Errno::EINVAL)
    );
    assert_eq!(
        mock.invalidate(parent, &mut [one(0, 0)]),
        (0, Err(Errno::EINVAL))
    );
    assert_eq!(
        mock.invalidate(99, &mut [one(0, 0)]),
        (0, Err(Errno::ENOENT))
    );
    assert_eq!(mock.invalidate::<u64>(nested, &mut []), (0, Ok(0)));
}

#[test]
fn a_virtual_iommu_invalidates_the_device_behind_an_id() {
    let (mock, device, viommu, ..) = guest(0x99);
    let one = |flags, vdev_id, cache_id| test::ViommuInvalidateSelftest {
        flags,
        vdev_id,
        cache_id,
    };
    let holds = |index, value| mock.holds(test::OP_DEV_CHECK_CACHE, device.id, index, value);
    let mut requests = [one(0, 0x99, 1), one(0, 0x98, 2)];
    assert_eq!(
        mock.invalidate(viommu, &mut requests),
        (1, Err(Errno::EINVAL))
    );
    assert!(holds(1, 0) && holds(2, test::DEV_CACHE_DEFAULT));
    // A longer request is fine as long as we know nothing of the rest.
    let long = [one(0, 0x99, 3), one(0, 0, 0)];
    assert_eq!(mock.invalidate(viommu, &mut [long]), (1, Ok(0)));
    assert!(holds(3, 0));
    let long = [one(0, 0x99, 2), one(0, 0, 1)];
    assert_eq!(mock.invalidate(viommu, &mut [long]), (0, Err(Errno::E2BIG)));
    assert!(holds(2, test::DEV_CACHE_DEFAULT));
}

#[test]
fn a_device_has_one_place_on_one_virtual_iommu() {
    let (mock, ioas, device, parent) = parent();
    let viommu = mock.viommu(device.id, parent, None).unwrap();
    let nested = mock.nested(device.id, viommu, 0, 0).unwrap();
    assert_eq!(
        mock.replace(device, nested),
        Err(Errno::ENOENT),
        "no place yet"
    );
    let vdevice = mock.vdevice(viommu, device.id, 7).unwrap();
    assert_eq!(mock.vdevice(viommu, device.id, 8), Err(Errno::EEXIST));
    let other = mock.device(ioas, 0).unwrap();
    assert_eq!(mock.vdevice(viommu, other.id, 7), Err(Errno::EEXIST));
    mock.vdevice(viommu, other.id, 8).unwrap();
    assert_eq!(mock.iommu.destroy(viommu), Err(Errno::EBUSY));
    mock.iommu.destroy(vdevice).unwrap();
    mock.vdevice(viommu, device.id, 7).unwrap();
    mock.replace(device, nested).unwrap();
}

#[test]
fn a_device_takes_its_place_along_and_the_id_is_not_given_out_again() {
    let (mock, device, _, _, vdevice) = guest(1);
    mock.iommu.destroy(device.selftest).unwrap();
    assert_eq!(mock.iommu.destroy(vdevice), Err(Errno::ENOENT));
    let fresh: Vec<u32> = (0..16).map(|_| mock.iommu.ioas()).collect();
    assert!(!fresh.contains(&vdevice), "{vdevice} in {fresh:?}");
}

fn event(mock: &Mock, device: Device) -> Result<test::PtId, Errno> {
    mock.op(test::OP_TRIGGER_VEVENT, 0, test::PtId { id: device.id })
}

/// Headers and ids that one read gives.
fn events(fd: &Fd) -> Vec<(u32, u32, Option<u32>)> {
    let (mut bytes, mut events) = ([0; 256], Vec::new());
    let done = fd.pread(0, &mut bytes).unwrap() as usize;
    let mut rest = &bytes[..done];
    while !rest.is_empty() {
        let (header, behind) = iommufd::VeventHeader::read_from_prefix(rest).unwrap();
        let (id, behind) = match header.flags {
            0 => u32::read_from_prefix(behind)
                .map(|(id, rest)| (Some(id), rest))
                .unwrap(),
            _ => (None, behind),
        };
        events.push((header.flags, header.sequence, id));
        rest = behind;
    }
    events
}

#[test]
fn events_are_numbered_and_lost_ones_are_told_by_a_header_of_their_own() {
    let (mock, device, viommu, ..) = guest(0x1f);
    assert_eq!(
        event(&mock, device).err(),
        Some(Errno::EOPNOTSUPP),
        "no queue"
    );
    let fd = mock.veventq(viommu, 2).unwrap();
    assert_eq!(mock.veventq(viommu, 2).err(), Some(Errno::EEXIST));
    assert_eq!(polled(&fd), PollFlags::empty());
    for _ in 0..4 {
        event(&mock, device).unwrap();
    }
    assert_eq!(polled(&fd), PollFlags::IN);
    let lost = iommufd::VEVENTQ_FLAG_LOST_EVENTS;
    assert_eq!(
        events(&fd),
        [(0, 0, Some(0x1f)), (0, 1, Some(0x1f)), (lost, 3, None)]
    );
    assert_eq!(polled(&fd), PollFlags::empty());
    assert_eq!(events(&fd), []);
    event(&mock, device).unwrap();
    assert_eq!(events(&fd), [(0, 4, Some(0x1f))]);
}

#[test]
fn the_header_of_lost_events_goes_when_an_event_fits_again() {
    let (mock, device, viommu, ..) = guest(3);
    let fd = mock.veventq(viommu, 1).unwrap();
    event(&mock, device).unwrap();
    event(&mock, device).unwrap();
    assert_eq!(fd.pread(0, &mut [0; 12]), Ok(12));
    event(&mock, device).unwrap();
    assert_eq!(events(&fd), [(0, 2, Some(3))], "number 1 is missing");
}

#[test]
fn a_read_that_holds_no_event_is_refused_and_loses_nothing() {
    let (mock, device, viommu, ..) = guest(3);
    for depth in [0, (1 << 19) + 1] {
        assert_eq!(mock.veventq(viommu, depth).err(), Some(Errno::EINVAL));
    }
    let fd = mock.veventq(viommu, 4).unwrap();
    event(&mock, device).unwrap();
    assert_eq!(fd.pread(0, &mut [0; 7]), Err(Errno::EINVAL));
    assert_eq!(fd.pread(0, &mut [0; 11]), Err(Errno::EINVAL));
    assert_eq!(fd.pwrite(0, &[0; 8]), Err(Errno::EINVAL));
    assert_eq!(events(&fd).len(), 1);
}

#[test]
fn a_queue_in_client_memory_pins_it_and_needs_the_one_before() {
    let (mock, ioas, device, parent) = parent();
    let memory = Memory::pages(2);
    let iova = test::MOCK_APERTURE_START;
    let viommu = mock.viommu(device.id, parent, None).unwrap();
    assert_eq!(
        mock.hw_queue(viommu, 0, iova, 64),
        Err(Errno::ENOENT),
        "not mapped"
    );
    mock.iommu
        .map(ioas, FIXED, iova, memory.base(), 8192)
        .unwrap();
    assert_eq!(mock.hw_queue(viommu, 0, iova, 0), Err(Errno::EINVAL));
    assert_eq!(mock.hw_queue(viommu, 0, u64::MAX, 2), Err(Errno::EOVERFLOW));
    assert_eq!(mock.hw_queue(viommu, 1, iova, 64), Err(Errno::EIO));
    assert_eq!(mock.hw_queue(viommu, 2, iova, 64), Err(Errno::EINVAL));
    let first = mock.hw_queue(viommu, 0, iova + 16, 4096).unwrap();
    assert_eq!(mock.hw_queue(viommu, 0, iova, 64), Err(Errno::EEXIST));
    let second = mock.hw_queue(viommu, 1, iova, 64).unwrap();
    assert_eq!(mock.iommu.unmap(ioas, iova, 8192), Err(Errno::EBUSY));
    assert_eq!(mock.iommu.destroy(viommu), Err(Errno::EBUSY));
    assert_eq!(mock.iommu.destroy(first), Err(Errno::EBUSY));
    mock.iommu.destroy(second).unwrap();
    mock.iommu.destroy(first).unwrap();
    assert_eq!(mock.iommu.unmap(ioas, iova, 8192), Ok(8192));
    mock.iommu.destroy(viommu).unwrap();
}

#[test]
fn pages_of_a_virtual_iommu_are_mapped_whole_and_keep_it() {
    let (mock, _, device, parent) = parent();
    let mut data = test::ViommuSelftest {
        in_data: 0x1234,
        ..Default::default()
    };
    let viommu = mock.viommu(device.id, parent, Some(&mut data)).unwrap();
    assert_eq!((data.out_data, data.out_mmap_length), (0x1234, 8192));
    let (fd, at) = (&mock.iommu.fd, data.out_mmap_offset);
    for (offset, bytes) in [(at, 4096), (at + 4096, 4096), (at, 12288), (0, 8192)] {
        assert_eq!(fd.mmap(offset, bytes), Err(Errno::ENXIO));
    }
    let spans = fd.mmap(at, 8192).unwrap();
    assert!(matches!(
        spans[..],
        [(8192, Span::Elsewhere { offset: 0, .. })]
    ));
    fd.mapped(0x5000_0000, 8192, at);
    assert_eq!(mock.iommu.destroy(viommu), Err(Errno::EBUSY));
    fd.unmapped(0x5000_0000, 4096);
    assert_eq!(mock.iommu.destroy(viommu), Err(Errno::EBUSY));
    fd.unmapped(0x5000_1000, 4096);
    assert_eq!(mock.iommu.destroy(viommu), Ok(0));
    assert_eq!(fd.mmap(at, 8192), Err(Errno::ENXIO));
}
