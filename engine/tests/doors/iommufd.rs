//! `/dev/iommu`: objects, address spaces and page tables by their calls.

use swiommu_abi::{Errno, iommufd};

use crate::support::iommufd::{ANYWHERE, FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

fn open() -> (World, Iommu) {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    (world, iommu)
}

#[test]
fn ids_begin_with_one_and_the_lowest_free_one_is_next() {
    let (_world, iommu) = open();
    assert_eq!([iommu.ioas(), iommu.ioas(), iommu.ioas()], [1, 2, 3]);
    assert_eq!(iommu.destroy(2), Ok(0));
    assert_eq!(iommu.destroy(2), Err(Errno::ENOENT));
    assert_eq!([iommu.ioas(), iommu.ioas()], [2, 4]);
    for id in [0, 5, u32::MAX] {
        assert_eq!(iommu.destroy(id), Err(Errno::ENOENT), "{id}");
    }
}

#[test]
fn objects_of_one_file_are_not_those_of_another() {
    let (world, iommu) = open();
    let other = world.iommu();
    assert_eq!((iommu.ioas(), other.ioas()), (1, 1));
    assert_eq!(iommu.destroy(1), Ok(0));
    assert_eq!(other.unmap(1, 0, u64::MAX), Ok(0));
}

#[test]
fn memory_that_is_mapped_without_a_page_table_is_not_looked_at() {
    let (_world, iommu) = open();
    let ioas = iommu.ioas();
    assert_eq!(iommu.map(ioas, FIXED, AT, 0x1000, P), Ok(AT), "a hole");
    let device = iommu.bare();
    assert_eq!(iommu.hwpt(device, ioas, 0), Err(Errno::EFAULT));
    assert_eq!(iommu.unmap(ioas, AT, P), Ok(P));
    let hwpt = iommu.hwpt(device, ioas, 0).unwrap();
    assert_eq!(iommu.map(ioas, FIXED, AT, 0x1000, P), Err(Errno::EFAULT));
    assert_eq!(iommu.lookup(hwpt, AT), None);
}

#[test]
fn a_page_table_has_what_was_mapped_before_and_after_it_was_made() {
    let (_world, iommu) = open();
    let (ioas, memory) = (iommu.ioas(), Memory::pages(2));
    let device = iommu.bare();
    iommu.map(ioas, FIXED, AT, memory.base(), P).unwrap();
    let one = iommu.hwpt(device, ioas, 0).unwrap();
    iommu
        .map(ioas, FIXED, AT + P, memory.base() + P, P)
        .unwrap();
    let two = iommu.hwpt(device, ioas, 0).unwrap();
    for hwpt in [one, two] {
        assert_eq!(iommu.lookup(hwpt, AT + 5), Some(memory.base() + 5));
        assert_eq!(iommu.lookup(hwpt, AT + P), Some(memory.base() + P));
    }
    assert_eq!(iommu.unmap(ioas, AT, P), Ok(P));
    for hwpt in [one, two] {
        assert_eq!(iommu.lookup(hwpt, AT), None);
        assert_eq!(iommu.lookup(hwpt, AT + P), Some(memory.base() + P));
    }
}

#[test]
fn an_object_that_is_used_is_not_destroyed() {
    let (_world, iommu) = open();
    let (ioas, device) = (iommu.ioas(), iommu.bare());
    let hwpt = iommu.hwpt(device, ioas, 0).unwrap();
    assert_eq!(iommu.destroy(ioas), Err(Errno::EBUSY));
    assert_eq!(iommu.destroy(hwpt), Ok(0));
    assert_eq!(iommu.destroy(ioas), Ok(0));
}

#[test]
fn an_id_of_another_type_is_not_there() {
    let (_world, iommu) = open();
    let (ioas, device) = (iommu.ioas(), iommu.bare());
    assert_eq!(iommu.map(device, FIXED, AT, 0x1000, P), Err(Errno::ENOENT));
    assert_eq!(iommu.hwpt(ioas, ioas, 0), Err(Errno::ENOENT));
    assert_eq!(iommu.hwpt(device, device, 0), Err(Errno::EINVAL));
    assert_eq!(iommu.hwpt(device, 99, 0), Err(Errno::EINVAL));
}

#[test]
fn pages_that_move_take_the_entries_of_all_page_tables_along() {
    let (world, iommu) = open();
    let (ioas, memory) = (iommu.ioas(), Memory::pages(2));
    let device = iommu.bare();
    let one = iommu.hwpt(device, ioas, 0).unwrap();
    iommu.map(ioas, FIXED, AT, memory.base(), 2 * P).unwrap();
    let two = iommu.hwpt(device, ioas, 0).unwrap();
    world.vacate(memory.base(), P);
    memory.replace(0, P);
    let moved = iommu.lookup(one, AT).unwrap();
    assert_ne!(moved, memory.base());
    assert_eq!(iommu.lookup(two, AT), Some(moved));
    let three = iommu.hwpt(device, ioas, 0).unwrap();
    assert_eq!(iommu.lookup(three, AT), Some(moved), "also of a later one");
    let other = iommu.ioas();
    iommu.copy((ioas, AT), (other, AT), 2 * P, FIXED).unwrap();
    let copy = iommu.hwpt(device, other, 0).unwrap();
    assert_eq!(iommu.lookup(copy, AT), Some(moved), "and of a copy");
    assert_eq!(iommu.lookup(copy, AT + P), Some(memory.base() + P));
    iommu.unmap(ioas, 0, u64::MAX).unwrap();
    assert_eq!(iommu.lookup(copy, AT), Some(moved), "which keeps them");
}

#[test]
fn an_address_is_found_that_is_free_and_aligned() {
    let (_world, iommu) = open();
    let (ioas, memory) = (iommu.ioas(), Memory::pages(4));
    let first = iommu.map(ioas, ANYWHERE, 7, memory.base(), P).unwrap();
    let second = iommu.map(ioas, ANYWHERE, 7, memory.base(), P).unwrap();
    assert_eq!((first, second), (P, 2 * P));
    assert_eq!(
        iommu.map(ioas, FIXED, first, memory.base(), P),
        Err(Errno::EEXIST)
    );
    iommu.allow(ioas, &[(0x7_0000, 0x7_0fff)]).unwrap();
    assert_eq!(iommu.map(ioas, ANYWHERE, 7, memory.base(), P), Ok(0x7_0000));
    assert_eq!(
        iommu.map(ioas, ANYWHERE, 7, memory.base(), P),
        Err(Errno::ENOSPC)
    );
}

#[test]
fn a_page_table_narrows_what_can_be_mapped_and_its_end_widens_it_again() {
    let (_world, iommu) = open();
    let (ioas, device) = (iommu.ioas(), iommu.bare());
    let all = (vec![(0, u64::MAX)], 1, 1);
    assert_eq!(iommu.ranges(ioas, 4), Ok(all.clone()));
    let hwpt = iommu.hwpt(device, ioas, 0).unwrap();
    assert_eq!(iommu.ranges(ioas, 4), Ok((vec![(0, (1 << 48) - 1)], 1, P)));
    assert_eq!(iommu.ranges(ioas, 0), Err(Errno::EMSGSIZE));
    iommu.destroy(hwpt).unwrap();
    assert_eq!(iommu.ranges(ioas, 4), Ok(all));
}

#[test]
fn an_unmap_that_cuts_a_mapping_unmaps_nothing_of_it() {
    let (_world, iommu) = open();
    let (ioas, memory) = (iommu.ioas(), Memory::pages(4));
    iommu.map(ioas, FIXED, AT, memory.base(), 4 * P).unwrap();
    for (iova, length) in [(AT, P), (AT + P, P), (AT + P, 8 * P), (0, AT + P)] {
        assert_eq!(iommu.unmap(ioas, iova, length), Err(Errno::ENOENT));
    }
    assert_eq!(iommu.unmap(ioas, AT - P, 16 * P), Ok(4 * P));
    assert_eq!(iommu.unmap(ioas, AT, 4 * P), Err(Errno::ENOENT));
    assert_eq!(iommu.unmap(ioas, 0, u64::MAX), Ok(0));
}

#[test]
fn a_memory_file_is_mapped_by_its_own_pages() {
    let (_world, iommu) = open();
    let (memory, file) = Memory::shared(4);
    memory.write(P, b"second page");
    let (ioas, device) = (iommu.ioas(), iommu.bare());
    let hwpt = iommu.hwpt(device, ioas, 0).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    let map = |start, length| iommu.map_file(ioas, FIXED, AT, number, start, length);
    assert_eq!(map(0, 5 * P), Err(Errno::EINVAL), "beyond its end");
    map(P, P).unwrap();
    let pa = iommu.lookup(hwpt, AT).unwrap();
    let mut read = [0; 11];
    let client = crate::support::memory::client();
    client.read(swiommu_mem::UserAddr(pa), &mut read).unwrap();
    assert_eq!(&read, b"second page");
    assert_eq!(
        iommu.map_file(ioas, ANYWHERE, 0, -1, 0, P),
        Err(Errno::EBADF)
    );
    iommu.unmap(ioas, AT, P).unwrap();
    let change = || {
        let mut cmd = iommufd::IoasChangeProcess {
            size: 8,
            reserved: 0,
        };
        iommu.run(iommufd::IOAS_CHANGE_PROCESS, &mut cmd)
    };
    map(P, P).unwrap();
    assert_eq!(change(), Ok(0));
    iommu.map(ioas, ANYWHERE, 0, memory.base(), P).unwrap();
    assert_eq!(change(), Err(Errno::EINVAL), "not of a file");
}
