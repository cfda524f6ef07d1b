//! What devices go through: attaching, replacing, detaching (`drivers/iommu/iommufd/device.c`).
//!
//! The functions of one IOMMU group go through one page table for each PASID. The first device that is attached moves
//! the group; the others follow, and each brings its reserved ranges.
//!
//! Locks: an address space's list of page tables -> [`Group`] -> the address space -> a domain.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use swiommu_abi::Errno;

use super::context::Context;
use super::device::Device;
use super::hwpt::{Hwpt, Pending, alloc_paging};
use super::object::{AnyRef, Kind, Object, Ref};
use super::space::IoasObject;

/// Requests without a PASID (`IOMMU_NO_PASID`).
pub const NO_PASID: u32 = 0;

/// What a device can be attached to: a page table that mirrors an address space, or one of the client's own.
pub trait Translation: Object {
    /// The page table that mirrors an address space: itself, or what it is nested on. Its address space must do without
    /// what the device reserves.
    fn paging(&self) -> Option<&Hwpt>;
    /// Whether it can be attached to a PASID.
    fn pasid_compat(&self) -> bool;
    /// Where its page faults go.
    fn fault(&self) -> Option<&AnyRef>;
}

impl Translation for Hwpt {
    fn paging(&self) -> Option<&Hwpt> {
        Some(self)
    }

    fn pasid_compat(&self) -> bool {
        self.pasid_compat
    }

    fn fault(&self) -> Option<&AnyRef> {
        self.fault.as_ref()
    }
}

/// The attachments of one IOMMU group in one context, by PASID.
#[derive(Default)]
pub struct Group {
    attachments: Mutex<Attachments>,
}

type Attachments = BTreeMap<u32, Attachment>;

struct Attachment {
    table: AnyRef,
    /// The objects that are attached, with what each reserves.
    devices: BTreeMap<u32, Reserved>,
}

/// What one device keeps out of an address space.
struct Reserved {
    owner: u64,
    ranges: Vec<(u64, u64)>,
}

impl Reserved {
    fn of(device: &dyn Device) -> Reserved {
        Reserved {
            owner: device.owner(),
            ranges: device.reserved(),
        }
    }

    /// Takes the ranges out of an address space.
    ///
    /// # Errors
    /// EADDRINUSE: something is mapped there; then none is taken.
    fn enter(&self, ioas: &IoasObject) -> Result<(), Errno> {
        let mut ioas = ioas.lock();
        for &(first, last) in &self.ranges {
            if let Err(errno) = ioas.reserve(self.owner, first, last) {
                ioas.unreserve(self.owner);
                return Err(errno);
            }
        }
        Ok(())
    }

    fn leave(&self, ioas: &IoasObject) {
        ioas.lock().unreserve(self.owner);
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Attachments> {
        self.attachments.lock().unwrap()
    }

    /// The address space that requests without a PASID go through.
    pub fn ioas(&self) -> Option<Ref<IoasObject>> {
        let attachments = self.lock();
        let attachment = attachments.get(&NO_PASID)?;
        Some(translation(&attachment.table).paging()?.ioas.hold())
    }

    /// The page table that a PASID of the group goes through.
    pub fn table(&self, pasid: u32) -> Option<AnyRef> {
        Some(self.lock().get(&pasid)?.table.hold())
    }
}

fn translation(table: &AnyRef) -> &dyn Translation {
    table
        .object()
        .as_translation()
        .expect("only translations are attached")
}

/// How a device comes to a page table: attached to it, or moved there from another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Attach,
    Replace,
}

/// A device on its way to a page table.
struct Change<'a> {
    context: &'a Context,
    device: &'a dyn Device,
    id: u32,
    pasid: u32,
    how: How,
}

/// Attaches a device to the page table or address space `pt_id`. `id` is the device object's. Answers the page table's
/// id.
///
/// # Errors
/// ENOENT: no such object. EINVAL: not one that devices are attached to, not one for this device, or the group goes
/// through another one. EADDRINUSE: something is mapped that the device reserves.
pub fn attach(
    context: &Context,
    device: &dyn Device,
    id: u32,
    pasid: u32,
    pt_id: u32,
) -> Result<u32, Errno> {
    Change::new(How::Attach, context, device, id, pasid).to(pt_id)
}

/// Moves the device's whole group from the page table it goes through to another one. There is no moment at which it
/// goes through neither.
///
/// # Errors
/// As [`attach`]; then nothing has changed. EINVAL when the device is not attached.
pub fn replace(
    context: &Context,
    device: &dyn Device,
    id: u32,
    pasid: u32,
    pt_id: u32,
) -> Result<u32, Errno> {
    Change::new(How::Replace, context, device, id, pasid).to(pt_id)
}

/// Detaches a device, if it is attached. With the last of its group the group is blocked.
pub fn detach(context: &Context, device: &dyn Device, id: u32, pasid: u32) {
    let mut attachments = device.group().lock();
    let Some(attachment) = attachments.get_mut(&pasid) else {
        return;
    };
    let Some(reserved) = attachment.devices.remove(&id) else {
        return;
    };
    if let Some(paging) = translation(&attachment.table).paging()
        && pasid == NO_PASID
    {
        reserved.leave(&paging.ioas);
    }
    if !attachment.devices.is_empty() {
        return;
    }
    let table = attachments.remove(&pasid).expect("just found").table;
    device
        .change(pasid, Some(translation(&table)), None)
        .expect("blocking a device cannot fail");
    drop(attachments);
    put(context, table);
}

/// Gives up a page table that nothing is attached to any more. One that was made for an attachment goes with it.
fn put(context: &Context, table: AnyRef) {
    if let Some(hwpt) = table.get::<Hwpt>()
        && hwpt.auto_domain
    {
        drop(table);
        context.put_and_try_destroy(hwpt);
    }
}

/// A page table that a device is to go through.
trait Target {
    fn id(&self) -> u32;
    fn table(&self) -> &dyn Translation;
    /// Nothing can fail any more: a reference for the attachment.
    fn publish(self) -> AnyRef;
}

impl Target for AnyRef {
    fn id(&self) -> u32 {
        self.id()
    }

    fn table(&self) -> &dyn Translation {
        translation(self)
    }

    fn publish(self) -> AnyRef {
        self.hold()
    }
}

impl Target for Pending<'_, '_> {
    fn id(&self) -> u32 {
        self.id()
    }

    fn table(&self) -> &dyn Translation {
        &self.hwpt
    }

    fn publish(self) -> AnyRef {
        self.commit().any().hold()
    }
}

impl<'a> Change<'a> {
    fn new(
        how: How,
        context: &'a Context,
        device: &'a dyn Device,
        id: u32,
        pasid: u32,
    ) -> Change<'a> {
        Change {
            context,
            device,
            id,
            pasid,
            how,
        }
    }

    fn to(&self, pt_id: u32) -> Result<u32, Errno> {
        let target = self.context.get_any(pt_id)?;
        let (id, old) = match target.kind() {
            Kind::HwptPaging | Kind::HwptNested => (pt_id, self.enter(target)?),
            Kind::Ioas => self.automatic(&target.downcast().ok_or(Errno::EINVAL)?)?,
            _ => return Err(Errno::EINVAL),
        };
        if let Some(old) = old {
            put(self.context, old);
        }
        Ok(id)
    }

    /// Finds or makes a page table of an address space. One that the client made is never taken.
    fn automatic(&self, ioas: &Ref<IoasObject>) -> Result<(u32, Option<AnyRef>), Errno> {
        let mut hwpts = ioas.hwpts.lock().unwrap();
        for &id in hwpts.iter() {
            let Ok(hwpt) = self.context.get::<Hwpt>(id) else {
                continue;
            };
            if !hwpt.auto_domain {
                continue;
            }
            match self.enter(hwpt.into_any()) {
                // this one does not suit the device
                Err(Errno::EINVAL) => {}
                result => return Ok((id, result?)),
            }
        }
        let pending = alloc_paging(self.context, ioas, &mut hwpts, self.device, 0, None, true)?;
        Ok((pending.id(), self.enter(pending)?))
    }

    /// Lets the device go through `target`. Answers what its group went through before.
    fn enter(&self, target: impl Target) -> Result<Option<AnyRef>, Errno> {
        match self.how {
            How::Attach => self.attach(target).map(|()| None),
            How::Replace => self.replace(target),
        }
    }

    fn attach(&self, target: impl Target) -> Result<(), Errno> {
        let mut attachments = self.device.group().lock();
        if let Some(attachment) = attachments.get(&self.pasid) {
            if attachment.devices.contains_key(&self.id) {
                return Err(Errno::EBUSY);
            }
            if attachment.table.id() != target.id() {
                return Err(Errno::EINVAL);
            }
        }
        let reserved = Reserved::of(self.device);
        let paging = self.reserving(target.table());
        if let Some(paging) = paging {
            reserved.enter(&paging.ioas)?;
        }
        if !attachments.contains_key(&self.pasid) {
            let changed = suits(&attachments, target.table(), self.pasid)
                .and_then(|()| self.device.change(self.pasid, None, Some(target.table())));
            if let Err(errno) = changed {
                if let Some(paging) = paging {
                    reserved.leave(&paging.ioas);
                }
                return Err(errno);
            }
            let attachment = Attachment {
                table: target.publish(),
                devices: BTreeMap::new(),
            };
            attachments.insert(self.pasid, attachment);
        }
        let attachment = attachments.get_mut(&self.pasid).expect("just made");
        attachment.devices.insert(self.id, reserved);
        Ok(())
    }

    fn replace(&self, target: impl Target) -> Result<Option<AnyRef>, Errno> {
        let mut attachments = self.device.group().lock();
        let attachment = attachments.get(&self.pasid).ok_or(Errno::EINVAL)?;
        if !attachment.devices.contains_key(&self.id) {
            return Err(Errno::EINVAL);
        }
        if attachment.table.id() == target.id() {
            return Ok(None);
        }
        let old = translation(&attachment.table);
        let (from, to) = (self.reserving(old), self.reserving(target.table()));
        let moves = match (from, to) {
            (Some(from), Some(to)) => !from.ioas.is(&to.ioas),
            _ => true,
        };
        let to = to.filter(|_| moves);
        if let Some(to) = to {
            attachment.enter(&to.ioas)?;
        }
        let changed = suits(&attachments, target.table(), self.pasid).and_then(|()| {
            let new = Some(target.table());
            self.device.change(self.pasid, Some(old), new)
        });
        if let Err(errno) = changed {
            if let Some(to) = to {
                attachment.leave(&to.ioas);
            }
            return Err(errno);
        }
        if let Some(from) = from.filter(|_| moves) {
            attachment.leave(&from.ioas);
        }
        let attachment = attachments.get_mut(&self.pasid).expect("found above");
        Ok(Some(std::mem::replace(
            &mut attachment.table,
            target.publish(),
        )))
    }

    /// The page table whose address space must do without what the device reserves.
    fn reserving<'t>(&self, table: &'t dyn Translation) -> Option<&'t Hwpt> {
        table.paging().filter(|_| self.pasid == NO_PASID)
    }
}

/// Whether a page table and a PASID go together, and with what the group goes through already.
///
/// # Errors
/// EINVAL.
fn suits(attachments: &Attachments, table: &dyn Translation, pasid: u32) -> Result<(), Errno> {
    let fine = if pasid == NO_PASID {
        table.pasid_compat() || !attachments.keys().any(|pasid| *pasid != NO_PASID)
    } else {
        let other = attachments.get(&NO_PASID);
        table.pasid_compat()
            && other.is_none_or(|attachment| translation(&attachment.table).pasid_compat())
    };
    fine.then_some(()).ok_or(Errno::EINVAL)
}

impl Attachment {
    /// Takes what every device reserves out of an address space.
    ///
    /// # Errors
    /// EADDRINUSE: something is mapped there; then none is taken.
    fn enter(&self, ioas: &IoasObject) -> Result<(), Errno> {
        for (done, reserved) in self.devices.values().enumerate() {
            if let Err(errno) = reserved.enter(ioas) {
                for earlier in self.devices.values().take(done) {
                    earlier.leave(ioas);
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    fn leave(&self, ioas: &IoasObject) {
        for reserved in self.devices.values() {
            reserved.leave(ioas);
        }
    }
}
