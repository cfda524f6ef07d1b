//! Calls through the preloaded library, measured by C programs in clients/bench.

use super::table::{Required, Row};
use super::tools::{Figures, Tools};
use crate::clients::{self, Linking};
use anyhow::Result;

/// Mappings alive while MAP and UNMAP are timed.
pub const LIVE: [u64; 4] = [1, 1000, 64_000, 1_000_000];

/// A trivial ioctl beside real system calls of the same process.
pub fn trivial(tools: &Tools) -> Result<Vec<Row>> {
    let program = clients::compile("bench/calls", Linking::Dynamic)?;
    let figures = tools.measure::<&str>(&program, &[], [])?;
    let ours = figures.get("api-version")?;
    let mut rows = Vec::new();
    for (name, figure, required) in [
        (
            "real ioctl on descriptor -1",
            "direct-ioctl-bad-descriptor",
            Required::AtMost(1.0),
        ),
        (
            "real ioctl on an eventfd",
            "direct-ioctl-eventfd",
            Required::Nothing,
        ),
    ] {
        let beside = (name, figures.get(figure)?);
        rows.push(Row::times(
            "ioctl VFIO_GET_API_VERSION",
            ours,
            beside,
            required,
        ));
    }
    let direct = ("made directly", figures.get("direct-ioctl-eventfd")?);
    let passed = figures.get("passed-ioctl-eventfd")?;
    rows.push(Row::times(
        "ioctl on an eventfd, passed on to the kernel",
        passed,
        direct,
        Required::Nothing,
    ));
    Ok(rows)
}

/// The whole MAP and UNMAP ioctl beside vm-memory's map and unmap.
pub fn map(tools: &Tools, table: &Figures) -> Result<Vec<Row>> {
    let program = clients::compile("bench/map", Linking::Dynamic)?;
    let live = LIVE.map(|n| n.to_string());
    let limit = ["--dma-entry-limit", "4000000"];
    let figures = tools.measure(&program, &limit, &live)?;
    let full = tools.measure(
        &program,
        &["--dma-entry-limit", "4000000", "--stacks", "full"],
        &live[1..2],
    )?;
    let mut rows = Vec::new();
    for n in LIVE {
        let beside = table.get(&format!("pair/{n}/vm-memory IommuMemory"))?;
        rows.push(Row::times(
            format!("MAP_DMA + UNMAP_DMA of 4 KiB, {n} live"),
            figures.get(&format!("pair/{n}"))?,
            ("vm-memory IommuMemory, no pin", beside),
            Required::Nothing,
        ));
    }
    let populate = ("madvise(POPULATE) alone", figures.get("populate/1000")?);
    rows.push(Row::times(
        "MAP_DMA + UNMAP_DMA of 4 KiB, 1000 live",
        figures.get("pair/1000")?,
        populate,
        Required::Nothing,
    ));
    let site = ("call sites only", figures.get("pair/1000")?);
    rows.push(Row::times(
        "MAP_DMA + UNMAP_DMA, 1000 live, --stacks full",
        full.get("pair/1000")?,
        site,
        Required::Nothing,
    ));
    Ok(rows)
}

/// What a trap, a command and an eventfd cost.
pub fn costs(tools: &Tools) -> Result<Figures> {
    let program = clients::compile("bench/traps", Linking::Dynamic)?;
    tools.measure::<&str>(&program, &["--device", "nvme,size=64M"], [])
}
