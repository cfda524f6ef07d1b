//! Page requests of devices: `IOMMU_FAULT_QUEUE_ALLOC`, and what is read from and written to its descriptor.

plain! {
    /// `struct iommu_hwpt_pgfault`: What a read of a fault queue gives.
    pub struct HwptPgfault {
        /// `PGFAULT_FLAGS_*`
        flags: u32,
        /// The device.
        dev_id: u32,
        /// Its PASID.
        pasid: u32,
        /// Page request group.
        grpid: u32,
        /// `PGFAULT_PERM_*`
        perm: u32,
        /// Zero.
        reserved: u32,
        /// The address.
        addr: u64,
        /// A hint how many bytes are wanted.
        length: u32,
        /// For the response.
        cookie: u32,
    }
}

plain! {
    /// `struct iommu_hwpt_page_response`: What is written to a fault queue.
    pub struct HwptPageResponse {
        /// Of the fault.
        cookie: u32,
        /// `PAGE_RESP_*`
        code: u32,
    }
}

plain! {
    /// `struct iommu_fault_alloc`
    pub struct FaultQueueAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// Answer: the new queue.
        out_fault_id: u32,
        /// Answer: its descriptor.
        out_fault_fd: u32,
    }
}
/// The fault has a PASID.
pub const PGFAULT_FLAGS_PASID_VALID: u32 = 1;
/// The last of its group.
pub const PGFAULT_FLAGS_LAST_PAGE: u32 = 2;
/// A read.
pub const PGFAULT_PERM_READ: u32 = 1;
/// A write.
pub const PGFAULT_PERM_WRITE: u32 = 2;
/// An instruction fetch.
pub const PGFAULT_PERM_EXEC: u32 = 4;
/// In privileged mode.
pub const PGFAULT_PERM_PRIV: u32 = 8;
/// The page is there now.
pub const PAGE_RESP_SUCCESS: u32 = 0;
/// The page will not be there.
pub const PAGE_RESP_INVALID: u32 = 1;
