//! Hot reset: every function below one port at once, by the port's secondary bus reset
//! (`drivers/vfio/pci/vfio_pci_core.c`).
//!
//! A client must hold all that is reset. It shows so by the files of the groups it has open, or, by a device's own node,
//! by the iommufd that the node is bound to.

use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;
use zerocopy::IntoBytes;

use super::argsz::{copy_in, copy_out};
use super::device::DeviceFile;
use super::group::GroupFile;
use crate::door::{Call, File};
use crate::hostdrv::Host;
use crate::iommufd::inject;
use crate::pci::function::Function;
use crate::run::Run;

/// Where the array behind the struct begins.
const MINSZ: usize = size_of::<vfio::HotResetInfo>();

/// The functions that a hot reset of this one reaches, by slot and function.
///
/// # Errors
/// ENODEV on a root bus: no port is above it that could reset it.
fn affected(run: &Run, function: &Function) -> Result<Vec<Arc<Function>>, Errno> {
    let bdf = function.bdf();
    if bdf.on_root_bus() {
        return Err(Errno::ENODEV);
    }
    let host = run.host()?;
    let below = |other: &&Arc<Function>| other.bdf().same_bus(bdf) && host.exists(other.index());
    let mut affected: Vec<_> = run.functions.iter().filter(below).cloned().collect();
    affected.sort_by_key(|other| other.bdf().requester_id());
    Ok(affected)
}

/// Whether VFIO takes a function along with the one that is asked: both are VFIO's, and a virtual function goes along
/// with no other, nor another with it (`vfio_assign_device_set`).
fn goes_along(asked: &Function, host: &Host, function: &Function) -> bool {
    let is_virtual = |function: &Function| function.config().virtual_of().is_some();
    let same = function.index() == asked.index();
    let driver = host.driver(function.index());
    driver.is_some_and(|driver| driver.vfio)
        && (same || !is_virtual(asked) && !is_virtual(function))
}

/// GET_PCI_HOT_RESET_INFO.
///
/// # Errors
/// ENOSPC when not all devices have room: `count` says how many there are.
pub fn info(device: &DeviceFile, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let mut info: vfio::HotResetInfo = copy_in(call, arg, MINSZ)?;
    if (info.argsz as usize) < MINSZ {
        return Err(Errno::EINVAL);
    }
    let affected = affected(device.run(), device.function())?;
    info.flags = 0;
    info.count = affected.len() as u32;
    let room = (info.argsz as usize - MINSZ) / size_of::<vfio::DependentDevice>();
    if room < affected.len() {
        copy_out(call, arg, &info, MINSZ)?;
        return Err(Errno::ENOSPC);
    }
    inject::point()?;
    let mut devices: Vec<_> = affected.iter().map(dependent).collect();
    if let Some(node) = device.node() {
        let host = device.run().host()?;
        info.flags = vfio::PCI_HOT_RESET_FLAG_DEV_ID | vfio::PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
        for (entry, function) in devices.iter_mut().zip(&affected) {
            let devid = match goes_along(device.function(), host, function) {
                true => node.devid(function),
                false => vfio::PCI_DEVID_NOT_OWNED,
            };
            if devid == vfio::PCI_DEVID_NOT_OWNED {
                info.flags &= !vfio::PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
            }
            entry.id = devid as u32;
        }
    }
    call.client
        .write(UserAddr(arg + MINSZ as u64), devices.as_bytes())
        .map_err(|_| Errno::EFAULT)?;
    copy_out(call, arg, &info, MINSZ)
}

/// A function by its address and its group.
fn dependent(function: &Arc<Function>) -> vfio::DependentDevice {
    let bdf = function.bdf();
    vfio::DependentDevice {
        id: function.config().group,
        segment: bdf.segment,
        bus: bdf.bus,
        devfn: bdf.requester_id() as u8,
    }
}

/// PCI_HOT_RESET.
///
/// # Errors
/// EINVAL while one of the devices is not bound to VFIO or is virtual beside others, unless the client gives the file of every affected group, and
/// one file a device at most; by the device's own node, unless it gives none and its iommufd owns every device.
pub fn reset(device: &DeviceFile, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let reset: vfio::HotResetInfo = copy_in(call, arg, MINSZ)?;
    if (reset.argsz as usize) < MINSZ || reset.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let node = device.node();
    if (reset.count == 0) != node.is_some() {
        return Err(Errno::EINVAL);
    }
    let affected = affected(device.run(), device.function())?;
    if reset.count as usize > affected.len() {
        return Err(Errno::EINVAL);
    }
    inject::point()?;
    let groups = given_groups(call, arg, reset.count as usize)?;
    let host = device.run().host()?;
    let is_owned = |function: &Function| match node {
        Some(node) => node.devid(function) != vfio::PCI_DEVID_NOT_OWNED,
        None => groups.contains(&function.config().group),
    };
    let may_reset = |function: &Arc<Function>| {
        goes_along(device.function(), host, function) && is_owned(function)
    };
    if !affected.iter().all(may_reset) {
        return Err(Errno::EINVAL);
    }
    for function in affected {
        function.reset();
    }
    Ok(())
}

/// The numbers of the groups whose files the client gives.
fn given_groups(call: &Call<'_>, arg: u64, count: usize) -> Result<Vec<u32>, Errno> {
    let mut fds = vec![0i32; count];
    call.client
        .read(UserAddr(arg + MINSZ as u64), fds.as_mut_bytes())
        .map_err(|_| Errno::EFAULT)?;
    fds.into_iter()
        .map(|fd| match call.files.get(fd) {
            Some(file) => group_number(file).ok_or(Errno::EINVAL),
            None if swiommu_mem::fd::is_open(fd) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        })
        .collect()
}

fn group_number(file: Arc<dyn File>) -> Option<u32> {
    let file: Arc<dyn std::any::Any + Send + Sync> = file;
    Some(file.downcast::<GroupFile>().ok()?.number())
}
