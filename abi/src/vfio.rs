//! VFIO containers, groups, PCI devices and the type1 IOMMU (`include/uapi/linux/vfio.h`).

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

// CHECK_EXTENSION arguments.
/// `VFIO_TYPE1_IOMMU`, also the SET_IOMMU value.
pub const TYPE1_IOMMU: u64 = 1;
/// `VFIO_SPAPR_TCE_IOMMU`
pub const SPAPR_TCE_IOMMU: u64 = 2;
/// `VFIO_TYPE1v2_IOMMU`, also the SET_IOMMU value.
pub const TYPE1V2_IOMMU: u64 = 3;
/// `VFIO_DMA_CC_IOMMU`
pub const DMA_CC_IOMMU: u64 = 4;
/// `VFIO_EEH`
pub const EEH: u64 = 5;
/// `VFIO_TYPE1_NESTING_IOMMU` (reserved since nesting left type1)
pub const TYPE1_NESTING_IOMMU: u64 = 6;
/// `VFIO_SPAPR_TCE_v2_IOMMU`
pub const SPAPR_TCE_V2_IOMMU: u64 = 7;
/// `VFIO_NOIOMMU_IOMMU`
pub const NOIOMMU_IOMMU: u64 = 8;
/// `VFIO_UNMAP_ALL`
pub const UNMAP_ALL: u64 = 9;
/// `VFIO_UPDATE_VADDR`
pub const UPDATE_VADDR: u64 = 10;

plain! {
    /// `struct vfio_device_bind_iommufd`
    pub struct DeviceBindIommufd {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_BIND_FLAG_*`
        flags: u32,
        /// An open `/dev/iommu`.
        iommufd: i32,
        /// Answer: the device's object.
        out_devid: u32,
        /// With `DEVICE_BIND_FLAG_TOKEN`: client address of a UUID.
        token_uuid_ptr: u64,
    }
}
/// A token is given.
pub const DEVICE_BIND_FLAG_TOKEN: u32 = 1;

plain! {
    /// `struct vfio_device_attach_iommufd_pt`
    pub struct DeviceAttachIommufdPt {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_ATTACH_PASID`
        flags: u32,
        /// Address space or page table; answer: the page table.
        pt_id: u32,
        /// With `DEVICE_ATTACH_PASID`: whose.
        pasid: u32,
    }
}
/// Attach a PASID of the device, not the device itself.
pub const DEVICE_ATTACH_PASID: u32 = 1;

plain! {
    /// `struct vfio_device_detach_iommufd_pt`
    pub struct DeviceDetachIommufdPt {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_DETACH_PASID`
        flags: u32,
        /// With `DEVICE_DETACH_PASID`: whose.
        pasid: u32,
    }
}
/// Detach a PASID of the device, not the device itself.
pub const DEVICE_DETACH_PASID: u32 = 1;

plain! {
    /// `struct vfio_group_status`
    pub struct GroupStatus {
        /// Size of the caller's struct.
        argsz: u32,
        /// `GROUP_FLAGS_*`
        flags: u32,
    }
}
/// All devices of the group are bound to a VFIO driver or to none.
pub const GROUP_FLAGS_VIABLE: u32 = 1;
/// The group belongs to a container.
pub const GROUP_FLAGS_CONTAINER_SET: u32 = 2;

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
    /// `struct vfio_irq_info`
    pub struct IrqInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `IRQ_INFO_*`
        flags: u32,
        /// Which interrupt index; in.
        index: u32,
        /// How many vectors the index has.
        count: u32,
    }
}
/// The index can signal an eventfd.
pub const IRQ_INFO_EVENTFD: u32 = 1;
/// The index can be masked and unmasked.
pub const IRQ_INFO_MASKABLE: u32 = 2;
/// The index masks itself when it fires.
pub const IRQ_INFO_AUTOMASKED: u32 = 4;
/// The number of vectors is fixed while the index is enabled.
pub const IRQ_INFO_NORESIZE: u32 = 8;

/// `VFIO_PCI_INTX_IRQ_INDEX`
pub const PCI_INTX_IRQ_INDEX: u32 = 0;
/// `VFIO_PCI_MSI_IRQ_INDEX`
pub const PCI_MSI_IRQ_INDEX: u32 = 1;
/// `VFIO_PCI_MSIX_IRQ_INDEX`
pub const PCI_MSIX_IRQ_INDEX: u32 = 2;
/// `VFIO_PCI_ERR_IRQ_INDEX`
pub const PCI_ERR_IRQ_INDEX: u32 = 3;
/// `VFIO_PCI_REQ_IRQ_INDEX`
pub const PCI_REQ_IRQ_INDEX: u32 = 4;
/// `VFIO_PCI_NUM_IRQS`
pub const PCI_NUM_IRQS: u32 = 5;

plain! {
    /// `struct vfio_irq_set`, without its data.
    pub struct IrqSet {
        /// Size of the caller's struct, data included.
        argsz: u32,
        /// One data flag and one action flag.
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// How many vectors.
        count: u32,
    }
}
/// No data follows.
pub const IRQ_SET_DATA_NONE: u32 = 1;
/// One byte per vector follows.
pub const IRQ_SET_DATA_BOOL: u32 = 2;
/// One `s32` eventfd per vector follows; -1 takes it away.
pub const IRQ_SET_DATA_EVENTFD: u32 = 4;
/// Mask.
pub const IRQ_SET_ACTION_MASK: u32 = 8;
/// Unmask.
pub const IRQ_SET_ACTION_UNMASK: u32 = 16;
/// Set up signalling, or fire.
pub const IRQ_SET_ACTION_TRIGGER: u32 = 32;
/// All data flags.
pub const IRQ_SET_DATA_TYPE_MASK: u32 = 7;
/// All action flags.
pub const IRQ_SET_ACTION_TYPE_MASK: u32 = 56;

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
        /// Group of the device.
        group_id: u32,
        /// PCI segment.
        segment: u16,
        /// Bus number.
        bus: u8,
        /// Slot and function.
        devfn: u8,
    }
}

plain! {
    /// `struct vfio_iommu_type1_info`
    pub struct IommuType1Info {
        /// Size of the caller's struct.
        argsz: u32,
        /// `IOMMU_INFO_*`
        flags: u32,
        /// Bitmap of page sizes.
        iova_pgsizes: u64,
        /// Offset of the first capability; 0 = none.
        cap_offset: u32,
        /// Zero.
        pad: u32,
    }
}
/// `iova_pgsizes` is valid.
pub const IOMMU_INFO_PGSIZES: u32 = 1;
/// The struct is followed by capabilities.
pub const IOMMU_INFO_CAPS: u32 = 2;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`
pub const IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: u16 = 1;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION`
pub const IOMMU_TYPE1_INFO_CAP_MIGRATION: u16 = 2;
/// `VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL`
pub const IOMMU_TYPE1_INFO_DMA_AVAIL: u16 = 3;

plain! {
    /// `struct vfio_iova_range`: `start..=end`.
    pub struct IovaRange {
        /// First address.
        start: u64,
        /// Last address, included.
        end: u64,
    }
}

plain! {
    /// `struct vfio_iommu_type1_dma_map`
    pub struct DmaMap {
        /// Size of the caller's struct.
        argsz: u32,
        /// `DMA_MAP_FLAG_*`
        flags: u32,
        /// Client address.
        vaddr: u64,
        /// Device address.
        iova: u64,
        /// Bytes.
        size: u64,
    }
}
/// The device may read.
pub const DMA_MAP_FLAG_READ: u32 = 1;
/// The device may write.
pub const DMA_MAP_FLAG_WRITE: u32 = 2;
/// Give an invalidated mapping a new client address.
pub const DMA_MAP_FLAG_VADDR: u32 = 4;

plain! {
    /// `struct vfio_iommu_type1_dma_unmap`, without its data.
    pub struct DmaUnmap {
        /// Size of the caller's struct.
        argsz: u32,
        /// `DMA_UNMAP_FLAG_*`
        flags: u32,
        /// First device address.
        iova: u64,
        /// Bytes; out: bytes unmapped.
        size: u64,
    }
}
/// A `vfio_bitmap` of dirty pages follows.
pub const DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: u32 = 1;
/// Unmap everything; iova and size are 0.
pub const DMA_UNMAP_FLAG_ALL: u32 = 2;
/// Keep the mapping, forget the client address.
pub const DMA_UNMAP_FLAG_VADDR: u32 = 4;

plain! {
    /// `struct vfio_iommu_type1_dirty_bitmap`, without its data.
    pub struct DirtyBitmap {
        /// Size of the caller's struct, data included.
        argsz: u32,
        /// `DIRTY_PAGES_FLAG_*`
        flags: u32,
    }
}

plain! {
    /// `struct vfio_device_feature`, without its data.
    pub struct DeviceFeature {
        /// Size of the caller's struct, data included.
        argsz: u32,
        /// Feature index in the low 16 bits, GET/SET/PROBE above.
        flags: u32,
    }
}
/// Feature index.
pub const DEVICE_FEATURE_MASK: u32 = 0xffff;
/// Read the feature.
pub const DEVICE_FEATURE_GET: u32 = 1 << 16;
/// Write the feature.
pub const DEVICE_FEATURE_SET: u32 = 1 << 17;
/// Ask whether the operations named beside it exist.
pub const DEVICE_FEATURE_PROBE: u32 = 1 << 18;

/// The token a virtual function is opened with.
pub const DEVICE_FEATURE_PCI_VF_TOKEN: u32 = 0;
/// What migration the device can do: a `FeatureMigration`.
pub const DEVICE_FEATURE_MIGRATION: u32 = 1;
/// The migration state: a `FeatureMigState`.
pub const DEVICE_FEATURE_MIG_DEVICE_STATE: u32 = 2;
/// Low power is allowed.
pub const DEVICE_FEATURE_LOW_POWER_ENTRY: u32 = 3;
/// Low power is allowed once, and an eventfd tells when it ends: a `LowPowerEntryWithWakeup`.
pub const DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: u32 = 4;
/// Low power is no longer allowed.
pub const DEVICE_FEATURE_LOW_POWER_EXIT: u32 = 5;
/// The device logs what it writes: a `DmaLoggingControl`.
pub const DEVICE_FEATURE_DMA_LOGGING_START: u32 = 6;
/// It logs no more.
pub const DEVICE_FEATURE_DMA_LOGGING_STOP: u32 = 7;
/// What was logged, which is forgotten: a `DmaLoggingReport`.
pub const DEVICE_FEATURE_DMA_LOGGING_REPORT: u32 = 8;
/// How much STOP_COPY will transfer: a `FeatureMigDataSize`.
pub const DEVICE_FEATURE_MIG_DATA_SIZE: u32 = 9;
/// Bus master of devices that have no configuration space.
pub const DEVICE_FEATURE_BUS_MASTER: u32 = 10;
/// A dma-buf of a part of a BAR: a `FeatureDmaBuf`.
pub const DEVICE_FEATURE_DMA_BUF: u32 = 11;
/// The flags of `PrecopyInfo` are valid from now on.
pub const DEVICE_FEATURE_MIG_PRECOPY_INFOV2: u32 = 12;

plain! {
    /// `struct vfio_device_feature_migration`
    pub struct FeatureMigration {
        /// `MIGRATION_*`
        flags: u64,
    }
}
/// STOP, STOP_COPY and RESUMING exist.
pub const MIGRATION_STOP_COPY: u64 = 1;
/// RUNNING_P2P exists.
pub const MIGRATION_P2P: u64 = 2;
/// PRE_COPY exists.
pub const MIGRATION_PRE_COPY: u64 = 4;

plain! {
    /// `struct vfio_device_feature_mig_state`
    pub struct FeatureMigState {
        /// `DEVICE_STATE_*`
        device_state: u32,
        /// The descriptor of a new transfer, else -1.
        data_fd: i32,
    }
}
/// The device must be reset.
pub const DEVICE_STATE_ERROR: u32 = 0;
/// The device does nothing.
pub const DEVICE_STATE_STOP: u32 = 1;
/// The device works.
pub const DEVICE_STATE_RUNNING: u32 = 2;
/// STOP, and the state can be read.
pub const DEVICE_STATE_STOP_COPY: u32 = 3;
/// STOP, and a state can be written.
pub const DEVICE_STATE_RESUMING: u32 = 4;
/// RUNNING without DMA to other devices.
pub const DEVICE_STATE_RUNNING_P2P: u32 = 5;
/// RUNNING, and the state can be read as far as it is.
pub const DEVICE_STATE_PRE_COPY: u32 = 6;
/// RUNNING_P2P, and the state can be read as far as it is.
pub const DEVICE_STATE_PRE_COPY_P2P: u32 = 7;

plain! {
    /// `struct vfio_device_feature_mig_data_size`
    pub struct FeatureMigDataSize {
        /// Bytes, an estimate.
        stop_copy_length: u64,
    }
}

/// `VFIO_MIG_GET_PRECOPY_INFO`, of a migration's descriptor.
pub const MIG_GET_PRECOPY_INFO: u32 = io(21);

plain! {
    /// `struct vfio_precopy_info`
    pub struct PrecopyInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `PRECOPY_INFO_*`
        flags: u32,
        /// Bytes not yet read of the first state.
        initial_bytes: u64,
        /// Bytes not yet read of what changed since.
        dirty_bytes: u64,
    }
}
/// There is a new first state.
pub const PRECOPY_INFO_REINIT: u32 = 1;

plain! {
    /// `struct vfio_device_low_power_entry_with_wakeup`
    pub struct LowPowerEntryWithWakeup {
        /// Signalled when the device leaves low power.
        wakeup_eventfd: i32,
        /// Anything.
        reserved: u32,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_logging_control`
    pub struct DmaLoggingControl {
        /// Bytes of a page; in: wanted, out: taken.
        page_size: u64,
        /// How many ranges.
        num_ranges: u32,
        /// Anything.
        reserved: u32,
        /// Client address of `DmaLoggingRange`s.
        ranges: u64,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_logging_range`
    pub struct DmaLoggingRange {
        /// First device address.
        iova: u64,
        /// Bytes.
        length: u64,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_logging_report`
    pub struct DmaLoggingReport {
        /// First device address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes of a page, one bit each.
        page_size: u64,
        /// Client address of the bitmap.
        bitmap: u64,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_buf`, without its ranges.
    pub struct FeatureDmaBuf {
        /// BAR.
        region_index: u32,
        /// As of open(2).
        open_flags: u32,
        /// Zero.
        flags: u32,
        /// How many `RegionDmaRange`s follow.
        nr_ranges: u32,
    }
}

plain! {
    /// `struct vfio_region_dma_range`
    pub struct RegionDmaRange {
        /// Offset in the region.
        offset: u64,
        /// Bytes.
        length: u64,
    }
}

/// The kernel's name of a VFIO command, as far as the number alone tells.
///
/// Container and device share the numbers 12..=17: `device` says which file it was.
pub const fn command_name(cmd: u32, device: bool) -> Option<&'static str> {
    Some(match (cmd, device) {
        (GET_API_VERSION, _) => "VFIO_GET_API_VERSION",
        (CHECK_EXTENSION, _) => "VFIO_CHECK_EXTENSION",
        (SET_IOMMU, _) => "VFIO_SET_IOMMU",
        (GROUP_GET_STATUS, _) => "VFIO_GROUP_GET_STATUS",
        (GROUP_SET_CONTAINER, _) => "VFIO_GROUP_SET_CONTAINER",
        (GROUP_UNSET_CONTAINER, _) => "VFIO_GROUP_UNSET_CONTAINER",
        (GROUP_GET_DEVICE_FD, _) => "VFIO_GROUP_GET_DEVICE_FD",
        (DEVICE_GET_INFO, _) => "VFIO_DEVICE_GET_INFO",
        (DEVICE_GET_REGION_INFO, _) => "VFIO_DEVICE_GET_REGION_INFO",
        (DEVICE_GET_IRQ_INFO, _) => "VFIO_DEVICE_GET_IRQ_INFO",
        (DEVICE_SET_IRQS, _) => "VFIO_DEVICE_SET_IRQS",
        (DEVICE_RESET, _) => "VFIO_DEVICE_RESET",
        (DEVICE_GET_PCI_HOT_RESET_INFO, true) => "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        (DEVICE_PCI_HOT_RESET, true) => "VFIO_DEVICE_PCI_HOT_RESET",
        (DEVICE_QUERY_GFX_PLANE, true) => "VFIO_DEVICE_QUERY_GFX_PLANE",
        (DEVICE_GET_GFX_DMABUF, true) => "VFIO_DEVICE_GET_GFX_DMABUF",
        (DEVICE_IOEVENTFD, true) => "VFIO_DEVICE_IOEVENTFD",
        (DEVICE_FEATURE, true) => "VFIO_DEVICE_FEATURE",
        (DEVICE_BIND_IOMMUFD, true) => "VFIO_DEVICE_BIND_IOMMUFD",
        (DEVICE_ATTACH_IOMMUFD_PT, true) => "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        (DEVICE_DETACH_IOMMUFD_PT, true) => "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        (IOMMU_GET_INFO, false) => "VFIO_IOMMU_GET_INFO",
        (IOMMU_MAP_DMA, false) => "VFIO_IOMMU_MAP_DMA",
        (IOMMU_UNMAP_DMA, false) => "VFIO_IOMMU_UNMAP_DMA",
        (IOMMU_ENABLE, false) => "VFIO_IOMMU_ENABLE",
        (IOMMU_DISABLE, false) => "VFIO_IOMMU_DISABLE",
        (IOMMU_DIRTY_PAGES, false) => "VFIO_IOMMU_DIRTY_PAGES",
        _ => return None,
    })
}

plain! {
    /// `struct vfio_bitmap`: a bitmap in client memory.
    pub struct Bitmap {
        /// Bytes of a page, one bit each.
        pgsize: u64,
        /// Bytes of the bitmap.
        size: u64,
        /// Client address of the bitmap.
        data: u64,
    }
}

plain! {
    /// `struct vfio_iommu_type1_dirty_bitmap_get`
    pub struct DirtyBitmapGet {
        /// First device address.
        iova: u64,
        /// Bytes.
        size: u64,
        /// Where the bits go.
        bitmap: Bitmap,
    }
}
/// Start tracking.
pub const DIRTY_PAGES_FLAG_START: u32 = 1;
/// Stop tracking.
pub const DIRTY_PAGES_FLAG_STOP: u32 = 2;
/// Read the bitmap.
pub const DIRTY_PAGES_FLAG_GET_BITMAP: u32 = 4;
