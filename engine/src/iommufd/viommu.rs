//! Virtual IOMMUs: what a guest sees of a physical one (`drivers/iommu/iommufd/viommu.c`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::UserAddr;

use super::device::UserData;
use super::file::Command;
use super::hwpt::Hwpt;
use super::nesting::{NewViommu, VirtualIommu};
use super::object::{AnyRef, Kind, Object, Ref};
use super::veventq::Queue;

/// A virtual IOMMU.
pub struct Viommu {
    /// The driver's side. Goes first, before what it stands on.
    pub iommu: Box<dyn VirtualIommu>,
    /// The page table below all nested ones.
    pub parent: Ref<Hwpt>,
    /// Which IOMMU driver made it.
    pub driver: usize,
    /// Its devices.
    pub vdevices: Vdevices,
    pub(super) veventqs: RwLock<Vec<Arc<Queue>>>,
}

impl Viommu {
    /// Passes an event on to the guest.
    ///
    /// # Errors
    /// EOPNOTSUPP: there is no queue for this kind.
    pub fn report(&self, kind: u32, data: &[u8]) -> Result<(), Errno> {
        let queues = self.veventqs.read().unwrap();
        let queue = queues.iter().find(|queue| queue.kind == kind);
        queue.ok_or(Errno::EOPNOTSUPP)?.report(data);
        Ok(())
    }
}

impl Object for Viommu {
    fn kind(&self) -> Kind {
        Kind::Viommu
    }
}

/// Devices by their ids on a virtual IOMMU.
#[derive(Default)]
pub struct Vdevices(Mutex<BTreeMap<u64, AnyRef>>);

impl Vdevices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, AnyRef>> {
        self.0.lock().unwrap()
    }

    /// Looks at the device with an id; it stays meanwhile.
    pub fn with<R>(&self, id: u64, look: impl FnOnce(&AnyRef) -> R) -> Option<R> {
        self.lock().get(&id).map(look)
    }

    /// The id of the device whose [`Device::owner`](super::device::Device::owner) is `owner`.
    pub fn id_of_owner(&self, owner: u64) -> Option<u64> {
        let devices = self.lock();
        let mut found = devices.iter().filter(|(_, other)| {
            other
                .as_device()
                .is_some_and(|device| device.owner() == owner)
        });
        found.next().map(|(id, _)| *id)
    }

    /// Adds a device.
    ///
    /// # Errors
    /// EEXIST: there is one with this id.
    pub(super) fn add(&self, id: u64, device: AnyRef) -> Result<(), Errno> {
        use std::collections::btree_map::Entry;
        match self.lock().entry(id) {
            Entry::Occupied(_) => Err(Errno::EEXIST),
            Entry::Vacant(free) => {
                free.insert(device);
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, id: u64) {
        let device = self.lock().remove(&id);
        drop(device);
    }
}

/// IOMMU_VIOMMU_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::ViommuAlloc) -> Result<(), Errno> {
    if cmd.flags != 0 || cmd.kind == iommufd::VIOMMU_TYPE_DEFAULT {
        return Err(Errno::EOPNOTSUPP);
    }
    let context = command.context;
    let object = context.get_any(cmd.dev_id)?;
    let device = object.as_device().ok_or(Errno::ENOENT)?;
    command.look_for_nesting(device, "IOMMU_VIOMMU_ALLOC");
    let nesting = device.nesting().ok_or(Errno::EOPNOTSUPP)?;
    if !nesting.has_viommu(cmd.kind) {
        return Err(Errno::EOPNOTSUPP);
    }
    let parent: Ref<Hwpt> = context.get(cmd.hwpt_id)?;
    if !parent.nest_parent {
        return Err(Errno::EINVAL);
    }
    let data = UserData {
        from: command.call.client,
        kind: cmd.kind,
        at: UserAddr(cmd.data_uptr),
        bytes: cmd.data_len,
    };
    let reserved = context.reserve()?;
    let new = NewViommu {
        context,
        id: reserved.id(),
        kind: cmd.kind,
        parent: &parent,
    };
    let viommu = Viommu {
        iommu: nesting.new_viommu(&new, (data.bytes != 0).then_some(&data))?,
        parent: parent.hold(),
        driver: device.driver(),
        vdevices: Vdevices::default(),
        veventqs: RwLock::default(),
    };
    cmd.out_viommu_id = reserved.id();
    command.respond(cmd)?;
    reserved.commit(viommu);
    Ok(())
}
