//! A guest's IOMMU, its devices and its queues in hardware: `IOMMU_VIOMMU_ALLOC`, `IOMMU_VDEVICE_ALLOC`,
//! `IOMMU_HW_QUEUE_ALLOC`.

plain! {
    /// `struct iommu_viommu_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct ViommuTegra241Cmdqv {
        /// Where to map it.
        out_vintf_mmap_offset: u64,
        /// Bytes of that.
        out_vintf_mmap_length: u64,
    }
}

plain! {
    /// `struct iommu_viommu_alloc`
    pub struct ViommuAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// `VIOMMU_TYPE_*`
        kind: u32,
        /// A device of the physical IOMMU.
        dev_id: u32,
        /// The parent page table.
        hwpt_id: u32,
        /// Answer: the new virtual IOMMU.
        out_viommu_id: u32,
        /// Bytes of the driver's data.
        data_len: u32,
        /// Zero.
        reserved: u32,
        /// Client address of the driver's data.
        data_uptr: u64,
    }
}
/// Invalid.
pub const VIOMMU_TYPE_DEFAULT: u32 = 0;
/// A nested SMMUv3.
pub const VIOMMU_TYPE_ARM_SMMUV3: u32 = 1;
/// With command queues of its own.
pub const VIOMMU_TYPE_TEGRA241_CMDQV: u32 = 2;

plain! {
    /// `struct iommu_vdevice_alloc`
    pub struct VdeviceAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// The device.
        dev_id: u32,
        /// Answer: the new virtual device.
        out_vdevice_id: u32,
        /// Its id on the virtual IOMMU.
        virt_id: u64,
    }
}

plain! {
    /// `struct iommu_hw_queue_alloc`
    pub struct HwQueueAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// `HW_QUEUE_TYPE_*`
        kind: u32,
        /// Which queue.
        index: u32,
        /// Answer: the new queue.
        out_hw_queue_id: u32,
        /// Where its memory lies in the parent page table.
        nesting_parent_iova: u64,
        /// Bytes of that memory.
        length: u64,
    }
}
/// Invalid.
pub const HW_QUEUE_TYPE_DEFAULT: u32 = 0;
/// A virtual command queue.
pub const HW_QUEUE_TYPE_TEGRA241_CMDQV: u32 = 1;
