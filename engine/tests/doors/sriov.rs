//! Virtual functions: they come and go by writes to sysfs, work as controllers of their own, and ask for a token.

use std::fs;

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{Layer, Machine, resolve, spec};

use crate::support::memory::address_of;
use crate::support::{Fd, World};

const PHYSICAL: &str = "0000:01:00.0";
const FIRST: &str = "0000:01:00.1";
const SECOND: &str = "0000:01:00.2";
const TOKEN: &str = "52ac9bff-3a88-4fbd-901a-0d767c3b6c97";
const OTHER: &str = "88594674-90a0-47a9-aea8-9d9b352ac08a";

/// Group 1 is a controller with up to three virtual functions, which are groups 3, 4 and 5. Group 2 is an edu.
fn machine() -> Machine {
    let device = |flag| spec::device(flag).unwrap();
    let devices = vec![device("nvme,size=1M,vfs=3"), device("edu,group=2")];
    resolve(&[Layer {
        devices,
        ..Layer::default()
    }])
    .unwrap()
}

fn world() -> World {
    World::new(machine())
}

fn show(world: &World, path: &str) -> String {
    let text = fs::read_to_string(world.place(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn of(bdf: &str, name: &str) -> String {
    format!("/sys/devices/pci0000:00/{bdf}/{name}")
}

fn set_numvfs(world: &World, number: &str) -> Result<(), Errno> {
    world.write(&of(PHYSICAL, "sriov_numvfs"), number)
}

fn allow(world: &World) {
    let parameter = "/sys/module/vfio_pci/parameters/enable_sriov";
    world.write(parameter, "Y").unwrap();
}

fn exists(world: &World, bdf: &str) -> bool {
    world.place(&format!("/sys/bus/pci/devices/{bdf}")).exists()
}

/// The container keeps what is opened alive: a device of `group`.
fn open(world: &World, group: u32, name: &str) -> Result<(Fd, Fd, Fd), Errno> {
    let (container, group) = (world.container(), world.group(group)?);
    group.set_container(&container)?;
    container.ioctl(vfio::SET_IOMMU, vfio::TYPE1V2_IOMMU)?;
    let device = group.device(name)?;
    Ok((device, group, container))
}

fn with(bdf: &str, token: &str) -> String {
    format!("{bdf} vf_token={token}")
}

#[test]
fn virtual_functions_appear_and_disappear_by_a_write() {
    let world = world();
    assert_eq!(show(&world, &of(PHYSICAL, "sriov_totalvfs")), "3\n");
    assert!(!exists(&world, FIRST));
    assert_eq!(world.group(3).err(), Some(Errno::ENODEV));
    allow(&world);
    set_numvfs(&world, "2").unwrap();
    assert_eq!(show(&world, &of(PHYSICAL, "sriov_numvfs")), "2\n");
    assert_eq!(show(&world, &of(FIRST, "driver_override")), "vfio-pci\n");
    assert!(exists(&world, SECOND) && !exists(&world, "0000:01:00.3"));
    let link = |from: String| {
        let real = world.place(&from).canonicalize().unwrap();
        real.file_name().unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(link(of(PHYSICAL, "virtfn1")), SECOND);
    assert_eq!(link(of(SECOND, "physfn")), PHYSICAL);
    assert_eq!(link(of(SECOND, "driver")), "vfio-pci");
    drop(world.group(4).unwrap());
    assert_eq!(
        world.group(5).err(),
        Some(Errno::ENODEV),
        "the third is not there"
    );
    set_numvfs(&world, "0").unwrap();
    assert!(!exists(&world, FIRST) && !exists(&world, SECOND));
    assert_eq!(world.group(4).err(), Some(Errno::ENODEV));
    assert!(!world.place(&of(PHYSICAL, "virtfn1")).exists());
}

#[test]
fn numbers_that_cannot_be_are_refused_and_change_nothing() {
    let world = world();
    assert_eq!(
        set_numvfs(&world, "1"),
        Err(Errno::ENOENT),
        "enable_sriov is off"
    );
    allow(&world);
    for bad in ["", "x", "-1", "65536", "1 "] {
        assert_eq!(set_numvfs(&world, bad), Err(Errno::EINVAL), "{bad:?}");
    }
    assert_eq!(set_numvfs(&world, "4"), Err(Errno::ERANGE));
    assert_eq!(set_numvfs(&world, "0"), Ok(()), "as it is");
    assert!(!exists(&world, FIRST));
    set_numvfs(&world, "1").unwrap();
    assert_eq!(set_numvfs(&world, "2"), Err(Errno::EBUSY));
    assert_eq!(set_numvfs(&world, "0x1"), Ok(()), "as it is");
    assert!(!exists(&world, SECOND));
}

#[test]
fn a_machine_may_begin_with_sriov_allowed() {
    let mut machine = machine();
    machine.vfio.enable_sriov = true;
    let world = World::new(machine);
    assert_eq!(set_numvfs(&world, "1"), Ok(()));
    assert!(exists(&world, FIRST));
}

#[test]
fn a_driver_without_sriov_has_no_virtual_functions() {
    let world = world();
    allow(&world);
    set_numvfs(&world, "1").unwrap();
    world
        .write("/sys/bus/pci/drivers/vfio-pci/unbind", PHYSICAL)
        .unwrap();
    assert!(!exists(&world, FIRST), "they go with vfio-pci");
    assert_eq!(show(&world, &of(PHYSICAL, "sriov_numvfs")), "0\n");
    assert_eq!(set_numvfs(&world, "1"), Err(Errno::ENOENT), "no driver");
    world
        .write(&of(PHYSICAL, "driver_override"), "pci-stub")
        .unwrap();
    world.write("/sys/bus/pci/drivers_probe", PHYSICAL).unwrap();
    world
        .write(&of(PHYSICAL, "sriov_drivers_autoprobe"), "0")
        .unwrap();
    set_numvfs(&world, "1").unwrap();
    assert!(world.driver(FIRST).is_none());
    assert_eq!(show(&world, &of(FIRST, "driver_override")), "(null)\n");
}

#[test]
fn vfio_takes_no_physical_function_that_has_virtual_ones() {
    let world = world();
    world.unbind(PHYSICAL).unwrap();
    let bind = |driver| world.bind(PHYSICAL, driver);
    assert_eq!(bind("pci-stub"), Ok(()));
    set_numvfs(&world, "1").unwrap();
    world.unbind(PHYSICAL).unwrap();
    assert!(exists(&world, FIRST), "they stay without a driver");
    assert_eq!(bind("vfio-pci"), Err(Errno::EBUSY));
    assert_eq!(world.driver(PHYSICAL), None);
    assert_eq!(bind("pci-stub"), Ok(()));
    set_numvfs(&world, "0").unwrap();
    world.unbind(PHYSICAL).unwrap();
    assert_eq!(bind("vfio-pci"), Ok(()));
}

#[test]
fn a_process_that_is_running_sees_virtual_functions_that_another_makes() {
    let world = world();
    let (device, _group, _container) = open(&world, 1, PHYSICAL).unwrap();
    assert_eq!(device.config(0x110, 2), 0);
    let beside = world.beside();
    allow(&beside);
    set_numvfs(&beside, "2").unwrap();
    assert_eq!(
        (device.config(0x108, 2), device.config(0x110, 2)),
        (9, 2),
        "enabled"
    );
    drop(world.group(3).unwrap());
    set_numvfs(&beside, "0").unwrap();
    assert_eq!((device.config(0x108, 2), device.config(0x110, 2)), (0, 0));
}

#[test]
fn the_capability_can_be_read_and_not_written() {
    let world = world();
    let (device, _group, _container) = open(&world, 1, PHYSICAL).unwrap();
    assert_eq!(device.config(0x100, 4), 0x0001_0010);
    assert_eq!((device.config(0x10c, 2), device.config(0x10e, 2)), (3, 3));
    assert_eq!((device.config(0x114, 2), device.config(0x116, 2)), (1, 1));
    assert_eq!(device.config(0x124, 4), 4, "a 64-bit BAR");
    device.set_config(0x110, 2, 3);
    device.set_config(0x108, 2, 9);
    assert_eq!((device.config(0x108, 2), device.config(0x110, 2)), (0, 0));
    assert!(!exists(&world, FIRST));
}

#[test]
fn a_virtual_function_has_no_intx_and_always_decodes_memory() {
    let world = world();
    allow(&world);
    set_numvfs(&world, "1").unwrap();
    let _physical = open(&world, 1, &with(PHYSICAL, TOKEN)).unwrap();
    let (device, _group, _container) = open(&world, 3, &with(FIRST, TOKEN)).unwrap();
    assert_eq!(device.config(0x3d, 1), 0, "no interrupt pin");
    assert_eq!(
        device.config(0x100, 4),
        0,
        "no virtual functions of its own"
    );
    assert_eq!(device.config(4, 2), 2, "memory, and nothing else yet");
    let version = device.load(8, 4);
    device.set_config(4, 2, 0);
    assert_eq!(device.load(8, 4), version);
    assert_ne!(version, 0xffff_ffff);
    let (edu, _group, _container) = open(&world, 2, "0000:00:04.0").unwrap();
    edu.set_config(4, 2, 0);
    assert_eq!(edu.try_load(0, 4), None, "another function does not");
}

#[test]
fn a_virtual_function_asks_for_the_token_of_its_physical_one() {
    let world = world();
    allow(&world);
    set_numvfs(&world, "2").unwrap();
    let opened = |group, name: &str| open(&world, group, name).map(drop);
    assert_eq!(opened(3, FIRST), Err(Errno::EACCES));
    assert_eq!(
        opened(3, &with(FIRST, TOKEN)),
        Err(Errno::EACCES),
        "nobody knows it"
    );
    assert_eq!(opened(1, &with(PHYSICAL, TOKEN)), Ok(()));
    assert_eq!(
        opened(3, &with(FIRST, TOKEN)),
        Ok(()),
        "also when the physical one is closed"
    );
    assert_eq!(opened(3, &with(FIRST, OTHER)), Err(Errno::EACCES));
    assert_eq!(opened(3, FIRST), Err(Errno::EACCES));
    assert_eq!(
        opened(1, &with(PHYSICAL, OTHER)),
        Ok(()),
        "nobody uses the first token"
    );
    let user = open(&world, 3, &with(FIRST, OTHER)).unwrap();
    assert_eq!(
        opened(1, PHYSICAL),
        Err(Errno::EACCES),
        "now it counts here too"
    );
    assert_eq!(opened(1, &with(PHYSICAL, TOKEN)), Err(Errno::EACCES));
    assert_eq!(opened(1, &with(PHYSICAL, OTHER)), Ok(()));
    drop(user);
    assert_eq!(opened(1, PHYSICAL), Ok(()));
}

#[test]
fn a_node_takes_the_token_at_its_binding() {
    let world = world();
    allow(&world);
    set_numvfs(&world, "1").unwrap();
    let iommu = world.iommu();
    let bind = |device: &Fd, token: Option<[u8; 16]>| {
        let mut token = token;
        let pointer = token.as_mut().map_or(0, address_of);
        let mut bind = vfio::DeviceBindIommufd {
            argsz: size_of::<vfio::DeviceBindIommufd>() as u32,
            flags: u32::from(pointer != 0) * vfio::DEVICE_BIND_FLAG_TOKEN,
            iommufd: iommu.fd.number(),
            token_uuid_ptr: pointer,
            ..Default::default()
        };
        device.ioctl_with(vfio::DEVICE_BIND_IOMMUFD, &mut bind)
    };
    let (physical, first) = (world.node(0), world.node(2));
    assert_eq!(
        bind(&first, Some([7; 16])),
        Err(Errno::EACCES),
        "nobody knows it"
    );
    assert_eq!(bind(&physical, Some([7; 16])), Ok(0));
    assert_eq!(bind(&first, None), Err(Errno::EACCES));
    assert_eq!(bind(&first, Some([8; 16])), Err(Errno::EACCES));
    assert_eq!(
        bind(&first, Some([7; 16])),
        Ok(0),
        "what was refused is free"
    );
    drop(physical);
    let physical = world.node(0);
    assert_eq!(
        bind(&physical, Some([8; 16])),
        Err(Errno::EACCES),
        "the first is open"
    );
    drop(first);
    assert_eq!(bind(&physical, Some([8; 16])), Ok(0));
    assert_eq!(bind(&world.node(2), Some([7; 16])), Err(Errno::EACCES));
}

#[test]
fn a_physical_function_has_no_hot_reset_while_there_are_virtual_ones() {
    let world = world();
    allow(&world);
    let iommu = world.iommu();
    let (physical, id) = world.bound(0, &iommu);
    let reset = || {
        let mut request = [12, 0, 0];
        physical.ioctl_with(vfio::DEVICE_PCI_HOT_RESET, &mut request)
    };
    let ids = || {
        let mut info = [28u32, 0, 0, 0, 0, 0, 0];
        physical
            .ioctl_with(vfio::DEVICE_GET_PCI_HOT_RESET_INFO, &mut info)
            .unwrap();
        (info[1], info[2], info[3], info[5])
    };
    assert_eq!((reset(), ids()), (Ok(0), (3, 1, id, 0)));
    set_numvfs(&world, "1").unwrap();
    assert_eq!((reset(), ids()), (Err(Errno::EINVAL), (1, 2, id, u32::MAX)));
    set_numvfs(&world, "0").unwrap();
    assert_eq!((reset(), ids()), (Ok(0), (3, 1, id, 0)));
}

#[test]
fn a_token_counts_in_all_processes_of_the_run() {
    let world = world();
    let beside = world.beside();
    allow(&world);
    set_numvfs(&world, "1").unwrap();
    let physical = open(&world, 1, &with(PHYSICAL, TOKEN)).unwrap();
    let user = open(&beside, 3, &with(FIRST, TOKEN)).unwrap();
    drop(physical);
    assert_eq!(open(&world, 1, PHYSICAL).err(), Some(Errno::EACCES));
    drop(user);
    assert!(open(&world, 1, PHYSICAL).is_ok());
}

#[test]
fn a_token_that_is_not_asked_for_is_refused() {
    let world = world();
    let edu = with("0000:00:04.0", TOKEN);
    assert_eq!(open(&world, 2, &edu).err(), Some(Errno::EINVAL));
    for bad in [
        "vf_token=",
        "vf_token=52ac9bff",
        "token=52ac9bff-3a88-4fbd-901a-0d767c3b6c97",
        "vf_token=52ac9bff-3a88-4fbd-901a-0d767c3b6c97x",
    ] {
        let name = format!("{PHYSICAL} {bad}");
        assert_eq!(open(&world, 1, &name).err(), Some(Errno::EINVAL), "{bad}");
    }
    let twice = format!("{} vf_token={TOKEN}", with(PHYSICAL, TOKEN));
    assert_eq!(open(&world, 1, &twice).err(), Some(Errno::EINVAL));
    assert!(open(&world, 1, &format!("{PHYSICAL}   vf_token={TOKEN}  ")).is_ok());
}

#[test]
fn the_feature_sets_a_token_on_physical_functions_alone() {
    let world = world();
    allow(&world);
    set_numvfs(&world, "1").unwrap();
    let (physical, _group, _container) = open(&world, 1, &with(PHYSICAL, TOKEN)).unwrap();
    let set = |device: &Fd, how: u32, argsz: u32| {
        let mut feature = [
            argsz,
            how,
            0x7446_5988,
            0xa947_a090,
            0x9d9d_a8ae,
            0x8ac0_2a35,
        ];
        device.ioctl_with(vfio::DEVICE_FEATURE, &mut feature)
    };
    let (get, set_, probe) = (1 << 16, 1 << 17, 1 << 18);
    assert_eq!(set(&physical, get, 24), Err(Errno::EINVAL));
    assert_eq!(set(&physical, set_, 23), Err(Errno::EINVAL));
    assert_eq!(set(&physical, set_ | probe, 8), Ok(0));
    let token = "88594674-90a0-47a9-aea8-9d9d352ac08a";
    assert_eq!(
        open(&world, 3, &with(FIRST, token)).err(),
        Some(Errno::EACCES)
    );
    assert_eq!(set(&physical, set_, 24), Ok(0));
    let (part, _group, _container) = open(&world, 3, &with(FIRST, token)).unwrap();
    assert_eq!(set(&part, set_, 24), Err(Errno::ENOTTY));
}
