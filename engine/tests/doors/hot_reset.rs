//! Hot reset by the files of the groups it takes along, or by the iommufd that has the devices.

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::DeviceConfig;

use crate::support::vfio::RW;
use crate::support::{Fd, Model, World, edu, machine, stub};

/// The device at this slot of bus 5.
fn behind_a_port(device: DeviceConfig) -> DeviceConfig {
    DeviceConfig {
        bdf: device.bdf.replace("0000:00:", "0000:05:"),
        ..device
    }
}

/// Two groups on one bus, and an edu on the root bus.
fn world() -> World {
    let devices = vec![
        behind_a_port(edu(5, 5)),
        edu(6, 6),
        behind_a_port(stub(4, 4)),
        behind_a_port(edu(4 + 2, 5)),
    ];
    World::new(machine(Model::Scalable, devices))
}

/// Answers what is asked for all of the bus by a node: flags and the devices' ids.
fn ids(node: &Fd) -> (u32, [i32; 3]) {
    let (answer, all) = info(node, 3);
    assert_eq!((answer, all[2]), (Ok(0), 3));
    (all[1], [all[3], all[5], all[7]].map(|id| id as i32))
}

fn info(device: &Fd, room: u32) -> (Result<i32, Errno>, [u32; 16]) {
    let mut info = [0u32; 16];
    info[0] = 12 + 8 * room;
    let answer = device.ioctl_with(vfio::DEVICE_GET_PCI_HOT_RESET_INFO, &mut info);
    (answer, info)
}

fn reset(device: &Fd, groups: &[i32]) -> Result<i32, Errno> {
    let mut request = vec![16i32, 0, groups.len() as i32];
    request.extend(groups);
    device.ioctl_with(vfio::DEVICE_PCI_HOT_RESET, &mut request[..])
}

#[test]
fn hot_reset_info_names_every_function_of_the_bus_by_slot() {
    let world = world();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:05:04.0").unwrap();
    let (answer, all) = info(&device, 2);
    assert_eq!(
        (answer, all[2], all[3]),
        (Err(Errno::ENOSPC), 3, 0),
        "too small: how many, none of them"
    );
    let (answer, all) = info(&device, 3);
    assert_eq!((answer, all[2]), (Ok(0), 3));
    let listed: Vec<(u32, u32)> = all[3..9]
        .chunks(2)
        .map(|pair| (pair[0], pair[1] >> 16))
        .collect();
    assert_eq!(listed, [(4, 0x2005), (5, 0x2805), (5, 0x3005)]);
}

#[test]
fn nothing_above_a_root_bus_resets_its_devices() {
    let world = world();
    let (_container, group) = world.joined(6, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:00:06.0").unwrap();
    assert_eq!(info(&device, 3).0, Err(Errno::ENODEV));
    assert_eq!(reset(&device, &[group.number()]), Err(Errno::ENODEV));
    assert_eq!(
        reset(&device, &[]),
        Err(Errno::EINVAL),
        "the array is looked at first"
    );
}

#[test]
fn a_hot_reset_takes_every_function_of_the_bus_along() {
    let world = world();
    let (container, four) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let five = world.group(5).unwrap();
    five.set_container(&container).unwrap();
    let stub = four.device("0000:05:04.0").unwrap();
    let edus = [5, 6].map(|slot| five.device(&format!("0000:05:{slot:02x}.0")).unwrap());
    let memory = crate::support::memory::Memory::pages(1);
    container.map(0x10000, memory.base(), 4096, RW).unwrap();
    for edu in &edus {
        edu.store(4, 4, 0x1234_5678);
        edu.bus_master(true);
    }
    assert_eq!(
        reset(&stub, &[four.number()]),
        Err(Errno::EINVAL),
        "group 5 would suffer unasked"
    );
    assert_eq!(
        edus[0].load(4, 4),
        !0x1234_5678 & 0xffff_ffff,
        "and did not"
    );
    assert_eq!(reset(&stub, &[five.number(), four.number()]), Ok(0));
    for edu in &edus {
        assert_eq!(edu.load(4, 4), 0, "registers are as after power-on");
        assert_eq!(edu.config(4, 2) & 4, 4, "configuration space stays");
    }
    assert_eq!(container.unmap(0x10000, 4096), Ok(4096));
}

#[test]
fn only_open_group_files_count_and_no_more_than_there_are_devices() {
    let world = world();
    let (container, four) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let five = world.group(5).unwrap();
    let (a, b) = (four.number(), five.number());
    let device = four.device("0000:05:04.0").unwrap();
    assert_eq!(reset(&device, &[a, b]), Ok(0), "in no container, but held");
    assert_eq!(reset(&device, &[a, b, a]), Ok(0));
    assert_eq!(reset(&device, &[a, b, a, b]), Err(Errno::EINVAL));
    assert_eq!(reset(&device, &[a, container.number()]), Err(Errno::EINVAL));
    assert_eq!(reset(&device, &[a, device.number()]), Err(Errno::EINVAL));
    assert_eq!(reset(&device, &[a, -1]), Err(Errno::EBADF));
}

#[test]
fn a_function_without_vfio_is_named_and_stands_in_the_way_and_one_that_left_does_not() {
    let world = world();
    let (_container, four) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let five = world.group(5).unwrap();
    let device = four.device("0000:05:04.0").unwrap();
    let all = [four.number(), five.number()];
    world.bind("0000:05:05.0", "pci-stub").unwrap_err();
    world.unbind("0000:05:05.0").unwrap();
    assert_eq!(info(&device, 3).1[2], 3, "it is on the bus");
    assert_eq!(reset(&device, &all), Err(Errno::EINVAL));
    world
        .write("/sys/bus/pci/devices/0000:05:05.0/remove", "1")
        .unwrap();
    assert_eq!(info(&device, 3).1[2], 2);
    assert_eq!(reset(&device, &all), Ok(0));
}

/// The nodes of `world`: the stub of group 4, the edus of group 5.
const STUB: usize = 2;
const EDUS: [usize; 2] = [0, 3];
const DEV_ID: u32 = vfio::PCI_HOT_RESET_FLAG_DEV_ID;
const OWNED: u32 = vfio::PCI_HOT_RESET_FLAG_DEV_ID_OWNED;

#[test]
fn by_a_node_devices_are_named_by_their_ids_and_owned_with_their_group() {
    let world = world();
    let iommu = world.iommu();
    let (stub, id) = world.bound(STUB, &iommu);
    let (answer, all) = info(&stub, 2);
    assert_eq!((answer, all[1], all[2]), (Err(Errno::ENOSPC), 0, 3));
    let nobodys = vfio::PCI_DEVID_NOT_OWNED;
    assert_eq!(ids(&stub), (DEV_ID, [id as i32, nobodys, nobodys]));
    let other = world.iommu();
    let (edu, _) = world.bound(EDUS[1], &other);
    assert_eq!(
        ids(&stub),
        (DEV_ID, [id as i32, nobodys, nobodys]),
        "another iommufd's"
    );
    drop(edu);
    let (edu, second) = world.bound(EDUS[1], &iommu);
    let all = [id as i32, vfio::PCI_DEVID_OWNED, second as i32];
    assert_eq!(ids(&stub), (DEV_ID | OWNED, all));
    assert_eq!(ids(&edu), (DEV_ID | OWNED, all));
    world.unbind("0000:05:05.0").unwrap();
    assert_eq!(
        ids(&stub),
        (DEV_ID, [all[0], nobodys, all[2]]),
        "not VFIO's"
    );
}

#[test]
fn a_node_resets_what_its_iommufd_owns_and_takes_no_group_files() {
    let world = world();
    let iommu = world.iommu();
    let (stub, _) = world.bound(STUB, &iommu);
    assert_eq!(
        reset(&stub, &[]),
        Err(Errno::EINVAL),
        "group 5 would suffer unasked"
    );
    let five = world.group(5).unwrap();
    assert_eq!(reset(&stub, &[five.number()]), Err(Errno::EINVAL));
    drop(five);
    let (edu, _) = world.bound(EDUS[0], &iommu);
    edu.store(4, 4, 0x1234_5678);
    assert_eq!(reset(&stub, &[stub.number()]), Err(Errno::EINVAL));
    assert_eq!(edu.load(4, 4), !0x1234_5678 & 0xffff_ffff);
    assert_eq!(reset(&stub, &[]), Ok(0));
    assert_eq!(edu.load(4, 4), 0, "registers are as after power-on");
    world.unbind("0000:05:06.0").unwrap();
    assert_eq!(reset(&stub, &[]), Err(Errno::EINVAL), "not VFIO's");
}

#[test]
fn a_node_on_a_root_bus_has_no_hot_reset() {
    let world = world();
    let (edu, _) = world.bound(1, &world.iommu());
    assert_eq!(info(&edu, 3).0, Err(Errno::ENODEV));
    assert_eq!(reset(&edu, &[]), Err(Errno::ENODEV));
    assert_eq!(
        reset(&edu, &[edu.number()]),
        Err(Errno::EINVAL),
        "looked at first"
    );
}

#[test]
fn a_group_with_an_iommufd_for_its_container_resets_by_group_files() {
    let world = world();
    let iommu = world.iommu();
    let groups = [4, 5].map(|number| world.group(number).unwrap());
    let files = [groups[0].number(), groups[1].number()];
    groups[0].set_container(&iommu.fd).unwrap();
    let stub = groups[0].device("0000:05:04.0").unwrap();
    let (answer, all) = info(&stub, 3);
    assert_eq!((answer, all[1]), (Ok(0), 0));
    assert_eq!([all[3], all[5], all[7]], [4, 5, 5]);
    assert_eq!(reset(&stub, &[]), Err(Errno::EINVAL));
    assert_eq!(reset(&stub, &files), Ok(0));
}
