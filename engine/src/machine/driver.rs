//! The drivers a machine's kernel has, each described by what it declares of itself (`struct pci_driver`).
//!
//! Nothing outside this table asks for a driver's name: whether the members of a group leave DMA alone follows from
//! `managed_dma`, and whether a device can be opened by VFIO from `vfio`.

use serde::{Deserialize, Serialize};

/// `[[driver]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverConfig {
    /// Its name on the bus.
    pub name: String,
    /// It never does DMA through the kernel, so a group may belong to user space while it is bound
    /// (`driver_managed_dma`).
    #[serde(default)]
    pub managed_dma: bool,
    /// It gives its devices to VFIO.
    #[serde(default)]
    pub vfio: bool,
    /// It switches the virtual functions of its devices on and off.
    #[serde(default)]
    pub sriov: bool,
    /// Devices it takes without being asked.
    #[serde(default)]
    pub ids: Vec<DeviceId>,
}

/// A line of a driver's table of devices (`struct pci_device_id`). `None` matches anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DeviceId {
    /// Vendor ID.
    pub vendor: Option<u32>,
    /// Device ID.
    pub device: Option<u32>,
    /// Subsystem vendor ID.
    pub subvendor: Option<u32>,
    /// Subsystem device ID.
    pub subdevice: Option<u32>,
    /// Class code, and the bits of it that count.
    pub class: (u32, u32),
}

/// What a device ID looks like, for error messages.
pub const ID_ACCEPTED: &str =
    "VVVV:DDDD, or class:CCCCCC or class:CCCC for a class code, in hexadecimal";

impl DeviceId {
    /// All devices of a class, whatever their programming interface.
    const fn of_class(class: u32) -> DeviceId {
        DeviceId {
            vendor: None,
            device: None,
            subvendor: None,
            subdevice: None,
            class: (class << 8, 0xff_ff00),
        }
    }

    /// Does it match a device (`pci_match_one_id`)?
    pub fn matches(&self, device: &DeviceId) -> bool {
        let same = |wanted: Option<u32>, is: Option<u32>| wanted.is_none() || wanted == is;
        same(self.vendor, device.vendor)
            && same(self.device, device.device)
            && same(self.subvendor, device.subvendor)
            && same(self.subdevice, device.subdevice)
            && (self.class.0 ^ device.class.0) & self.class.1 == 0
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> String {
        match (id.vendor, id.device) {
            (Some(vendor), Some(device)) => format!("{vendor:04x}:{device:04x}"),
            _ if id.class.1 == 0xff_ffff => format!("class:{:06x}", id.class.0),
            _ => format!("class:{:04x}", id.class.0 >> 8),
        }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = String;

    fn try_from(text: String) -> Result<DeviceId, String> {
        parse(&text).ok_or_else(|| format!("'{text}' is not {ID_ACCEPTED}"))
    }
}

fn parse(text: &str) -> Option<DeviceId> {
    let hex = |digits: &str, widest: usize| {
        let fits = (1..=widest).contains(&digits.len());
        fits.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    if let Some(class) = text.strip_prefix("class:") {
        let class_code = hex(class, 6)?;
        return match class.len() {
            6 => Some(DeviceId {
                class: (class_code, 0xff_ffff),
                ..DeviceId::default()
            }),
            4 => Some(DeviceId::of_class(class_code)),
            _ => None,
        };
    }
    let (vendor, device) = text.split_once(':')?;
    Some(DeviceId {
        vendor: Some(hex(vendor, 4)?),
        device: Some(hex(device, 4)?),
        ..DeviceId::default()
    })
}

/// The driver that devices start with, unless the machine says otherwise.
pub const VFIO_PCI: &str = "vfio-pci";

/// The drivers of every machine, in the order in which they are asked to take a device.
pub fn built_in() -> Vec<DriverConfig> {
    let driver = |name: &str, managed_dma, sriov, vfio, ids: &[DeviceId]| DriverConfig {
        name: name.into(),
        managed_dma,
        sriov,
        vfio,
        ids: ids.to_vec(),
    };
    let e1000e = DeviceId {
        vendor: Some(0x8086),
        device: Some(0x10d3),
        ..DeviceId::default()
    };
    vec![
        driver(
            "pcieport",
            true,
            false,
            false,
            &[DeviceId::of_class(0x0604)],
        ),
        driver("nvme", false, true, false, &[DeviceId::of_class(0x0108)]),
        driver("e1000e", false, false, false, &[e1000e]),
        driver("pci-stub", true, true, false, &[]),
        driver(VFIO_PCI, true, true, true, &[]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn an_id_matches_by_vendor_and_device_or_by_class() {
        let nvme = DeviceId {
            vendor: Some(0x1b36),
            device: Some(0x10),
            subvendor: Some(0x1af4),
            subdevice: Some(0x1100),
            class: (0x01_0802, 0),
        };
        for yes in ["1b36:0010", "1b36:10", "class:0108", "class:010802"] {
            assert!(id(yes).matches(&nvme), "{yes}");
        }
        for no in ["1b36:0011", "1b37:0010", "class:0107", "class:010801"] {
            assert!(!id(no).matches(&nvme), "{no}");
        }
    }

    #[test]
    fn an_id_is_written_as_it_is_read_and_nothing_else_is_read() {
        for text in ["1b36:0010", "class:0108", "class:010802"] {
            assert_eq!(String::from(id(text)), text);
        }
        for bad in [
            "",
            "1b36",
            "1b36:",
            ":10",
            "12345:1",
            "class:",
            "class:01",
            "class:xyzz",
        ] {
            assert!(DeviceId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
