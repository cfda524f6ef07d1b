//! Address spaces: `IOMMU_IOAS_*`.

plain! {
    /// `struct iommu_ioas_alloc`
    pub struct IoasAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// Answer: the new address space.
        out_ioas_id: u32,
    }
}

plain! {
    /// `struct iommu_ioas_allow_iovas`
    pub struct IoasAllowIovas {
        /// Size of the caller's struct.
        size: u32,
        /// The address space.
        ioas_id: u32,
        /// How many ranges.
        num_iovas: u32,
        /// Zero.
        reserved: u32,
        /// Client address of the ranges, [`IovaRange`] each.
        allowed_iovas: u64,
    }
}

plain! {
    /// `struct iommu_ioas_copy`
    pub struct IoasCopy {
        /// Size of the caller's struct.
        size: u32,
        /// `IOAS_MAP_*`
        flags: u32,
        /// Where to.
        dst_ioas_id: u32,
        /// Where from.
        src_ioas_id: u32,
        /// Bytes.
        length: u64,
        /// First address where to; with automatic allocation an answer.
        dst_iova: u64,
        /// First address where from.
        src_iova: u64,
    }
}

plain! {
    /// `struct iommu_iova_range`: `start..=last`.
    pub struct IovaRange {
        /// First address.
        start: u64,
        /// Last address, included.
        last: u64,
    }
}

plain! {
    /// `struct iommu_ioas_iova_ranges`
    pub struct IoasIovaRanges {
        /// Size of the caller's struct.
        size: u32,
        /// The address space.
        ioas_id: u32,
        /// Room for so many ranges; answer: how many there are.
        num_iovas: u32,
        /// Zero.
        reserved: u32,
        /// Client address of the room, [`IovaRange`] each.
        allowed_iovas: u64,
        /// Answer: what addresses and lengths must be multiples of.
        out_iova_alignment: u64,
    }
}

plain! {
    /// `struct iommu_ioas_map`
    pub struct IoasMap {
        /// Size of the caller's struct.
        size: u32,
        /// `IOAS_MAP_*`
        flags: u32,
        /// The address space.
        ioas_id: u32,
        /// Zero.
        reserved: u32,
        /// First client address.
        user_va: u64,
        /// Bytes.
        length: u64,
        /// First device address; with automatic allocation an answer.
        iova: u64,
    }
}
/// The address is given; else the kernel finds one.
pub const IOAS_MAP_FIXED_IOVA: u32 = 1;
/// The device may write.
pub const IOAS_MAP_WRITEABLE: u32 = 2;
/// The device may read.
pub const IOAS_MAP_READABLE: u32 = 4;

plain! {
    /// `struct iommu_ioas_unmap`
    pub struct IoasUnmap {
        /// Size of the caller's struct.
        size: u32,
        /// The address space.
        ioas_id: u32,
        /// First address.
        iova: u64,
        /// Bytes; answer: bytes unmapped.
        length: u64,
    }
}

plain! {
    /// `struct iommu_ioas_map_file`
    pub struct IoasMapFile {
        /// Size of the caller's struct.
        size: u32,
        /// `IOAS_MAP_*`
        flags: u32,
        /// The address space.
        ioas_id: u32,
        /// The file: a memfd or a dma-buf.
        fd: i32,
        /// First byte of the file.
        start: u64,
        /// Bytes.
        length: u64,
        /// First device address; with automatic allocation an answer.
        iova: u64,
    }
}

plain! {
    /// `struct iommu_ioas_change_process`
    pub struct IoasChangeProcess {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        reserved: u32,
    }
}
