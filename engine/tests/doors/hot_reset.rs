//! Hot reset by the files of the groups it takes along.

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
