//! The IOMMU's directory: /sys/devices/virtual/iommu/dmar0 or ivhd0, and /sys/class/iommu.
//!
//! VT-d 4.1 sections 11.4.2 (CAP_REG) and 11.4.3 (ECAP_REG); AMD IOMMU 3.07 section 3.4.2 (extended feature register).

use super::Tree;
use crate::machine::{IommuConfig, IommuKind};
use std::io;

/// What Linux calls the first unit, if there is one.
pub(super) fn name(kind: IommuKind) -> Option<&'static str> {
    match kind {
        IommuKind::Vtd => Some("dmar0"),
        IommuKind::Amd => Some("ivhd0"),
        IommuKind::None => None,
    }
}

/// What no client can map: the interrupt window and, on AMD, the HyperTransport range, if addresses go that far.
pub(super) fn reserved_regions(config: &IommuConfig) -> &'static str {
    if config.kind == IommuKind::None {
        ""
    } else if config.kind == IommuKind::Amd && config.address_width >= 40 {
        "0x00000000fee00000 0x00000000feefffff msi\n0x000000fd00000000 0x000000ffffffffff reserved"
    } else {
        "0x00000000fee00000 0x00000000feefffff msi"
    }
}

/// Makes the unit's directory.
pub(super) fn unit(tree: &Tree, config: &IommuConfig) -> io::Result<()> {
    tree.directory("sys/class/iommu")?;
    let Some(name) = name(config.kind) else {
        return Ok(());
    };
    let directory = format!("sys/devices/virtual/iommu/{name}");
    tree.attributes(&directory, &[("uevent", 0o644, "")])?;
    match config.kind {
        IommuKind::Vtd => tree.attributes(
            &format!("{directory}/intel-iommu"),
            &[
                ("address", 0o444, "fed90000"),
                (
                    "cap",
                    0o444,
                    &format!("{:x}", vtd_cap(config.address_width)),
                ),
                ("domains_supported", 0o444, "65536"),
                ("domains_used", 0o444, "1"),
                ("ecap", 0o444, &format!("{:x}", vtd_ecap(config.scalable))),
                (
                    "version",
                    0o444,
                    if config.scalable { "6:0" } else { "1:0" },
                ),
            ],
        )?,
        IommuKind::Amd => tree.attributes(
            &format!("{directory}/amd-iommu"),
            &[("cap", 0o444, "190b640f"), ("features", 0o444, "16e3cc:0")],
        )?,
        IommuKind::None => {}
    }
    tree.directory(&format!("{directory}/devices"))?;
    tree.link(&format!("sys/class/iommu/{name}"), &directory)?;
    tree.link(&format!("{directory}/subsystem"), "sys/class/iommu")
}

/// 65536 domains, the page-table depth of this width and the ones below, 2 MiB and 1 GiB pages.
fn vtd_cap(width: u8) -> u64 {
    let depths = match width {
        39 => 0b0010,
        48 => 0b0110,
        _ => 0b1110,
    };
    let domains = 6;
    let large_pages = 0b11;
    let page_selective = 1 << 39;
    let drain = 0b11 << 54;
    let fault_records_at = 0x20 << 24;
    drain
        | page_selective
        | large_pages << 34
        | fault_records_at
        | u64::from(width - 1) << 16
        | depths << 8
        | domains
}

/// Coherent walks, queued invalidation, and in scalable mode second-stage translation by PASID tables.
fn vtd_ecap(scalable: bool) -> u64 {
    let coherent = 1;
    let queued = 1 << 1;
    let registers_at = 0x10 << 8;
    let scalable_mode = 1 << 43;
    let second_stage = 1 << 46;
    coherent
        | queued
        | registers_at
        | if scalable {
            scalable_mode | second_stage
        } else {
            0
        }
}
