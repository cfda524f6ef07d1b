//! Events for a guest's IOMMU: `IOMMU_VEVENTQ_ALLOC`, and what is read from its descriptor.

plain! {
    /// `struct iommufd_vevent_header`: Before every event.
    pub struct VeventHeader {
        /// `VEVENTQ_FLAG_*`
        flags: u32,
        /// Number of the event, 0..=2^31 - 1.
        sequence: u32,
    }
}

plain! {
    /// `struct iommu_vevent_arm_smmuv3`: SMMUv3.
    pub struct VeventArmSmmuv3 {
        /// An event of its queue.
        evt: [u64; 4],
    }
}

plain! {
    /// `struct iommu_vevent_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct VeventTegra241Cmdqv {
        /// Queues with an error.
        lvcmdq_err_map: [u64; 2],
    }
}

plain! {
    /// `struct iommu_veventq_alloc`
    pub struct VeventqAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// `VEVENTQ_TYPE_*`
        kind: u32,
        /// Most events in it.
        veventq_depth: u32,
        /// Answer: the new queue.
        out_veventq_id: u32,
        /// Answer: its descriptor.
        out_veventq_fd: u32,
        /// Zero.
        reserved: u32,
    }
}
/// Events were lost before this one.
pub const VEVENTQ_FLAG_LOST_EVENTS: u32 = 1;
/// Invalid.
pub const VEVENTQ_TYPE_DEFAULT: u32 = 0;
/// [`VeventArmSmmuv3`]
pub const VEVENTQ_TYPE_ARM_SMMUV3: u32 = 1;
/// [`VeventTegra241Cmdqv`]
pub const VEVENTQ_TYPE_TEGRA241_CMDQV: u32 = 2;
