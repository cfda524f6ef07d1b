//! A guest's requests to invalidate: `IOMMU_HWPT_INVALIDATE`.

plain! {
    /// `struct iommu_hwpt_vtd_s1_invalidate`: VT-d first stage.
    pub struct HwptVtdS1Invalidate {
        /// First address.
        addr: u64,
        /// 4 KiB pages, all ones for all.
        npages: u64,
        /// `VTD_INV_FLAGS_*`
        flags: u32,
        /// Zero.
        reserved: u32,
    }
}

plain! {
    /// `struct iommu_viommu_arm_smmuv3_invalidate`: SMMUv3.
    pub struct ViommuArmSmmuv3Invalidate {
        /// A command of its queue.
        cmd: [u64; 2],
    }
}

plain! {
    /// `struct iommu_hwpt_invalidate`
    pub struct HwptInvalidate {
        /// Size of the caller's struct.
        size: u32,
        /// Nested page table or virtual IOMMU.
        hwpt_id: u32,
        /// Client address of the requests.
        data_uptr: u64,
        /// `HWPT_INVALIDATE_DATA_*`
        data_type: u32,
        /// Bytes of a request.
        entry_len: u32,
        /// How many requests; answer: how many were done.
        entry_num: u32,
        /// Zero.
        reserved: u32,
    }
}
/// [`HwptVtdS1Invalidate`]
pub const HWPT_INVALIDATE_DATA_VTD_S1: u32 = 0;
/// [`ViommuArmSmmuv3Invalidate`]
pub const VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: u32 = 1;
/// Only leaf entries.
pub const VTD_INV_FLAGS_LEAF: u32 = 1;
