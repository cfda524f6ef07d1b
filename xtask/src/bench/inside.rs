//! The page table, address spaces and DMA by themselves, from the bench programs of the crates.

use super::table::{Required, Row};
use super::tools::Figures;
use anyhow::Result;

/// The page table beside the bare walk.
pub fn page_table(figures: &Figures) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (live, most) in [(64_000, 6.0), (1_000_000, 10.0)] {
        rows.push(beside_floor(
            figures,
            &format!("pair/{live}"),
            "swiommu vtd",
            Required::AtMost(most),
        )?);
    }
    for live in [64_000, 1_000_000] {
        let each = figures.get(&format!("bytes/{live}/swiommu"))?;
        rows.push(Row {
            what: format!("page table bytes per mapping, {live} dense"),
            ours: format!("{each:.2} B"),
            beside: "8 B and 1/512".into(),
            ratio: each,
            unit: " B",
            // An entry, its share of the tables above, and the one table that is not full.
            required: Required::AtMost(8.2),
        });
    }
    for (name, required) in [
        ("translate/2MiB/sequential", Required::AtMost(1.2)),
        ("translate/2MiB/random", Required::AtMost(1.2)),
        ("translate/2MiB/random 2 threads", Required::AtMost(1.2)),
        ("translate/2MiB/dependent", Required::Nothing),
        ("translate/256MiB/random", Required::Nothing),
        ("translate/256MiB/random 2 threads", Required::Nothing),
    ] {
        rows.push(beside_floor(figures, name, "swiommu vtd", required)?);
    }
    for contender in [
        "swiommu amd",
        "swiommu vtd iotlb",
        "swiommu vtd dirty",
        "vm-memory IommuMemory",
    ] {
        rows.push(beside_floor(
            figures,
            "translate/2MiB/random",
            contender,
            Required::Nothing,
        )?);
    }
    for live in [64_000, 1_000_000] {
        for contender in ["swiommu amd", "BTreeMap", "vm-memory IommuMemory"] {
            rows.push(beside_floor(
                figures,
                &format!("pair/{live}"),
                contender,
                Required::Nothing,
            )?);
        }
    }
    Ok(rows)
}

fn beside_floor(figures: &Figures, name: &str, contender: &str, required: Required) -> Result<Row> {
    let floor = ("bare walk", figures.get(&format!("{name}/floor"))?);
    let ours = figures.get(&format!("{name}/{contender}"))?;
    Ok(Row::times(
        format!("{name}, {contender}"),
        ours,
        floor,
        required,
    ))
}

/// DMA through the engine beside memcpy to the same pages.
pub fn dma(figures: &Figures) -> Result<Vec<Row>> {
    /// Transfers of a command with a list.
    const LIST: u32 = 16;
    let mut rows = Vec::new();
    let mut row = |direction: &str,
                   (bytes, list): (u32, u32),
                   window: &str,
                   contender: &str,
                   required|
     -> Result<()> {
        let name = format!("{direction}/{bytes}x{list}/{window}");
        let each = match list {
            1 => String::new(),
            list => format!(", {list} a command,"),
        };
        rows.push(Row::speed(
            format!("DMA {direction} of {bytes} bytes{each} in {window}, {contender}"),
            figures.get(&format!("{name}/{contender}"))?,
            ("memcpy by page", figures.get(&format!("{name}/memcpy"))?),
            required,
        ));
        Ok(())
    };
    for size in [(4 << 10, LIST), (64 << 10, 1), (1 << 20, 1)] {
        row("write", size, "256MiB", "swiommu", Required::AtLeast(0.95))?;
    }
    for window in ["1MiB", "256MiB"] {
        for size in [(64, 1), (4 << 10, 1), (4 << 10, LIST), (64 << 10, 1)] {
            row("read", size, window, "swiommu", Required::Nothing)?;
        }
        for contender in ["swiommu iotlb", "swiommu dirty"] {
            for list in [1, LIST] {
                row(
                    "write",
                    (4 << 10, list),
                    window,
                    contender,
                    Required::Nothing,
                )?;
            }
        }
        row("write", (4 << 10, 1), window, "swiommu", Required::Nothing)?;
    }
    for size in [(64, 1), (4 << 10, LIST), (64 << 10, 1)] {
        row("write", size, "1MiB", "swiommu", Required::Nothing)?;
    }
    for (writes, order) in [("write", "again and again"), ("first", "once to each page")] {
        for (window, required) in [
            ("256MiB", Required::AtMost(1.1)),
            ("1MiB", Required::Nothing),
        ] {
            let name = format!("{writes}/4096x1/{window}");
            rows.push(Row::times(
                format!("tracked DMA write of 4096 bytes in {window}, {order}"),
                figures.get(&format!("{name}/swiommu dirty"))?,
                ("untracked", figures.get(&format!("{name}/swiommu"))?),
                required,
            ));
        }
    }
    Ok(rows)
}

/// Address spaces of /dev/iommu: mapping, filling a page table, dirty pages.
pub fn space(figures: &Figures) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut row = |what: &str, name: &str, ours: &str, beside: &str, required| -> Result<()> {
        let value = figures.get(&format!("{name}/{ours}"))?;
        let other = (beside, figures.get(&format!("{name}/{beside}"))?);
        rows.push(Row::times(what, value, other, required));
        Ok(())
    };
    for live in [1000, 64_000] {
        let what = format!("IOAS_MAP + IOAS_UNMAP of 4 KiB, {live} live");
        let name = format!("pair/{live}");
        row(&what, &name, "iommufd", "container", Required::Nothing)?;
    }
    row(
        "a new page table for 1000000 mappings, each",
        "fill/1000000",
        "swiommu",
        "bare walk",
        Required::AtMost(2.0),
    )?;
    for (name, required) in [
        ("2MiB pages, all", Required::AtMost(2.0)),
        ("4KiB pages, none", Required::AtMost(2.0)),
        ("4KiB pages, 1 in 64", Required::AtMost(2.0)),
        ("4KiB pages, all", Required::AtMost(2.0)),
    ] {
        let what = format!("GET_DIRTY_BITMAP of 4 GiB, {name} written");
        let name = format!("dirty/{name}");
        row(&what, &name, "swiommu", "word bitmap", required)?;
    }
    Ok(rows)
}
