//! Page tables, those of a guest among them: `IOMMU_HWPT_ALLOC`.

plain! {
    /// `struct iommu_hwpt_vtd_s1`: VT-d first stage.
    pub struct HwptVtdS1 {
        /// `VTD_S1_*`
        flags: u64,
        /// Where the top table lies.
        pgtbl_addr: u64,
        /// Bits of an address.
        addr_width: u32,
        /// Zero.
        reserved: u32,
    }
}

plain! {
    /// `struct iommu_hwpt_arm_smmuv3`: SMMUv3 stream table entry.
    pub struct HwptArmSmmuv3 {
        /// Its first two words.
        ste: [u64; 2],
    }
}

plain! {
    /// `struct iommu_hwpt_amd_guest`: AMD guest device table entry.
    pub struct HwptAmdGuest {
        /// Its words.
        dte: [u64; 4],
    }
}

plain! {
    /// `struct iommu_hwpt_alloc`
    pub struct HwptAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// `HWPT_*`
        flags: u32,
        /// The device it is for.
        dev_id: u32,
        /// Address space, parent page table or virtual IOMMU.
        pt_id: u32,
        /// Answer: the new page table.
        out_hwpt_id: u32,
        /// Zero.
        reserved: u32,
        /// `HWPT_DATA_*`
        data_type: u32,
        /// Bytes of the driver's data.
        data_len: u32,
        /// Client address of the driver's data.
        data_uptr: u64,
        /// The fault queue, with `HWPT_FAULT_ID_VALID`.
        fault_id: u32,
        /// Padding.
        reserved2: u32,
    }
}
/// It can be the parent of nested page tables.
pub const HWPT_ALLOC_NEST_PARENT: u32 = 1;
/// Dirty tracking must be possible.
pub const HWPT_ALLOC_DIRTY_TRACKING: u32 = 2;
/// `fault_id` is meant.
pub const HWPT_FAULT_ID_VALID: u32 = 4;
/// It can be attached to a PASID.
pub const HWPT_ALLOC_PASID: u32 = 8;
/// No data.
pub const HWPT_DATA_NONE: u32 = 0;
/// [`HwptVtdS1`]
pub const HWPT_DATA_VTD_S1: u32 = 1;
/// [`HwptArmSmmuv3`]
pub const HWPT_DATA_ARM_SMMUV3: u32 = 2;
/// [`HwptAmdGuest`]
pub const HWPT_DATA_AMD_GUEST: u32 = 3;
/// Supervisor requests are allowed.
pub const VTD_S1_SRE: u64 = 1;
/// Extended accessed flags are set.
pub const VTD_S1_EAFE: u64 = 2;
/// Supervisor writes respect read-only pages.
pub const VTD_S1_WPE: u64 = 4;
