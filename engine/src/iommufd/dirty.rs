//! Dirty pages of a page table (`iopt_read_and_clear_dirty_data`, `drivers/iommu/iommufd/iova_bitmap.c`).

use swiommu_abi::{Errno, iommufd};

use super::file::Command;
use super::hwpt::Hwpt;
use super::object::Ref;

/// IOMMU_HWPT_SET_DIRTY_TRACKING.
pub fn set_tracking(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptSetDirtyTracking,
) -> Result<(), Errno> {
    if cmd.flags & !iommufd::HWPT_DIRTY_TRACKING_ENABLE != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let _hwpt: Ref<Hwpt> = command.context.get(cmd.hwpt_id)?;
    Err(Errno::EOPNOTSUPP)
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP.
pub fn get_bitmap(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptGetDirtyBitmap,
) -> Result<(), Errno> {
    if cmd.flags & !iommufd::HWPT_GET_DIRTY_BITMAP_NO_CLEAR != 0 || cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let _hwpt: Ref<Hwpt> = command.context.get(cmd.hwpt_id)?;
    Err(Errno::EOPNOTSUPP)
}
