//! What the IOMMU of a device can do: `IOMMU_GET_HW_INFO`.

plain! {
    /// `struct iommu_hw_info_vtd`: VT-d.
    pub struct HwInfoVtd {
        /// `HW_INFO_VTD_*`
        flags: u32,
        /// Zero.
        reserved: u32,
        /// The capability register.
        cap_reg: u64,
        /// The extended capability register.
        ecap_reg: u64,
    }
}

plain! {
    /// `struct iommu_hw_info_arm_smmuv3`: SMMUv3.
    pub struct HwInfoArmSmmuv3 {
        /// Zero.
        flags: u32,
        /// Zero.
        reserved: u32,
        /// Identification registers.
        idr: [u32; 6],
        /// Implementer.
        iidr: u32,
        /// Architecture version.
        aidr: u32,
    }
}

plain! {
    /// `struct iommu_hw_info_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct HwInfoTegra241Cmdqv {
        /// Zero.
        flags: u32,
        /// Version.
        version: u8,
        /// Command queues.
        log2vcmdqs: u8,
        /// Stream ids.
        log2vsids: u8,
        /// Zero.
        reserved: u8,
    }
}

plain! {
    /// `struct iommu_hw_info_amd`: AMD.
    pub struct HwInfoAmd {
        /// Extended features.
        efr: u64,
        /// More extended features.
        efr2: u64,
    }
}

plain! {
    /// `struct iommu_hw_info`
    pub struct HwInfo {
        /// Size of the caller's struct.
        size: u32,
        /// `HW_INFO_FLAG_*`
        flags: u32,
        /// The device.
        dev_id: u32,
        /// Room for the data; answer: its size.
        data_len: u32,
        /// Client address of the room.
        data_uptr: u64,
        /// `HW_INFO_TYPE_*`, in and out.
        data_type: u32,
        /// Answer: bits of a PASID, 0 without.
        out_max_pasid_log2: u8,
        /// Zero.
        reserved: [u8; 3],
        /// Answer: `HW_CAP_*`
        out_capabilities: u64,
    }
}
/// `data_type` says which information is wanted.
pub const HW_INFO_FLAG_INPUT_TYPE: u32 = 1;
/// There is none; as an input, the default.
pub const HW_INFO_TYPE_NONE: u32 = 0;
/// [`HwInfoVtd`]
pub const HW_INFO_TYPE_INTEL_VTD: u32 = 1;
/// [`HwInfoArmSmmuv3`]
pub const HW_INFO_TYPE_ARM_SMMUV3: u32 = 2;
/// [`HwInfoTegra241Cmdqv`]
pub const HW_INFO_TYPE_TEGRA241_CMDQV: u32 = 3;
/// [`HwInfoAmd`]
pub const HW_INFO_TYPE_AMD: u32 = 4;
/// Read-only mappings in a nesting parent are refused.
pub const HW_INFO_VTD_ERRATA_772415_SPR17: u32 = 1;
/// Page tables can track dirty pages.
pub const HW_CAP_DIRTY_TRACKING: u64 = 1;
/// The device can execute with a PASID.
pub const HW_CAP_PCI_PASID_EXEC: u64 = 2;
/// The device has a privileged mode with a PASID.
pub const HW_CAP_PCI_PASID_PRIV: u64 = 4;
/// The device cannot use ATS.
pub const HW_CAP_PCI_ATS_NOT_SUPPORTED: u64 = 8;
