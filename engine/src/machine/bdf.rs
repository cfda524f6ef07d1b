//! PCI addresses: segment, bus, device, function (PCI Firmware Specification 3.3 section 4.1.2 for segments).

use std::fmt;
use std::str::FromStr;

/// A PCI address: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// Segment (domain).
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, 0..=31.
    pub slot: u8,
    /// Function, 0..=7.
    pub function: u8,
}

impl Bdf {
    /// The requester id on the bus: bus, device, function.
    pub fn requester_id(self) -> u16 {
        u16::from(self.bus) << 8 | u16::from(self.slot) << 3 | u16::from(self.function)
    }

    /// Is nothing above it but the host bridge?
    pub fn on_root_bus(self) -> bool {
        self.bus == 0
    }

    /// Do both sit on one bus?
    pub fn same_bus(self, other: Bdf) -> bool {
        (self.segment, self.bus) == (other.segment, other.bus)
    }

    /// Are both functions of one device?
    pub fn same_slot(self, other: Bdf) -> bool {
        Bdf {
            function: 0,
            ..self
        } == Bdf {
            function: 0,
            ..other
        }
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.segment, self.bus, self.slot, self.function
        )
    }
}

/// What a PCI address looks like, for error messages.
pub const ACCEPTED: &str =
    "a PCI address SSSS:BB:DD.F or BB:DD.F in hexadecimal, device 00-1f, function 0-7";

impl FromStr for Bdf {
    type Err = String;

    /// Parses `SSSS:BB:DD.F` or, in segment 0, `BB:DD.F`.
    fn from_str(s: &str) -> Result<Bdf, String> {
        parse(s).ok_or_else(|| format!("'{s}' is not {ACCEPTED}"))
    }
}

fn parse(text: &str) -> Option<Bdf> {
    let (rest, function) = text.split_once('.')?;
    let (rest, slot) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    let bdf = Bdf {
        segment: hex(segment, 4)?,
        bus: hex(bus, 2)?.try_into().ok()?,
        slot: hex(slot, 2)?.try_into().ok()?,
        function: hex(function, 1)?.try_into().ok()?,
    };
    (bdf.slot <= 31 && bdf.function <= 7).then_some(bdf)
}

/// Exactly `digits` hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u16> {
    let all_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if all_hex {
        u16::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_without_a_segment_is_in_segment_0() {
        assert_eq!(
            "01:02.3".parse(),
            Ok(Bdf {
                segment: 0,
                bus: 1,
                slot: 2,
                function: 3
            })
        );
        assert_eq!(
            "0001:FF:1f.7".parse(),
            Ok(Bdf {
                segment: 1,
                bus: 255,
                slot: 31,
                function: 7
            })
        );
    }

    #[test]
    fn anything_else_is_no_address() {
        for text in [
            "",
            "1:2.3",
            "01:00",
            "01:00.8",
            "01:20.0",
            "0000:01:00.0 ",
            "00000:01:00.0",
            "0:01:00.0",
            "zz:00.0",
        ] {
            assert!(text.parse::<Bdf>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_requester_id_packs_bus_device_and_function() {
        assert_eq!("01:1f.7".parse::<Bdf>().unwrap().requester_id(), 0x01ff);
    }

    proptest! {
        #[test]
        fn a_printed_address_reads_back(segment: u16, bus: u8, slot in 0u8..32, function in 0u8..8) {
            let bdf = Bdf { segment, bus, slot, function };
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
        }
    }
}
