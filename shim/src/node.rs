//! Device nodes of the tree: plain files there, character devices to the client.

use swiommu_engine::door::CharDevice;
use swiommu_engine::machine::tree::{CDEV_MAJOR, CONTAINER_DEVICE, GROUP_MAJOR, IOMMU_DEVICE};

/// The device number of a node, by the client's path: what `File::char_device` says once it is open.
pub fn device(path: &str) -> CharDevice {
    let name = path.rsplit('/').next().unwrap_or("");
    if let Some(number) = path.strip_prefix("/dev/vfio/devices/vfio")
        && let Ok(minor) = number.parse()
    {
        return CharDevice {
            major: CDEV_MAJOR,
            minor,
        };
    }
    match name.strip_prefix("noiommu-").unwrap_or(name).parse() {
        Ok(minor) => CharDevice {
            major: GROUP_MAJOR,
            minor,
        },
        Err(_) if path == "/dev/iommu" => CharDevice {
            major: IOMMU_DEVICE.0,
            minor: IOMMU_DEVICE.1,
        },
        Err(_) => CharDevice {
            major: CONTAINER_DEVICE.0,
            minor: CONTAINER_DEVICE.1,
        },
    }
}
