//! What a bound device brings to page tables.

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::{Caller, UserAddr};

use super::attach::{Group, Translation};
use super::hw_info::HwInfo;
use super::nesting::Nesting;
use super::table::Table;

/// Data of the client for an IOMMU's driver.
#[derive(Clone, Copy, Debug)]
pub struct UserData {
    /// Whose memory it is in.
    pub from: Caller,
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
    /// What its IOMMU group is attached to in this context.
    fn group(&self) -> &Group;
    /// The owner of what it reserves in address spaces: a number of the device, whatever object it is.
    fn owner(&self) -> u64;
    /// What no address space may map while the device is attached to it, first to last.
    fn reserved(&self) -> Vec<(u64, u64)>;
    /// From here on the group (without a PASID) or the device (a PASID of it) goes through `new` instead of `old`, with
    /// no moment in between; through nothing without `new`, which cannot fail.
    ///
    /// # Errors
    /// EINVAL when `new` is not for this device.
    fn change(
        &self,
        pasid: u32,
        old: Option<&dyn Translation>,
        new: Option<&dyn Translation>,
    ) -> Result<(), Errno>;
    /// What its IOMMU's driver tells of the hardware. `wanted` is a `HW_INFO_TYPE_*`, none for the driver's own.
    ///
    /// # Errors
    /// EOPNOTSUPP when the driver has no information of that type.
    fn hw_info(&self, wanted: u32) -> Result<HwInfo, Errno> {
        let _ = wanted;
        Ok(HwInfo::default())
    }
    /// `HW_CAP_*`
    fn capabilities(&self) -> u64 {
        match self.tracks_dirty() {
            true => iommufd::HW_CAP_DIRTY_TRACKING | iommufd::HW_CAP_PCI_ATS_NOT_SUPPORTED,
            false => iommufd::HW_CAP_PCI_ATS_NOT_SUPPORTED,
        }
    }
    /// Bits of its PASIDs, 0 without.
    fn max_pasid_log2(&self) -> u8 {
        0
    }
    /// What its IOMMU offers to a guest.
    fn nesting(&self) -> Option<&dyn Nesting> {
        None
    }
}
