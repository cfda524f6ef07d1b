//! VFIO containers, groups, PCI devices and the type1 IOMMU (`include/uapi/linux/vfio.h`).

mod cdev;
mod container;
mod device;
mod dma_logging;
mod feature;
mod group;
mod irq;
mod migration;
mod type1;

pub use cdev::*;
pub use container::*;
pub use device::*;
pub use dma_logging::*;
pub use feature::*;
pub use group::*;
pub use irq::*;
pub use migration::*;
pub use type1::*;

use crate::commands::Commands;

/// `_IO(';', 100 + n)`: every VFIO command carries neither size nor direction.
const fn io(n: u32) -> u32 {
    0x3b00 | (100 + n)
}

/// What `VFIO_GET_API_VERSION` answers.
pub const API_VERSION: u32 = 0;

// Container.
/// `VFIO_GET_API_VERSION`
pub const GET_API_VERSION: u32 = io(0);
/// `VFIO_CHECK_EXTENSION`
pub const CHECK_EXTENSION: u32 = io(1);
/// `VFIO_SET_IOMMU`
pub const SET_IOMMU: u32 = io(2);
/// `VFIO_IOMMU_GET_INFO`
pub const IOMMU_GET_INFO: u32 = io(12);
/// `VFIO_IOMMU_MAP_DMA`
pub const IOMMU_MAP_DMA: u32 = io(13);
/// `VFIO_IOMMU_UNMAP_DMA`
pub const IOMMU_UNMAP_DMA: u32 = io(14);
/// `VFIO_IOMMU_ENABLE` (SPAPR only)
pub const IOMMU_ENABLE: u32 = io(15);
/// `VFIO_IOMMU_DISABLE` (SPAPR only)
pub const IOMMU_DISABLE: u32 = io(16);
/// `VFIO_IOMMU_DIRTY_PAGES`
pub const IOMMU_DIRTY_PAGES: u32 = io(17);

// Group.
/// `VFIO_GROUP_GET_STATUS`
pub const GROUP_GET_STATUS: u32 = io(3);
/// `VFIO_GROUP_SET_CONTAINER`
pub const GROUP_SET_CONTAINER: u32 = io(4);
/// `VFIO_GROUP_UNSET_CONTAINER`
pub const GROUP_UNSET_CONTAINER: u32 = io(5);
/// `VFIO_GROUP_GET_DEVICE_FD`
pub const GROUP_GET_DEVICE_FD: u32 = io(6);

// Device.
/// `VFIO_DEVICE_GET_INFO`
pub const DEVICE_GET_INFO: u32 = io(7);
/// `VFIO_DEVICE_GET_REGION_INFO`
pub const DEVICE_GET_REGION_INFO: u32 = io(8);
/// `VFIO_DEVICE_GET_IRQ_INFO`
pub const DEVICE_GET_IRQ_INFO: u32 = io(9);
/// `VFIO_DEVICE_SET_IRQS`
pub const DEVICE_SET_IRQS: u32 = io(10);
/// `VFIO_DEVICE_RESET`
pub const DEVICE_RESET: u32 = io(11);
/// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`
pub const DEVICE_GET_PCI_HOT_RESET_INFO: u32 = io(12);
/// `VFIO_DEVICE_PCI_HOT_RESET`
pub const DEVICE_PCI_HOT_RESET: u32 = io(13);
/// `VFIO_DEVICE_QUERY_GFX_PLANE`
pub const DEVICE_QUERY_GFX_PLANE: u32 = io(14);
/// `VFIO_DEVICE_GET_GFX_DMABUF`
pub const DEVICE_GET_GFX_DMABUF: u32 = io(15);
/// `VFIO_DEVICE_IOEVENTFD`
pub const DEVICE_IOEVENTFD: u32 = io(16);
/// `VFIO_DEVICE_FEATURE`
pub const DEVICE_FEATURE: u32 = io(17);
/// `VFIO_DEVICE_BIND_IOMMUFD`
pub const DEVICE_BIND_IOMMUFD: u32 = io(18);
/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`
pub const DEVICE_ATTACH_IOMMUFD_PT: u32 = io(19);
/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`
pub const DEVICE_DETACH_IOMMUFD_PT: u32 = io(20);

// A transfer of migration.
/// `VFIO_MIG_GET_PRECOPY_INFO`, of a migration's descriptor.
pub const MIG_GET_PRECOPY_INFO: u32 = io(21);

/// Commands of a container: number and the kernel's name.
pub const CONTAINER_COMMANDS: Commands = &[
    (GET_API_VERSION, "VFIO_GET_API_VERSION"),
    (CHECK_EXTENSION, "VFIO_CHECK_EXTENSION"),
    (SET_IOMMU, "VFIO_SET_IOMMU"),
    (IOMMU_GET_INFO, "VFIO_IOMMU_GET_INFO"),
    (IOMMU_MAP_DMA, "VFIO_IOMMU_MAP_DMA"),
    (IOMMU_UNMAP_DMA, "VFIO_IOMMU_UNMAP_DMA"),
    (IOMMU_ENABLE, "VFIO_IOMMU_ENABLE"),
    (IOMMU_DISABLE, "VFIO_IOMMU_DISABLE"),
    (IOMMU_DIRTY_PAGES, "VFIO_IOMMU_DIRTY_PAGES"),
];

/// Commands of a group.
pub const GROUP_COMMANDS: Commands = &[
    (GROUP_GET_STATUS, "VFIO_GROUP_GET_STATUS"),
    (GROUP_SET_CONTAINER, "VFIO_GROUP_SET_CONTAINER"),
    (GROUP_UNSET_CONTAINER, "VFIO_GROUP_UNSET_CONTAINER"),
    (GROUP_GET_DEVICE_FD, "VFIO_GROUP_GET_DEVICE_FD"),
];

/// Commands of a device.
pub const DEVICE_COMMANDS: Commands = &[
    (DEVICE_GET_INFO, "VFIO_DEVICE_GET_INFO"),
    (DEVICE_GET_REGION_INFO, "VFIO_DEVICE_GET_REGION_INFO"),
    (DEVICE_GET_IRQ_INFO, "VFIO_DEVICE_GET_IRQ_INFO"),
    (DEVICE_SET_IRQS, "VFIO_DEVICE_SET_IRQS"),
    (DEVICE_RESET, "VFIO_DEVICE_RESET"),
    (
        DEVICE_GET_PCI_HOT_RESET_INFO,
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
    ),
    (DEVICE_PCI_HOT_RESET, "VFIO_DEVICE_PCI_HOT_RESET"),
    (DEVICE_QUERY_GFX_PLANE, "VFIO_DEVICE_QUERY_GFX_PLANE"),
    (DEVICE_GET_GFX_DMABUF, "VFIO_DEVICE_GET_GFX_DMABUF"),
    (DEVICE_IOEVENTFD, "VFIO_DEVICE_IOEVENTFD"),
    (DEVICE_FEATURE, "VFIO_DEVICE_FEATURE"),
    (DEVICE_BIND_IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD"),
    (DEVICE_ATTACH_IOMMUFD_PT, "VFIO_DEVICE_ATTACH_IOMMUFD_PT"),
    (DEVICE_DETACH_IOMMUFD_PT, "VFIO_DEVICE_DETACH_IOMMUFD_PT"),
];

/// Commands of the descriptor of a transfer.
pub const TRANSFER_COMMANDS: Commands = &[(MIG_GET_PRECOPY_INFO, "VFIO_MIG_GET_PRECOPY_INFO")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_command_of_some_file() {
        let lists = [
            CONTAINER_COMMANDS,
            GROUP_COMMANDS,
            DEVICE_COMMANDS,
            TRANSFER_COMMANDS,
        ];
        let known = |n: u32| {
            lists
                .iter()
                .any(|list| list.iter().any(|(cmd, _)| *cmd == io(n)))
        };
        assert!((0..=21).all(known));
        assert!(!known(22));
    }

    #[test]
    fn no_file_has_two_commands_of_one_number() {
        for list in [CONTAINER_COMMANDS, GROUP_COMMANDS, DEVICE_COMMANDS] {
            for (at, (cmd, name)) in list.iter().enumerate() {
                assert!(list[..at].iter().all(|(other, _)| other != cmd), "{name}");
            }
        }
    }
}
