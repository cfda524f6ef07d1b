//! Devices: what they are, their regions, and their reset together.

plain! {
    /// `struct vfio_device_info`
    pub struct DeviceInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `DEVICE_FLAGS_*`
        flags: u32,
        /// Highest region index + 1.
        num_regions: u32,
        /// Highest interrupt index + 1.
        num_irqs: u32,
        /// Offset of the first capability, from the struct's start; 0 = none.
        cap_offset: u32,
        /// Zero.
        pad: u32,
    }
}
/// The device supports `DEVICE_RESET`.
pub const DEVICE_FLAGS_RESET: u32 = 1;
/// The device is a PCI device.
pub const DEVICE_FLAGS_PCI: u32 = 2;
/// The struct is followed by capabilities.
pub const DEVICE_FLAGS_CAPS: u32 = 1 << 7;

plain! {
    /// `struct vfio_region_info`
    pub struct RegionInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `REGION_INFO_FLAG_*`
        flags: u32,
        /// Which region; in.
        index: u32,
        /// Offset of the first capability; 0 = none.
        cap_offset: u32,
        /// Bytes; 0 = the region does not exist.
        size: u64,
        /// Where the region lies in the device fd.
        offset: u64,
    }
}
/// The region can be read.
pub const REGION_INFO_FLAG_READ: u32 = 1;
/// The region can be written.
pub const REGION_INFO_FLAG_WRITE: u32 = 2;
/// The region can be mapped.
pub const REGION_INFO_FLAG_MMAP: u32 = 4;
/// The struct is followed by capabilities.
pub const REGION_INFO_FLAG_CAPS: u32 = 8;
/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`
pub const REGION_INFO_CAP_SPARSE_MMAP: u16 = 1;
/// `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`
pub const REGION_INFO_CAP_MSIX_MAPPABLE: u16 = 3;
/// `VFIO_PCI_OFFSET_SHIFT` of the kernel's vfio-pci: region i lies at i << 40 of the device fd.
pub const PCI_OFFSET_SHIFT: u32 = 40;
/// Regions 0..=5 are the BARs.
pub const PCI_BAR5_REGION_INDEX: u32 = 5;
/// `VFIO_PCI_ROM_REGION_INDEX`
pub const PCI_ROM_REGION_INDEX: u32 = 6;
/// `VFIO_PCI_CONFIG_REGION_INDEX`
pub const PCI_CONFIG_REGION_INDEX: u32 = 7;
/// `VFIO_PCI_VGA_REGION_INDEX`
pub const PCI_VGA_REGION_INDEX: u32 = 8;
/// `VFIO_PCI_NUM_REGIONS`
pub const PCI_NUM_REGIONS: u32 = 9;

plain! {
    /// `struct vfio_info_cap_header`
    pub struct InfoCapHeader {
        /// Which capability.
        id: u16,
        /// Version of its layout.
        version: u16,
        /// Offset of the next one from the start of the info struct; 0 = last.
        next: u32,
    }
}

plain! {
    /// `struct vfio_region_sparse_mmap_area`
    pub struct SparseMmapArea {
        /// Offset in the region.
        offset: u64,
        /// Bytes.
        size: u64,
    }
}

plain! {
    /// `struct vfio_device_ioeventfd`
    pub struct DeviceIoeventfd {
        /// Size of the caller's struct.
        argsz: u32,
        /// `DEVICE_IOEVENTFD_*`
        flags: u32,
        /// Of the register in the device's file.
        offset: u64,
        /// What is written there.
        data: u64,
        /// The eventfd; -1 takes it away.
        fd: i32,
        /// Nothing looks at it.
        reserved: u32,
    }
}
/// `VFIO_DEVICE_IOEVENTFD_8`, `_16`, `_32` and `_64`: how many bytes are written, which is the flag's number.
pub const DEVICE_IOEVENTFD_SIZE_MASK: u32 = 0xf;

/// `VFIO_PCI_HOT_RESET_FLAG_DEV_ID`: devices are named by their ids in the iommufd.
pub const PCI_HOT_RESET_FLAG_DEV_ID: u32 = 1 << 0;
/// `VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED`: all of them are owned by the iommufd.
pub const PCI_HOT_RESET_FLAG_DEV_ID_OWNED: u32 = 1 << 1;
/// `VFIO_PCI_DEVID_OWNED`: the iommufd has no such device, but one of the same group.
pub const PCI_DEVID_OWNED: i32 = 0;
/// `VFIO_PCI_DEVID_NOT_OWNED`: the device is somebody else's.
pub const PCI_DEVID_NOT_OWNED: i32 = -1;

plain! {
    /// `struct vfio_pci_hot_reset_info`, without its devices.
    pub struct HotResetInfo {
        /// Size of the caller's struct, devices included.
        argsz: u32,
        /// Flags.
        flags: u32,
        /// How many devices a hot reset affects.
        count: u32,
    }
}

plain! {
    /// `struct vfio_pci_dependent_device`
    pub struct DependentDevice {
        /// `group_id`: the number of its group, or with `VFIO_PCI_HOT_RESET_FLAG_DEV_ID` `devid`: its id in the iommufd.
        id: u32,
        /// PCI segment.
        segment: u16,
        /// Bus number.
        bus: u8,
        /// Slot and function.
        devfn: u8,
    }
}
