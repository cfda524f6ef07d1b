//! The tree that clients see in place of parts of /sys and /dev: real files, directories and symbolic links.
//!
//! It is laid out as Linux 7.2 with VFIO and vfio-pci loaded and every device of the machine bound to vfio-pci
//! (Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups, sysfs-class-iommu-intel-iommu). The preloaded library redirects
//! the prefixes of [`OVERLAY`] into it; links are relative and stay inside, so `realpath` works.
//!
//! Not in this version, and absent on purpose although their places are redirected: /dev/vfio/devices
//! and /sys/class/vfio-dev. There are no bridges: the functions of all buses of a segment lie directly below its host bridge.

mod debug;
mod device;
mod iommu;
mod vfio;

use super::resources::assign;
use super::{Bdf, Machine};
use crate::pci::Identity;
use rustix::fs::Mode;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// The paths that the run's tree answers for, with everything below them: `RUN/root` + path.
pub const OVERLAY: &[&str] = &[
    "/dev/iommu",
    "/dev/vfio",
    "/sys/bus/pci",
    "/sys/class/iommu",
    "/sys/class/vfio",
    "/sys/class/vfio-dev",
    "/sys/devices/pci0000:00",
    "/sys/devices/virtual/iommu",
    "/sys/devices/virtual/misc/iommu",
    "/sys/devices/virtual/misc/vfio",
    "/sys/devices/virtual/vfio",
    "/sys/kernel/iommu_groups",
    "/sys/module/vfio",
    "/sys/module/vfio_iommu_type1",
    "/sys/module/vfio_pci",
    "/sys/module/vfio_pci_core",
];

/// The place of debugfs, for which the run's tree answers only if the machine has test equipment.
pub const DEBUGFS: &str = "/sys/kernel/debug";

/// What the host bridges' directories begin with: the host's own are hidden, and further segments have theirs.
pub const OVERLAY_STEM: &str = "/sys/devices/pci";

/// Does the run's tree answer for this absolute, normalised path? [`OVERLAY`] and [`OVERLAY_STEM`] in one question.
pub fn is_overlaid(path: &[u8]) -> bool {
    let below = |entry: &&str| {
        path.strip_prefix(entry.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    path.starts_with(OVERLAY_STEM.as_bytes()) || OVERLAY.iter().any(below)
}

/// Device number of /dev/vfio/vfio: misc, `VFIO_MINOR`.
pub const CONTAINER_DEVICE: (u32, u32) = (10, 196);
/// Device number of /dev/iommu: misc, with a minor that Linux hands out.
pub const IOMMU_DEVICE: (u32, u32) = (10, 127);
/// Major number of /dev/vfio/N: one of those that Linux hands out dynamically. The minor is the group's number.
pub const GROUP_MAJOR: u32 = 511;

/// One function of the machine as the tree shows it.
struct Function<'a> {
    bdf: Bdf,
    group: u32,
    identity: &'a Identity,
    resources: [super::resources::Resource; 6],
}

impl Function<'_> {
    /// Its directory below /sys/devices.
    fn directory(&self) -> String {
        format!("pci{:04x}:00/{}", self.bdf.segment, self.bdf)
    }
}

/// Builds the tree of `machine` in the existing, empty directory `root`. `identities` are those of the machine's
/// devices, in order.
///
/// # Errors
/// What making files gave.
///
/// # Panics
/// If there is not one identity per device.
pub fn build(root: &Path, machine: &Machine, identities: &[Identity]) -> io::Result<()> {
    assert_eq!(
        machine.devices.len(),
        identities.len(),
        "one identity per device"
    );
    let places = assign(identities);
    let functions: Vec<Function<'_>> = (machine.devices.iter().zip(identities).zip(places))
        .map(|((device, identity), resources)| Function {
            bdf: device.address(),
            group: device.group,
            identity,
            resources,
        })
        .collect();
    let tree = Tree {
        root: root.to_path_buf(),
    };
    vfio::modules(&tree, machine)?;
    vfio::bus(&tree, &functions)?;
    vfio::groups(&tree, machine, &functions)?;
    iommu::unit(&tree, &machine.iommu, &functions)?;
    if machine.mock {
        debug::fault_injection(&tree)?;
    }
    let cpus = device::Cpus::of_host();
    functions
        .iter()
        .try_for_each(|function| device::function(&tree, function, &machine.iommu, &cpus))
}

/// A tree under construction. Paths are relative to its root.
struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A directory with its parents.
    fn directory(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))
    }

    /// A file with exactly this mode.
    fn file(&self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = self.root.join(path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        if content.is_empty() {
            Ok(())
        } else {
            file.write_all(content)
        }
    }

    /// Files of one line in one directory: name, mode, line without its newline (empty = empty file).
    fn attributes(&self, directory: &str, attributes: &[(&str, u32, &str)]) -> io::Result<()> {
        self.directory(directory)?;
        attributes.iter().try_for_each(|(name, mode, line)| {
            let line = if line.is_empty() {
                String::new()
            } else {
                format!("{line}\n")
            };
            self.file(&format!("{directory}/{name}"), *mode, line.as_bytes())
        })
    }

    /// A symbolic link at `path` to `target`, both relative to the root; the link itself is relative.
    fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let shared = path
            .split('/')
            .zip(target.split('/'))
            .take_while(|(a, b)| a == b)
            .count();
        let up = path.split('/').count() - 1 - shared;
        let down: Vec<&str> = target.split('/').skip(shared).collect();
        symlink("../".repeat(up) + &down.join("/"), self.root.join(path))
    }
}

#[cfg(test)]
mod tests;
