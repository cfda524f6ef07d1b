//! Page tables that mirror an address space (`drivers/iommu/iommufd/hw_pagetable.c`).

use std::sync::MutexGuard;

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::UserAddr;

use super::attach::Translation;
use super::context::{Context, Reservation};
use super::device::{Device, UserData};
use super::file::Command;
use super::nested;
use super::object::{AnyRef, Kind, Object, Ref};
use super::space::IoasObject;
use super::table::Table;

/// A page table that mirrors an address space. Destroying it takes it out of the address space.
pub struct Hwpt {
    /// What it mirrors.
    pub ioas: Ref<IoasObject>,
    /// The table.
    pub table: Table,
    /// It was made because a device was attached to the address space itself, and goes with the last such device.
    pub auto_domain: bool,
    /// Nested page tables can be put on it.
    pub nest_parent: bool,
    /// It can be attached to a PASID.
    pub pasid_compat: bool,
    /// All accesses through it are coherent.
    pub coherent: bool,
    /// It can track dirty pages.
    pub dirty: bool,
    /// Which IOMMU driver made it.
    pub driver: usize,
    /// Where page faults go.
    pub fault: Option<AnyRef>,
    id: u32,
}

impl Object for Hwpt {
    fn kind(&self) -> Kind {
        Kind::HwptPaging
    }

    fn as_translation(&self) -> Option<&dyn Translation> {
        Some(self)
    }
}

impl Drop for Hwpt {
    fn drop(&mut self) {
        // Before it was published, whoever makes it has the list locked, and it is not in it.
        if self.id != 0 {
            let mut hwpts = self.ioas.hwpts.lock().unwrap();
            hwpts.retain(|id| *id != self.id);
        }
        self.ioas.lock().remove_table(&self.table);
    }
}

/// A page table that is filled but not published. Dropping it undoes it.
pub struct Pending<'a, 'b> {
    reserved: Reservation<'a>,
    hwpts: &'b mut MutexGuard<'a, Vec<u32>>,
    /// It.
    pub hwpt: Hwpt,
}

impl Pending<'_, '_> {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.reserved.id()
    }

    /// Publishes it.
    pub fn commit(mut self) -> Ref<Hwpt> {
        self.hwpt.id = self.id();
        self.hwpts.push(self.hwpt.id);
        self.reserved.commit(self.hwpt)
    }
}

const PAGING_FLAGS: u32 = iommufd::HWPT_ALLOC_NEST_PARENT
    | iommufd::HWPT_ALLOC_DIRTY_TRACKING
    | iommufd::HWPT_FAULT_ID_VALID
    | iommufd::HWPT_ALLOC_PASID;

/// Makes a page table for a device and fills it with what the address space has. `hwpts` is the address space's list,
/// locked.
///
/// # Errors
/// EOPNOTSUPP for flags or data that the device's IOMMU does not know; what filling it answers.
pub fn alloc_paging<'a, 'b>(
    context: &'a Context,
    ioas: &Ref<IoasObject>,
    hwpts: &'b mut MutexGuard<'a, Vec<u32>>,
    device: &dyn Device,
    flags: u32,
    data: Option<&UserData>,
    auto_domain: bool,
) -> Result<Pending<'a, 'b>, Errno> {
    if flags & !PAGING_FLAGS != 0
        || flags & iommufd::HWPT_ALLOC_DIRTY_TRACKING != 0 && !device.tracks_dirty()
        || flags & iommufd::HWPT_FAULT_ID_VALID != 0 && flags & iommufd::HWPT_ALLOC_NEST_PARENT != 0
    {
        return Err(Errno::EOPNOTSUPP);
    }
    let reserved = context.reserve()?;
    let table = device.new_table(flags & !iommufd::HWPT_FAULT_ID_VALID, data)?;
    ioas.lock().add_table(&table)?;
    let tracks = flags & iommufd::HWPT_ALLOC_DIRTY_TRACKING != 0;
    let hwpt = Hwpt {
        ioas: ioas.hold(),
        dirty: table.has_dirty(tracks),
        table,
        auto_domain,
        nest_parent: flags & iommufd::HWPT_ALLOC_NEST_PARENT != 0,
        pasid_compat: flags & iommufd::HWPT_ALLOC_PASID != 0,
        coherent: device.enforces_coherency(),
        driver: device.driver(),
        fault: None,
        id: 0,
    };
    Ok(Pending {
        reserved,
        hwpts,
        hwpt,
    })
}

/// IOMMU_HWPT_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::HwptAlloc) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if (cmd.data_type == iommufd::HWPT_DATA_NONE) != (cmd.data_len == 0) {
        return Err(Errno::EINVAL);
    }
    let context = command.context;
    let device = context.get_any(cmd.dev_id)?;
    let device = device.as_device().ok_or(Errno::ENOENT)?;
    let parent = context.get_any(cmd.pt_id).map_err(|_| Errno::EINVAL)?;
    if cmd.flags & iommufd::HWPT_ALLOC_NEST_PARENT != 0 || cmd.data_len != 0 {
        command.look_for_nesting(device, "a nested page table or its parent");
    }
    let data = UserData {
        from: command.call.client,
        kind: cmd.data_type,
        at: UserAddr(cmd.data_uptr),
        bytes: cmd.data_len,
    };
    match parent.kind() {
        Kind::Ioas => alloc_of_ioas(command, cmd, &parent, device, &data),
        Kind::HwptPaging | Kind::Viommu => nested::alloc(command, cmd, &parent, device, &data),
        _ => Err(Errno::EINVAL),
    }
}

fn alloc_of_ioas(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptAlloc,
    parent: &AnyRef,
    device: &dyn Device,
    data: &UserData,
) -> Result<(), Errno> {
    let ioas: Ref<IoasObject> = parent.get().ok_or(Errno::EINVAL)?;
    let data = (data.bytes != 0).then_some(data);
    let mut hwpts = ioas.hwpts.lock().unwrap();
    let context = command.context;
    let mut pending = alloc_paging(context, &ioas, &mut hwpts, device, cmd.flags, data, false)?;
    if cmd.flags & iommufd::HWPT_FAULT_ID_VALID != 0 {
        pending.hwpt.fault = Some(fault_queue(context, cmd.fault_id)?);
    }
    cmd.out_hwpt_id = pending.id();
    command.respond(cmd)?;
    pending.commit();
    Ok(())
}

/// The fault queue of a new page table.
///
/// # Errors
/// ENOENT: there is none of this id.
pub(super) fn fault_queue(context: &Context, id: u32) -> Result<AnyRef, Errno> {
    let queue = context.get_any(id)?;
    match queue.kind() {
        Kind::Fault => Ok(queue.hold()),
        _ => Err(Errno::ENOENT),
    }
}
