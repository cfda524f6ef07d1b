//! The calls on a device's own node, one function each.

use swiommu_abi::{Errno, vfio};

use super::iommufd::Iommu;
use super::{Fd, World};

impl World {
    /// Opens the node of the machine's device `index`.
    pub fn node(&self, index: usize) -> Fd {
        self.open(&format!("/dev/vfio/devices/vfio{index}"))
            .expect("a device node")
    }

    /// Opens and binds it: the file and the device's object.
    pub fn bound(&self, index: usize, iommu: &Iommu) -> (Fd, u32) {
        let device = self.node(index);
        let id = device.bind(iommu).expect("BIND_IOMMUFD");
        (device, id)
    }
}

impl Fd {
    /// BIND_IOMMUFD: the device's object.
    pub fn bind(&self, iommu: &Iommu) -> Result<u32, Errno> {
        let mut bind = vfio::DeviceBindIommufd {
            argsz: 16,
            iommufd: iommu.fd.number(),
            ..Default::default()
        };
        self.ioctl_with(vfio::DEVICE_BIND_IOMMUFD, &mut bind)?;
        Ok(bind.out_devid)
    }

    /// ATTACH_IOMMUFD_PT: the page table.
    pub fn attach(&self, pt_id: u32) -> Result<u32, Errno> {
        let mut attach = vfio::DeviceAttachIommufdPt {
            argsz: 12,
            pt_id,
            ..Default::default()
        };
        self.ioctl_with(vfio::DEVICE_ATTACH_IOMMUFD_PT, &mut attach)?;
        Ok(attach.pt_id)
    }

    /// DETACH_IOMMUFD_PT.
    pub fn detach(&self) -> Result<i32, Errno> {
        let mut detach = vfio::DeviceDetachIommufdPt {
            argsz: 8,
            ..Default::default()
        };
        self.ioctl_with(vfio::DEVICE_DETACH_IOMMUFD_PT, &mut detach)
    }

    /// DEVICE_GET_INFO.
    pub fn info(&self) -> Result<i32, Errno> {
        let mut info = vfio::DeviceInfo {
            argsz: 16,
            ..Default::default()
        };
        self.ioctl_with(vfio::DEVICE_GET_INFO, &mut info)
    }
}
