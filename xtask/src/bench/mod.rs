//! `cargo xtask bench`: every figure of the project, each beside its peer or its floor, taken in one run and written to
//! BENCHMARKS.md as one table of ratios.

mod calls;
mod inside;
mod programs;
mod table;
mod timing;
mod tools;

use crate::fetch;
use crate::project;
use crate::run::{cargo, loud, progress, quiet};
use anyhow::Result;
use programs::Target;
use std::fs;
use std::process::Command;
use table::{Required, Row};
use tools::{Figures, Tools};

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Fewer and shorter runs, for a first impression; BENCHMARKS.md is left as it is
    #[arg(long)]
    quick: bool,
}

/// The command.
pub fn bench(options: &Options) -> Result<()> {
    progress("building");
    loud(&mut cargo([
        "build",
        "--quiet",
        "--release",
        "-p",
        "swiommu",
        "-p",
        "swiommu-shim",
    ]))?;
    let qemu = fetch::ensure("qemu-7.2")?.map_err(anyhow::Error::msg)?;
    let tools = Tools {
        swiommu: project::target().join("release/swiommu"),
        qemu,
        scratch: tools::scratch()?,
        quick: options.quick,
    };
    let (rows, remarks) = measure(&tools)?;
    let table = table::render(&rows);
    print!("{table}");
    let text = document(options, &table, &rows, &remarks)?;
    let place = if options.quick {
        tools.file("BENCHMARKS.md")
    } else {
        project::file("BENCHMARKS.md")
    };
    fs::write(&place, text)?;
    progress(&format!("written to {}", shown(&place)));
    Ok(())
}

/// A path as the user would name it.
fn shown(path: &std::path::Path) -> String {
    path.strip_prefix(project::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// All rows, and what is said beside the table.
fn measure(tools: &Tools) -> Result<(Vec<Row>, Vec<String>)> {
    let mut rows = Vec::new();
    let mut remarks = Vec::new();
    progress("measuring whole programs");
    rows.push(programs::start_up(tools)?);
    let required = Required::AtLeast(0.9);
    let flushed = (Target::Fresh, "writeback");
    rows.push(programs::convert(tools, 1024, flushed, required)?);
    for how in [
        flushed,
        (Target::Fresh, "unsafe"),
        (Target::Allocated, "writeback"),
        (Target::Allocated, "unsafe"),
        (Target::Allocated, "none"),
    ] {
        rows.push(programs::convert(tools, 256, how, Required::Nothing)?);
    }
    let costs = calls::costs(tools)?;
    for (depth, required) in [(1, Required::AtMost(6.0)), (32, Required::Nothing)] {
        let (row, request, null) = programs::reads(tools, depth, required)?;
        rows.push(row);
        remarks.push(programs::breakdown(tools, depth, (request, null), &costs)?);
    }
    let (row, remark) = programs::checked_test(tools)?;
    rows.extend(row);
    remarks.push(remark);
    rows.extend(programs::selftest(tools)?);
    progress("measuring DMA");
    rows.extend(inside::dma(&Figures::of_bench(
        "swiommu-engine",
        "dma",
        tools.quick,
    )?)?);
    progress("measuring the page table");
    let table = Figures::of_bench("swiommu-iommu", "page_table", tools.quick)?;
    rows.extend(inside::page_table(&table)?);
    progress("measuring address spaces");
    let space = Figures::of_bench("swiommu-engine", "space", tools.quick)?;
    rows.extend(inside::space(&space)?);
    progress("measuring calls");
    rows.extend(calls::trivial(tools)?);
    rows.extend(calls::map(tools, &table)?);
    Ok((rows, remarks))
}

/// BENCHMARKS.md.
fn document(options: &Options, table: &str, rows: &[Row], remarks: &[String]) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("unknown");
    let kernel = quiet(Command::new("uname").arg("-r"))?;
    let date = quiet(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<_> = load.split(' ').take(3).collect();
    let verdict = match table::missed(rows) {
        0 => "All required ratios are met.".into(),
        n => format!("{n} required ratios are missed; see the column on the right."),
    };
    Ok(format!(
        include_str!("document.md"),
        machine = format!(
            "{} CPUs, {}, Linux {}",
            std::thread::available_parallelism()?,
            model.trim_start_matches([':', ' ', '\t']),
            kernel.trim()
        ),
        date = date.trim(),
        load = load.join(" "),
        command = if options.quick {
            "cargo xtask bench --quick"
        } else {
            "cargo xtask bench"
        },
        verdict = verdict,
        table = table.trim_end(),
        remarks = remarks
            .iter()
            .map(|r| format!("- {r}\n"))
            .collect::<String>(),
    ))
}
