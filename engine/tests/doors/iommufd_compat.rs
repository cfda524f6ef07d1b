//! /dev/iommu as a container: the VFIO calls on it, and the address space they use.

use swiommu_abi::{Errno, iommufd, vfio};

use crate::support::iommufd::{FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::vfio::RW;
use crate::support::{Model, World, machine};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// An open /dev/iommu, and one with an address space (1) for the VFIO calls and a device (2).
fn open() -> (World, Iommu) {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    assert_eq!((iommu.ioas(), iommu.bare()), (1, 2));
    iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, 1).unwrap();
    (world, iommu)
}

#[test]
fn without_an_address_space_the_calls_find_no_device() {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    let ioctl = |cmd, arg| iommu.fd.ioctl(cmd, arg);
    assert_eq!(ioctl(vfio::GET_API_VERSION, 0), Ok(0));
    assert_eq!(
        ioctl(vfio::SET_IOMMU, vfio::TYPE1_IOMMU),
        Err(Errno::ENODEV)
    );
    assert_eq!(
        ioctl(vfio::SET_IOMMU, vfio::NOIOMMU_IOMMU),
        Err(Errno::EINVAL)
    );
    for (extension, answer) in [
        (vfio::TYPE1_IOMMU, Ok(1)),
        (vfio::TYPE1V2_IOMMU, Ok(1)),
        (vfio::UNMAP_ALL, Ok(1)),
        (vfio::UPDATE_VADDR, Ok(0)),
        (vfio::TYPE1_NESTING_IOMMU, Ok(0)),
        (vfio::DMA_CC_IOMMU, Err(Errno::ENODEV)),
    ] {
        assert_eq!(ioctl(vfio::CHECK_EXTENSION, extension), answer);
    }
    assert_eq!(iommu.fd.map(AT, AT, P, RW), Err(Errno::ENODEV));
    assert_eq!(iommu.fd.unmap(AT, P), Err(Errno::ENODEV));
    assert_eq!(iommu.vfio_ioas(0, 0), Err(Errno::ENODEV));
    assert_eq!(ioctl(vfio::IOMMU_DIRTY_PAGES, 0), Err(Errno::ENOTTY));
}

#[test]
fn the_address_space_of_the_calls_can_be_set_got_and_cleared() {
    let (_world, iommu) = open();
    let (get, set, clear) = (
        iommufd::VFIO_IOAS_GET,
        iommufd::VFIO_IOAS_SET,
        iommufd::VFIO_IOAS_CLEAR,
    );
    assert_eq!(iommu.vfio_ioas(get, 0), Ok(1));
    let other = iommu.ioas();
    assert_eq!(iommu.vfio_ioas(set, other), Ok(other));
    assert_eq!(iommu.vfio_ioas(get, 0), Ok(other));
    assert_eq!(iommu.vfio_ioas(set, 2), Err(Errno::ENOENT), "a device");
    assert_eq!(iommu.vfio_ioas(3, 0), Err(Errno::EOPNOTSUPP));
    iommu.destroy(other).unwrap();
    assert_eq!(iommu.vfio_ioas(get, 0), Err(Errno::ENODEV), "destroyed");
    iommu.vfio_ioas(set, 1).unwrap();
    iommu.vfio_ioas(clear, 0).unwrap();
    assert_eq!(iommu.vfio_ioas(get, 0), Err(Errno::ENODEV), "cleared");
}

#[test]
fn what_the_calls_map_is_what_iommufd_maps() {
    let (_world, iommu) = open();
    let (hwpt, memory) = (iommu.hwpt(2, 1, 0).unwrap(), Memory::pages(2));
    iommu.fd.map(AT, memory.base(), P, RW).unwrap();
    assert_eq!(iommu.lookup(hwpt, AT), Some(memory.base()));
    assert_eq!(
        iommu.map(1, FIXED, AT, memory.base(), P),
        Err(Errno::EEXIST)
    );
    assert_eq!(iommu.fd.map(AT, memory.base(), P, RW), Err(Errno::EEXIST));
    assert_eq!(iommu.unmap(1, AT, P), Ok(P));
    assert_eq!(iommu.fd.unmap(AT, P), Ok(0), "nothing is no error here");
    let flags = vfio::DMA_MAP_FLAG_VADDR;
    assert_eq!(iommu.fd.map(AT, AT, P, flags), Err(Errno::EINVAL));
}

#[test]
fn type1_cuts_mappings_and_type1v2_does_not() {
    for (kind, cuts) in [(vfio::TYPE1_IOMMU, true), (vfio::TYPE1V2_IOMMU, false)] {
        let (_world, iommu) = open();
        iommu.fd.ioctl(vfio::SET_IOMMU, kind).unwrap();
        let (hwpt, memory) = (iommu.hwpt(2, 1, 0).unwrap(), Memory::pages(8));
        iommu.fd.map(AT, memory.base(), 8 * P, RW).unwrap();
        let answer = iommu.fd.unmap(AT + 2 * P, 3 * P);
        if !cuts {
            assert_eq!(answer, Err(Errno::ENOENT));
            continue;
        }
        assert_eq!(answer, Ok(3 * P));
        for page in 0..8 {
            let mapped = (!(2..5).contains(&page)).then_some(memory.base() + page * P);
            assert_eq!(iommu.lookup(hwpt, AT + page * P), mapped, "page {page}");
        }
        assert_eq!(iommu.unmap(1, AT, 2 * P), Ok(2 * P), "the part before");
        assert_eq!(iommu.unmap(1, AT + 5 * P, 3 * P), Ok(3 * P), "and behind");
        assert_eq!(iommu.context().run().ground().locked.pinned_bytes(), 0);
    }
}

#[test]
fn pages_behind_a_cut_still_move_with_their_entries() {
    let (world, iommu) = open();
    iommu.fd.ioctl(vfio::SET_IOMMU, vfio::TYPE1_IOMMU).unwrap();
    let (hwpt, memory) = (iommu.hwpt(2, 1, 0).unwrap(), Memory::pages(8));
    iommu.fd.map(AT, memory.base(), 8 * P, RW).unwrap();
    assert_eq!(iommu.fd.unmap(AT + 2 * P, P), Ok(P));
    world.vacate(memory.base() + P, 4 * P);
    memory.replace(P, 4 * P);
    for page in [1, 3, 4] {
        let at = iommu.lookup(hwpt, AT + page * P).unwrap();
        assert_ne!(at, memory.base() + page * P, "page {page} moved");
    }
    assert_eq!(iommu.lookup(hwpt, AT + 2 * P), None);
    assert_eq!(iommu.lookup(hwpt, AT), Some(memory.base()));
    assert_eq!(
        iommu.fd.unmap_with(0, 0, vfio::DMA_UNMAP_FLAG_ALL),
        Ok(7 * P)
    );
}

#[test]
fn get_info_writes_no_byte_beyond_argsz() {
    let (_world, iommu) = open();
    iommu.hwpt(2, 1, 0).unwrap();
    let memory = Memory::pages(1);
    let whole = 24 + 16 + 16 + 16;
    for argsz in 0..100u32 {
        memory.fill(0xee);
        memory.write(0, &argsz.to_le_bytes());
        let answer = iommu.fd.ioctl(vfio::IOMMU_GET_INFO, memory.base());
        if argsz < 16 {
            assert_eq!(answer, Err(Errno::EINVAL));
            continue;
        }
        assert_eq!(answer, Ok(0));
        let bytes = memory.read(0, 200);
        let end = argsz as usize;
        // the struct's own padding and a chain that is cut short are not written
        assert!(
            bytes[end.max(44)..].iter().all(|byte| *byte == 0xee),
            "{argsz}"
        );
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (whole, 3));
        if argsz >= whole {
            assert_eq!((word(16), word(28), word(44)), (24, 40, 0));
            assert_eq!(word(32), u32::MAX, "mappings without end");
            assert_eq!(word(48), 1, "one range");
            assert_eq!(
                bytes[56..72],
                [[0; 8], ((1u64 << 48) - 1).to_le_bytes()].concat()
            );
        } else if argsz >= 24 {
            assert_eq!(word(16), 0, "no chain of {argsz}");
        }
    }
}
