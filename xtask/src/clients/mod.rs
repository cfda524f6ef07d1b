//! Client programs that are built here: our own C programs, the kernel's selftests, a program on rust-vmm's crates, and
//! the qemu of a newer Debian with its own loader.

mod loader;
mod programs;
mod selftests;

pub use programs::{Program, Programs};
pub use selftests::selftests;

use crate::fetch;
use crate::project;
use crate::run::{captured, cargo, progress, quiet};
use anyhow::Result;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The sets of packages that the client suite runs.
const SETS: [&str; 7] = [
    "qemu-7.2",
    "qemu-10.0",
    "qemu-11.1",
    "qemu-system-7.2",
    "qemu-system-10.0",
    "guest",
    "dpdk",
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
