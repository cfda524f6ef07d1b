//! The mock IOMMU itself: what it shows of page tables, pins, accesses and dma-bufs, and that it is test equipment.

use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};

use crate::support::iommufd::FIXED;
use crate::support::memory::{Memory, address_of};
use crate::support::mock::{Device, Mock, mock_machine};
use crate::support::{Fd, World};
use swiommu_engine::machine::Machine;

const IOVA: u64 = test::MOCK_APERTURE_START;

fn refs(mock: &Mock, memory: &Memory, pages: u64, refs: u32) -> Result<(), Errno> {
    let check = test::CheckRefs {
        length: pages * 4096,
        uptr: memory.base(),
        refs,
        padding: 0,
    };
    mock.op(test::OP_MD_CHECK_REFS, 0, check).map(drop)
}

fn leads_to(mock: &Mock, hwpt: u32, iova: u64, at: u64, length: u64) -> Result<(), Errno> {
    let check = test::CheckMap {
        iova,
        length,
        uptr: at,
    };
    mock.op(test::OP_MD_CHECK_MAP, hwpt, check).map(drop)
}

fn pasid(mock: &Mock, op: u32, device: Device, pasid: u32, pt_id: u32) -> Result<u32, Errno> {
    let wanted = test::Pasid { pasid, pt_id };
    Ok(mock.op(op, device.selftest, wanted)?.pt_id)
}

#[test]
fn a_machine_without_test_equipment_does_not_know_the_command() {
    let world = World::new(Machine {
        mock: false,
        ..mock_machine()
    });
    let iommu = world.iommu();
    let mut cmd = test::TestCmd {
        size: 72,
        op: test::OP_SET_TEMP_MEMORY_LIMIT,
        arguments: [4096, 0, 0, 0, 0, 0],
        ..Default::default()
    };
    assert_eq!(iommu.run(test::TEST_CMD, &mut cmd), Err(Errno::ENOTTY));
    let iommu = World::new(mock_machine()).iommu();
    assert_eq!(iommu.run(test::TEST_CMD, &mut cmd), Ok(0));
    cmd.op = 24;
    assert_eq!(iommu.run(test::TEST_CMD, &mut cmd), Err(Errno::EOPNOTSUPP));
    cmd.size = test::TEST_CMD_MIN as u32 - 1;
    assert_eq!(iommu.run(test::TEST_CMD, &mut cmd), Err(Errno::EINVAL));
}

#[test]
fn mapped_pages_are_pinned_once_however_many_page_tables_there_are() {
    let mock = Mock::new();
    let (ioas, memory) = (mock.iommu.ioas(), Memory::pages(2));
    mock.iommu
        .map(ioas, FIXED, IOVA, memory.base(), 8192)
        .unwrap();
    assert_eq!(refs(&mock, &memory, 2, 0), Ok(()), "no page table yet");
    let device = mock.device(ioas, 0).unwrap();
    assert_eq!(refs(&mock, &memory, 2, 1), Ok(()));
    assert_eq!(refs(&mock, &memory, 2, 0), Err(Errno::EIO));
    mock.iommu.hwpt(device.id, ioas, 0).unwrap();
    assert_eq!(refs(&mock, &memory, 2, 1), Ok(()));
    mock.iommu
        .map(ioas, FIXED, IOVA + 8192, memory.base(), 4096)
        .unwrap();
    assert_eq!(refs(&mock, &memory, 1, 2), Ok(()), "mapped twice");
    assert_eq!(refs(&mock, &memory, 2, 2), Err(Errno::EIO));
    mock.iommu.unmap(ioas, 0, u64::MAX).unwrap();
    assert_eq!(refs(&mock, &memory, 2, 0), Ok(()));
}

#[test]
fn a_page_of_a_file_is_pinned_and_found_wherever_it_is_mapped() {
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let (memory, file) = Memory::shared(2);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    mock.iommu.map_file(ioas, FIXED, IOVA, fd, 0, 8192).unwrap();
    assert_eq!(refs(&mock, &memory, 2, 1), Ok(()));
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA, memory.base(), 8192),
        Ok(())
    );
    let other = memory.base() + 4096;
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA, other, 4096),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_page_table_leads_to_the_memory_that_was_mapped_and_to_no_other() {
    let mock = Mock::new();
    let (ioas, memory) = (mock.iommu.ioas(), Memory::pages(2));
    let device = mock.device(ioas, 0).unwrap();
    let at = memory.base() + 2048;
    mock.iommu.map(ioas, FIXED, IOVA, at, 4096).unwrap();
    assert_eq!(leads_to(&mock, device.hwpt, IOVA, at, 4096), Ok(()));
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA + 2048, at + 2048, 2048),
        Ok(())
    );
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA, at + 2048, 2048),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA, at, 6144),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        leads_to(&mock, device.hwpt, IOVA, at, 1024),
        Err(Errno::EINVAL)
    );
    assert_eq!(leads_to(&mock, ioas, IOVA, at, 4096), Err(Errno::ENOENT));
}

fn access(mock: &Mock, ioas: u32, flags: u32) -> Result<Fd, Errno> {
    let mut wanted = test::CreateAccess {
        out_access_fd: 0,
        flags,
    };
    let fd = mock.open(test::OP_CREATE_ACCESS, ioas, &mut wanted)?;
    let fd = fd.expect("a descriptor");
    assert_eq!(wanted.out_access_fd, fd.number() as u32);
    Ok(fd)
}

#[test]
fn what_an_access_pins_is_given_up_by_an_unmap() {
    let mock = Mock::new();
    let (ioas, memory) = (mock.iommu.ioas(), Memory::pages(2));
    mock.iommu
        .map(ioas, FIXED, IOVA, memory.base(), 8192)
        .unwrap();
    let fd = access(&mock, ioas, test::MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES).unwrap();
    let number = fd.number() as u32;
    let pages = test::AccessPages {
        iova: IOVA,
        length: 8192,
        uptr: memory.base(),
        ..Default::default()
    };
    let wrong = test::AccessPages {
        uptr: memory.base() + 4096,
        length: 4096,
        ..pages
    };
    assert_eq!(
        mock.op(test::OP_ACCESS_PAGES, number, wrong).err(),
        Some(Errno::EBADE)
    );
    assert_eq!(refs(&mock, &memory, 2, 0), Ok(()));
    let pinned = mock.op(test::OP_ACCESS_PAGES, number, pages).unwrap();
    assert_eq!(refs(&mock, &memory, 2, 1), Ok(()));
    assert_eq!(mock.iommu.unmap(ioas, IOVA, 8192), Ok(8192));
    assert_eq!(refs(&mock, &memory, 2, 0), Ok(()));
    let which = test::AccessPagesId {
        access_pages_id: pinned.out_access_pages_id,
    };
    let gone = mock.op(test::OP_DESTROY_ACCESS_PAGES, number, which);
    assert_eq!(gone.err(), Some(Errno::ENOENT));
    assert_eq!(mock.iommu.destroy(ioas), Err(Errno::EBUSY));
    drop(fd);
    assert_eq!(mock.iommu.destroy(ioas), Ok(0));
}

#[test]
fn an_access_copies_by_the_byte_and_only_one_that_pins_does_pin() {
    let mock = Mock::new();
    let (ioas, memory) = (mock.iommu.ioas(), Memory::pages(1));
    mock.iommu
        .map(ioas, FIXED, IOVA, memory.base(), 4096)
        .unwrap();
    let fd = access(&mock, ioas, 0).unwrap();
    let number = fd.number() as u32;
    let mut data = *b"abc";
    let copy = |flags, iova, data: &mut [u8; 3]| {
        let rw = test::AccessRw {
            iova,
            length: 3,
            uptr: address_of(data),
            flags,
            padding: 0,
        };
        mock.op(test::OP_ACCESS_RW, number, rw).map(drop)
    };
    copy(test::MOCK_ACCESS_RW_WRITE, IOVA + 1, &mut data).unwrap();
    let mut back = [0; 3];
    copy(test::MOCK_ACCESS_RW_SLOW_PATH, IOVA + 1, &mut back).unwrap();
    assert_eq!(&back, b"abc");
    assert_eq!(copy(0, IOVA + 4094, &mut back), Err(Errno::ENOENT));
    assert_eq!(copy(2, IOVA, &mut back), Err(Errno::EOPNOTSUPP));
    let pin = test::AccessPages::default();
    assert_eq!(
        mock.op(test::OP_ACCESS_PAGES, number, pin).err(),
        Some(Errno::EOPNOTSUPP)
    );
    let other = mock.iommu.fd.number() as u32;
    let rw = test::AccessRw::default();
    assert_eq!(
        mock.op(test::OP_ACCESS_RW, other, rw).err(),
        Some(Errno::EBADFD)
    );
}

#[test]
fn a_pasid_is_attached_once_and_a_failed_move_leaves_it_where_it_was() {
    use test::{OP_PASID_ATTACH as ATTACH, OP_PASID_CHECK_HWPT as CHECK};
    use test::{OP_PASID_DETACH as DETACH, OP_PASID_REPLACE as REPLACE};
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let first = mock.device(ioas, 0).unwrap();
    let made = || {
        mock.iommu
            .hwpt(first.id, ioas, iommufd::HWPT_ALLOC_PASID)
            .unwrap()
    };
    let (one, two) = (made(), made());
    let device = mock.device(one, test::MOCK_FLAGS_DEVICE_PASID).unwrap();
    assert_eq!(pasid(&mock, REPLACE, device, 100, two), Err(Errno::EINVAL));
    pasid(&mock, ATTACH, device, 100, one).unwrap();
    assert_eq!(pasid(&mock, ATTACH, device, 100, one), Err(Errno::EBUSY));
    assert_eq!(pasid(&mock, ATTACH, device, 101, ioas), Err(Errno::EINVAL));
    pasid(&mock, REPLACE, device, 100, two).unwrap();
    assert_eq!(pasid(&mock, CHECK, device, 100, two), Ok(two));
    let trap = test::PASID_RESERVED;
    pasid(&mock, ATTACH, device, trap, one).unwrap();
    assert_eq!(pasid(&mock, REPLACE, device, trap, two), Err(Errno::ENOMEM));
    assert_eq!(pasid(&mock, CHECK, device, trap, one), Ok(one));
    pasid(&mock, DETACH, device, trap, 0).unwrap();
    assert_eq!(pasid(&mock, CHECK, device, trap, 0), Ok(0));
    assert_eq!(pasid(&mock, CHECK, device, 100, 0), Err(Errno::EINVAL));
}

#[test]
fn a_device_without_dirty_tracking_goes_through_no_page_table_that_tracks() {
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let flags = iommufd::HWPT_ALLOC_DIRTY_TRACKING;
    let tracking = mock.iommu.hwpt(device.id, ioas, flags).unwrap();
    assert!(mock.device(tracking, 0).is_ok());
    let without = test::MOCK_FLAGS_DEVICE_NO_DIRTY;
    assert_eq!(mock.device(tracking, without).err(), Some(Errno::EINVAL));
    let other = mock.device(ioas, without).unwrap();
    assert_eq!(
        mock.iommu.hwpt(other.id, ioas, flags),
        Err(Errno::EOPNOTSUPP)
    );
}

#[test]
fn a_dma_buf_that_is_revoked_leads_nowhere_and_is_mapped_by_nobody() {
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let mut wanted = test::DmabufGet {
        length: 8192,
        open_flags: 0,
    };
    let fd = mock
        .open(test::OP_DMABUF_GET, 0, &mut wanted)
        .unwrap()
        .expect("a descriptor");
    let map = |iova| mock.iommu.map_file(ioas, FIXED, iova, fd.number(), 0, 8192);
    map(IOVA).unwrap();
    assert!(mock.iommu.lookup(device.hwpt, IOVA).is_some());
    let revoke = |revoked| {
        let which = test::DmabufRevoke {
            dmabuf_fd: fd.number(),
            revoked,
        };
        mock.op(test::OP_DMABUF_REVOKE, 0, which).map(drop)
    };
    revoke(1).unwrap();
    assert_eq!(mock.iommu.lookup(device.hwpt, IOVA), None);
    assert_eq!(map(IOVA + 8192), Err(Errno::ENODEV));
    revoke(0).unwrap();
    assert_eq!(
        mock.iommu.lookup(device.hwpt, IOVA),
        None,
        "what is gone stays gone"
    );
    map(IOVA + 8192).unwrap();
    for length in [0, (2 << 20) + 1] {
        let mut wanted = test::DmabufGet {
            length,
            open_flags: 0,
        };
        let refused = mock.open(test::OP_DMABUF_GET, 0, &mut wanted);
        assert_eq!(refused.err(), Some(Errno::EINVAL));
    }
}

#[test]
fn a_thread_arms_its_own_points_and_reads_how_many_are_left() {
    let mock = Mock::new();
    let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let fd = mock
        .world
        .fail_nth(thread)
        .expect("test equipment")
        .unwrap();
    let left = || {
        let mut text = [0; 8];
        let bytes = fd.pread(0, &mut text).unwrap() as usize;
        String::from_utf8(text[..bytes].to_vec()).unwrap()
    };
    assert_eq!(left(), "0\n");
    assert_eq!(fd.pwrite(0, b"1000"), Ok(4));
    mock.iommu.ioas();
    let after: u32 = left().trim().parse().unwrap();
    assert!((1..1000).contains(&after), "{after}");
    fd.pwrite(0, b"1").unwrap();
    let mut cmd = iommufd::IoasAlloc {
        size: 12,
        ..Default::default()
    };
    assert_eq!(
        mock.iommu.run(iommufd::IOAS_ALLOC, &mut cmd),
        Err(Errno::ENOMEM)
    );
    assert_eq!(left(), "0\n");
    mock.iommu.ioas();
    assert_eq!(fd.pwrite(0, "x".as_bytes()), Err(Errno::EINVAL));
    let other = mock.world.fail_nth(thread + 1).unwrap().unwrap();
    assert_eq!(other.pwrite(0, b"1"), Err(Errno::EPERM));
    let plain = World::new(Machine {
        mock: false,
        ..mock_machine()
    });
    assert!(plain.fail_nth(thread).is_none());
}
