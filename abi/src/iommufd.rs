//! `/dev/iommu`: objects, address spaces and page tables (`include/uapi/linux/iommufd.h`).
//!
//! Every struct begins with `size`, the size of the caller's struct. More than the kernel knows is fine as long as it
//! is zero; what a shorter caller does not have is taken as zero.

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

/// The kernel's name of a command of `/dev/iommu`.
pub const fn command_name(cmd: u32) -> Option<&'static str> {
    Some(match cmd {
        DESTROY => "IOMMU_DESTROY",
        IOAS_ALLOC => "IOMMU_IOAS_ALLOC",
        IOAS_ALLOW_IOVAS => "IOMMU_IOAS_ALLOW_IOVAS",
        IOAS_COPY => "IOMMU_IOAS_COPY",
        IOAS_IOVA_RANGES => "IOMMU_IOAS_IOVA_RANGES",
        IOAS_MAP => "IOMMU_IOAS_MAP",
        IOAS_UNMAP => "IOMMU_IOAS_UNMAP",
        OPTION => "IOMMU_OPTION",
        VFIO_IOAS => "IOMMU_VFIO_IOAS",
        HWPT_ALLOC => "IOMMU_HWPT_ALLOC",
        GET_HW_INFO => "IOMMU_GET_HW_INFO",
        HWPT_SET_DIRTY_TRACKING => "IOMMU_HWPT_SET_DIRTY_TRACKING",
        HWPT_GET_DIRTY_BITMAP => "IOMMU_HWPT_GET_DIRTY_BITMAP",
        HWPT_INVALIDATE => "IOMMU_HWPT_INVALIDATE",
        FAULT_QUEUE_ALLOC => "IOMMU_FAULT_QUEUE_ALLOC",
        IOAS_MAP_FILE => "IOMMU_IOAS_MAP_FILE",
        VIOMMU_ALLOC => "IOMMU_VIOMMU_ALLOC",
        VDEVICE_ALLOC => "IOMMU_VDEVICE_ALLOC",
        IOAS_CHANGE_PROCESS => "IOMMU_IOAS_CHANGE_PROCESS",
        VEVENTQ_ALLOC => "IOMMU_VEVENTQ_ALLOC",
        HW_QUEUE_ALLOC => "IOMMU_HW_QUEUE_ALLOC",
        _ => return None,
    })
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

plain! {
    /// `struct iommu_vfio_ioas`
    pub struct VfioIoas {
        /// Size of the caller's struct.
        size: u32,
        /// The address space of the VFIO calls.
        ioas_id: u32,
        /// `VFIO_IOAS_*`
        op: u16,
        /// Zero.
        reserved: u16,
    }
}
/// Which address space the VFIO calls use.
pub const VFIO_IOAS_GET: u16 = 0;
/// Let them use this one.
pub const VFIO_IOAS_SET: u16 = 1;
/// Let them use none.
pub const VFIO_IOAS_CLEAR: u16 = 2;

plain! {
    /// `struct iommu_hwpt_vtd_s1`: VT-d first stage.
    pub struct HwptVtdS1 {
        /// `VTD_S1_*`
        flags: u64,
        /// Where the top table lies.
        pgtbl_addr: u64,
        /// Bits of an address.
        addr_width: u32,
        /// Zero.
        reserved: u32,
    }
}

plain! {
    /// `struct iommu_hwpt_arm_smmuv3`: SMMUv3 stream table entry.
    pub struct HwptArmSmmuv3 {
        /// Its first two words.
        ste: [u64; 2],
    }
}

plain! {
    /// `struct iommu_hwpt_amd_guest`: AMD guest device table entry.
    pub struct HwptAmdGuest {
        /// Its words.
        dte: [u64; 4],
    }
}

plain! {
    /// `struct iommu_hwpt_alloc`
    pub struct HwptAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// `HWPT_*`
        flags: u32,
        /// The device it is for.
        dev_id: u32,
        /// Address space, parent page table or virtual IOMMU.
        pt_id: u32,
        /// Answer: the new page table.
        out_hwpt_id: u32,
        /// Zero.
        reserved: u32,
        /// `HWPT_DATA_*`
        data_type: u32,
        /// Bytes of the driver's data.
        data_len: u32,
        /// Client address of the driver's data.
        data_uptr: u64,
        /// The fault queue, with `HWPT_FAULT_ID_VALID`.
        fault_id: u32,
        /// Padding.
        reserved2: u32,
    }
}
/// It can be the parent of nested page tables.
pub const HWPT_ALLOC_NEST_PARENT: u32 = 1;
/// Dirty tracking must be possible.
pub const HWPT_ALLOC_DIRTY_TRACKING: u32 = 2;
/// `fault_id` is meant.
pub const HWPT_FAULT_ID_VALID: u32 = 4;
/// It can be attached to a PASID.
pub const HWPT_ALLOC_PASID: u32 = 8;
/// No data.
pub const HWPT_DATA_NONE: u32 = 0;
/// [`HwptVtdS1`]
pub const HWPT_DATA_VTD_S1: u32 = 1;
/// [`HwptArmSmmuv3`]
pub const HWPT_DATA_ARM_SMMUV3: u32 = 2;
/// [`HwptAmdGuest`]
pub const HWPT_DATA_AMD_GUEST: u32 = 3;
/// Supervisor requests are allowed.
pub const VTD_S1_SRE: u64 = 1;
/// Extended accessed flags are set.
pub const VTD_S1_EAFE: u64 = 2;
/// Supervisor writes respect read-only pages.
pub const VTD_S1_WPE: u64 = 4;

plain! {
    /// `struct iommu_hw_info_vtd`: VT-d.
    pub struct HwInfoVtd {
        /// `HW_INFO_VTD_*`
        flags: u32,
        /// Zero.
        reserved: u32,
        /// The capability register.
        cap_reg: u64,
        /// The extended capability register.
        ecap_reg: u64,
    }
}

plain! {
    /// `struct iommu_hw_info_arm_smmuv3`: SMMUv3.
    pub struct HwInfoArmSmmuv3 {
        /// Zero.
        flags: u32,
        /// Zero.
        reserved: u32,
        /// Identification registers.
        idr: [u32; 6],
        /// Implementer.
        iidr: u32,
        /// Architecture version.
        aidr: u32,
    }
}

plain! {
    /// `struct iommu_hw_info_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct HwInfoTegra241Cmdqv {
        /// Zero.
        flags: u32,
        /// Version.
        version: u8,
        /// Command queues.
        log2vcmdqs: u8,
        /// Stream ids.
        log2vsids: u8,
        /// Zero.
        reserved: u8,
    }
}

plain! {
    /// `struct iommu_hw_info_amd`: AMD.
    pub struct HwInfoAmd {
        /// Extended features.
        efr: u64,
        /// More extended features.
        efr2: u64,
    }
}

plain! {
    /// `struct iommu_hw_info`
    pub struct HwInfo {
        /// Size of the caller's struct.
        size: u32,
        /// `HW_INFO_FLAG_*`
        flags: u32,
        /// The device.
        dev_id: u32,
        /// Room for the data; answer: its size.
        data_len: u32,
        /// Client address of the room.
        data_uptr: u64,
        /// `HW_INFO_TYPE_*`, in and out.
        data_type: u32,
        /// Answer: bits of a PASID, 0 without.
        out_max_pasid_log2: u8,
        /// Zero.
        reserved: [u8; 3],
        /// Answer: `HW_CAP_*`
        out_capabilities: u64,
    }
}
/// `data_type` says which information is wanted.
pub const HW_INFO_FLAG_INPUT_TYPE: u32 = 1;
/// There is none; as an input, the default.
pub const HW_INFO_TYPE_NONE: u32 = 0;
/// [`HwInfoVtd`]
pub const HW_INFO_TYPE_INTEL_VTD: u32 = 1;
/// [`HwInfoArmSmmuv3`]
pub const HW_INFO_TYPE_ARM_SMMUV3: u32 = 2;
/// [`HwInfoTegra241Cmdqv`]
pub const HW_INFO_TYPE_TEGRA241_CMDQV: u32 = 3;
/// [`HwInfoAmd`]
pub const HW_INFO_TYPE_AMD: u32 = 4;
/// Read-only mappings in a nesting parent are refused.
pub const HW_INFO_VTD_ERRATA_772415_SPR17: u32 = 1;
/// Page tables can track dirty pages.
pub const HW_CAP_DIRTY_TRACKING: u64 = 1;
/// The device can execute with a PASID.
pub const HW_CAP_PCI_PASID_EXEC: u64 = 2;
/// The device has a privileged mode with a PASID.
pub const HW_CAP_PCI_PASID_PRIV: u64 = 4;
/// The device cannot use ATS.
pub const HW_CAP_PCI_ATS_NOT_SUPPORTED: u64 = 8;

plain! {
    /// `struct iommu_hwpt_set_dirty_tracking`
    pub struct HwptSetDirtyTracking {
        /// Size of the caller's struct.
        size: u32,
        /// `HWPT_DIRTY_TRACKING_ENABLE`
        flags: u32,
        /// The page table.
        hwpt_id: u32,
        /// Not looked at.
        reserved: u32,
    }
}
/// On rather than off.
pub const HWPT_DIRTY_TRACKING_ENABLE: u32 = 1;

plain! {
    /// `struct iommu_hwpt_get_dirty_bitmap`
    pub struct HwptGetDirtyBitmap {
        /// Size of the caller's struct.
        size: u32,
        /// The page table.
        hwpt_id: u32,
        /// `HWPT_GET_DIRTY_BITMAP_NO_CLEAR`
        flags: u32,
        /// Zero.
        reserved: u32,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes of one bit.
        page_size: u64,
        /// Client address of the bitmap.
        data: u64,
    }
}
/// The dirty bits stay.
pub const HWPT_GET_DIRTY_BITMAP_NO_CLEAR: u32 = 1;

plain! {
    /// `struct iommu_hwpt_vtd_s1_invalidate`: VT-d first stage.
    pub struct HwptVtdS1Invalidate {
        /// First address.
        addr: u64,
        /// 4 KiB pages, all ones for all.
        npages: u64,
        /// `VTD_INV_FLAGS_*`
        flags: u32,
        /// Zero.
        reserved: u32,
    }
}

plain! {
    /// `struct iommu_viommu_arm_smmuv3_invalidate`: SMMUv3.
    pub struct ViommuArmSmmuv3Invalidate {
        /// A command of its queue.
        cmd: [u64; 2],
    }
}

plain! {
    /// `struct iommu_hwpt_invalidate`
    pub struct HwptInvalidate {
        /// Size of the caller's struct.
        size: u32,
        /// Nested page table or virtual IOMMU.
        hwpt_id: u32,
        /// Client address of the requests.
        data_uptr: u64,
        /// `HWPT_INVALIDATE_DATA_*`
        data_type: u32,
        /// Bytes of a request.
        entry_len: u32,
        /// How many requests; answer: how many were done.
        entry_num: u32,
        /// Zero.
        reserved: u32,
    }
}
/// [`HwptVtdS1Invalidate`]
pub const HWPT_INVALIDATE_DATA_VTD_S1: u32 = 0;
/// [`ViommuArmSmmuv3Invalidate`]
pub const VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: u32 = 1;
/// Only leaf entries.
pub const VTD_INV_FLAGS_LEAF: u32 = 1;

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
    /// `struct iommu_viommu_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct ViommuTegra241Cmdqv {
        /// Where to map it.
        out_vintf_mmap_offset: u64,
        /// Bytes of that.
        out_vintf_mmap_length: u64,
    }
}

plain! {
    /// `struct iommu_viommu_alloc`
    pub struct ViommuAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// `VIOMMU_TYPE_*`
        kind: u32,
        /// A device of the physical IOMMU.
        dev_id: u32,
        /// The parent page table.
        hwpt_id: u32,
        /// Answer: the new virtual IOMMU.
        out_viommu_id: u32,
        /// Bytes of the driver's data.
        data_len: u32,
        /// Zero.
        reserved: u32,
        /// Client address of the driver's data.
        data_uptr: u64,
    }
}
/// Invalid.
pub const VIOMMU_TYPE_DEFAULT: u32 = 0;
/// A nested SMMUv3.
pub const VIOMMU_TYPE_ARM_SMMUV3: u32 = 1;
/// With command queues of its own.
pub const VIOMMU_TYPE_TEGRA241_CMDQV: u32 = 2;

plain! {
    /// `struct iommu_vdevice_alloc`
    pub struct VdeviceAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// The device.
        dev_id: u32,
        /// Answer: the new virtual device.
        out_vdevice_id: u32,
        /// Its id on the virtual IOMMU.
        virt_id: u64,
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

plain! {
    /// `struct iommufd_vevent_header`: Before every event.
    pub struct VeventHeader {
        /// `VEVENTQ_FLAG_*`
        flags: u32,
        /// Number of the event, 0..=2^31 - 1.
        sequence: u32,
    }
}

plain! {
    /// `struct iommu_vevent_arm_smmuv3`: SMMUv3.
    pub struct VeventArmSmmuv3 {
        /// An event of its queue.
        evt: [u64; 4],
    }
}

plain! {
    /// `struct iommu_vevent_tegra241_cmdqv`: Tegra241 command queue virtualization.
    pub struct VeventTegra241Cmdqv {
        /// Queues with an error.
        lvcmdq_err_map: [u64; 2],
    }
}

plain! {
    /// `struct iommu_veventq_alloc`
    pub struct VeventqAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// `VEVENTQ_TYPE_*`
        kind: u32,
        /// Most events in it.
        veventq_depth: u32,
        /// Answer: the new queue.
        out_veventq_id: u32,
        /// Answer: its descriptor.
        out_veventq_fd: u32,
        /// Zero.
        reserved: u32,
    }
}
/// Events were lost before this one.
pub const VEVENTQ_FLAG_LOST_EVENTS: u32 = 1;
/// Invalid.
pub const VEVENTQ_TYPE_DEFAULT: u32 = 0;
/// [`VeventArmSmmuv3`]
pub const VEVENTQ_TYPE_ARM_SMMUV3: u32 = 1;
/// [`VeventTegra241Cmdqv`]
pub const VEVENTQ_TYPE_TEGRA241_CMDQV: u32 = 2;

plain! {
    /// `struct iommu_hw_queue_alloc`
    pub struct HwQueueAlloc {
        /// Size of the caller's struct.
        size: u32,
        /// Zero.
        flags: u32,
        /// The virtual IOMMU.
        viommu_id: u32,
        /// `HW_QUEUE_TYPE_*`
        kind: u32,
        /// Which queue.
        index: u32,
        /// Answer: the new queue.
        out_hw_queue_id: u32,
        /// Where its memory lies in the parent page table.
        nesting_parent_iova: u64,
        /// Bytes of that memory.
        length: u64,
    }
}
/// Invalid.
pub const HW_QUEUE_TYPE_DEFAULT: u32 = 0;
/// A virtual command queue.
pub const HW_QUEUE_TYPE_TEGRA241_CMDQV: u32 = 1;

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
        assert!((0x80..=0x94).all(|n| command_name(io(n)).is_some()));
        assert_eq!(command_name(io(0x95)), None);
        assert_eq!(command_name(io(100)), None);
    }
}
