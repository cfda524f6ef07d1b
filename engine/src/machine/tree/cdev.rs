//! The node of a device itself: /dev/vfio/devices/vfioN, its directory below the device, /sys/class/vfio-dev.

use super::{CDEV_MAJOR, Tree};
use std::io;

/// Where the nodes are, if there is one.
const NODES: &str = "dev/vfio/devices";

/// Places that are there without any device.
pub(super) fn class(tree: &Tree) -> io::Result<()> {
    tree.directory("sys/class/vfio-dev")
}

/// Removes number `number`, the device whose directory is `device`.
pub(super) fn remove(tree: &Tree, device: &str, number: usize) -> io::Result<()> {
    tree.remove(&format!("{NODES}/vfio{number}"))?;
    if tree.is_empty(NODES) {
        tree.remove(NODES)?;
    }
    tree.remove(&format!("sys/class/vfio-dev/vfio{number}"))?;
    tree.remove(&format!("{device}/vfio-dev"))
}

/// Makes number `number`, the device whose directory is `device`, with or without a node.
pub(super) fn add(tree: &Tree, device: &str, number: usize, node: bool) -> io::Result<()> {
    let name = format!("vfio{number}");
    let directory = format!("{device}/vfio-dev/{name}");
    let uevent = match node {
        true => format!("MAJOR={CDEV_MAJOR}\nMINOR={number}\nDEVNAME=vfio/devices/{name}"),
        false => String::new(),
    };
    tree.attributes(&directory, &[("uevent", 0o644, &uevent)])?;
    tree.link(&format!("{directory}/device"), device)?;
    tree.link(&format!("{directory}/subsystem"), "sys/class/vfio-dev")?;
    tree.link(&format!("sys/class/vfio-dev/{name}"), &directory)?;
    if node {
        let dev = format!("{CDEV_MAJOR}:{number}");
        tree.attributes(&directory, &[("dev", 0o444, &dev)])?;
        tree.directory(NODES)?;
        tree.file(&format!("{NODES}/{name}"), 0o666, b"")?;
    }
    Ok(())
}
