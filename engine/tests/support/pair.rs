//! A group of two edus and one more alone: what the rules of groups are shown by.

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{DeviceConfig, Machine};

use super::edu::{load, store};
use super::iommufd::{FIXED, Iommu};
use super::memory::Memory;
use super::{Fd, Model, World, edu, machine};

/// The first of the pair.
pub const A: &str = "0000:00:04.0";
/// The second.
pub const B: &str = "0000:00:05.0";
/// The one alone.
pub const ALONE: &str = "0000:00:06.0";
/// The group of the pair.
pub const PAIR: u32 = 4;
/// The group of the one alone.
pub const SINGLE: u32 = 6;
/// Where tests map memory.
pub const IOVA: u64 = 0x10000;

/// A in the pair bound to vfio-pci, B to `driver`.
pub fn described(driver: Option<&str>) -> Machine {
    let b = DeviceConfig {
        driver: driver.map(str::to_owned),
        ..edu(5, PAIR)
    };
    machine(Model::Scalable, [edu(4, PAIR), b, edu(6, SINGLE)])
}

/// All bound to vfio-pci, with this rule for groups of several.
pub fn staged(stage: u8) -> World {
    let mut machine = described(Some("vfio-pci"));
    machine.vfio.multi_device_groups = stage;
    World::new(machine)
}

/// Is the group viable, as its status says?
pub fn is_viable(group: &Fd) -> bool {
    group.status() & vfio::GROUP_FLAGS_VIABLE != 0
}

/// Whether the pair can be claimed: what its status says, and SET_CONTAINER does.
pub fn claim(world: &World) -> Result<i32, Errno> {
    let group = world.group(PAIR).expect("the group's node");
    let said = is_viable(&group);
    let claimed = group.set_container(&world.container());
    assert_eq!(
        said,
        claimed.is_ok(),
        "the status says what SET_CONTAINER does"
    );
    claimed
}

/// A new address space that has this memory at [`IOVA`].
pub fn space(iommu: &Iommu, memory: &Memory) -> u32 {
    let ioas = iommu.ioas();
    iommu
        .map(ioas, FIXED, IOVA, memory.base(), 4096)
        .expect("IOAS_MAP");
    ioas
}

/// Does the edu's DMA to `iova` reach this page, both ways?
pub fn reaches_at(device: &Fd, iova: u64, memory: &Memory) -> bool {
    device.bus_master(true);
    memory.write(0, &[0x11; 64]);
    memory.write(2048, &[0; 64]);
    load(device, iova, 64);
    store(device, iova + 2048, 64);
    memory.read(2048, 64) == [0x11; 64]
}

/// The same at [`IOVA`].
pub fn reaches(device: &Fd, memory: &Memory) -> bool {
    reaches_at(device, IOVA, memory)
}
