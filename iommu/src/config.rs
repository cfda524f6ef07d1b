//! What kind of unit, and what it can do.

use std::fmt;

use crate::radix::fmt::{Format, amdv1::AmdV1, vtdss::VtdSs};

/// The model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Intel VT-d, second-stage translation.
    Vtd {
        /// Scalable mode (PASID tables) instead of legacy context entries.
        scalable: bool,
    },
    /// AMD, host page tables of version 1.
    Amd,
}

/// How a unit is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The model.
    pub kind: Kind,
    /// Bits of an IOVA: 39, 48 or 57 for VT-d (3, 4 or 5 levels), 32 to 64 for AMD (3 to 6 levels).
    pub address_width: u8,
    /// Whether ports keep an IOTLB.
    pub iotlb: bool,
}

impl Default for Config {
    /// VT-d in scalable mode with 48 bits and no IOTLB.
    fn default() -> Self {
        Config {
            kind: Kind::Vtd { scalable: true },
            address_width: 48,
            iotlb: false,
        }
    }
}

/// Why there is no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The width, and what the kind accepts.
    AddressWidth(u8, &'static str),
    /// There is no memory for the first tables.
    NoMemory,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::AddressWidth(width, accepted) => {
                write!(f, "address width {width} is not possible; {accepted}")
            }
            ConfigError::NoMemory => f.write_str("there is no memory for the first tables"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// First and last byte of the window of interrupt messages (VT-d 3.14, AMD 2.1.4).
pub(crate) const INTERRUPT_WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// HyperTransport's special addresses, which AMD units do not translate (2.1.2).
const HYPERTRANSPORT: (u64, u64) = (0xfd_0000_0000, 0xff_ffff_ffff);

const VTD_RESERVED: &[(u64, u64)] = &[INTERRUPT_WINDOW];
const AMD_RESERVED: &[(u64, u64)] = &[INTERRUPT_WINDOW, HYPERTRANSPORT];

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (fits, accepted) = match self.kind {
            Kind::Vtd { .. } => (
                matches!(self.address_width, 39 | 48 | 57),
                "VT-d has 39, 48 or 57",
            ),
            Kind::Amd => ((32..=64).contains(&self.address_width), "AMD has 32 to 64"),
        };
        if fits {
            Ok(())
        } else {
            Err(ConfigError::AddressWidth(self.address_width, accepted))
        }
    }

    /// Level of the top table.
    pub(crate) fn top(&self) -> u32 {
        (u32::from(self.address_width) - 12).div_ceil(9) - 1
    }

    pub(crate) fn last(&self) -> u64 {
        u64::MAX >> (64 - self.address_width)
    }

    pub(crate) fn page_sizes(&self) -> u64 {
        let levels = 0..=self.top();
        let sizes = match self.kind {
            Kind::Vtd { .. } => levels.fold(0, |sizes, level| sizes | VtdSs::page_sizes(level)),
            Kind::Amd => levels.fold(0, |sizes, level| sizes | AmdV1::page_sizes(level)),
        };
        sizes & self.last()
    }

    pub(crate) fn reserved(&self) -> &'static [(u64, u64)] {
        match self.kind {
            Kind::Vtd { .. } => VTD_RESERVED,
            // With 32 bits the HyperTransport range is beyond the end.
            Kind::Amd if self.address_width < 40 => VTD_RESERVED,
            Kind::Amd => AMD_RESERVED,
        }
    }
}
