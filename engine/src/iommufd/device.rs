//! What a bound device brings to page tables.

use swiommu_abi::Errno;
use swiommu_mem::UserAddr;

use super::table::Table;

/// Data of the client for an IOMMU's driver.
#[derive(Clone, Copy, Debug)]
pub struct UserData {
    /// Which struct it is.
    pub kind: u32,
    /// Where it lies in client memory.
    pub at: UserAddr,
    /// Its size in bytes.
    pub bytes: u32,
}

/// A bound device, as far as page tables are concerned. Device objects return themselves as one
/// ([`Object::as_device`](super::object::Object::as_device)).
pub trait Device: Send + Sync {
    /// A fresh, empty page table that this device could be attached to. `flags` are `HWPT_ALLOC_*`.
    ///
    /// # Errors
    /// EOPNOTSUPP for flags or data that the device's IOMMU does not know, ENOMEM.
    fn new_table(&self, flags: u32, data: Option<&UserData>) -> Result<Table, Errno>;
    /// Whether its IOMMU can track dirty pages.
    fn tracks_dirty(&self) -> bool;
    /// Whether its IOMMU can make all accesses coherent.
    fn enforces_coherency(&self) -> bool;
    /// Which IOMMU driver it has: page tables of one can be attached to devices of the same only.
    fn driver(&self) -> usize;
}
