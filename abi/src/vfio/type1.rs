//! The type1 IOMMU: `VFIO_IOMMU_GET_INFO`, `VFIO_IOMMU_MAP_DMA`, `VFIO_IOMMU_UNMAP_DMA`,
//! `VFIO_IOMMU_DIRTY_PAGES`.

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
