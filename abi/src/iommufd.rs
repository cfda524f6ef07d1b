//! `/dev/iommu`: objects, address spaces and page tables (`include/uapi/linux/iommufd.h`).
//!
//! Every struct begins with `size`, the size of the caller's struct. More than the kernel knows is fine as long as it
//! is zero; what a shorter caller does not have is taken as zero.

mod dirty;
mod fault;
mod hw_info;
mod hwpt;
mod invalidate;
mod ioas;
mod option;
mod veventq;
mod vfio_ioas;
mod viommu;

pub use dirty::*;
pub use fault::*;
pub use hw_info::*;
pub use hwpt::*;
pub use invalidate::*;
pub use ioas::*;
pub use option::*;
pub use veventq::*;
pub use vfio_ioas::*;
pub use viommu::*;

use crate::commands::{self, Commands};

/// `_IO(';', n)`.
const fn io(n: u32) -> u32 {
    0x3b00 | n
}
/// The first command number; smaller ones belong to VFIO.
pub const CMD_BASE: u32 = 0x80;
/// `IOMMU_DESTROY`
pub const DESTROY: u32 = io(0x80);
/// `IOMMU_IOAS_ALLOC`
pub const IOAS_ALLOC: u32 = io(0x81);
/// `IOMMU_IOAS_ALLOW_IOVAS`
pub const IOAS_ALLOW_IOVAS: u32 = io(0x82);
/// `IOMMU_IOAS_COPY`
pub const IOAS_COPY: u32 = io(0x83);
/// `IOMMU_IOAS_IOVA_RANGES`
pub const IOAS_IOVA_RANGES: u32 = io(0x84);
/// `IOMMU_IOAS_MAP`
pub const IOAS_MAP: u32 = io(0x85);
/// `IOMMU_IOAS_UNMAP`
pub const IOAS_UNMAP: u32 = io(0x86);
/// `IOMMU_OPTION`
pub const OPTION: u32 = io(0x87);
/// `IOMMU_VFIO_IOAS`
pub const VFIO_IOAS: u32 = io(0x88);
/// `IOMMU_HWPT_ALLOC`
pub const HWPT_ALLOC: u32 = io(0x89);
/// `IOMMU_GET_HW_INFO`
pub const GET_HW_INFO: u32 = io(0x8a);
/// `IOMMU_HWPT_SET_DIRTY_TRACKING`
pub const HWPT_SET_DIRTY_TRACKING: u32 = io(0x8b);
/// `IOMMU_HWPT_GET_DIRTY_BITMAP`
pub const HWPT_GET_DIRTY_BITMAP: u32 = io(0x8c);
/// `IOMMU_HWPT_INVALIDATE`
pub const HWPT_INVALIDATE: u32 = io(0x8d);
/// `IOMMU_FAULT_QUEUE_ALLOC`
pub const FAULT_QUEUE_ALLOC: u32 = io(0x8e);
/// `IOMMU_IOAS_MAP_FILE`
pub const IOAS_MAP_FILE: u32 = io(0x8f);
/// `IOMMU_VIOMMU_ALLOC`
pub const VIOMMU_ALLOC: u32 = io(0x90);
/// `IOMMU_VDEVICE_ALLOC`
pub const VDEVICE_ALLOC: u32 = io(0x91);
/// `IOMMU_IOAS_CHANGE_PROCESS`
pub const IOAS_CHANGE_PROCESS: u32 = io(0x92);
/// `IOMMU_VEVENTQ_ALLOC`
pub const VEVENTQ_ALLOC: u32 = io(0x93);
/// `IOMMU_HW_QUEUE_ALLOC`
pub const HW_QUEUE_ALLOC: u32 = io(0x94);

/// Every command: its number and the kernel's name.
pub const COMMANDS: Commands = &[
    (DESTROY, "IOMMU_DESTROY"),
    (IOAS_ALLOC, "IOMMU_IOAS_ALLOC"),
    (IOAS_ALLOW_IOVAS, "IOMMU_IOAS_ALLOW_IOVAS"),
    (IOAS_COPY, "IOMMU_IOAS_COPY"),
    (IOAS_IOVA_RANGES, "IOMMU_IOAS_IOVA_RANGES"),
    (IOAS_MAP, "IOMMU_IOAS_MAP"),
    (IOAS_UNMAP, "IOMMU_IOAS_UNMAP"),
    (OPTION, "IOMMU_OPTION"),
    (VFIO_IOAS, "IOMMU_VFIO_IOAS"),
    (HWPT_ALLOC, "IOMMU_HWPT_ALLOC"),
    (GET_HW_INFO, "IOMMU_GET_HW_INFO"),
    (HWPT_SET_DIRTY_TRACKING, "IOMMU_HWPT_SET_DIRTY_TRACKING"),
    (HWPT_GET_DIRTY_BITMAP, "IOMMU_HWPT_GET_DIRTY_BITMAP"),
    (HWPT_INVALIDATE, "IOMMU_HWPT_INVALIDATE"),
    (FAULT_QUEUE_ALLOC, "IOMMU_FAULT_QUEUE_ALLOC"),
    (IOAS_MAP_FILE, "IOMMU_IOAS_MAP_FILE"),
    (VIOMMU_ALLOC, "IOMMU_VIOMMU_ALLOC"),
    (VDEVICE_ALLOC, "IOMMU_VDEVICE_ALLOC"),
    (IOAS_CHANGE_PROCESS, "IOMMU_IOAS_CHANGE_PROCESS"),
    (VEVENTQ_ALLOC, "IOMMU_VEVENTQ_ALLOC"),
    (HW_QUEUE_ALLOC, "IOMMU_HW_QUEUE_ALLOC"),
];

/// The kernel's name of a command of `/dev/iommu`.
pub const fn command_name(cmd: u32) -> Option<&'static str> {
    commands::name(COMMANDS, cmd)
}

plain! {
    /// `struct iommu_destroy`
    pub struct Destroy {
        /// Size of the caller's struct.
        size: u32,
        /// The object.
        id: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernels_header() {
        let sizes = [
            (size_of::<Destroy>(), 8),
            (size_of::<IoasAlloc>(), 12),
            (size_of::<IoasAllowIovas>(), 24),
            (size_of::<IoasCopy>(), 40),
            (size_of::<IoasIovaRanges>(), 32),
            (size_of::<IoasMap>(), 40),
            (size_of::<IoasUnmap>(), 24),
            (size_of::<IommuOption>(), 24),
            (size_of::<VfioIoas>(), 12),
            (size_of::<HwptAlloc>(), 48),
            (size_of::<HwInfo>(), 40),
            (size_of::<HwptSetDirtyTracking>(), 16),
            (size_of::<HwptGetDirtyBitmap>(), 48),
            (size_of::<HwptInvalidate>(), 32),
            (size_of::<FaultQueueAlloc>(), 16),
            (size_of::<IoasMapFile>(), 40),
            (size_of::<ViommuAlloc>(), 40),
            (size_of::<VdeviceAlloc>(), 24),
            (size_of::<IoasChangeProcess>(), 8),
            (size_of::<VeventqAlloc>(), 32),
            (size_of::<HwQueueAlloc>(), 40),
        ];
        for (index, (size, expected)) in sizes.into_iter().enumerate() {
            assert_eq!(size, expected, "command {:#x}", CMD_BASE as usize + index);
        }
    }

    #[test]
    fn every_command_has_a_name_and_others_have_none() {
        assert_eq!(command_name(0x3b80), Some("IOMMU_DESTROY"));
        assert!(
            (0x80..=0x94)
                .map(io)
                .eq(COMMANDS.iter().map(|(cmd, _)| *cmd))
        );
        assert_eq!(command_name(io(0x95)), None);
        assert_eq!(command_name(io(100)), None);
    }
}
