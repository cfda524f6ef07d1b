//! The PCI device models. Each imports only `pci` and `mem`'s [`Mapping`](swiommu_mem::Mapping).

pub mod edu;
#[cfg(test)]
mod fake_bus;
pub mod ioat;
pub mod nvme;
pub mod stub;

use crate::machine::DeviceKind;
use crate::pci::{Device, Identity};
use swiommu_abi::Errno;

/// Builds the model of a configured device. The medium of an NVMe is opened here.
///
/// # Errors
/// EINVAL for a configuration outside its bounds, else what opening or mapping the medium gave.
pub fn build(kind: &DeviceKind) -> Result<Box<dyn Device>, Errno> {
    Ok(match kind {
        DeviceKind::Nvme(config) => Box::new(nvme::Nvme::new(config)?),
        DeviceKind::Edu(config) => Box::new(edu::Edu::new(config)?),
        DeviceKind::Ioat(config) => Box::new(ioat::Ioat::new(config)?),
        DeviceKind::Stub(config) => Box::new(stub::Stub::new(config)?),
    })
}

/// What a configured device is, without building its model: no medium is opened.
///
/// # Errors
/// EINVAL for a configuration outside its bounds.
pub fn identity(kind: &DeviceKind) -> Result<Identity, Errno> {
    match kind {
        DeviceKind::Nvme(config) => Ok(nvme::identity(config)),
        DeviceKind::Edu(_) => Ok(edu::identity()),
        DeviceKind::Ioat(config) => Ok(ioat::identity(config)),
        DeviceKind::Stub(config) => stub::Stub::new(config).map(|stub| stub.identity()),
    }
}
