//! Who owns a group, and how long groups, containers and devices live.

use swiommu_abi::{Errno, vfio};

use crate::support::edu::Rig;
use crate::support::memory::Memory;
use crate::support::vfio::{Event, RW};
use crate::support::{Model, World, edu, machine, stub};

const NAME: &str = "0000:00:04.0";

fn world() -> World {
    World::new(machine(Model::Scalable, [edu(4, 4), edu(5, 5), stub(6, 5)]))
}

#[test]
fn a_group_opens_once() {
    let world = world();
    let first = world.group(4).unwrap();
    assert_eq!(world.group(4).err(), Some(Errno::EBUSY));
    assert!(world.group(5).is_ok(), "another group is free");
    drop(first);
    assert!(world.group(4).is_ok(), "it is free again");
}

#[test]
fn a_group_held_by_another_process_is_busy_until_that_closes_it() {
    let world = world();
    let other = world.beside();
    let held = world.group(4).unwrap();
    assert_eq!(other.group(4).err(), Some(Errno::EBUSY));
    assert!(other.group(5).is_ok(), "another group is free");
    drop(held);
    assert!(other.group(4).is_ok());
    assert!(world.group(4).is_ok(), "and back");
}

#[test]
fn an_open_that_was_refused_leaves_nothing_behind() {
    let world = world();
    let other = world.beside();
    let held = other.group(4).unwrap();
    assert_eq!(world.group(4).err(), Some(Errno::EBUSY));
    drop(held);
    assert!(world.group(4).is_ok());
}

#[test]
fn a_node_the_machine_does_not_have_is_not_the_engines() {
    let world = world();
    for path in [
        "/dev/vfio/6",
        "/dev/vfio/-1",
        "/dev/vfio/",
        "/dev/vfio/4x",
        "/dev/iommu2",
        "/dev/null",
    ] {
        assert_eq!(world.open(path).err(), Some(Errno::ENOENT), "{path}");
    }
}

#[test]
fn a_device_file_keeps_its_group_open() {
    let world = world();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device(NAME).unwrap();
    drop(group);
    assert_eq!(world.group(4).err(), Some(Errno::EBUSY));
    assert_eq!(device.config(0, 4), 0x11e8_1234);
    drop(device);
    assert!(world.group(4).is_ok());
}

#[test]
fn mappings_outlive_the_container_file_and_the_group_file_while_a_device_is_open() {
    for model in Model::ALL {
        let world = World::new(machine(model, [edu(4, 4)]));
        let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let memory = Memory::pages(1);
        memory.fill(0x5a);
        container.map(0x10000, memory.base(), 4096, RW).unwrap();
        let device = group.device(NAME).unwrap();
        device.bus_master(true);
        drop(container);
        drop(group);
        edu::load(&device, 0x10000, 64);
        edu::store(&device, 0x10000 + 2048, 64);
        assert_eq!(memory.read(2048, 64), [0x5a; 64]);
        assert_eq!(world.kinds(), [""; 0]);
    }
}

#[test]
fn the_address_space_goes_with_the_last_group() {
    let world = world();
    let (container, first) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let second = world.group(5).unwrap();
    second.set_container(&container).unwrap();
    let memory = Memory::pages(1);
    container.map(0x10000, memory.base(), 4096, RW).unwrap();
    first.ioctl(vfio::GROUP_UNSET_CONTAINER, 0).unwrap();
    assert_eq!(
        container.map(0x10000, memory.base(), 4096, RW),
        Err(Errno::EEXIST),
        "one group is still there"
    );
    second.ioctl(vfio::GROUP_UNSET_CONTAINER, 0).unwrap();
    assert_eq!(
        container.map(0x10000, memory.base(), 4096, RW),
        Err(Errno::EINVAL),
        "no address space"
    );
    first.set_container(&container).unwrap();
    assert_eq!(
        container.ioctl(vfio::SET_IOMMU, vfio::TYPE1_IOMMU),
        Ok(0),
        "it can be chosen anew"
    );
    assert_eq!(
        container.unmap_with(0, 0, vfio::DMA_UNMAP_FLAG_ALL),
        Ok(0),
        "and is empty"
    );
}

#[test]
fn a_group_that_closes_takes_the_address_space_along() {
    let world = world();
    let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let memory = Memory::pages(1);
    container.map(0x10000, memory.base(), 4096, RW).unwrap();
    drop(group);
    assert_eq!(container.unmap(0x10000, 4096), Err(Errno::EINVAL));
    let group = world.group(4).unwrap();
    assert_eq!(
        group.status(),
        vfio::GROUP_FLAGS_VIABLE,
        "a fresh group is in no container"
    );
}

#[test]
fn a_group_with_an_open_device_cannot_leave() {
    let world = world();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device(NAME).unwrap();
    let second = group.device(NAME).unwrap();
    assert_eq!(
        group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0),
        Err(Errno::EBUSY)
    );
    drop(device);
    assert_eq!(
        group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0),
        Err(Errno::EBUSY),
        "the second file is open"
    );
    drop(second);
    assert_eq!(group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0), Ok(0));
    assert_eq!(
        group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0),
        Err(Errno::EINVAL),
        "it has left already"
    );
}

#[test]
fn a_container_wants_a_group_first_and_a_kind_once() {
    let world = world();
    let (container, group) = (world.container(), world.group(4).unwrap());
    assert_eq!(
        container.ioctl(vfio::SET_IOMMU, vfio::TYPE1V2_IOMMU),
        Err(Errno::EINVAL),
        "no group"
    );
    group.set_container(&container).unwrap();
    assert_eq!(
        group.set_container(&container),
        Err(Errno::EINVAL),
        "it is in one"
    );
    assert_eq!(
        group.device(NAME).err(),
        Some(Errno::EINVAL),
        "no address space yet"
    );
    assert_eq!(
        container.ioctl(vfio::SET_IOMMU, vfio::SPAPR_TCE_IOMMU),
        Err(Errno::ENODEV)
    );
    assert_eq!(
        container.ioctl(vfio::SET_IOMMU, vfio::TYPE1_IOMMU),
        Ok(0),
        "the refusal left it undecided"
    );
    assert_eq!(
        container.ioctl(vfio::SET_IOMMU, vfio::TYPE1V2_IOMMU),
        Err(Errno::EINVAL),
        "decided"
    );
    assert!(group.device(NAME).is_ok());
}

#[test]
fn only_a_container_can_be_set() {
    let world = world();
    let (group, other) = (world.group(4).unwrap(), world.group(5).unwrap());
    assert_eq!(
        group.set_container(&other),
        Err(Errno::EBADFD),
        "a group is not a container"
    );
    let (mut closed, event) = (1 << 20, Event::new());
    assert_eq!(
        group.ioctl_with(vfio::GROUP_SET_CONTAINER, &mut closed),
        Err(Errno::EBADF)
    );
    assert_eq!(
        group.ioctl(vfio::GROUP_SET_CONTAINER, 8),
        Err(Errno::EFAULT)
    );
    let mut number = event.number();
    assert_eq!(
        group.ioctl_with(vfio::GROUP_SET_CONTAINER, &mut number),
        Err(Errno::EBADFD),
        "an eventfd is not"
    );
    assert_eq!(group.status(), vfio::GROUP_FLAGS_VIABLE);
}

#[test]
fn a_device_is_found_by_its_whole_name_in_its_own_group() {
    let world = world();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    for name in [
        "0000:00:05.0",
        "00:04.0",
        "",
        "0000:00:04.0x",
        "0000:00:04",
        "\u{fffd}",
    ] {
        assert_eq!(group.device(name).err(), Some(Errno::ENODEV), "{name:?}");
    }
    assert_eq!(
        group.device("0000:00:04.0 vf_token=1").err(),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        group.device(&"x".repeat(4096)).err(),
        Some(Errno::EINVAL),
        "longer than a page"
    );
    assert!(group.device(NAME).is_ok());
}

#[test]
fn files_close_in_any_order() {
    // container, group, device: each of the six orders leaves the group free and nothing behind
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let world = world();
        let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let memory = Memory::pages(1);
        container.map(0x10000, memory.base(), 4096, RW).unwrap();
        let device = group.device(NAME).unwrap();
        let mut files = [Some(container), Some(group), Some(device)];
        for (step, &which) in order.iter().enumerate() {
            files[which] = None;
            let busy = files[1].is_some() || files[2].is_some();
            assert_eq!(world.group(4).is_err(), busy, "{order:?}, step {step}");
        }
        let (container, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        assert_eq!(container.available(), 65535, "{order:?}");
    }
}

#[test]
fn a_device_is_reset_by_its_first_opener_only() {
    let rig = Rig::new(Model::Amd);
    rig.device.store(0x04, 4, 0x1234_5678);
    let second = rig.group.device(NAME).unwrap();
    assert_eq!(
        second.load(0x04, 4),
        0xedcb_a987,
        "a second file shows the same device"
    );
    assert_eq!(second.config(4, 2) & 4, 4);
    second.set_config(0x3c, 1, 0x77);
    drop(second);
    assert_eq!(rig.device.config(0x3c, 1), 0x77, "it is still open");
    let Rig { device, group, .. } = rig;
    drop(device);
    let device = group.device(NAME).unwrap();
    assert_eq!(device.load(0x04, 4), 0, "reset");
    assert_eq!(device.config(4, 2) & 4, 0, "bus master is off");
    assert_eq!(
        device.config(0x3c, 1),
        10,
        "configuration space is as firmware left it"
    );
}

#[test]
fn a_second_group_shares_the_address_space() {
    for model in Model::ALL {
        let world = World::new(machine(model, [edu(4, 4), edu(5, 5)]));
        let rig = Rig::on(world);
        let memory = Memory::pages(2);
        rig.container.map(0x10000, memory.base(), 8192, RW).unwrap();
        let group = rig.world.group(5).unwrap();
        group.set_container(&rig.container).unwrap();
        let device = group.device("0000:00:05.0").unwrap();
        device.bus_master(true);
        rig.write(0x10000, b"through one group");
        edu::load(&device, 0x10000, 17);
        edu::store(&device, 0x11000, 17);
        assert_eq!(memory.read(4096, 17), b"through one group");
    }
}

#[test]
fn two_containers_are_two_address_spaces() {
    for model in Model::ALL {
        let rig = Rig::on(World::new(machine(model, [edu(4, 4), edu(5, 5)])));
        let (container, group) = rig.world.joined(5, vfio::TYPE1_IOMMU);
        let device = group.device("0000:00:05.0").unwrap();
        device.bus_master(true);
        let (mine, theirs) = (Memory::pages(1), Memory::pages(1));
        theirs.fill(0x77);
        rig.container.map(0x10000, mine.base(), 4096, RW).unwrap();
        container.map(0x10000, theirs.base(), 4096, RW).unwrap();
        rig.write(0x10000, b"mine");
        assert_eq!(mine.read(0, 4), b"mine");
        assert_eq!(theirs.read(0, 4), [0x77; 4]);
        container.unmap(0x10000, 4096).unwrap();
        assert_eq!(
            rig.read(0x10000, 4),
            b"mine",
            "unmapping there changes nothing here"
        );
        edu::load(&device, 0x10000, 4);
        assert_eq!(rig.world.kinds(), ["use-after-unmap"]);
    }
}
