//! The programs that are measured, and how they are called.

use crate::project;
use crate::run::quiet;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the NVMe of the measured machines is.
pub const NVME: &str = "0000:01:00.0";

/// What every measurement needs.
pub struct Tools {
    pub swiommu: PathBuf,
    /// The unpacked Debian 12 packages of QEMU.
    pub qemu: PathBuf,
    /// A directory for images.
    pub scratch: PathBuf,
    /// Fewer and shorter runs.
    pub quick: bool,
}

impl Tools {
    /// `swiommu run OPTIONS --`.
    pub fn run(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.swiommu);
        command
            .env("LD_LIBRARY_PATH", self.libraries())
            .env("DEVICE_NVME", NVME)
            .arg("run")
            .args(options)
            .arg("--");
        command
    }

    /// A program of QEMU, as it is.
    pub fn qemu_img(&self) -> Command {
        let mut command = Command::new(self.qemu_img_path());
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    /// The same under `swiommu run` with these options.
    pub fn qemu_img_run(&self, options: &[&str]) -> Command {
        let mut command = self.run(options);
        command.arg(self.qemu_img_path());
        command
    }

    fn qemu_img_path(&self) -> PathBuf {
        self.qemu.join("usr/bin/qemu-img")
    }

    fn libraries(&self) -> OsString {
        let directories =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|d| self.qemu.join(d));
        std::env::join_paths(directories).expect("no colon in the target directory's name")
    }

    /// Either number of rounds.
    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A file of the scratch directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Runs one of our measuring programs under `swiommu run` and reads its lines `name: number`.
    pub fn measure<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        options: &[&str],
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Figures> {
        let rounds = self.rounds(15, 3).to_string();
        let text = quiet(self.run(options).arg(program).arg(rounds).args(arguments))?;
        let mut figures = BTreeMap::new();
        for line in text.lines() {
            let (name, value) = line.split_once(": ").context("a line without a figure")?;
            figures.insert(name.to_owned(), value.parse()?);
        }
        Ok(Figures(figures))
    }
}

/// Nanoseconds by name.
pub struct Figures(pub BTreeMap<String, f64>);

impl Figures {
    /// One of them.
    pub fn get(&self, name: &str) -> Result<f64> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("the measuring program printed no {name}"))
    }

    /// What a bench program of ours prints with `--json`.
    pub fn of_bench(package: &str, name: &str, quick: bool) -> Result<Figures> {
        let mut cargo = crate::run::cargo(["bench", "--quiet", "-p", package, "--bench", name]);
        cargo.args(["--", "--json"]);
        if quick {
            cargo.arg("--quick");
        }
        let text = quiet(&mut cargo)?;
        Ok(Figures(
            serde_json::from_str(&text).with_context(|| format!("{package}'s {name}"))?,
        ))
    }
}

/// The directory for images, made.
pub fn scratch() -> Result<PathBuf> {
    let scratch = project::target().join("bench");
    std::fs::create_dir_all(&scratch)?;
    Ok(scratch)
}
