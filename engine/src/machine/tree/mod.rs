//! The tree that clients see in place of parts of /sys and /dev: real files, directories and symbolic links.
//!
//! It is laid out as Linux 7.2 with VFIO and vfio-pci loaded (Documentation/ABI/testing/sysfs-bus-pci,
//! sysfs-kernel-iommu_groups, sysfs-class-iommu-intel-iommu). The tree is also the state of the host's side: a device
//! exists while its directory does, and is bound to the driver that its `driver` link names
//! ([`hostdrv`](crate::hostdrv) changes both). The preloaded library redirects
//! the prefixes of [`OVERLAY`] into it; links are relative and stay inside, so `realpath` works.
//!
//! There are no bridges: the functions of all buses of a segment lie directly below its host bridge.

mod cdev;
mod debug;
mod device;
mod driver;
mod iommu;
mod sriov;
mod vfio;

pub use iommu::Registers;
pub use vfio::{DMA_ENTRY_LIMIT, VFIO_PCI_PARAMETERS};

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

/// A directory that the run's tree answers for only itself: what is listed there. What [`OVERLAY`] has not below it is the
/// host's.
pub const LISTED: &str = "/sys/module";

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
/// Major number of /dev/vfio/devices/vfioN, handed out likewise. The minor is N.
pub const CDEV_MAJOR: u32 = 510;

/// One function of the machine as the tree shows it.
pub struct Function {
    /// Its address.
    pub bdf: Bdf,
    /// Its IOMMU group.
    pub group: u32,
    /// What it is.
    pub identity: Identity,
    resources: [super::resources::Resource; 6],
}

impl Function {
    /// Its directory, relative to the tree's root.
    pub fn directory(&self) -> String {
        format!("sys/devices/pci{:04x}:00/{}", self.bdf.segment, self.bdf)
    }
}

/// The functions of a machine, in order. `identities` are those of its devices.
///
/// # Panics
/// If there is not one identity per device.
pub fn functions(machine: &Machine, identities: &[Identity]) -> Vec<Function> {
    assert_eq!(
        machine.devices.len(),
        identities.len(),
        "one identity per device"
    );
    let places = assign(identities);
    (machine.devices.iter().zip(identities).zip(places))
        .map(|((device, identity), resources)| Function {
            bdf: device.address(),
            group: device.group,
            identity: identity.clone(),
            resources,
        })
        .collect()
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
    let functions = functions(machine, identities);
    let tree = Tree::new(root);
    vfio::modules(&tree, machine)?;
    vfio::container(&tree)?;
    cdev::class(&tree)?;
    driver::bus(&tree, &machine.drivers)?;
    iommu::unit(&tree, &machine.iommu)?;
    tree.directory("sys/kernel/iommu_groups")?;
    if machine.mock {
        debug::fault_injection(&tree)?;
    }
    for (device, function) in machine.devices.iter().zip(&functions) {
        tree.directory(&format!("sys/devices/pci{:04x}:00", function.bdf.segment))?;
        if !device.present {
            continue;
        }
        tree.add_device(machine, function)?;
        let name = device.driver.as_deref();
        if let Some(driver) = name.and_then(|name| machine.driver(name)) {
            tree.bind(function, &driver.name)?;
            if driver.vfio {
                tree.register(machine, function)?;
            }
        }
    }
    Ok(())
}

/// A tree. Paths are relative to its root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree at `root`.
    pub fn new(root: &Path) -> Tree {
        Tree {
            root: root.to_path_buf(),
        }
    }

    /// The line of a file, without its newline.
    ///
    /// # Errors
    /// What reading it gave.
    pub fn value(&self, path: &str) -> io::Result<String> {
        let text = fs::read_to_string(self.root.join(path))?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).into())
    }

    /// Gives a file another line. Readers see the old or the new one, never a part.
    ///
    /// # Errors
    /// What writing it gave.
    pub fn set_value(&self, path: &str, line: &str) -> io::Result<()> {
        let path = self.root.join(path);
        let mode = fs::metadata(&path)?.permissions();
        let new = path.with_extension("new");
        fs::write(&new, format!("{line}\n"))?;
        fs::set_permissions(&new, mode)?;
        fs::rename(&new, &path)
    }

    /// Is there anything at this path, be it a dangling link?
    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    /// The last component of a link's target.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Removes a file, a link, or a directory with all that is in it, if it is there.
    ///
    /// # Errors
    /// What removing it gave.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.root.join(path);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Is a directory there with nothing in it?
    fn is_empty(&self, path: &str) -> bool {
        fs::read_dir(self.root.join(path)).is_ok_and(|mut entries| entries.next().is_none())
    }

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
