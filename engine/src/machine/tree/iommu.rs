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
    match Registers::of(config) {
        Registers::Vtd { version, cap, ecap } => tree.attributes(
            &format!("{directory}/intel-iommu"),
            &[
                ("address", 0o444, "fed90000"),
                ("cap", 0o444, &format!("{cap:x}")),
                ("domains_supported", 0o444, "65536"),
                ("domains_used", 0o444, "1"),
                ("ecap", 0o444, &format!("{ecap:x}")),
                ("version", 0o444, version),
            ],
        )?,
        Registers::Amd { cap, features } => {
            let [features, features2] = features;
            tree.attributes(
                &format!("{directory}/amd-iommu"),
                &[
                    ("cap", 0o444, &format!("{cap:x}")),
                    ("features", 0o444, &format!("{features:x}:{features2:x}")),
                ],
            )?
        }
        Registers::None => {}
    }
    tree.directory(&format!("{directory}/devices"))?;
    tree.link(&format!("sys/class/iommu/{name}"), &directory)?;
    tree.link(&format!("{directory}/subsystem"), "sys/class/iommu")
}

/// What the unit's registers say of it, in sysfs and to IOMMU_GET_HW_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// VT-d.
    Vtd {
        /// Version as sysfs shows it.
        version: &'static str,
        /// Capability register.
        cap: u64,
        /// Extended capability register.
        ecap: u64,
    },
    /// AMD.
    Amd {
        /// First word of the capability block.
        cap: u32,
        /// Extended features and what was added to them.
        features: [u64; 2],
    },
    /// There is no unit.
    None,
}

/// VT-d: second-stage accessed and dirty bits, and page walks that snoop, which Linux wants for dirty tracking.
const VTD_DIRTY: u64 = 1 << 45 | 1 << 48;
/// AMD: host accessed and dirty bits.
const AMD_DIRTY: u64 = 1 << 49 | 1 << 52;

impl Registers {
    /// Those of a configuration.
    pub fn of(config: &IommuConfig) -> Registers {
        match config.kind {
            IommuKind::Vtd => Registers::Vtd {
                version: if config.scalable { "6:0" } else { "1:0" },
                cap: vtd_cap(config.address_width),
                ecap: vtd_ecap(config.scalable),
            },
            IommuKind::Amd => Registers::Amd {
                cap: 0x190b_640f,
                features: [0x16_e3cc | AMD_DIRTY, 0],
            },
            IommuKind::None => Registers::None,
        }
    }

    /// Whether page tables can track dirty pages.
    pub fn tracks_dirty(&self) -> bool {
        match self {
            Registers::Vtd { ecap, .. } => ecap & VTD_DIRTY == VTD_DIRTY,
            Registers::Amd { features, .. } => features[0] & AMD_DIRTY == AMD_DIRTY,
            Registers::None => false,
        }
    }
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

/// Coherent walks, queued invalidation, snoop control, and in scalable mode second-stage translation by PASID tables
/// with dirty bits.
fn vtd_ecap(scalable: bool) -> u64 {
    let coherent = 1;
    let queued = 1 << 1;
    let snoop_control = 1 << 7;
    let registers_at = 0x10 << 8;
    let scalable_mode = 1 << 43;
    let second_stage = 1 << 46;
    coherent
        | queued
        | snoop_control
        | registers_at
        | if scalable {
            scalable_mode | second_stage | VTD_DIRTY
        } else {
            0
        }
}
