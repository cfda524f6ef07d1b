//! Hot reset: every function below one port at once, by the port's secondary bus reset
//! (`drivers/vfio/pci/vfio_pci_core.c`).
//!
//! A client must hold all that is reset. It shows so by the files of the groups it has open.

use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;
use zerocopy::IntoBytes;

use super::argsz::{copy_in, copy_out};
use super::group::GroupFile;
use crate::door::{Call, File};
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

/// GET_PCI_HOT_RESET_INFO.
///
/// # Errors
/// ENOSPC when not all devices have room: `count` says how many there are.
pub fn info(run: &Run, function: &Function, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let mut info: vfio::HotResetInfo = copy_in(call, arg, MINSZ)?;
    if (info.argsz as usize) < MINSZ {
        return Err(Errno::EINVAL);
    }
    let affected = affected(run, function)?;
    info.flags = 0;
    info.count = affected.len() as u32;
    let room = (info.argsz as usize - MINSZ) / size_of::<vfio::DependentDevice>();
    if room < affected.len() {
        copy_out(call, arg, &info, MINSZ)?;
        return Err(Errno::ENOSPC);
    }
    let devices: Vec<vfio::DependentDevice> = affected.iter().map(dependent).collect();
    call.client
        .write(UserAddr(arg + MINSZ as u64), devices.as_bytes())
        .map_err(|_| Errno::EFAULT)?;
    copy_out(call, arg, &info, MINSZ)
}

fn dependent(function: &Arc<Function>) -> vfio::DependentDevice {
    let bdf = function.bdf();
    vfio::DependentDevice {
        group_id: function.config().group,
        segment: bdf.segment,
        bus: bdf.bus,
        devfn: bdf.requester_id() as u8,
    }
}

/// PCI_HOT_RESET.
///
/// # Errors
/// EINVAL unless the client gives the file of every affected group, and one file a device at most, and while one of
/// the devices is not bound to VFIO.
pub fn reset(run: &Run, function: &Function, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let reset: vfio::HotResetInfo = copy_in(call, arg, MINSZ)?;
    if (reset.argsz as usize) < MINSZ || reset.flags != 0 || reset.count == 0 {
        return Err(Errno::EINVAL);
    }
    let affected = affected(run, function)?;
    if reset.count as usize > affected.len() {
        return Err(Errno::EINVAL);
    }
    let groups = given_groups(call, arg, reset.count as usize)?;
    let host = run.host()?;
    let may_reset = |function: &Arc<Function>| {
        let driver = host.driver(function.index());
        driver.is_some_and(|driver| driver.vfio) && groups.contains(&function.config().group)
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
