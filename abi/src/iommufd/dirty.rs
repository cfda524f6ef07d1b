//! Which pages devices wrote: `IOMMU_HWPT_SET_DIRTY_TRACKING`, `IOMMU_HWPT_GET_DIRTY_BITMAP`.

plain! {
    /// `struct iommu_hwpt_set_dirty_tracking`
    pub struct HwptSetDirtyTracking {
        /// Size of the caller's struct.
        size: u32,
        /// `HWPT_DIRTY_TRACKING_ENABLE`
        flags: u32,
        /// The page table.
        hwpt_id: u32,
        /// Not looked at.
        reserved: u32,
    }
}
/// On rather than off.
pub const HWPT_DIRTY_TRACKING_ENABLE: u32 = 1;

plain! {
    /// `struct iommu_hwpt_get_dirty_bitmap`
    pub struct HwptGetDirtyBitmap {
        /// Size of the caller's struct.
        size: u32,
        /// The page table.
        hwpt_id: u32,
        /// `HWPT_GET_DIRTY_BITMAP_NO_CLEAR`
        flags: u32,
        /// Zero.
        reserved: u32,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes of one bit.
        page_size: u64,
        /// Client address of the bitmap.
        data: u64,
    }
}
/// The dirty bits stay.
pub const HWPT_GET_DIRTY_BITMAP_NO_CLEAR: u32 = 1;
