//! No-IOMMU mode: what is left of containers and groups, and what a device's DMA reaches.

use swiommu_abi::{Errno, iommufd, vfio};

use crate::support::edu::{load, store};
use crate::support::memory::Memory;
use crate::support::{Fd, Model, World, edu, machine};

/// A group in a container that chose no IOMMU, and its edu with the bus master bit set.
fn opened(world: &World) -> (Fd, Fd, Fd) {
    let (container, group) = (
        world.container(),
        world.open("/dev/vfio/noiommu-4").unwrap(),
    );
    group.set_container(&container).unwrap();
    container
        .ioctl(vfio::SET_IOMMU, vfio::NOIOMMU_IOMMU)
        .unwrap();
    let device = group.device("0000:00:04.0").unwrap();
    device.bus_master(true);
    (container, group, device)
}

fn world() -> World {
    World::new(machine(Model::None, [edu(4, 4)]))
}

#[test]
fn groups_are_named_noiommu_and_only_so() {
    let world = world();
    assert_eq!(world.open("/dev/vfio/4").err(), Some(Errno::ENOENT));
    assert_eq!(world.open("/dev/vfio/noiommu-5").err(), Some(Errno::ENOENT));
    let group = world.open("/dev/vfio/noiommu-4").unwrap();
    assert_eq!(group.file().link(), "/dev/vfio/noiommu-4");
    assert_eq!(world.open("/dev/vfio/noiommu-4").err(), Some(Errno::EBUSY));
    let translated = World::new(machine(Model::Scalable, [edu(4, 4)]));
    assert_eq!(
        translated.open("/dev/vfio/noiommu-4").err(),
        Some(Errno::ENOENT)
    );
}

#[test]
fn without_rawio_a_group_cannot_be_opened() {
    let mut machine = machine(Model::None, [edu(4, 4)]);
    machine.iommu.rawio = false;
    let world = World::new(machine);
    assert_eq!(world.open("/dev/vfio/noiommu-4").err(), Some(Errno::EPERM));
    let container = world.container();
    assert_eq!(
        container.ioctl(vfio::CHECK_EXTENSION, vfio::NOIOMMU_IOMMU),
        Ok(1),
        "asking is free"
    );
}

#[test]
fn a_container_of_such_a_group_takes_no_other_iommu_and_maps_nothing() {
    let world = world();
    let (container, group) = (
        world.container(),
        world.open("/dev/vfio/noiommu-4").unwrap(),
    );
    let extension = |kind| container.ioctl(vfio::CHECK_EXTENSION, kind);
    assert_eq!(extension(vfio::TYPE1_IOMMU), Ok(1), "all drivers are asked");
    group.set_container(&container).unwrap();
    assert_eq!(
        extension(vfio::TYPE1_IOMMU),
        Ok(0),
        "only the one that can be"
    );
    assert_eq!(extension(vfio::NOIOMMU_IOMMU), Ok(1));
    let set = |kind| container.ioctl(vfio::SET_IOMMU, kind);
    assert_eq!(set(vfio::TYPE1V2_IOMMU), Err(Errno::ENODEV));
    assert_eq!(group.device("0000:00:04.0").err(), Some(Errno::EINVAL));
    assert_eq!(set(vfio::NOIOMMU_IOMMU), Ok(0));
    assert_eq!(set(vfio::NOIOMMU_IOMMU), Err(Errno::EINVAL), "twice");
    assert_eq!(container.map(0, 0, 4096, 3), Err(Errno::ENOTTY));
    group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0).unwrap();
    assert_eq!(
        container.map(0, 0, 4096, 3),
        Err(Errno::EINVAL),
        "empty again"
    );
}

#[test]
fn a_device_reaches_the_client_s_memory_at_its_own_address() {
    let world = world();
    let (_container, _group, device) = opened(&world);
    let memory = Memory::pages(3);
    memory.fill(0x11);
    memory.write(0, b"from the client");
    load(&device, memory.base(), 64);
    store(&device, memory.base() + 4096, 64);
    assert_eq!(memory.read(4096, 15), b"from the client");
    assert_eq!(
        memory.read(2 * 4096, 64),
        [0x11; 64],
        "and nothing beside it"
    );
    assert!(world.kinds().is_empty());
}

#[test]
fn dma_to_no_memory_is_reported_as_that() {
    let world = world();
    let (_container, _group, device) = opened(&world);
    store(&device, 1 << 50, 64);
    store(&device, 0, 64);
    assert_eq!(world.kinds(), ["no-memory", "no-memory"]);
}

#[test]
fn the_pagemap_tells_where_a_page_is_and_hides_nothing_else() {
    let world = world();
    let pagemap = world.open("/proc/self/pagemap").unwrap();
    let memory = Memory::pages(1);
    memory.fill(1);
    let page = memory.base() / 4096;
    let mut entry = [0; 8];
    assert_eq!(pagemap.pread(page * 8, &mut entry), Ok(8));
    let entry = u64::from_ne_bytes(entry);
    assert_eq!((entry >> 63, entry & ((1 << 55) - 1)), (1, page));
    assert_eq!(pagemap.pread(page * 8 + 1, &mut [0; 8]), Err(Errno::EINVAL));
    assert_eq!(pagemap.pread(page * 8, &mut [0; 7]), Err(Errno::EINVAL));
    assert_eq!(pagemap.pread(0, &mut [0xff; 8]), Ok(8));
    let translated = World::new(machine(Model::Scalable, [edu(4, 4)]));
    assert_eq!(
        translated.open("/proc/self/pagemap").err(),
        Some(Errno::ENOENT),
        "behind an IOMMU the kernel's own is right"
    );
}

#[test]
fn an_iommufd_in_the_container_s_place_maps_nothing_either() {
    let world = world();
    let (iommu, group) = (world.iommu(), world.open("/dev/vfio/noiommu-4").unwrap());
    let set = |kind| iommu.fd.ioctl(vfio::SET_IOMMU, kind);
    assert_eq!(set(vfio::NOIOMMU_IOMMU), Err(Errno::EINVAL), "no group");
    assert_eq!(group.set_container(&iommu.fd), Ok(0));
    assert_eq!(set(vfio::TYPE1V2_IOMMU), Err(Errno::EINVAL));
    assert_eq!(set(vfio::NOIOMMU_IOMMU), Ok(0));
    assert_eq!(iommu.fd.map(0, 0, 4096, 3), Err(Errno::ENODEV));
    assert_eq!(
        iommu.vfio_ioas(iommufd::VFIO_IOAS_GET, 0),
        Err(Errno::ENODEV)
    );
    let device = group.device("0000:00:04.0").unwrap();
    device.bus_master(true);
    let memory = Memory::pages(2);
    memory.write(0, b"from the client");
    load(&device, memory.base(), 64);
    store(&device, memory.base() + 4096, 64);
    assert_eq!(memory.read(4096, 15), b"from the client");
    store(&device, 1 << 50, 64);
    assert_eq!(world.kinds(), ["no-memory"]);
}

#[test]
fn an_address_space_for_the_vfio_calls_keeps_such_devices_out() {
    let world = world();
    let group = world.open("/dev/vfio/noiommu-4").unwrap();
    let iommu = world.iommu();
    let ioas = iommu.ioas();
    iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, ioas).unwrap();
    assert_eq!(group.set_container(&iommu.fd), Err(Errno::EINVAL));
    iommu.vfio_ioas(iommufd::VFIO_IOAS_CLEAR, 0).unwrap();
    assert_eq!(group.set_container(&iommu.fd), Ok(0));
    let device = || group.device("0000:00:04.0");
    iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, ioas).unwrap();
    assert_eq!(device().err(), Some(Errno::EPERM));
    iommu.vfio_ioas(iommufd::VFIO_IOAS_CLEAR, 0).unwrap();
    let open = device().unwrap();
    iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, ioas).unwrap();
    assert!(device().is_ok(), "only the first opening is asked");
    drop(open);
    assert_eq!(device().err(), Some(Errno::EPERM));
}

#[test]
fn a_device_is_in_vfio_s_class_and_has_no_node() {
    let world = world();
    let directory = world.place("/sys/bus/pci/devices/0000:00:04.0/vfio-dev/vfio0");
    assert_eq!(std::fs::read(directory.join("uevent")).unwrap(), b"");
    assert!(!directory.join("dev").exists());
    assert!(world.place("/sys/class/vfio-dev/vfio0").exists());
    assert!(!world.place("/dev/vfio/devices").exists());
    let node = world.open("/dev/vfio/devices/vfio0").err();
    assert_eq!(node, Some(Errno::ENOENT));
    let translated = World::new(machine(Model::Scalable, [edu(4, 4)]));
    assert!(translated.place("/dev/vfio/devices/vfio0").exists());
    translated.unbind("0000:00:04.0").unwrap();
    assert!(
        !translated.place("/dev/vfio/devices").exists(),
        "it goes with the last"
    );
}
