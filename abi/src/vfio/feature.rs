//! `VFIO_DEVICE_FEATURE`.

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
    /// `struct vfio_device_low_power_entry_with_wakeup`
    pub struct LowPowerEntryWithWakeup {
        /// Signalled when the device leaves low power.
        wakeup_eventfd: i32,
        /// Anything.
        reserved: u32,
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
