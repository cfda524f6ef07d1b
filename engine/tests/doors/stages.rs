//! The three stages of groups of several devices on an iommufd (`multi_device_groups`): none, one address space, or one
//! for each requester id. The numbers are those of docs/groups-and-drivers.md.

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::machine::{DeviceConfig, Machine};

use crate::support::iommufd::Iommu;
use crate::support::memory::Memory;
use crate::support::pair::{
    A, ALONE, B, IOVA, PAIR, SINGLE, claim, described, is_viable, reaches, space, staged,
};
use crate::support::vfio::RW;
use crate::support::{Fd, Model, World, edu, machine};

/// The device nodes that are listed, of the machine's three. What is not listed does not open.
fn nodes(world: &World) -> Vec<usize> {
    let there = |index: &usize| {
        let path = format!("/dev/vfio/devices/vfio{index}");
        let listed = world.place(&path).exists();
        let opened = world.open(&path).err();
        assert_eq!(opened, (!listed).then_some(Errno::ENOENT), "{path}");
        listed
    };
    (0..3).filter(there).collect()
}

/// Has the device a place in sysfs for a node of its own?
fn announced(world: &World, bdf: &str) -> bool {
    let path = format!("/sys/bus/pci/devices/{bdf}/vfio-dev");
    world.place(&path).exists()
}

/// A page that a container maps, reached by these devices of a group.
fn container_serves(world: &World, group: u32, devices: &[&str]) {
    let (container, group) = world.joined(group, vfio::TYPE1V2_IOMMU);
    let memory = Memory::pages(1);
    container.map(IOVA, memory.base(), 4096, RW).unwrap();
    let devices: Vec<Fd> = (devices.iter())
        .map(|bdf| group.device(bdf).unwrap())
        .collect();
    for device in &devices {
        assert!(reaches(device, &memory));
    }
    let busy = group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0);
    assert_eq!(busy, Err(Errno::EBUSY), "while devices are open");
    drop(devices);
    assert_eq!(group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0), Ok(0));
}

#[test]
fn s1_06_at_stage_1_an_iommufd_is_no_container_of_a_larger_group_and_a_container_is() {
    for stage in 1..=3 {
        let world = staged(stage);
        let iommu = world.iommu();
        for (number, refused) in [(PAIR, stage == 1), (SINGLE, false)] {
            let group = world.group(number).unwrap();
            let expected = if refused { Err(Errno::EINVAL) } else { Ok(0) };
            let answer = group.set_container(&iommu.fd);
            assert_eq!(answer, expected, "group {number} at stage {stage}");
        }
        container_serves(&world, PAIR, &[A, B]);
    }
}

#[test]
fn s1_07_at_stage_1_only_a_device_alone_in_its_group_is_an_iommufds() {
    let (world, memory) = (staged(1), Memory::pages(1));
    let iommu = world.iommu();
    let (alone, _) = world.bound(2, &iommu);
    alone.attach(space(&iommu, &memory)).unwrap();
    assert!(reaches(&alone, &memory));
    let group = world.group(PAIR).unwrap();
    assert_eq!(group.set_container(&iommu.fd), Err(Errno::EINVAL));
    assert_eq!(group.device(A).err(), Some(Errno::EINVAL));
    assert_eq!(nodes(&world), [2]);
}

#[test]
fn s1_08_the_group_interface_is_whole_for_several_devices_at_stage_1() {
    let mut machine = described(Some("vfio-pci"));
    machine.devices[2].group = PAIR;
    machine.vfio.multi_device_groups = 1;
    container_serves(&World::new(machine), PAIR, &[A, B, ALONE]);
}

#[test]
fn s1_09_at_stage_2_a_group_has_one_address_space() {
    let (world, memory) = (staged(2), Memory::pages(1));
    let iommu = world.iommu();
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    let (x, y) = (space(&iommu, &memory), space(&iommu, &memory));
    a.attach(x).unwrap();
    assert_eq!(b.attach(y), Err(Errno::EINVAL));
    assert!(b.attach(x).is_ok());
    let (alone, _) = world.bound(2, &iommu);
    assert!(alone.attach(y).is_ok(), "another group has its own");
}

/// Two memories in two spaces, and one device of the pair on each.
struct Split {
    memories: [Memory; 2],
    devices: [Fd; 2],
    iommu: Iommu,
}

fn split(world: &World) -> Split {
    let iommu = world.iommu();
    let memories = [Memory::pages(1), Memory::pages(1)];
    let devices = [world.bound(0, &iommu).0, world.bound(1, &iommu).0];
    for (device, memory) in devices.iter().zip(&memories) {
        device.attach(space(&iommu, memory)).unwrap();
    }
    Split {
        memories,
        devices,
        iommu,
    }
}

/// A machine at stage 3.
fn third(model: Model, devices: impl Into<Vec<DeviceConfig>>) -> Machine {
    let mut machine = machine(model, devices);
    machine.vfio.multi_device_groups = 3;
    machine
}

#[test]
fn s1_10_at_stage_3_devices_of_different_requester_ids_have_different_address_spaces() {
    for model in Model::ALL {
        let world = World::new(third(model, [edu(4, PAIR), edu(5, PAIR)]));
        let Split {
            memories: [x, y],
            devices: [a, b],
            iommu,
        } = split(&world);
        assert!(reaches(&a, &x) && !reaches(&a, &y));
        assert!(reaches(&b, &y) && !reaches(&b, &x));
        b.detach().unwrap();
        assert!(!reaches(&b, &y));
        assert!(reaches(&a, &x), "the other is not moved");
        let stranger = world.iommu();
        drop(b);
        let refused = world.node(1).bind(&stranger);
        assert_eq!(refused, Err(Errno::EPERM), "all of a group is one owner's");
        assert!(world.node(1).bind(&iommu).is_ok());
    }
}

#[test]
fn s1_10_at_stage_3_devices_of_one_requester_id_have_one_address_space() {
    let (world, iommu) = aliased(Model::Scalable);
    let memory = Memory::pages(1);
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    let (x, y) = (space(&iommu, &memory), space(&iommu, &memory));
    a.attach(x).unwrap();
    assert_eq!(b.attach(y), Err(Errno::EINVAL));
    assert!(b.attach(x).is_ok());
}

/// Two edus behind a bridge, whose requester id they bear, and a third one in the same group.
fn aliased(model: Model) -> (World, Iommu) {
    let behind = |slot| DeviceConfig {
        requester: Some("0000:03:00.0".into()),
        ..edu(slot, PAIR)
    };
    let world = World::new(third(model, [behind(4), behind(5), edu(6, PAIR)]));
    let iommu = world.iommu();
    (world, iommu)
}

#[test]
fn s1_11_devices_of_one_requester_id_move_together_and_the_rest_of_their_group_stays() {
    for model in Model::ALL {
        let (world, iommu) = aliased(model);
        let (x, y) = (Memory::pages(1), Memory::pages(1));
        let devices = [0, 1, 2].map(|index| world.bound(index, &iommu).0);
        let [a, b, rest] = &devices;
        let (to_x, to_y) = (space(&iommu, &x), space(&iommu, &y));
        a.attach(to_x).unwrap();
        assert!(reaches(b, &x), "attached with the first");
        assert!(!reaches(rest, &x));
        rest.attach(to_y).unwrap();
        assert!(reaches(rest, &y) && reaches(a, &x) && reaches(b, &x));
        a.attach(to_y).unwrap();
        assert!(reaches(b, &y), "moved with the first");
        a.detach().unwrap();
        assert!(!reaches(b, &y), "and blocked");
        assert!(reaches(rest, &y));
    }
}

#[test]
fn s1_12_by_default_the_devices_of_a_group_share_an_address_space() {
    let world = World::new(described(Some("vfio-pci")));
    let iommu = world.iommu();
    let ((a, _), (b, _)) = (world.bound(0, &iommu), world.bound(1, &iommu));
    a.attach(iommu.ioas()).unwrap();
    assert_eq!(b.attach(iommu.ioas()), Err(Errno::EINVAL));
}

#[test]
fn s1_13_what_a_client_does_at_one_stage_it_can_do_at_the_next() {
    let mut before = vec![2];
    for stage in 1..=3 {
        let (world, memory) = (staged(stage), Memory::pages(1));
        container_serves(&world, PAIR, &[A, B]);
        let iommu = world.iommu();
        let ioas = space(&iommu, &memory);
        let there = nodes(&world);
        let gone = before.iter().find(|index| !there.contains(index));
        assert_eq!(gone, None, "stage {stage}");
        let devices = there.iter().map(|index| world.bound(*index, &iommu).0);
        let devices: Vec<Fd> = devices.collect();
        for device in &devices {
            device.attach(ioas).unwrap();
            assert!(reaches(device, &memory), "stage {stage}");
        }
        drop(devices);
        assert_eq!(claim(&world), Ok(0), "stage {stage}");
        before = there;
    }
}

#[test]
fn s1_14_what_stage_1_refuses_has_no_effect() {
    let world = staged(1);
    let iommu = world.iommu();
    assert!(!announced(&world, A) && !announced(&world, B));
    assert!(announced(&world, ALONE));
    let group = world.group(PAIR).unwrap();
    assert_eq!(group.set_container(&iommu.fd), Err(Errno::EINVAL));
    assert_eq!(group.status(), vfio::GROUP_FLAGS_VIABLE, "nobody's still");
    let made = iommu.vfio_ioas(iommufd::VFIO_IOAS_GET, 0);
    assert_eq!(made, Err(Errno::ENODEV), "nothing was made");
    assert_eq!(group.set_container(&world.container()), Ok(0));
}

#[test]
fn s1_15_devices_of_a_larger_group_have_nodes_of_their_own_only_from_stage_2_on() {
    for (stage, listed) in [(1, &[2][..]), (2, &[0, 1, 2]), (3, &[0, 1, 2])] {
        let world = staged(stage);
        assert_eq!(nodes(&world), listed, "stage {stage}");
        world.unbind(B).unwrap();
        world.bind(B, "vfio-pci").unwrap();
        assert_eq!(nodes(&world), listed, "stage {stage}, bound again");
    }
}

#[test]
fn s1_16_every_group_has_a_node_at_every_stage() {
    for stage in 1..=3 {
        let world = staged(stage);
        for group in [PAIR, SINGLE] {
            assert!(world.place(&format!("/dev/vfio/{group}")).exists());
            let (_container, group) = world.joined(group, vfio::TYPE1V2_IOMMU);
            assert!(is_viable(&group), "stage {stage}");
        }
    }
}
