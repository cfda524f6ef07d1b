//! What the devices of a machine are, as their models say.

use crate::Failure;
use swiommu_engine::device;
use swiommu_engine::machine::Machine;
use swiommu_engine::pci::Identity;

/// The identity of each device, in order.
pub fn of_devices(machine: &Machine) -> Result<Vec<Identity>, Failure> {
    let identities = machine.devices.iter().map(|config| {
        device::identity(&config.kind).map_err(|errno| {
            Failure::ours(format!(
                "{} {}: not possible ({errno:?})",
                config.kind.name(),
                config.bdf
            ))
        })
    });
    identities.collect()
}
