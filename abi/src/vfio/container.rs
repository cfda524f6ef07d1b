//! Containers, and the extensions that they are asked for.

/// `VFIO_TYPE1_IOMMU`, also the SET_IOMMU value.
pub const TYPE1_IOMMU: u64 = 1;
/// `VFIO_SPAPR_TCE_IOMMU`
pub const SPAPR_TCE_IOMMU: u64 = 2;
/// `VFIO_TYPE1v2_IOMMU`, also the SET_IOMMU value.
pub const TYPE1V2_IOMMU: u64 = 3;
/// `VFIO_DMA_CC_IOMMU`
pub const DMA_CC_IOMMU: u64 = 4;
/// `VFIO_EEH`
pub const EEH: u64 = 5;
/// `VFIO_TYPE1_NESTING_IOMMU` (reserved since nesting left type1)
pub const TYPE1_NESTING_IOMMU: u64 = 6;
/// `VFIO_SPAPR_TCE_v2_IOMMU`
pub const SPAPR_TCE_V2_IOMMU: u64 = 7;
/// `VFIO_NOIOMMU_IOMMU`
pub const NOIOMMU_IOMMU: u64 = 8;
/// `VFIO_UNMAP_ALL`
pub const UNMAP_ALL: u64 = 9;
/// `VFIO_UPDATE_VADDR`
pub const UPDATE_VADDR: u64 = 10;
