//! Devices of a virtual IOMMU (`iommufd_vdevice_alloc_ioctl`).
//!
//! A device has a place on one virtual IOMMU at a time. The client may destroy that; when the device itself goes, it
//! goes with it, and its id is not given out again.

use std::sync::{Mutex, MutexGuard};

use swiommu_abi::{Errno, iommufd};

use super::context::Context;
use super::file::Command;
use super::nesting::Nesting;
use super::object::{AnyRef, Kind, Object, Ref};
use super::viommu::Viommu;

/// A device's place on a virtual IOMMU.
#[derive(Default)]
pub struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    /// The object's id.
    vdevice: Option<u32>,
    /// The device is going: it gets no other place.
    leaving: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The device is being destroyed: it leaves its virtual IOMMU.
    pub fn leave(&self, context: &Context) {
        let vdevice = {
            let mut state = self.lock();
            state.leaving = true;
            // If the client is destroying it just now, it is not found, and gives the device up in a moment.
            let found = state.vdevice.and_then(|id| context.get::<Vdevice>(id).ok());
            found.map(|vdevice| vdevice.hold())
        };
        if let Some(vdevice) = vdevice {
            // Nothing holds one but the table.
            let _ = context.tombstone_user(vdevice);
        }
    }
}

/// A device of a virtual IOMMU.
pub struct Vdevice {
    id: u64,
    viommu: Ref<Viommu>,
    /// Does not keep the device, which waits until this is gone.
    device: AnyRef,
}

impl Object for Vdevice {
    fn kind(&self) -> Kind {
        Kind::Vdevice
    }
}

impl Drop for Vdevice {
    fn drop(&mut self) {
        self.viommu.vdevices.remove(self.id);
        if let Some(nesting) = nesting(&self.device) {
            nesting.vdevice().lock().vdevice = None;
        }
    }
}

fn nesting(device: &AnyRef) -> Option<&dyn Nesting> {
    device.as_device()?.nesting()
}

/// IOMMU_VDEVICE_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::VdeviceAlloc) -> Result<(), Errno> {
    let context = command.context;
    let viommu: Ref<Viommu> = context.get(cmd.viommu_id)?;
    let object = context.get_any(cmd.dev_id)?;
    let device = object.as_device().ok_or(Errno::ENOENT)?;
    let same = device.driver() == viommu.driver;
    let nesting = device.nesting().filter(|_| same).ok_or(Errno::EINVAL)?;
    let mut slot = nesting.vdevice().lock();
    if slot.leaving {
        return Err(Errno::ENOENT);
    }
    if slot.vdevice.is_some() {
        return Err(Errno::EEXIST);
    }
    let reserved = context.reserve()?;
    cmd.out_vdevice_id = reserved.id();
    viommu.vdevices.add(cmd.virt_id, object.guard())?;
    if let Err(error) = command.respond(cmd) {
        viommu.vdevices.remove(cmd.virt_id);
        return Err(error);
    }
    slot.vdevice = Some(reserved.id());
    reserved.commit(Vdevice {
        id: cmd.virt_id,
        viommu: viommu.hold(),
        device: object.guard(),
    });
    Ok(())
}
