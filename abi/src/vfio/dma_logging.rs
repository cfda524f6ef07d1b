//! What a device wrote, as it tells itself: features.

plain! {
    /// `struct vfio_device_feature_dma_logging_control`
    pub struct DmaLoggingControl {
        /// Bytes of a page; in: wanted, out: taken.
        page_size: u64,
        /// How many ranges.
        num_ranges: u32,
        /// Anything.
        reserved: u32,
        /// Client address of `DmaLoggingRange`s.
        ranges: u64,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_logging_range`
    pub struct DmaLoggingRange {
        /// First device address.
        iova: u64,
        /// Bytes.
        length: u64,
    }
}

plain! {
    /// `struct vfio_device_feature_dma_logging_report`
    pub struct DmaLoggingReport {
        /// First device address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes of a page, one bit each.
        page_size: u64,
        /// Client address of the bitmap.
        bitmap: u64,
    }
}
