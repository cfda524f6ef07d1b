//! Unpacking a set: the packages' files as they are, and of the kernel's source only what its selftests need.

use super::lock::Set;
use crate::run::quiet;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The package that holds the kernel's source.
const KERNEL_SOURCE: &str = "linux-source-";

/// The parts of the kernel's source that its VFIO and iommufd selftests are built from.
const KERNEL_PARTS: &[&str] = &[
    "tools/testing/selftests",
    "tools/include",
    "tools/arch/x86/include",
    "include/linux/pci_ids.h",
    "drivers/dma/idxd",
    "drivers/dma/ioat",
    "drivers/iommu/iommufd/iommufd_test.h",
];

/// What identifies an unpacked set: its packages, and what is taken out of them.
pub fn stamp(set: &Set) -> String {
    let mut stamp = set.stamp();
    if set
        .packages
        .iter()
        .any(|p| p.name.starts_with(KERNEL_SOURCE))
    {
        for part in KERNEL_PARTS {
            stamp.push('\n');
            stamp.push_str(part);
        }
    }
    stamp
}

/// Unpacks the packages of `set` from `cache` to `into`, whole or not at all.
pub fn unpack(set: &Set, cache: &Path, into: &Path) -> Result<()> {
    let half = into.with_extension("partial");
    for old in [&half, into] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir_all(&half)?;
    for package in &set.packages {
        let from = cache.join(package.file());
        quiet(Command::new("dpkg-deb").arg("-x").arg(&from).arg(&half)).context("unpacking")?;
    }
    kernel_source(&half)?;
    Ok(fs::rename(half, into)?)
}

/// `linux-source-*` holds one large archive: takes the wanted parts out of it and drops it.
fn kernel_source(root: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.join("usr/src")) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(top) = name.strip_suffix(".tar.xz") else {
            continue;
        };
        let source = root.join("source");
        fs::create_dir_all(&source)?;
        let mut tar = Command::new("tar");
        tar.arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(&source)
            .arg("--strip-components=1");
        quiet(tar.args(KERNEL_PARTS.iter().map(|p| format!("{top}/{p}"))))?;
        fs::remove_file(&path)?;
    }
    Ok(())
}
