//! The address space of the VFIO calls: `IOMMU_VFIO_IOAS`.

plain! {
    /// `struct iommu_vfio_ioas`
    pub struct VfioIoas {
        /// Size of the caller's struct.
        size: u32,
        /// The address space of the VFIO calls.
        ioas_id: u32,
        /// `VFIO_IOAS_*`
        op: u16,
        /// Zero.
        reserved: u16,
    }
}
/// Which address space the VFIO calls use.
pub const VFIO_IOAS_GET: u16 = 0;
/// Let them use this one.
pub const VFIO_IOAS_SET: u16 = 1;
/// Let them use none.
pub const VFIO_IOAS_CLEAR: u16 = 2;
