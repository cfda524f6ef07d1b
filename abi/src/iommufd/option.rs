//! Options of a whole file or of an address space: `IOMMU_OPTION`.

plain! {
    /// `struct iommu_option`
    pub struct IommuOption {
        /// Size of the caller's struct.
        size: u32,
        /// `OPTION_*`
        option_id: u32,
        /// `OPTION_OP_*`
        op: u16,
        /// Zero.
        reserved: u16,
        /// The object, 0 for the whole file.
        object_id: u32,
        /// The value.
        val64: u64,
    }
}
/// How pinned memory is counted: 0 per user, 1 per process.
pub const OPTION_RLIMIT_MODE: u32 = 0;
/// Whether an address space uses large pages.
pub const OPTION_HUGE_PAGES: u32 = 1;
/// Set the value.
pub const OPTION_OP_SET: u16 = 0;
/// Get the value.
pub const OPTION_OP_GET: u16 = 1;
