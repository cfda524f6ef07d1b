//! `cargo xtask record`: what a real kernel answers to the client programs, kept as golden files.
//!
//! The oracle is a program `ORACLE [--iommu KIND] [--file HOST:GUEST] ... SCRIPT` that boots a kernel with VFIO and an
//! emulated IOMMU, runs the script in it as root and passes its output on. It names its devices in the environment as
//! ORACLE_NVME, ORACLE_EDU and so on.

use crate::clients::{self, Linking, Program, Programs};
use crate::project;
use crate::run::{captured, progress};
use crate::tap::test_lines;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `record`.
#[derive(clap::Args)]
pub struct Options {
    /// The program that runs a script on a real kernel (default: $SWIOMMU_ORACLE)
    #[arg(long)]
    oracle: Option<PathBuf>,
    /// Only this IOMMU (default: all of the program)
    #[arg(long, value_parser = ["intel", "amd", "none"])]
    iommu: Option<String>,
    /// Only these programs (default: all)
    programs: Vec<String>,
}

/// The command.
pub fn record(options: &Options) -> Result<()> {
    let oracle = options
        .oracle
        .clone()
        .or_else(|| std::env::var_os("SWIOMMU_ORACLE").map(PathBuf::from));
    let oracle = oracle.context("where the oracle is: give --oracle or set SWIOMMU_ORACLE")?;
    let all = Programs::read()?;
    if let Some(unknown) = options
        .programs
        .iter()
        .find(|name| !all.programs.iter().any(|p| p.name == **name))
    {
        bail!("clients/programs.toml has no program {unknown}");
    }
    let selftests = if all
        .programs
        .iter()
        .any(|p| p.selftest && wanted(p, options))
    {
        Some(clients::selftests(Linking::Static)?)
    } else {
        None
    };
    for program in all.programs.iter().filter(|p| wanted(p, options)) {
        let binary = match &selftests {
            Some(directory) if program.selftest => directory.join(&program.name),
            _ => clients::compile(&program.name, Linking::Static)?,
        };
        for iommu in &program.iommus {
            if options.iommu.as_deref().is_some_and(|only| only != iommu) {
                continue;
            }
            progress(&format!("recording {} on {iommu}", program.name));
            let answers = ask(&oracle, program, &binary, iommu, all.devices.keys())?;
            let directory = project::file("clients/golden").join(iommu);
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(format!("{}.txt", program.name)), answers)?;
        }
    }
    Ok(())
}

fn wanted(program: &Program, options: &Options) -> bool {
    options.programs.is_empty() || options.programs.contains(&program.name)
}

/// Runs one program on the real kernel.
pub fn ask<'a>(
    oracle: &Path,
    program: &Program,
    binary: &Path,
    iommu: &str,
    roles: impl Iterator<Item = &'a String>,
) -> Result<String> {
    let mut script = String::from("#!/bin/sh\n");
    for role in roles {
        writeln!(
            script,
            "export DEVICE_{role}=$ORACLE_{role} {role}=$ORACLE_{role}"
        )?;
    }
    for line in &program.record {
        writeln!(script, "{line}")?;
    }
    writeln!(script, "exec /root/program {}", program.args.join(" "))?;
    let path = project::clients()
        .join("static")
        .join(format!("{}.sh", program.name));
    fs::create_dir_all(path.parent().expect("it has one"))?;
    fs::write(&path, script)?;
    let mut oracle = Command::new(oracle);
    oracle
        .args(["--kernel", &program.kernel, "--iommu", iommu])
        .args(&program.oracle);
    oracle
        .arg("--file")
        .arg(format!("{}:/root/program", binary.display()))
        .arg(path);
    let output = captured(&mut oracle).context("the oracle")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if program.selftest {
        return Ok(test_lines(&text));
    }
    if !output.status.success() {
        bail!(
            "{}: {}\n{}",
            program.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}
