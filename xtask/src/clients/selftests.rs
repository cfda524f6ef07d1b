//! The kernel's own selftests of VFIO and iommufd, built from Debian's source of it, or from the tree that
//! `$SWIOMMU_KERNEL` names (its headers in `usr/include`, as `make headers_install` leaves them).

use super::{Linking, compiler};
use crate::fetch;
use crate::project;
use crate::run::{progress, quiet};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names another kernel tree than Debian's.
const TREE: &str = "SWIOMMU_KERNEL";

/// The VFIO selftests: containers, `/dev/iommu` as one, and device nodes.
const VFIO: [&str; 7] = [
    "vfio_dma_mapping_mmio_test",
    "vfio_dma_mapping_test",
    "vfio_iommufd_setup_test",
    "vfio_pci_device_init_perf_test",
    "vfio_pci_device_test",
    "vfio_pci_driver_test",
    "vfio_pci_sriov_uapi_test",
];

/// The iommufd selftests; they need the kernel's mock IOMMU, or `swiommu run --mock`.
const IOMMUFD: [&str; 2] = ["iommufd", "iommufd_fail_nth"];

/// A kernel's source and its headers.
struct Kernel {
    source: PathBuf,
    headers: PathBuf,
    /// What a selftest must be newer than.
    stamp: PathBuf,
}

impl Kernel {
    fn find() -> Result<Kernel> {
        if let Some(tree) = std::env::var_os(TREE) {
            let source = PathBuf::from(tree);
            return Ok(Kernel {
                headers: source.join("usr/include"),
                stamp: source.join("tools/testing/selftests"),
                source,
            });
        }
        let kernel = set("linux")?;
        Ok(Kernel {
            source: kernel.join("source"),
            headers: kernel.join("usr/include"),
            stamp: kernel.join(".complete"),
        })
    }

    /// A compiler that sees the kernel's headers rather than the machine's.
    fn compiler(&self) -> Command {
        let mut cc = compiler();
        cc.arg("-O1").arg("-isystem").arg(&self.headers);
        let multiarch = self.headers.join("x86_64-linux-gnu");
        if multiarch.exists() {
            cc.arg("-isystem").arg(multiarch);
        }
        cc.args(["-D_GNU_SOURCE=", "-pthread", "-w"]);
        for include in ["testing/selftests", "include", "arch/x86/include"] {
            cc.arg("-I").arg(self.source.join("tools").join(include));
        }
        cc
    }
}

/// An unpacked set, or why it is not there.
fn set(name: &str) -> Result<PathBuf> {
    fetch::ensure(name)?.map_err(anyhow::Error::msg)
}

/// Builds the kernel's VFIO and iommufd selftests; the directory they are in.
pub fn selftests(linking: Linking) -> Result<PathBuf> {
    let kernel = Kernel::find()?;
    let (uuid, libcap) = (set("uuid")?.join("usr"), set("libcap")?.join("usr"));
    let directory = project::clients().join(match linking {
        Linking::Static => "selftests-static",
        Linking::Dynamic => "selftests",
    });
    fs::create_dir_all(&directory)?;
    for name in VFIO {
        build(name, &kernel, &directory, linking, |cc| {
            vfio(cc, name, &kernel, &uuid)
        })?;
    }
    for name in IOMMUFD {
        build(name, &kernel, &directory, linking, |cc| {
            let here = kernel.source.join("tools/testing/selftests/iommu");
            cc.arg("-I").arg(libcap.join("include"));
            cc.arg(here.join(format!("{name}.c")));
            cc.arg(libcap.join("lib/x86_64-linux-gnu/libcap.a"));
            Ok(())
        })?;
    }
    Ok(directory)
}

/// Builds one program unless it is there already.
fn build(
    name: &str,
    kernel: &Kernel,
    directory: &Path,
    linking: Linking,
    sources: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<()> {
    let out = directory.join(name);
    let stamp = fs::metadata(&kernel.stamp)?.modified()?;
    let newer = |built| built > stamp;
    if fs::metadata(&out)
        .and_then(|m| m.modified())
        .is_ok_and(newer)
    {
        return Ok(());
    }
    progress(&format!("building the kernel's {name}"));
    let mut cc = kernel.compiler();
    sources(&mut cc)?;
    cc.arg("-o").arg(out);
    if linking == Linking::Static {
        cc.arg("-static");
    }
    quiet(&mut cc).context("building a selftest").map(drop)
}

/// A VFIO selftest, with the library that all of them share.
fn vfio(cc: &mut Command, name: &str, kernel: &Kernel, uuid: &Path) -> Result<()> {
    let here = kernel.source.join("tools/testing/selftests/vfio");
    // 7.2's copy calls a function that exists nowhere in that tree.
    cc.arg("-Dcalloc_assert=calloc");
    cc.arg("-I").arg(here.join("lib/include"));
    cc.arg("-I").arg(uuid.join("include"));
    cc.arg(here.join(format!("{name}.c")));
    for directory in ["lib", "lib/drivers/dsa", "lib/drivers/ioat"] {
        let mut sources: Vec<_> = fs::read_dir(here.join(directory))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        sources.retain(|path| path.extension().is_some_and(|e| e == "c"));
        sources.sort();
        cc.args(sources);
    }
    cc.arg(uuid.join("lib/x86_64-linux-gnu/libuuid.a"));
    Ok(())
}
