//! Attributes of devices and modules that keep what is written: what each does, and what is refused because nothing
//! would follow it.

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{DeviceConfig, Machine};

use crate::support::memory::Memory;
use crate::support::vfio::{Event, RW};
use crate::support::{Fd, Model, World, edu, machine, stub};

const EDU: &str = "0000:00:04.0";
const STUB: &str = "0000:00:05.0";
const TYPE1: &str = "/sys/module/vfio_iommu_type1/parameters";

fn described() -> Machine {
    machine(Model::Scalable, [edu(4, 4), stub(5, 5)])
}

fn world() -> World {
    World::new(described())
}

fn of(bdf: &str, name: &str) -> String {
    format!("/sys/bus/pci/devices/{bdf}/{name}")
}

/// What a file shows, without its newline.
fn shown(world: &World, path: &str) -> String {
    let text = std::fs::read_to_string(world.place(path)).expect("the attribute");
    text.trim_end_matches('\n').to_owned()
}

/// What a file shows after each of these writes.
fn shows(world: &World, path: &str, writes: &[(&str, &str)]) {
    for (written, expected) in writes {
        assert_eq!(world.write(path, written), Ok(()), "{written}");
        assert_eq!(shown(world, path), *expected, "{written}");
    }
}

/// None of these writes is taken, and none changes what the file shows.
fn refuses(world: &World, path: &str, errno: Errno, writes: &[&str]) {
    let before = std::fs::read(world.place(path)).ok();
    for written in writes {
        assert_eq!(world.write(path, written), Err(errno), "{path} {written:?}");
        let after = std::fs::read(world.place(path)).ok();
        assert_eq!(before, after, "{path} {written:?}");
    }
}

/// The stub, opened, with memory decoding on; its group and container.
fn opened(world: &World) -> (Fd, Fd, Fd) {
    let (container, group) = world.joined(5, vfio::TYPE1V2_IOMMU);
    let device = group.device(STUB).unwrap();
    device.set_config(4, 2, 2);
    (device, group, container)
}

/// Where the stub's MSI-X table lies: eight vectors before their pending bits, at the end of its memory.
const TABLE: u64 = 0x20000 - 8 - 8 * 16;

fn info_flags(device: &Fd) -> u32 {
    let mut info = vfio::DeviceInfo {
        argsz: 16,
        ..Default::default()
    };
    device
        .ioctl_with(vfio::DEVICE_GET_INFO, &mut info)
        .expect("DEVICE_GET_INFO");
    info.flags
}

#[test]
fn a_reset_by_sysfs_resets_the_device_that_another_process_has_open() {
    let world = world();
    let other = world.beside();
    let (device, _group, _container) = opened(&world);
    device.set_config(0x3c, 1, 0x77);
    device.store(TABLE, 4, 0xfee0_0000);
    assert_eq!(device.load(TABLE, 4), 0xfee0_0000);
    refuses(
        &other,
        &of(STUB, "reset"),
        Errno::EINVAL,
        &["0", "2", "x", ""],
    );
    assert_eq!(device.load(TABLE, 4), 0xfee0_0000, "nothing was asked");
    assert_eq!(other.write(&of(STUB, "reset"), "1"), Ok(()));
    assert_eq!(device.load(TABLE, 4), 0);
    assert_eq!(device.config(0x3c, 1), 0x77, "it is saved and restored");
    device.store(TABLE, 4, 0xfee0_1000);
    assert_eq!(device.load(TABLE, 4), 0xfee0_1000, "once");
}

#[test]
fn a_device_that_nobody_has_open_can_be_reset_and_one_without_a_way_has_no_reset() {
    let world = world();
    assert_eq!(world.write(&of(STUB, "reset"), "1"), Ok(()));
    for name in ["reset", "reset_method"] {
        assert!(!world.place(&of(EDU, name)).exists());
        assert!(world.place(&of(STUB, name)).exists());
    }
    let (device, _group, _container) = opened(&world);
    device.store(TABLE, 4, 0xfee0_0000);
    assert_eq!(
        device.load(TABLE, 4),
        0xfee0_0000,
        "that was before its time"
    );
}

#[test]
fn a_device_whose_ways_of_reset_are_switched_off_is_not_reset() {
    let world = world();
    let method = of(STUB, "reset_method");
    refuses(&world, &method, Errno::EINVAL, &["bus", "flr bus", "x"]);
    shows(&world, &method, &[("flr", "flr"), ("", "")]);
    assert_eq!(world.write(&of(STUB, "reset"), "1"), Err(Errno::ENOTTY));
    let open = || opened(&world);
    let (device, ..) = open();
    assert_eq!(info_flags(&device) & vfio::DEVICE_FLAGS_RESET, 0);
    let answer = device.ioctl(vfio::DEVICE_RESET, 0);
    assert_eq!(answer, Err(Errno::EINVAL));
    drop(device);
    shows(&world, &method, &[("default", "flr")]);
    let (device, ..) = open();
    assert_ne!(info_flags(&device) & vfio::DEVICE_FLAGS_RESET, 0);
    assert_eq!(device.ioctl(vfio::DEVICE_RESET, 0), Ok(0));
}

#[test]
fn a_device_without_msi_gets_no_vectors_and_keeps_those_it_has() {
    let world = world();
    let (msi_bus, event) = (of(STUB, "msi_bus"), Event::new());
    let (device, _group, _container) = opened(&world);
    let set = |index: u32, start: u32| device.eventfds(index, start, &[event.number()]);
    let none = |index| device.irqs(index, vfio::IRQ_SET_ACTION_TRIGGER, 0, 0);
    shows(&world, &msi_bus, &[("0", "0")]);
    for index in [vfio::PCI_MSI_IRQ_INDEX, vfio::PCI_MSIX_IRQ_INDEX] {
        assert_eq!(set(index, 0), Err(Errno::EINVAL));
    }
    assert_eq!(set(vfio::PCI_INTX_IRQ_INDEX, 0), Ok(0), "INTx is another");
    none(vfio::PCI_INTX_IRQ_INDEX).unwrap();
    shows(&world, &msi_bus, &[("7", "1")]);
    assert_eq!(set(vfio::PCI_MSIX_IRQ_INDEX, 0), Ok(0));
    shows(&world, &msi_bus, &[("0", "0")]);
    assert_eq!(set(vfio::PCI_MSIX_IRQ_INDEX, 0), Ok(0), "it has them");
    refuses(&world, &msi_bus, Errno::EINVAL, &["x", "", "-1"]);
}

#[test]
fn a_device_is_near_the_processors_of_its_node() {
    let world = world();
    let node = of(EDU, "numa_node");
    let near = |name| shown(&world, &of(EDU, name));
    let all = near("local_cpulist");
    refuses(
        &world,
        &node,
        Errno::EINVAL,
        &["-2", "99999", "x", "", "0x1 "],
    );
    let Ok(cpus) = std::fs::read_to_string("/sys/devices/system/node/node0/cpulist") else {
        return;
    };
    shows(&world, &node, &[("0", "0")]);
    assert_eq!(near("local_cpulist"), cpus.trim());
    shows(&world, &node, &[("-1", "-1")]);
    assert_eq!(near("local_cpulist"), all);
}

#[test]
fn yes_and_no_of_a_device_are_kept_as_such() {
    let world = world();
    for name in ["d3cold_allowed", "broken_parity_status"] {
        let path = of(EDU, name);
        shows(&world, &path, &[("0", "0"), ("0x10", "1"), ("1", "1")]);
        refuses(&world, &path, Errno::EINVAL, &["x", "", "y", "-1"]);
    }
}

#[test]
fn an_event_is_one_that_the_kernel_knows() {
    let world = world();
    let path = of(EDU, "uevent");
    for event in [
        "add",
        "change",
        "change 0123abcd-0123-0123-0123-0123456789ab A=B",
    ] {
        let before = shown(&world, &path);
        assert_eq!(world.write(&path, event), Ok(()), "{event}");
        assert_eq!(shown(&world, &path), before);
    }
    refuses(&world, &path, Errno::EINVAL, &["", "changed", "1"]);
}

#[test]
fn a_device_is_switched_on_by_its_driver_alone() {
    let world = World::new(machine(
        Model::Scalable,
        [
            edu(4, 4),
            DeviceConfig {
                driver: None,
                ..stub(5, 5)
            },
        ],
    ));
    refuses(&world, &of(EDU, "enable"), Errno::EBUSY, &["1", "0"]);
    refuses(&world, &of(EDU, "enable"), Errno::EINVAL, &["x"]);
    refuses(&world, &of(STUB, "enable"), Errno::EPERM, &["1", "0"]);
}

#[test]
fn a_container_takes_the_limit_of_mappings_that_holds_when_its_address_space_is_chosen() {
    let world = world();
    let limit = format!("{TYPE1}/dma_entry_limit");
    let (before, _group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    shows(&world, &limit, &[("1", "1")]);
    let (after, _group) = world.joined(5, vfio::TYPE1V2_IOMMU);
    assert_eq!((before.available(), after.available()), (65535, 1));
    let memory = Memory::pages(1);
    let map = |container: &Fd, iova| container.map(iova, memory.base(), 4096, RW);
    assert_eq!(map(&after, 0x1000), Ok(0));
    assert_eq!(map(&after, 0x3000), Err(Errno::ENOSPC));
    assert_eq!((map(&before, 0x1000), map(&before, 0x3000)), (Ok(0), Ok(0)));
    refuses(&world, &limit, Errno::EINVAL, &["x", "-1"]);
    refuses(&world, &limit, Errno::ERANGE, &["4294967296"]);
}

#[test]
fn a_parameter_that_nothing_follows_stays_as_it_is() {
    let world = world();
    for path in [
        "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        "/sys/module/vfio_pci/parameters/disable_idle_d3",
        "/sys/module/vfio_pci/parameters/nointxmask",
        "/sys/module/vfio_iommu_type1/parameters/disable_hugepages",
    ] {
        refuses(&world, path, Errno::EPERM, &["Y", "1"]);
        refuses(&world, path, Errno::EINVAL, &["x", ""]);
        shows(&world, path, &[("N", "N"), ("0", "N")]);
    }
    let unsafe_interrupts = format!("{TYPE1}/allow_unsafe_interrupts");
    shows(&world, &unsafe_interrupts, &[("Y", "Y"), ("off", "N")]);
}
