//! The host's side: devices bound, unbound, removed and found again by writes to sysfs.

use std::path::Path;

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{DeviceConfig, Machine};

use crate::support::vfio::Event;
use crate::support::{Model, World, edu, machine, stub};

const EDU: &str = "0000:00:04.0";
const STUB: &str = "0000:00:05.0";
const PCI: &str = "/sys/bus/pci";
const DRIVERS: &str = "/sys/bus/pci/drivers";

/// An edu and a stub, each in a group of its own.
fn described() -> Machine {
    machine(Model::Scalable, [edu(4, 4), stub(5, 5)])
}

fn world() -> World {
    World::new(described())
}

/// The same with the edu changed.
fn with_edu(change: impl FnOnce(DeviceConfig) -> DeviceConfig) -> World {
    World::new(machine(Model::Scalable, [change(edu(4, 4)), stub(5, 5)]))
}

fn unbound() -> World {
    with_edu(|edu| DeviceConfig {
        driver: None,
        ..edu
    })
}

fn node(world: &World, group: u32) -> bool {
    world.place(&format!("/dev/vfio/{group}")).exists()
}

#[test]
fn an_unbound_device_is_no_drivers_and_its_group_has_no_node() {
    let world = world();
    assert_eq!(world.unbind(EDU), Ok(()));
    assert_eq!(world.driver(EDU), None);
    assert!(!world.place(&format!("{DRIVERS}/vfio-pci/{EDU}")).exists());
    assert!(!node(&world, 4) && node(&world, 5));
    assert_eq!(world.group(4).err(), Some(Errno::ENODEV));
    assert!(world.group(5).is_ok());
}

#[test]
fn a_device_bound_to_vfio_again_can_be_opened_again() {
    let world = world();
    world.unbind(EDU).unwrap();
    assert_eq!(world.bind(EDU, "vfio-pci"), Ok(()));
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"));
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    assert_eq!(group.device(EDU).unwrap().config(0, 4), 0x11e8_1234);
}

#[test]
fn a_bound_device_says_so_in_its_uevent() {
    let world = world();
    let uevent = || {
        let path = world.place(&format!("{PCI}/devices/{EDU}/uevent"));
        std::fs::read_to_string(path).unwrap()
    };
    assert!(uevent().starts_with("DRIVER=vfio-pci\nPCI_CLASS="));
    world.unbind(EDU).unwrap();
    assert!(uevent().starts_with("PCI_CLASS="));
}

#[test]
fn bind_wants_a_device_that_the_driver_matches_and_nobody_has() {
    let world = unbound();
    let bind = format!("{DRIVERS}/vfio-pci/bind");
    assert_eq!(world.write(&bind, EDU), Err(Errno::ENODEV), "no match");
    assert_eq!(world.write(&bind, "0000:00:06.0"), Err(Errno::ENODEV));
    assert_eq!(world.write(&bind, "x"), Err(Errno::ENODEV));
    assert_eq!(world.bind(EDU, "vfio-pci"), Ok(()));
    assert_eq!(world.write(&bind, EDU), Err(Errno::EBUSY), "bound already");
}

#[test]
fn unbind_wants_the_driver_that_has_the_device() {
    let world = world();
    let unbind = format!("{DRIVERS}/pci-stub/unbind");
    assert_eq!(world.write(&unbind, EDU), Err(Errno::ENODEV));
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"));
    world.unbind(EDU).unwrap();
    let unbind = format!("{DRIVERS}/vfio-pci/unbind");
    assert_eq!(world.write(&unbind, EDU), Err(Errno::ENODEV));
}

#[test]
fn an_override_decides_alone_until_it_is_taken_away() {
    let world = unbound();
    let path = format!("{PCI}/devices/{EDU}/driver_override");
    let shown = || std::fs::read_to_string(world.place(&path)).unwrap();
    assert_eq!(shown(), "(null)\n");
    world.write(&path, "pci-stub").unwrap();
    assert_eq!(shown(), "pci-stub\n");
    world
        .write(&format!("{DRIVERS}/vfio-pci/new_id"), "1234 11e8")
        .unwrap();
    assert_eq!(world.driver(EDU), None, "vfio-pci matches by identity only");
    world.write(&format!("{PCI}/drivers_probe"), EDU).unwrap();
    assert_eq!(world.driver(EDU).as_deref(), Some("pci-stub"));
    world.unbind(EDU).unwrap();
    world.write(&path, "").unwrap();
    assert_eq!(shown(), "(null)\n");
    world.write(&format!("{PCI}/drivers_probe"), EDU).unwrap();
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"));
    let long = "x".repeat(4095);
    assert_eq!(world.write(&path, &long), Err(Errno::EINVAL));
}

#[test]
fn a_probe_without_a_driver_that_wants_the_device_is_no_error() {
    let world = unbound();
    let probe = format!("{PCI}/drivers_probe");
    assert_eq!(world.write(&probe, EDU), Ok(()));
    assert_eq!(world.driver(EDU), None);
    assert_eq!(world.write(&probe, STUB), Ok(()), "bound already");
    assert_eq!(world.write(&probe, "0000:00:06.0"), Err(Errno::ENODEV));
}

#[test]
fn a_new_identity_binds_what_has_no_driver_and_is_known_once() {
    let world = unbound();
    let new = format!("{DRIVERS}/vfio-pci/new_id");
    for bad in ["", "1234", "x y", "1234 zz"] {
        assert_eq!(world.write(&new, bad), Err(Errno::EINVAL), "{bad}");
    }
    let with_data = "1234 11e8 ffffffff ffffffff 0 0 7";
    assert_eq!(world.write(&new, with_data), Err(Errno::EINVAL));
    assert_eq!(world.driver(EDU), None);
    assert_eq!(world.write(&new, "0x1234 0x11e8"), Ok(()));
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"));
    assert_eq!(world.write(&new, "1234 11e8"), Err(Errno::EEXIST));
    let remove = format!("{DRIVERS}/vfio-pci/remove_id");
    assert_eq!(world.write(&remove, "1234"), Err(Errno::EINVAL));
    assert_eq!(world.write(&remove, "1234 11e9"), Err(Errno::ENODEV));
    assert_eq!(world.write(&remove, "1234 11e8"), Ok(()));
    assert_eq!(world.write(&remove, "1234 11e8"), Err(Errno::ENODEV));
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"), "it stays");
    world.unbind(EDU).unwrap();
    let bind = format!("{DRIVERS}/vfio-pci/bind");
    assert_eq!(world.write(&bind, EDU), Err(Errno::ENODEV));
}

#[test]
fn a_removed_device_is_gone_from_everywhere_and_a_rescan_finds_it() {
    let world = unbound();
    let places = [
        format!("{PCI}/devices/{EDU}"),
        "/sys/kernel/iommu_groups/4".to_owned(),
        format!("/sys/devices/pci0000:00/{EDU}"),
    ];
    let there = || places.each_ref().map(|path| world.place(path).exists());
    assert_eq!(there(), [true; 3]);
    let remove = format!("{PCI}/devices/{EDU}/remove");
    assert_eq!(world.write(&remove, "x"), Err(Errno::EINVAL));
    assert_eq!(world.write(&remove, "0"), Ok(()));
    assert_eq!(there(), [true; 3]);
    assert_eq!(world.write(&remove, "1"), Ok(()));
    assert_eq!(there(), [false; 3]);
    let bind = format!("{DRIVERS}/vfio-pci/bind");
    assert_eq!(world.write(&bind, EDU), Err(Errno::ENODEV));
    assert_eq!(world.write(&format!("{PCI}/rescan"), "1"), Ok(()));
    assert_eq!(there(), [true; 3]);
    assert_eq!(world.driver(EDU), None);
    assert!(!node(&world, 4));
}

#[test]
fn a_device_that_appears_is_offered_to_drivers_unless_that_is_off() {
    let world = with_edu(|edu| DeviceConfig {
        present: false,
        ..edu
    });
    let device = |world: &World| world.place(&format!("{PCI}/devices/{EDU}")).exists();
    assert!(!device(&world) && !node(&world, 4));
    world
        .write(&format!("{DRIVERS}/vfio-pci/new_id"), "1234 11e8")
        .unwrap();
    world.write(&format!("{PCI}/rescan"), "1").unwrap();
    assert_eq!(world.driver(EDU).as_deref(), Some("vfio-pci"));
    world
        .write(&format!("{PCI}/devices/{EDU}/remove"), "1")
        .unwrap();
    assert!(!device(&world) && !node(&world, 4));
    world
        .write(&format!("{PCI}/drivers_autoprobe"), "0")
        .unwrap();
    world.write(&format!("{PCI}/rescan"), "1").unwrap();
    assert!(device(&world));
    assert_eq!(world.driver(EDU), None);
}

#[test]
fn what_takes_no_writes_says_so() {
    let world = world();
    for path in ["vendor", "resource", "modalias"] {
        let path = format!("{PCI}/devices/{EDU}/{path}");
        assert_eq!(world.write(&path, "1"), Err(Errno::EIO), "{path}");
    }
    let config = format!("{PCI}/devices/{EDU}/config");
    assert_eq!(world.write(&config, "1"), Err(Errno::EPERM));
    let run = world.place("/").parent().unwrap().to_owned();
    let gone = swiommu_engine::hostdrv::store(&run, "/sys/bus/pci/nothing", b"1");
    assert_eq!(gone, Err(Errno::ENODEV));
    let no_run = swiommu_engine::hostdrv::store(Path::new("/nonexistent"), "/sys/x", b"1");
    assert_eq!(no_run, Err(Errno::EIO));
}

/// Runs `work` in a thread and tells when it is done.
struct Elsewhere(std::thread::JoinHandle<Result<(), Errno>>);

impl Elsewhere {
    fn run(work: impl FnOnce() -> Result<(), Errno> + Send + 'static) -> Elsewhere {
        Elsewhere(std::thread::spawn(work))
    }

    fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    fn result(self) -> Result<(), Errno> {
        self.0.join().unwrap()
    }
}

#[test]
fn unbinding_an_open_device_asks_for_it_and_waits_until_it_is_closed() {
    let world = world();
    let other = world.beside();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device(EDU).unwrap();
    let request = Event::new();
    let index = vfio::PCI_REQ_IRQ_INDEX;
    device.eventfds(index, 0, &[request.number()]).unwrap();
    assert_eq!(request.count(), 0);
    let unbinding = Elsewhere::run(move || other.unbind(EDU));
    while request.count() == 0 {
        std::thread::yield_now();
    }
    assert!(!unbinding.is_done(), "it waits");
    assert_eq!(group.device(EDU).err(), Some(Errno::ENODEV), "no new opens");
    assert_eq!(device.config(0, 4), 0x11e8_1234, "what is open works on");
    drop(device);
    assert_eq!(unbinding.result(), Ok(()));
    assert_eq!(world.driver(EDU), None);
}

#[test]
fn removing_an_open_device_waits_too() {
    let world = world();
    let other = world.beside();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device(EDU).unwrap();
    let request = Event::new();
    let index = vfio::PCI_REQ_IRQ_INDEX;
    device.eventfds(index, 0, &[request.number()]).unwrap();
    let path = format!("{PCI}/devices/{EDU}/remove");
    let removing = Elsewhere::run(move || other.write(&path, "1"));
    while request.count() == 0 {
        std::thread::yield_now();
    }
    assert!(world.place(&format!("{PCI}/devices/{EDU}")).exists());
    drop(device);
    assert_eq!(removing.result(), Ok(()));
    assert!(!world.place(&format!("{PCI}/devices/{EDU}")).exists());
}

#[test]
fn an_open_group_file_without_its_group_answers_enodev_and_does_not_block_a_new_one() {
    let world = world();
    let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    world.unbind(EDU).unwrap();
    let mut status = vfio::GroupStatus { argsz: 8, flags: 0 };
    let asked = group.ioctl_with(vfio::GROUP_GET_STATUS, &mut status);
    assert_eq!(asked, Err(Errno::ENODEV));
    assert_eq!(group.set_container(&container), Err(Errno::ENODEV));
    assert_eq!(
        group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0),
        Err(Errno::EINVAL)
    );
    assert_eq!(world.bind(EDU, "nvme"), Ok(()), "its DMA is nobody's");
    world.unbind(EDU).unwrap();
    world.bind(EDU, "vfio-pci").unwrap();
    let (_container, second) = world.joined(4, vfio::TYPE1V2_IOMMU);
    assert!(second.device(EDU).is_ok());
}
