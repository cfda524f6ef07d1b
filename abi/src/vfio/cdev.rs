//! A device's own node: `VFIO_DEVICE_BIND_IOMMUFD`, `VFIO_DEVICE_ATTACH_IOMMUFD_PT`,
//! `VFIO_DEVICE_DETACH_IOMMUFD_PT`.

plain! {
    /// `struct vfio_device_bind_iommufd`
    pub struct DeviceBindIommufd {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_BIND_FLAG_*`
        flags: u32,
        /// An open `/dev/iommu`.
        iommufd: i32,
        /// Answer: the device's object.
        out_devid: u32,
        /// With `DEVICE_BIND_FLAG_TOKEN`: client address of a UUID.
        token_uuid_ptr: u64,
    }
}
/// A token is given.
pub const DEVICE_BIND_FLAG_TOKEN: u32 = 1;

plain! {
    /// `struct vfio_device_attach_iommufd_pt`
    pub struct DeviceAttachIommufdPt {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_ATTACH_PASID`
        flags: u32,
        /// Address space or page table; answer: the page table.
        pt_id: u32,
        /// With `DEVICE_ATTACH_PASID`: whose.
        pasid: u32,
    }
}
/// Attach a PASID of the device, not the device itself.
pub const DEVICE_ATTACH_PASID: u32 = 1;

plain! {
    /// `struct vfio_device_detach_iommufd_pt`
    pub struct DeviceDetachIommufdPt {
        /// Size of the caller's buffer.
        argsz: u32,
        /// `DEVICE_DETACH_PASID`
        flags: u32,
        /// With `DEVICE_DETACH_PASID`: whose.
        pasid: u32,
    }
}
/// Detach a PASID of the device, not the device itself.
pub const DEVICE_DETACH_PASID: u32 = 1;
