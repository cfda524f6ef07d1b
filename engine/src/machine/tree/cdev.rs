//! The node of a device itself: /dev/vfio/devices/vfioN, its directory below the device, /sys/class/vfio-dev.

use super::{CDEV_MAJOR, Tree};
use std::io;

/// Places that are there without any device.
pub(super) fn class(tree: &Tree) -> io::Result<()> {
    tree.directory("sys/class/vfio-dev")?;
    tree.directory("dev/vfio/devices")
}

/// Removes node `number` of the device whose directory is `device`.
pub(super) fn remove(tree: &Tree, device: &str, number: usize) -> io::Result<()> {
    tree.remove(&format!("dev/vfio/devices/vfio{number}"))?;
    tree.remove(&format!("sys/class/vfio-dev/vfio{number}"))?;
    tree.remove(&format!("{device}/vfio-dev"))
}

/// Makes node `number` of the device whose directory is `device`.
pub(super) fn add(tree: &Tree, device: &str, number: usize) -> io::Result<()> {
    let name = format!("vfio{number}");
    let directory = format!("{device}/vfio-dev/{name}");
    tree.attributes(
        &directory,
        &[
            ("dev", 0o444, &format!("{CDEV_MAJOR}:{number}")),
            (
                "uevent",
                0o644,
                &format!("MAJOR={CDEV_MAJOR}\nMINOR={number}\nDEVNAME=vfio/devices/{name}"),
            ),
        ],
    )?;
    tree.link(&format!("{directory}/device"), device)?;
    tree.link(&format!("{directory}/subsystem"), "sys/class/vfio-dev")?;
    tree.link(&format!("sys/class/vfio-dev/{name}"), &directory)?;
    tree.file(&format!("dev/vfio/devices/{name}"), 0o666, b"")
}
