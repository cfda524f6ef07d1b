//! The virtual functions of a machine: which there can be, where, and in which group.
//!
//! They follow the other devices in the machine, so that a device's place in the machine is the same whether virtual
//! functions are enabled or not. None is there when the run begins.

use super::{Bdf, DeviceConfig, DeviceKind, IommuConfig, IommuKind, NvmeConfig};
use crate::pci::Sriov;
use serde::{Deserialize, Serialize};

/// The most virtual functions of one controller: as many as fit behind function 0 of slot 0 in half a bus.
pub const MOST: u16 = 127;
/// Routing ids from the physical function to its first virtual one, and from each to the next.
const OFFSET: u16 = 1;
const STRIDE: u16 = 1;

/// Whose virtual function a controller is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Virtual {
    /// Address of the physical function.
    pub of: String,
    /// Its number there, from 0.
    pub number: u16,
}

impl DeviceConfig {
    /// The physical function that this is a virtual function of, and its number there.
    pub fn virtual_of(&self) -> Option<(Bdf, u16)> {
        let DeviceKind::Nvme(NvmeConfig {
            part: Some(part), ..
        }) = &self.kind
        else {
            return None;
        };
        let physical = part.of.parse().expect("resolving wrote an address");
        Some((physical, part.number))
    }

    /// How many virtual functions it can have.
    pub fn total_vfs(&self) -> u16 {
        match &self.kind {
            DeviceKind::Nvme(nvme) => nvme.vfs,
            _ => 0,
        }
    }
}

impl NvmeConfig {
    /// The SR-IOV capability, if virtual functions were asked for.
    pub fn sriov(&self, device: u16) -> Option<Sriov> {
        (self.vfs > 0).then_some(Sriov {
            total: self.vfs,
            offset: OFFSET,
            stride: STRIDE,
            device,
        })
    }
}

/// Adds the virtual functions of a machine's devices, each in a group of its own.
///
/// # Errors
/// The place of the device that cannot have them, and why.
pub fn add(devices: &mut Vec<DeviceConfig>, iommu: &IommuConfig) -> Result<(), (usize, String)> {
    for index in 0..devices.len() {
        let DeviceKind::Nvme(nvme) = &devices[index].kind else {
            continue;
        };
        let (nvme, physical) = (nvme.clone(), devices[index].address());
        for number in 0..nvme.vfs {
            let bdf = address(physical, number).ok_or_else(|| {
                let text = format!(
                    "vfs={}: no bus has so many functions behind {physical}",
                    nvme.vfs
                );
                (index, text)
            })?;
            if devices.iter().any(|other| other.bdf == bdf.to_string()) {
                let text = format!("vfs={}: {bdf}, where one would be, is taken", nvme.vfs);
                return Err((index, text));
            }
            let first = if iommu.kind == IommuKind::None { 0 } else { 1 };
            let free = |group: &u32| devices.iter().all(|other| other.group != *group);
            let group = (first..).find(free).expect("groups are many");
            let part = Virtual {
                of: physical.to_string(),
                number,
            };
            let kind = DeviceKind::Nvme(NvmeConfig {
                vfs: 0,
                part: Some(part),
                ..nvme.clone()
            });
            devices.push(DeviceConfig {
                driver: None,
                present: false,
                ..DeviceConfig::new(bdf.to_string(), group, kind)
            });
        }
    }
    Ok(())
}

/// The address of a virtual function, if the bus goes so far.
fn address(physical: Bdf, number: u16) -> Option<Bdf> {
    let devfn = (physical.requester_id() & 0xff) + OFFSET + STRIDE * number;
    let devfn = u8::try_from(devfn).ok()?;
    Some(Bdf {
        slot: devfn >> 3,
        function: devfn & 7,
        ..physical
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Layer, Machine, file, resolve, spec};

    fn machine(flags: &[&str]) -> Result<Machine, String> {
        let devices = flags.iter().map(|flag| spec::device(flag).unwrap());
        let layer = Layer {
            devices: devices.collect(),
            ..Layer::default()
        };
        resolve(&[layer]).map_err(|error| error.to_string())
    }

    #[test]
    fn virtual_functions_follow_the_other_devices_each_in_a_group_of_its_own() {
        let machine = machine(&["nvme,size=1M,vfs=8", "edu,group=3"]).unwrap();
        let placed: Vec<(&str, u32)> = machine
            .devices
            .iter()
            .map(|device| (device.bdf.as_str(), device.group))
            .collect();
        assert_eq!(
            placed[..3],
            [
                ("0000:01:00.0", 1),
                ("0000:00:04.0", 3),
                ("0000:01:00.1", 2)
            ]
        );
        assert_eq!(placed[8..], [("0000:01:00.7", 9), ("0000:01:01.0", 10)]);
        let physical = machine.devices[0].address();
        assert_eq!(machine.devices[9].virtual_of(), Some((physical, 7)));
        assert_eq!(machine.devices[9].total_vfs(), 0, "and no further");
        assert_eq!(machine.devices[0].virtual_of(), None);
        assert_eq!(machine.devices[0].total_vfs(), 8);
    }

    #[test]
    fn they_share_the_media_and_no_controller_has_a_cache() {
        let machine = machine(&["nvme,size=1M,size=2M,vfs=1"]).unwrap();
        let [DeviceKind::Nvme(physical), DeviceKind::Nvme(part)] =
            [&machine.devices[0].kind, &machine.devices[1].kind]
        else {
            panic!("two controllers");
        };
        assert_eq!(physical.namespaces, part.namespaces);
        assert_eq!((physical.cache, part.cache), (0, 0));
        let error = self::machine(&["nvme,size=1M,vfs=1,cache=4K"]).unwrap_err();
        assert!(error.ends_with("accepted is cache=0"), "{error}");
    }

    #[test]
    fn a_machine_that_is_written_and_read_has_them_once() {
        let machine = machine(&["nvme,size=1M,vfs=2"]).unwrap();
        let again = file::parse("f", &file::to_toml(&machine)).unwrap();
        assert_eq!(resolve(&[again]), Ok(machine));
    }

    #[test]
    fn where_they_do_not_fit_is_told() {
        for (flags, told) in [
            (
                &[
                    "nvme,size=1M,vfs=2,bdf=0000:01:00.0",
                    "edu,bdf=0000:01:00.2",
                ][..],
                "vfs=2: 0000:01:00.2, where one would be, is taken",
            ),
            (
                &["nvme,size=1M,vfs=8,bdf=0000:01:1f.0"],
                "vfs=8: no bus has so many functions behind 0000:01:1f.0",
            ),
        ] {
            let error = machine(flags).unwrap_err();
            assert!(error.ends_with(told), "{error}");
        }
        assert!(machine(&["nvme,size=1M,vfs=7,bdf=0000:01:1f.0"]).is_ok());
        assert!(spec::device("nvme,size=1M,vfs=128").is_err());
    }
}
