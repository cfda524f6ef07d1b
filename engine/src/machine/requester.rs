//! Requester ids: what the IOMMU tells devices apart by.
//!
//! A device's requests bear its own address, or another that `requester=` says: that of the bridge above a conventional
//! device, or of another function where hardware mixes them up. Segments are no part of a requester id, and there is one
//! IOMMU.

use super::DeviceConfig;

/// Refuses devices of different groups whose requests look the same to the IOMMU, and requester ids of another segment.
///
/// # Errors
/// The place of a device that is no virtual function, and what is wrong with it.
pub fn tell_apart(devices: &[DeviceConfig]) -> Result<(), (usize, String)> {
    for (index, device) in devices.iter().enumerate() {
        let (bdf, requester) = (device.address(), device.requester());
        if requester.segment != bdf.segment {
            let text = format!("requester={requester}: accepted is one of {bdf}'s PCI segment");
            return Err((index, text));
        }
        let alike = |other: &&DeviceConfig| {
            other.group != device.group
                && other.requester().requester_id() == requester.requester_id()
        };
        if let Some(other) = devices[..index].iter().find(alike) {
            let text = format!(
                "the IOMMU cannot tell {bdf} (group {}) from {} (group {}): devices of one requester id are in one \
                 group and PCI segment",
                device.group, other.bdf, other.group
            );
            return Err((responsible(devices, device), text));
        }
    }
    Ok(())
}

/// The place of a device, or of a virtual function's physical one.
fn responsible(devices: &[DeviceConfig], device: &DeviceConfig) -> usize {
    let physical = device.virtual_of().map(|(physical, _)| physical);
    let bdf = physical.unwrap_or(device.address());
    let mut addresses = devices.iter().map(DeviceConfig::address);
    let place = addresses.position(|address| address == bdf);
    place.expect("it is one of them")
}

#[cfg(test)]
mod tests {
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
    fn devices_of_one_requester_id_are_in_one_group() {
        let flags = ["edu,requester=03:00.0", "edu,requester=03:00.0", "edu"];
        let described = machine(&flags).unwrap();
        let groups: Vec<u32> = (described.devices.iter())
            .map(|device| device.group)
            .collect();
        assert_eq!(groups, [1, 1, 2]);
        let layer = file::parse("m.toml", &file::to_toml(&described)).unwrap();
        assert_eq!(resolve(&[layer]).unwrap(), described);
        assert_eq!(
            machine(&["edu,group=1", "edu,group=2,requester=00:04.0"]),
            Err(
                "--device edu,group=2,requester=00:04.0: the IOMMU cannot tell 0000:00:05.0 (group 2) from \
                 0000:00:04.0 (group 1): devices of one requester id are in one group and PCI segment"
                    .into()
            )
        );
    }

    #[test]
    fn segments_do_not_tell_devices_apart() {
        let clash = machine(&["edu,bdf=00:04.0", "edu,bdf=0001:00:04.0"]).unwrap_err();
        assert!(clash.contains("cannot tell 0001:00:04.0"), "{clash}");
        let elsewhere = machine(&["edu,bdf=0001:00:04.0", "edu", "nvme,size=1M"]).unwrap();
        assert_eq!(elsewhere.devices[1].bdf, "0000:00:05.0");
        let other = machine(&["edu,requester=0001:03:00.0"]).unwrap_err();
        assert!(other.ends_with("accepted is one of 0000:00:04.0's PCI segment"));
    }

    #[test]
    fn a_virtual_functions_clash_is_its_physical_functions() {
        let flags = [
            "nvme,size=1M,vfs=1,group=1",
            "edu,group=5,requester=01:00.1",
        ];
        let clash = machine(&flags).unwrap_err();
        assert!(
            clash.starts_with(
                "--device nvme,size=1M,vfs=1,group=1: the IOMMU cannot tell 0000:01:00.1"
            ),
            "{clash}"
        );
    }
}
