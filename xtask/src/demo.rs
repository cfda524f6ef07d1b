//! `cargo xtask demo`: the main job on real input, then one deliberate client bug.
//!
//! Debian's own qemu-io copies data through VFIO into an emulated NVMe and reads it back, checked by qemu-io and again
//! in the disk image; then a small driver lets its device write to memory it has unmapped, and the report says so.

use crate::clients::{self, Linking};
use crate::fetch;
use crate::project;
use crate::run::{cargo, loud, progress};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: usize = 1 << 20;

/// The command.
pub fn demo() -> Result<()> {
    progress("building swiommu");
    loud(&mut cargo([
        "build",
        "--quiet",
        "--release",
        "-p",
        "swiommu",
        "-p",
        "swiommu-shim",
    ]))?;
    let qemu = fetch::ensure("qemu-7.2")?
        .map_err(|why| anyhow::anyhow!("Debian's qemu-utils cannot be had: {why}"))?;
    let swiommu = project::target().join("release/swiommu");
    data(&swiommu, &qemu)?;
    bug(&swiommu)?;
    progress("done: the data is right, and the bug was caught");
    Ok(())
}

/// Where the libraries of an unpacked Debian lie.
fn libraries(root: &Path) -> OsString {
    let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|d| root.join(d));
    std::env::join_paths(directories).expect("no colon in the target directory's name")
}

fn data(swiommu: &Path, qemu: &Path) -> Result<()> {
    let image = scratch()?.join("disk.img");
    fs::File::create(&image)?.set_len(64 << 20)?;
    let mut device = OsString::from("nvme,file=");
    device.push(&image);
    let mut command = Command::new(swiommu);
    command
        .env("LD_LIBRARY_PATH", libraries(qemu))
        .args(["run", "--device"])
        .arg(device)
        .arg("--");
    command
        .arg(qemu.join("usr/bin/qemu-io"))
        .args(["-f", "raw"]);
    command.args([
        "-c",
        "write -P 0x5a 1M 256k",
        "-c",
        "read -P 0x5a 1M 256k",
        "nvme://0000:01:00.0/1",
    ]);
    show(&command);
    loud(&mut command)?;
    let bytes = fs::read(&image)?;
    let written = MIB..MIB + (256 << 10);
    ensure!(
        bytes[written.clone()].iter().all(|b| *b == 0x5a),
        "the image does not hold what was written"
    );
    let others = bytes
        .iter()
        .enumerate()
        .filter(|(at, byte)| !written.contains(at) && **byte != 0)
        .count();
    ensure!(
        others == 0,
        "{others} bytes of the image changed that nobody wrote"
    );
    progress("the image holds 256 KiB of 0x5a at 1 MiB, and zeroes elsewhere");
    Ok(())
}

fn bug(swiommu: &Path) -> Result<()> {
    let program = clients::compile("bugs/use_after_unmap", Linking::Dynamic)?;
    let findings = scratch()?.join("findings.json");
    let _ = fs::remove_file(&findings);
    let mut command = Command::new(swiommu);
    command
        .args([
            "run",
            "--device",
            "edu",
            "--error-exitcode",
            "99",
            "--report",
        ])
        .arg(&findings);
    command.arg("--").arg(program).stdin(Stdio::null());
    show(&command);
    let status = command.status().context("swiommu")?;
    if status.code() != Some(99) {
        bail!("the bug was not reported: {status}, expected exit status 99");
    }
    let text = fs::read_to_string(&findings).context("the report's JSON")?;
    ensure!(!text.trim().is_empty(), "the report's JSON is empty");
    Ok(())
}

fn scratch() -> Result<PathBuf> {
    let directory = project::target().join("demo");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Prints a command as one would type it, with paths below the project shortened.
fn show(command: &Command) {
    let root = format!("{}/", project::root().display());
    let word = |w: &std::ffi::OsStr| {
        let w = w.to_string_lossy().replace(&root, "");
        if w.contains(' ') { format!("'{w}'") } else { w }
    };
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(word)
        .collect();
    progress(&format!("$ {}", words.join(" ")));
}
