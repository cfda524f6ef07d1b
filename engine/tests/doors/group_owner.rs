//! The rules of a group's owner, through both doors: the group's file with a container, and the devices' own nodes with
//! an iommufd. The numbers are those of docs/groups-and-drivers.md.

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::GroupRules;

use crate::support::memory::Memory;
use crate::support::pair::{
    A, B, IOVA, PAIR, claim, described, is_viable, reaches, reaches_at, space, staged,
};
use crate::support::vfio::RW;
use crate::support::{Fd, World};

fn world() -> World {
    staged(2)
}

#[test]
fn s1_01_the_first_bind_blocks_the_dma_of_the_whole_group() {
    let world = world();
    let (container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    let memory = Memory::pages(1);
    let devices = [A, B].map(|bdf| group.device(bdf).unwrap());
    for device in &devices {
        assert!(!reaches(device, &memory));
        assert!(!reaches_at(device, memory.base(), &memory), "nor as it is");
    }
    container.map(IOVA, memory.base(), 4096, RW).unwrap();
    for device in &devices {
        assert!(reaches(device, &memory), "with a mapping");
    }
}

#[test]
fn s1_01_the_first_bind_to_an_iommufd_blocks_the_dma_of_the_whole_group() {
    let (world, memory) = (world(), Memory::pages(1));
    let iommu = world.iommu();
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    for device in [&a, &b] {
        assert!(!reaches_at(device, memory.base(), &memory));
    }
    a.attach(space(&iommu, &memory)).unwrap();
    for device in [&a, &b] {
        assert!(reaches(device, &memory), "attached with its group");
        assert!(!reaches_at(device, memory.base(), &memory));
    }
}

#[test]
fn s1_02_a_device_is_bound_attached_and_detached_by_its_own_file() {
    let (world, memory) = (world(), Memory::pages(1));
    let (iommu, device) = (world.iommu(), world.node(0));
    assert_eq!(device.info(), Err(Errno::EINVAL), "before it is bound");
    assert!(device.bind(&iommu).is_ok());
    assert_eq!(device.info(), Ok(0));
    assert!(!reaches(&device, &memory), "before it is attached");
    device.attach(space(&iommu, &memory)).unwrap();
    assert!(reaches(&device, &memory));
    device.detach().unwrap();
    assert!(!reaches(&device, &memory));
}

#[test]
fn s1_03_the_groups_file_and_a_devices_node_exclude_each_other() {
    let world = world();
    let iommu = world.iommu();
    let (container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    let old = group.device(A).unwrap();
    assert_eq!(old.bind(&iommu), Err(Errno::EINVAL), "opened by its group");
    for index in [0, 1] {
        assert_eq!(world.node(index).bind(&iommu), Err(Errno::EBUSY));
    }
    assert!(world.node(2).bind(&iommu).is_ok(), "another group's");
    drop((old, group, container));
    let bound = world.bound(0, &iommu);
    assert_eq!(world.group(PAIR).err(), Some(Errno::EBUSY));
    drop(bound);
    let _joined = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
}

#[test]
fn s1_04_a_device_needs_no_file_of_its_group() {
    let world = world();
    let open = world.group(PAIR).unwrap();
    let (iommu, device) = (world.iommu(), world.node(0));
    let in_the_way = device.bind(&iommu);
    assert_eq!(in_the_way, Err(Errno::EBUSY), "it is even in the way");
    drop(open);
    let id = device.bind(&iommu).unwrap();
    assert!(id > 0 && device.attach(iommu.ioas()).is_ok());
}

#[test]
fn s1_05_a_devices_group_is_found_at_bind_attach_detach_and_close() {
    let world = world();
    let (memory, other) = (Memory::pages(1), world.beside());
    let iommu = world.iommu();
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    drop(b);
    other.unbind(B).unwrap();
    assert_eq!(other.bind(B, "nvme"), Err(Errno::EBUSY), "bound");
    other.bind(B, "vfio-pci").unwrap();
    let (b, _) = world.bound(1, &iommu);
    a.attach(space(&iommu, &memory)).unwrap();
    assert!(reaches(&b, &memory), "attached");
    a.detach().unwrap();
    assert!(!reaches(&b, &memory), "detached");
    drop((a, b));
    other.unbind(B).unwrap();
    assert_eq!(other.bind(B, "nvme"), Ok(()), "closed");
}

#[test]
fn s1_29_later_devices_of_a_held_group_just_open_and_another_owner_is_refused() {
    let world = world();
    let other = world.beside();
    let (_container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    let _a = group.device(A).unwrap();
    assert!(group.device(B).is_ok());
    assert_eq!(other.group(PAIR).err(), Some(Errno::EBUSY));
    assert_eq!(world.group(PAIR).err(), Some(Errno::EBUSY));
}

#[test]
fn s1_29_a_later_device_binds_to_the_same_iommufd_and_to_no_other() {
    for (rules, errno) in [
        (GroupRules::Landed, Errno::EPERM),
        (GroupRules::Rfc, Errno::EBUSY),
    ] {
        let mut machine = described(Some("vfio-pci"));
        machine.vfio.groups = rules;
        let world = World::new(machine);
        let elsewhere = world.beside();
        let (iommu, other) = (world.iommu(), world.iommu());
        let _a = world.bound(0, &iommu);
        assert_eq!(world.node(1).bind(&other), Err(errno), "{rules:?}");
        let foreign = elsewhere.node(1).bind(&elsewhere.iommu());
        assert_eq!(foreign, Err(errno), "{rules:?}, another process");
        assert!(world.node(1).bind(&iommu).is_ok());
    }
}

#[test]
fn s1_30_a_later_device_does_not_switch_the_groups_domain_again() {
    let (world, memory) = (world(), Memory::pages(1));
    let (container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    container.map(IOVA, memory.base(), 4096, RW).unwrap();
    let a = group.device(A).unwrap();
    later_devices_change_nothing(&a, &memory, || group.device(B).unwrap());
}

#[test]
fn s1_30_a_later_bind_does_not_switch_the_groups_page_table_again() {
    let (world, memory) = (world(), Memory::pages(1));
    let iommu = world.iommu();
    let (a, _) = world.bound(0, &iommu);
    a.attach(space(&iommu, &memory)).unwrap();
    later_devices_change_nothing(&a, &memory, || {
        let (b, _) = world.bound(1, &iommu);
        assert!(reaches(&b, &memory), "it is where its group is");
        b
    });
}

/// The first device keeps its way to memory while another one of its group opens and closes.
fn later_devices_change_nothing(a: &Fd, memory: &Memory, open: impl Fn() -> Fd) {
    assert!(reaches(a, memory));
    let b = open();
    assert!(reaches(a, memory), "another device was opened");
    drop(b);
    assert!(reaches(a, memory), "and closed");
}

#[test]
fn s1_31_several_devices_of_a_group_need_no_file_of_it() {
    let (world, memory) = (world(), Memory::pages(1));
    let iommu = world.iommu();
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    let ioas = space(&iommu, &memory);
    for device in [&a, &b] {
        device.attach(ioas).unwrap();
        assert!(reaches(device, &memory));
    }
    a.detach().unwrap();
    assert!(reaches(&b, &memory), "one is still attached");
    b.detach().unwrap();
    assert!(!reaches(&b, &memory));
    drop(a);
    assert_eq!(world.group(PAIR).err(), Some(Errno::EBUSY));
    drop(b);
    assert_eq!(claim(&world), Ok(0), "the last close frees the group");
    let group = world.group(PAIR).unwrap();
    assert!(is_viable(&group));
}
