//! A device that only fills a place in a group: it has an identity and BARs, and does nothing.
//!
//! Its registers read zero; a write is reported as unmodelled.

use crate::machine::{StubConfig, size};
use crate::pci::{Bar, Bus, Device, Identity, Msix, Role};
use swiommu_abi::Errno;

/// The stub.
#[derive(Debug)]
pub struct Stub {
    identity: Identity,
}

/// Reads one BAR of a configuration: `"128K"` is memory, `"io:32"` I/O space, `""` none.
///
/// Sizes are powers of two in bytes, or with K, M or G; 16 or more for memory (up to 1G), 4..=256 for I/O.
///
/// # Errors
/// One line that says what is accepted.
pub fn parse_bar(text: &str) -> Result<Bar, String> {
    if text.is_empty() {
        return Ok(Bar::None);
    }
    let (io, size) = match text.strip_prefix("io:") {
        Some(size) => (true, size),
        None => (false, text),
    };
    let bytes = size::parse(size).filter(|bytes| bytes.is_power_of_two());
    match bytes {
        Some(bytes @ 4..=256) if io => Ok(Bar::Io { bytes }),
        Some(bytes @ 16..=0x4000_0000) if !io => Ok(Bar::Memory {
            bytes,
            wide: false,
            prefetch: false,
        }),
        _ => Err(format!(
            "BAR {text:?}: a power of two is wanted: memory like 128K (16 to 1G), or I/O like io:32 (io:4 to io:256)"
        )),
    }
}

impl Stub {
    /// # Errors
    /// EINVAL for a BAR that [`parse_bar`] refuses, MSI vectors that are no power of two up to 32, an MSI-X table that
    /// fits no memory BAR, or a class code of more than 24 bits.
    pub fn new(config: &StubConfig) -> Result<Stub, Errno> {
        let mut bars = [Bar::None; 6];
        for (bar, text) in bars.iter_mut().zip(&config.bars) {
            *bar = parse_bar(text).map_err(|_| Errno::EINVAL)?;
        }
        if config.class >> 24 != 0 || !matches!(config.msi, 0 | 1 | 2 | 4 | 8 | 16 | 32) {
            return Err(Errno::EINVAL);
        }
        let msix = match config.msix {
            0 => None,
            vectors => Some(place_msix(&bars, vectors).ok_or(Errno::EINVAL)?),
        };
        Ok(Stub {
            identity: Identity {
                vendor: config.vendor,
                device: config.device,
                subsystem: (0, 0),
                class: config.class,
                revision: 0,
                bars,
                interrupt_pin: u8::from(config.intx),
                msi: config.msi,
                msix,
                express: true,
                role: Role::default(),
            },
        })
    }
}

/// Puts the MSI-X table and pending bits at the end of the first memory BAR that holds both.
fn place_msix(bars: &[Bar; 6], vectors: u16) -> Option<Msix> {
    if vectors > 2048 {
        return None;
    }
    let (table, pba) = (u64::from(vectors) * 16, u64::from(vectors).div_ceil(64) * 8);
    bars.iter().enumerate().find_map(|(i, bar)| match *bar {
        Bar::Memory { bytes, .. } if table + pba <= bytes => {
            let at = |offset: u64| (i as u8, offset as u32);
            Some(Msix {
                vectors,
                table: at(bytes - pba - table),
                pba: at(bytes - pba),
            })
        }
        _ => None,
    })
}

impl Device for Stub {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&mut self, _: &mut dyn Bus, _: u8, _: u64, _: u8) -> u64 {
        0
    }

    fn write(&mut self, bus: &mut dyn Bus, bar: u8, offset: u64, bytes: u8, _: u64) {
        bus.unmodelled(format_args!(
            "stub: write of {bytes} bytes to BAR{bar} + {offset:#x}"
        ));
    }

    fn reset(&mut self, _: &mut dyn Bus) {}

    fn close(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake_bus::FakeBus;

    #[test]
    fn bars_are_read_as_the_command_line_writes_them() {
        let memory = |bytes| {
            Ok(Bar::Memory {
                bytes,
                wide: false,
                prefetch: false,
            })
        };
        assert_eq!(parse_bar(""), Ok(Bar::None));
        assert_eq!(parse_bar("128K"), memory(128 << 10));
        assert_eq!(parse_bar("4096"), memory(4096));
        assert_eq!(parse_bar("2M"), memory(2 << 20));
        assert_eq!(parse_bar("1G"), memory(1 << 30));
        assert_eq!(parse_bar("io:32"), Ok(Bar::Io { bytes: 32 }));
    }

    #[test]
    fn bars_that_cannot_be_are_refused_with_what_is_accepted() {
        for text in [
            "3K",
            "8",
            "2G",
            "K",
            "io:",
            "io:2",
            "io:512",
            "-4096",
            "0",
            "4096T",
            "99999999999999999999G",
            "+16",
        ] {
            let refused = parse_bar(text).expect_err(text);
            assert!(
                refused.contains("power of two") && refused.contains(text),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_stub_is_what_it_was_configured_to_be() {
        let mut config = StubConfig {
            vendor: 0x1af4,
            device: 0x1000,
            msix: 3,
            msi: 4,
            intx: true,
            ..Default::default()
        };
        config.bars[0] = "io:32".into();
        config.bars[2] = "4K".into();
        let identity = Stub::new(&config).expect("a good stub").identity();
        assert_eq!(
            (
                identity.vendor,
                identity.device,
                identity.msi,
                identity.interrupt_pin
            ),
            (0x1af4, 0x1000, 4, 1)
        );
        assert_eq!(identity.bars[0], Bar::Io { bytes: 32 });
        assert_eq!(
            identity.msix,
            Some(Msix {
                vectors: 3,
                table: (2, 4096 - 56),
                pba: (2, 4096 - 8)
            })
        );
    }

    #[test]
    fn a_stub_that_cannot_be_is_refused() {
        let refused = |change: fn(&mut StubConfig)| {
            let mut config = StubConfig::default();
            change(&mut config);
            assert_eq!(Stub::new(&config).err(), Some(Errno::EINVAL), "{config:?}");
        };
        refused(|c| c.bars[5] = "5".into());
        refused(|c| c.msi = 3);
        refused(|c| c.msix = 1);
        refused(|c| c.class = 0x0100_0000);
    }

    #[test]
    fn registers_read_zero_and_writes_are_reported() {
        let mut stub = Stub::new(&StubConfig::default()).expect("a good stub");
        let mut bus = FakeBus::new(0);
        assert_eq!(stub.read(&mut bus, 0, 0, 4), 0);
        assert!(bus.unmodelled.is_empty());
        stub.write(&mut bus, 0, 8, 4, 1);
        assert_eq!(bus.unmodelled, ["stub: write of 4 bytes to BAR0 + 0x8"]);
    }
}
