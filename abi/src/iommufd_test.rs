//! `IOMMU_TEST_CMD`: the calls by which the kernel's own tests build and inspect a mock IOMMU
//! (`drivers/iommu/iommufd/iommufd_test.h`).

/// `IOMMU_TEST_CMD`
pub const TEST_CMD: u32 = 0x3ba0;

plain! {
    /// `struct iommu_test_cmd`
    pub struct TestCmd {
        /// Size of the caller's struct.
        size: u32,
        /// `OP_*`
        op: u32,
        /// The object it is about: see each operation.
        id: u32,
        /// Zero.
        reserved: u32,
        /// The operation's own arguments and answers, one of the structs below.
        arguments: [u64; 6],
        /// Zero.
        last: u32,
        /// Padding.
        padding: u32,
    }
}
/// Bytes of [`TestCmd`] that every caller has: up to and including `last`.
pub const TEST_CMD_MIN: usize = 68;

/// Reserve addresses of the address space `id`: [`AddReserved`].
pub const OP_ADD_RESERVED: u32 = 1;
/// A mock device, attached to the address space or page table `id`: [`MockDomain`].
pub const OP_MOCK_DOMAIN: u32 = 2;
/// Compare where the page table `id` leads with client memory: [`CheckMap`].
pub const OP_MD_CHECK_MAP: u32 = 3;
/// Compare how often pages are pinned: [`CheckRefs`].
pub const OP_MD_CHECK_REFS: u32 = 4;
/// Access to the address space `id` by the processor: [`CreateAccess`].
pub const OP_CREATE_ACCESS: u32 = 5;
/// Give up what the access `id` pinned: [`AccessPagesId`].
pub const OP_DESTROY_ACCESS_PAGES: u32 = 6;
/// Pin by the access `id`: [`AccessPages`].
pub const OP_ACCESS_PAGES: u32 = 7;
/// Copy by the access `id`: [`AccessRw`].
pub const OP_ACCESS_RW: u32 = 8;
/// Size of the buffers for lists of pages: [`MemoryLimit`].
pub const OP_SET_TEMP_MEMORY_LIMIT: u32 = 9;
/// Attach the mock device `id` elsewhere: [`PtId`].
pub const OP_MOCK_DOMAIN_REPLACE: u32 = 10;
/// Move the access `id` to another address space: [`PtId`].
pub const OP_ACCESS_REPLACE_IOAS: u32 = 11;
/// As [`OP_MOCK_DOMAIN`], with `MOCK_FLAGS_DEVICE_*`.
pub const OP_MOCK_DOMAIN_FLAGS: u32 = 12;
/// Let a device have written through the page table `id`: [`Dirty`].
pub const OP_DIRTY: u32 = 13;
/// Look at a cache entry of the nested page table `id`: [`CacheEntry`].
pub const OP_MD_CHECK_IOTLB: u32 = 14;
/// Let a device request a page: [`TriggerIopf`].
pub const OP_TRIGGER_IOPF: u32 = 15;
/// Look at a cache entry of the device `id`: [`CacheEntry`].
pub const OP_DEV_CHECK_CACHE: u32 = 16;
/// Let a device's virtual IOMMU have an event: [`PtId`] with the device.
pub const OP_TRIGGER_VEVENT: u32 = 17;
/// Attach a PASID of the mock device `id`: [`Pasid`].
pub const OP_PASID_ATTACH: u32 = 18;
/// Attach a PASID of the mock device `id` elsewhere: [`Pasid`].
pub const OP_PASID_REPLACE: u32 = 19;
/// Detach a PASID of the mock device `id`: [`Pasid`].
pub const OP_PASID_DETACH: u32 = 20;
/// Compare what a PASID of the mock device `id` is attached to: [`Pasid`].
pub const OP_PASID_CHECK_HWPT: u32 = 21;
/// Memory of a device as a dma-buf: [`DmabufGet`].
pub const OP_DMABUF_GET: u32 = 22;
/// Take such memory away, or give it back: [`DmabufRevoke`].
pub const OP_DMABUF_REVOKE: u32 = 23;

/// The kernel's name of an operation.
pub const fn op_name(op: u32) -> Option<&'static str> {
    Some(match op {
        OP_ADD_RESERVED => "IOMMU_TEST_OP_ADD_RESERVED",
        OP_MOCK_DOMAIN => "IOMMU_TEST_OP_MOCK_DOMAIN",
        OP_MD_CHECK_MAP => "IOMMU_TEST_OP_MD_CHECK_MAP",
        OP_MD_CHECK_REFS => "IOMMU_TEST_OP_MD_CHECK_REFS",
        OP_CREATE_ACCESS => "IOMMU_TEST_OP_CREATE_ACCESS",
        OP_DESTROY_ACCESS_PAGES => "IOMMU_TEST_OP_DESTROY_ACCESS_PAGES",
        OP_ACCESS_PAGES => "IOMMU_TEST_OP_ACCESS_PAGES",
        OP_ACCESS_RW => "IOMMU_TEST_OP_ACCESS_RW",
        OP_SET_TEMP_MEMORY_LIMIT => "IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT",
        OP_MOCK_DOMAIN_REPLACE => "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE",
        OP_ACCESS_REPLACE_IOAS => "IOMMU_TEST_OP_ACCESS_REPLACE_IOAS",
        OP_MOCK_DOMAIN_FLAGS => "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS",
        OP_DIRTY => "IOMMU_TEST_OP_DIRTY",
        OP_MD_CHECK_IOTLB => "IOMMU_TEST_OP_MD_CHECK_IOTLB",
        OP_TRIGGER_IOPF => "IOMMU_TEST_OP_TRIGGER_IOPF",
        OP_DEV_CHECK_CACHE => "IOMMU_TEST_OP_DEV_CHECK_CACHE",
        OP_TRIGGER_VEVENT => "IOMMU_TEST_OP_TRIGGER_VEVENT",
        OP_PASID_ATTACH => "IOMMU_TEST_OP_PASID_ATTACH",
        OP_PASID_REPLACE => "IOMMU_TEST_OP_PASID_REPLACE",
        OP_PASID_DETACH => "IOMMU_TEST_OP_PASID_DETACH",
        OP_PASID_CHECK_HWPT => "IOMMU_TEST_OP_PASID_CHECK_HWPT",
        OP_DMABUF_GET => "IOMMU_TEST_OP_DMABUF_GET",
        OP_DMABUF_REVOKE => "IOMMU_TEST_OP_DMABUF_REVOKE",
        _ => return None,
    })
}

plain! {
    /// Arguments of [`OP_ADD_RESERVED`].
    pub struct AddReserved {
        /// First address.
        start: u64,
        /// Bytes.
        length: u64,
    }
}

plain! {
    /// Arguments of [`OP_MOCK_DOMAIN`] and [`OP_MOCK_DOMAIN_FLAGS`].
    pub struct MockDomain {
        /// Answer: the mock device, by which it is destroyed.
        out_stdev_id: u32,
        /// Answer: the page table it is attached to.
        out_hwpt_id: u32,
        /// Answer: the device as other commands know it.
        out_idev_id: u32,
        /// `MOCK_FLAGS_DEVICE_*`
        dev_flags: u32,
    }
}
/// The device's IOMMU cannot track dirty pages.
pub const MOCK_FLAGS_DEVICE_NO_DIRTY: u32 = 1;
/// The device has PASIDs.
pub const MOCK_FLAGS_DEVICE_PASID: u32 = 4;
/// Bits of its PASIDs.
pub const MOCK_PASID_WIDTH: u8 = 20;
/// The PASID whose second attachment in a row fails.
pub const PASID_RESERVED: u32 = 1024;

plain! {
    /// Arguments of [`OP_MOCK_DOMAIN_REPLACE`], [`OP_ACCESS_REPLACE_IOAS`] and [`OP_TRIGGER_VEVENT`].
    pub struct PtId {
        /// Address space, page table or device.
        id: u32,
    }
}

plain! {
    /// Arguments of [`OP_MD_CHECK_MAP`].
    pub struct CheckMap {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Client address.
        uptr: u64,
    }
}

plain! {
    /// Arguments of [`OP_MD_CHECK_REFS`].
    pub struct CheckRefs {
        /// Bytes.
        length: u64,
        /// Client address.
        uptr: u64,
        /// How often each page is pinned.
        refs: u32,
        /// Padding.
        padding: u32,
    }
}

plain! {
    /// Arguments of [`OP_CREATE_ACCESS`].
    pub struct CreateAccess {
        /// Answer: its descriptor.
        out_access_fd: u32,
        /// `MOCK_FLAGS_ACCESS_CREATE_*`
        flags: u32,
    }
}
/// It pins pages rather than copies.
pub const MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES: u32 = 1;

plain! {
    /// Arguments of [`OP_DESTROY_ACCESS_PAGES`].
    pub struct AccessPagesId {
        /// Which of its pins.
        access_pages_id: u32,
    }
}

plain! {
    /// Arguments of [`OP_ACCESS_PAGES`].
    pub struct AccessPages {
        /// `MOCK_FLAGS_ACCESS_*`
        flags: u32,
        /// Answer: a name for what was pinned.
        out_access_pages_id: u32,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Client address of the same pages, to compare; 0 for none.
        uptr: u64,
    }
}
/// Pin for writing.
pub const MOCK_FLAGS_ACCESS_WRITE: u32 = 1;
/// `iova` is the number of an area and an offset in it.
pub const MOCK_FLAGS_ACCESS_SYZ: u32 = 1 << 16;

plain! {
    /// Arguments of [`OP_ACCESS_RW`].
    pub struct AccessRw {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Client address.
        uptr: u64,
        /// `MOCK_ACCESS_RW_*`, [`MOCK_FLAGS_ACCESS_SYZ`]
        flags: u32,
        /// Padding.
        padding: u32,
    }
}
/// To the address space rather than from it.
pub const MOCK_ACCESS_RW_WRITE: u32 = 1;
/// By the kernel's slower way, to the same effect.
pub const MOCK_ACCESS_RW_SLOW_PATH: u32 = 4;

plain! {
    /// Arguments of [`OP_SET_TEMP_MEMORY_LIMIT`].
    pub struct MemoryLimit {
        /// Bytes, at least 12.
        limit: u32,
    }
}

plain! {
    /// Arguments of [`OP_DIRTY`].
    pub struct Dirty {
        /// Not looked at.
        flags: u32,
        /// Padding.
        padding: u32,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes of one bit.
        page_size: u64,
        /// Client address of a bitmap.
        uptr: u64,
        /// Answer: how many bits were set.
        out_nr_dirty: u64,
    }
}

plain! {
    /// Arguments of [`OP_MD_CHECK_IOTLB`] and [`OP_DEV_CHECK_CACHE`].
    pub struct CacheEntry {
        /// Which, 0..=3.
        index: u32,
        /// What it holds.
        value: u32,
    }
}

plain! {
    /// Arguments of [`OP_TRIGGER_IOPF`].
    pub struct TriggerIopf {
        /// The device.
        dev_id: u32,
        /// Its PASID, 0 for none.
        pasid: u32,
        /// Page request group.
        grpid: u32,
        /// What it wants to do.
        perm: u32,
        /// The address.
        addr: u64,
    }
}

plain! {
    /// Arguments of [`OP_PASID_ATTACH`], [`OP_PASID_REPLACE`], [`OP_PASID_DETACH`] and [`OP_PASID_CHECK_HWPT`].
    pub struct Pasid {
        /// The PASID.
        pasid: u32,
        /// Address space or page table; to look, 0 for none.
        pt_id: u32,
    }
}

plain! {
    /// Arguments of [`OP_DMABUF_GET`].
    pub struct DmabufGet {
        /// Bytes, 1..=2 MiB.
        length: u32,
        /// `O_*`
        open_flags: u32,
    }
}

plain! {
    /// Arguments of [`OP_DMABUF_REVOKE`].
    pub struct DmabufRevoke {
        /// The dma-buf.
        dmabuf_fd: i32,
        /// Whether it is taken away.
        revoked: u32,
    }
}

/// First address of the default page table.
pub const MOCK_APERTURE_START: u64 = 1 << 24;
/// Last address of the default page table.
pub const MOCK_APERTURE_LAST: u64 = (1 << 31) - 1;
/// Smallest page of the default page table, in bytes.
pub const MOCK_PAGE_SIZE: u64 = 2048;
/// Page of the page table for large pages, in bytes.
pub const MOCK_HUGE_PAGE_SIZE: u64 = 512 * MOCK_PAGE_SIZE;
/// The page table with 2 KiB pages.
pub const MOCK_IOMMUPT_DEFAULT: u32 = 0;
/// The page table for large pages.
pub const MOCK_IOMMUPT_HUGE: u32 = 1;

/// [`TestHwInfo`]
pub const HW_INFO_TYPE_SELFTEST: u32 = 0xfeed_beef;
/// What it says.
pub const HW_INFO_SELFTEST_REGVAL: u32 = 0xdead_beef;

plain! {
    /// `struct iommu_test_hw_info`
    pub struct TestHwInfo {
        /// Zero.
        flags: u32,
        /// [`HW_INFO_SELFTEST_REGVAL`]
        test_reg: u32,
    }
}

/// [`HwptSelftest`]
pub const HWPT_DATA_SELFTEST: u32 = 0xdead;
/// What cache entries of a nested page table hold at first, by custom.
pub const IOTLB_DEFAULT: u32 = 0xbad_beef;
/// What cache entries of a device hold at first.
pub const DEV_CACHE_DEFAULT: u32 = 0xbad_dad;
/// How many cache entries a nested page table or a device has.
pub const CACHE_ENTRIES: usize = 4;

plain! {
    /// `struct iommu_hwpt_selftest`
    pub struct HwptSelftest {
        /// What all cache entries of a nested page table hold.
        iotlb: u32,
        /// `MOCK_IOMMUPT_*`, of a paging page table.
        pagetable_type: u32,
    }
}

/// [`HwptInvalidateSelftest`]
pub const HWPT_INVALIDATE_DATA_SELFTEST: u32 = 0xdead_beef;

plain! {
    /// `struct iommu_hwpt_invalidate_selftest`
    pub struct HwptInvalidateSelftest {
        /// [`INVALIDATE_FLAG_ALL`]
        flags: u32,
        /// Which cache entry.
        iotlb_id: u32,
    }
}
/// All entries, not one.
pub const INVALIDATE_FLAG_ALL: u32 = 1;

/// [`ViommuSelftest`]
pub const VIOMMU_TYPE_SELFTEST: u32 = 0xdead_beef;

plain! {
    /// `struct iommu_viommu_selftest`
    pub struct ViommuSelftest {
        /// A number.
        in_data: u32,
        /// Answer: the same number.
        out_data: u32,
        /// Answer: offset of two pages that can be mapped.
        out_mmap_offset: u64,
        /// Answer: their bytes.
        out_mmap_length: u64,
    }
}

/// [`ViommuInvalidateSelftest`]
pub const VIOMMU_INVALIDATE_DATA_SELFTEST: u32 = 0xdead_beef;

plain! {
    /// `struct iommu_viommu_invalidate_selftest`
    pub struct ViommuInvalidateSelftest {
        /// [`INVALIDATE_FLAG_ALL`]
        flags: u32,
        /// Which device, by its id on the virtual IOMMU.
        vdev_id: u32,
        /// Which cache entry.
        cache_id: u32,
    }
}

/// [`ViommuEventSelftest`]
pub const VEVENTQ_TYPE_SELFTEST: u32 = 0xbeef_beef;

plain! {
    /// `struct iommu_viommu_event_selftest`
    pub struct ViommuEventSelftest {
        /// The device, by its id on the virtual IOMMU.
        virt_id: u32,
    }
}

/// A queue in client memory.
pub const HW_QUEUE_TYPE_SELFTEST: u32 = 0xdead_beef;
/// How many of them a virtual IOMMU has.
pub const HW_QUEUE_MAX: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernels_header() {
        assert_eq!(size_of::<TestCmd>(), 72);
        assert_eq!(core::mem::offset_of!(TestCmd, last) + 4, TEST_CMD_MIN);
        assert_eq!(size_of::<Dirty>(), 48);
        assert_eq!(size_of::<ViommuSelftest>(), 24);
        assert_eq!(size_of::<ViommuInvalidateSelftest>(), 12);
    }

    #[test]
    fn every_operation_has_a_name_and_others_have_none() {
        assert!((1..=23).all(|op| op_name(op).is_some()));
        assert_eq!(op_name(0), None);
        assert_eq!(op_name(24), None);
    }
}
