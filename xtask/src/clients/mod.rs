//! Client programs that are built here: our own C programs, the kernel's selftests, a program on rust-vmm's crates, and
//! the qemu of a newer Debian with its own loader.

mod loader;
mod programs;

pub use programs::{Program, Programs};

use crate::fetch;
use crate::project;
use crate::run::{captured, cargo, progress, quiet};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel's selftests that have container variants.
pub const SELFTESTS: [&str; 3] = [
    "vfio_dma_mapping_test",
    "vfio_dma_mapping_mmio_test",
    "vfio_pci_device_init_perf_test",
];

/// The sets of packages that the client suite runs.
const SETS: [&str; 6] = [
    "qemu-7.2",
    "qemu-10.0",
    "qemu-11.1",
    "qemu-system-7.2",
    "qemu-system-10.0",
    "guest",
];

/// Whether a program is linked for the machine here or to be carried to another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    Dynamic,
    Static,
}

/// Compiles clients/`name`.c and gives the program's path.
pub fn compile(name: &str, linking: Linking) -> Result<PathBuf> {
    let directory = project::clients().join(if linking == Linking::Static {
        "static"
    } else {
        "bin"
    });
    fs::create_dir_all(&directory)?;
    let out = directory.join(name.rsplit('/').next().unwrap_or(name));
    let source = project::file("clients").join(format!("{name}.c"));
    let mut cc = compiler();
    cc.args(["-O1", "-Wall", "-Wextra", "-Wno-nonnull", "-pthread", "-o"])
        .arg(&out)
        .arg(source);
    if linking == Linking::Static {
        cc.arg("-static");
    }
    quiet(&mut cc)?;
    Ok(out)
}

/// The C compiler: `$CC`, else `cc`.
fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// Fetches and builds everything that the client suite uses. What cannot be had is said and left out: the suite skips it.
pub fn prepare() -> Result<()> {
    for set in SETS {
        if let Err(why) = fetch::ensure(set)? {
            progress(&format!("without {set}: {why}"));
        }
    }
    own_loaders()?;
    if let Err(error) = selftests(Linking::Dynamic) {
        progress(&format!("without the kernel's selftests: {error:#}"));
    }
    if let Err(error) = vmm() {
        progress(&format!("without the vfio-ioctls client: {error:#}"));
    }
    Ok(())
}

/// Lets the programs that need a newer C library than this machine's start with their own.
pub fn own_loaders() -> Result<()> {
    let newest = fetch::directory("qemu-11.1");
    if newest.join(".complete").exists() {
        for tool in ["qemu-io", "qemu-img"] {
            loader::use_own(&newest, tool)?;
        }
    }
    Ok(())
}

/// Builds the kernel's VFIO selftests; the directory they are in.
pub fn selftests(linking: Linking) -> Result<PathBuf> {
    let kernel = fetch::ensure("linux")?.map_err(anyhow::Error::msg)?;
    let uuid = fetch::ensure("uuid")?
        .map_err(anyhow::Error::msg)?
        .join("usr");
    let directory = project::clients().join(if linking == Linking::Static {
        "selftests-static"
    } else {
        "selftests"
    });
    fs::create_dir_all(&directory)?;
    for name in SELFTESTS {
        selftest(name, &kernel, &uuid, &directory.join(name), linking)?;
    }
    Ok(directory)
}

fn selftest(name: &str, kernel: &Path, uuid: &Path, out: &Path, linking: Linking) -> Result<()> {
    let stamp = fs::metadata(kernel.join(".complete"))?.modified()?;
    if fs::metadata(out)
        .and_then(|m| m.modified())
        .is_ok_and(|built| built > stamp)
    {
        return Ok(());
    }
    progress(&format!("building the kernel's {name}"));
    let (tools, headers) = (kernel.join("source/tools"), kernel.join("usr/include"));
    let here = tools.join("testing/selftests/vfio");
    let mut cc = compiler();
    cc.arg("-O1")
        .arg("-isystem")
        .arg(&headers)
        .arg("-isystem")
        .arg(headers.join("x86_64-linux-gnu"));
    // 7.2's copy calls a function that exists nowhere in that tree.
    cc.args(["-D_GNU_SOURCE=", "-Dcalloc_assert=calloc", "-pthread", "-w"]);
    for include in ["testing/selftests", "include", "arch/x86/include"] {
        cc.arg("-I").arg(tools.join(include));
    }
    cc.arg("-I")
        .arg(here.join("lib/include"))
        .arg("-I")
        .arg(uuid.join("include"));
    cc.arg(here.join(format!("{name}.c")));
    for directory in ["lib", "lib/drivers/dsa", "lib/drivers/ioat"] {
        let mut sources: Vec<_> = fs::read_dir(here.join(directory))?.collect::<Result<_, _>>()?;
        sources.sort_by_key(|entry| entry.path());
        cc.args(
            sources
                .iter()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == "c")),
        );
    }
    cc.arg(uuid.join("lib/x86_64-linux-gnu/libuuid.a"))
        .arg("-o")
        .arg(out);
    if linking == Linking::Static {
        cc.arg("-static");
    }
    quiet(&mut cc).context("building a selftest").map(drop)
}

/// Builds clients/vfio-ioctls, a package of its own so that its dependencies are not ours.
fn vmm() -> Result<()> {
    let manifest = project::file("clients/vfio-ioctls/Cargo.toml");
    let target = project::clients().join("vfio-ioctls");
    let mut build = cargo(["build", "--quiet", "--locked", "--manifest-path"]);
    build.arg(&manifest).arg("--target-dir").arg(&target);
    if captured(
        cargo([
            "build",
            "--quiet",
            "--locked",
            "--offline",
            "--manifest-path",
        ])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target),
    )?
    .status
    .success()
    {
        return Ok(());
    }
    quiet(&mut build).map(drop)
}
