//! Mock devices: each is alone in its group, has a cache of four words, and is a device of iommufd like any other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};
use zerocopy::IntoBytes;

use super::nested::{Cache, MockNested};
use super::table::MockTable;
use super::viommu::MockViommu;
use super::{DRIVER, arguments, respond};
use crate::iommufd::attach::{self, NO_PASID, Translation};
use crate::iommufd::context::Context;
use crate::iommufd::device::{Device, UserData};
use crate::iommufd::fault::{FaultQueue, Group, PageRequest};
use crate::iommufd::file::Command;
use crate::iommufd::hw_info::HwInfo;
use crate::iommufd::hwpt::Hwpt;
use crate::iommufd::nested::NestedHwpt;
use crate::iommufd::nesting::{NestedTable, Nesting, NewViommu, VirtualIommu};
use crate::iommufd::object::{AnyRef, Kind, Object, Ref};
use crate::iommufd::table::Table;
use crate::iommufd::vdevice::Slot;
use crate::iommufd::viommu::Viommu;

/// A mock device, bound.
pub struct MockDevice {
    flags: u32,
    owner: u64,
    group: attach::Group,
    vdevice: Slot,
    /// What a virtual IOMMU invalidates.
    pub cache: Cache,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Attachments with a fault queue, by PASID.
    faults: BTreeMap<u32, Faults>,
    /// The virtual IOMMU it goes through, and its id there.
    viommu: Option<(Ref<Viommu>, u64)>,
    /// The next attachment of [`test::PASID_RESERVED`] fails.
    trap: bool,
}

/// Where page requests of an attachment go.
struct Faults {
    queue: Ref<FaultQueue>,
    attachment: u64,
    nested: bool,
}

/// A number that nothing else has.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MockDevice {
    fn new(flags: u32) -> Result<MockDevice, Errno> {
        if flags & !(test::MOCK_FLAGS_DEVICE_NO_DIRTY | test::MOCK_FLAGS_DEVICE_PASID) != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(MockDevice {
            flags,
            owner: unique(),
            group: attach::Group::default(),
            vdevice: Slot::default(),
            cache: Cache::new(test::DEV_CACHE_DEFAULT),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The device's own attachment: its page table must not track dirty pages that it cannot track, and a nested one of
    /// a virtual IOMMU needs it there.
    fn enter(&self, state: &mut State, new: Option<&dyn Translation>) -> Result<(), Errno> {
        if let Some(Table::Other(table)) = new.and_then(paging).map(|hwpt| &hwpt.table)
            && table.has_dirty()
            && !self.tracks_dirty()
        {
            return Err(Errno::EINVAL);
        }
        let viommu = new.and_then(nested).and_then(NestedHwpt::viommu);
        state.viommu = match viommu {
            Some(viommu) => {
                let id = viommu
                    .vdevices
                    .id_of_owner(self.owner)
                    .ok_or(Errno::ENOENT)?;
                Some((viommu.hold(), id))
            }
            None => None,
        };
        Ok(())
    }

    /// A PASID's attachment. Every second one of a certain PASID in a row fails, so that what happens then is tested.
    fn enter_pasid(state: &mut State, pasid: u32, blocked: bool) -> Result<(), Errno> {
        if pasid == test::PASID_RESERVED {
            let failed = std::mem::replace(&mut state.trap, false);
            if failed && !blocked {
                return Err(Errno::ENOMEM);
            }
            state.trap = !blocked;
        }
        Ok(())
    }

    /// Where page requests of a PASID go: a guest's PASIDs are behind its own page table.
    fn fault_queue(state: &State, pasid: u32) -> Option<&Faults> {
        let whole = || state.faults.get(&NO_PASID).filter(|faults| faults.nested);
        state.faults.get(&pasid).or_else(whole)
    }
}

fn nested(table: &dyn Translation) -> Option<&NestedHwpt> {
    (table as &dyn std::any::Any).downcast_ref()
}

/// The page table itself, if it mirrors an address space.
fn paging(table: &dyn Translation) -> Option<&Hwpt> {
    (table as &dyn std::any::Any).downcast_ref()
}

impl Device for MockDevice {
    fn new_table(&self, flags: u32, data: Option<&UserData>) -> Result<Table, Errno> {
        let table = MockTable::new(flags, data, self.tracks_dirty())?;
        Ok(Table::Other(std::sync::Arc::new(table)))
    }

    fn tracks_dirty(&self) -> bool {
        self.flags & test::MOCK_FLAGS_DEVICE_NO_DIRTY == 0
    }

    fn enforces_coherency(&self) -> bool {
        false
    }

    fn driver(&self) -> usize {
        DRIVER
    }

    fn group(&self) -> &attach::Group {
        &self.group
    }

    fn owner(&self) -> u64 {
        self.owner
    }

    fn reserved(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn change(
        &self,
        pasid: u32,
        _: Option<&dyn Translation>,
        new: Option<&dyn Translation>,
    ) -> Result<(), Errno> {
        let (paging, nested) = (new.and_then(paging), new.and_then(nested));
        let driver = paging
            .map(|hwpt| hwpt.driver)
            .or(nested.map(NestedHwpt::driver));
        if driver.is_some_and(|driver| driver != DRIVER) {
            return Err(Errno::EINVAL);
        }
        if pasid != NO_PASID && self.max_pasid_log2() == 0 && new.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let gone = {
            let mut state = self.state();
            match pasid {
                NO_PASID => self.enter(&mut state, new)?,
                pasid => MockDevice::enter_pasid(&mut state, pasid, new.is_none())?,
            }
            let queue = new.and_then(Translation::fault).and_then(AnyRef::get);
            let faults = queue.map(|queue: Ref<FaultQueue>| Faults {
                queue,
                attachment: unique(),
                nested: nested.is_some(),
            });
            match faults {
                Some(faults) => state.faults.insert(pasid, faults),
                None => state.faults.remove(&pasid),
            }
        };
        if let Some(faults) = gone {
            faults.queue.forget(faults.attachment);
        }
        Ok(())
    }

    fn hw_info(&self, wanted: u32) -> Result<HwInfo, Errno> {
        match wanted {
            iommufd::HW_INFO_TYPE_NONE | test::HW_INFO_TYPE_SELFTEST => {
                let info = test::TestHwInfo {
                    flags: 0,
                    test_reg: test::HW_INFO_SELFTEST_REGVAL,
                };
                Ok(HwInfo {
                    kind: test::HW_INFO_TYPE_SELFTEST,
                    data: info.as_bytes().to_vec(),
                })
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn capabilities(&self) -> u64 {
        let dirty = match self.tracks_dirty() {
            true => iommufd::HW_CAP_DIRTY_TRACKING,
            false => 0,
        };
        dirty | iommufd::HW_CAP_PCI_ATS_NOT_SUPPORTED
    }

    fn max_pasid_log2(&self) -> u8 {
        match self.flags & test::MOCK_FLAGS_DEVICE_PASID {
            0 => 0,
            _ => test::MOCK_PASID_WIDTH,
        }
    }

    fn nesting(&self) -> Option<&dyn Nesting> {
        Some(self)
    }
}

impl Nesting for MockDevice {
    fn nested_table(
        &self,
        _: &Hwpt,
        flags: u32,
        data: &UserData,
    ) -> Result<Box<dyn NestedTable>, Errno> {
        Ok(Box::new(MockNested::new(flags, data)?))
    }

    fn has_viommu(&self, kind: u32) -> bool {
        kind == test::VIOMMU_TYPE_SELFTEST
    }

    fn new_viommu(
        &self,
        new: &NewViommu<'_>,
        data: Option<&UserData>,
    ) -> Result<Box<dyn VirtualIommu>, Errno> {
        Ok(Box::new(MockViommu::new(new, data)?))
    }

    fn vdevice(&self) -> &Slot {
        &self.vdevice
    }
}

impl Object for MockDevice {
    fn kind(&self) -> Kind {
        Kind::Device
    }

    fn pre_destroy(&self, context: &Context) {
        self.vdevice.leave(context);
    }

    fn as_device(&self) -> Option<&dyn Device> {
        Some(self)
    }
}

/// What the client destroys to take a mock device away.
struct Selftest {
    device: Mutex<Option<Ref<MockDevice>>>,
}

impl Selftest {
    /// The device; it stays as long as this is referred to.
    fn device(&self) -> Result<Ref<MockDevice>, Errno> {
        let device = self.device.lock().unwrap();
        device.as_ref().map(Ref::hold).ok_or(Errno::ENOENT)
    }
}

impl Object for Selftest {
    fn kind(&self) -> Kind {
        Kind::Selftest
    }

    fn destroyed(&self, context: &Context) {
        let device = self.device.lock().unwrap().take();
        if let Some(device) = device {
            attach::detach(context, &*device, device.id(), NO_PASID);
            unbind(context, device);
        }
    }
}

/// The driver gives a device back.
fn unbind(context: &Context, device: Ref<MockDevice>) {
    // The kernel warns when somebody else still uses it, and leaves it.
    let _ = context.destroy_user(device);
}

/// OP_MOCK_DOMAIN and OP_MOCK_DOMAIN_FLAGS.
pub fn create(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let mut answer: test::MockDomain = arguments(cmd);
    let context = command.context;
    let selftest = context.reserve()?;
    let flags = match cmd.op {
        test::OP_MOCK_DOMAIN_FLAGS => answer.dev_flags,
        _ => 0,
    };
    let device = context.reserve()?.commit(MockDevice::new(flags)?).hold();
    let attached = attach::attach(context, &*device, device.id(), NO_PASID, cmd.id);
    let result = attached.and_then(|hwpt| {
        answer.out_hwpt_id = hwpt;
        answer.out_stdev_id = selftest.id();
        answer.out_idev_id = device.id();
        respond(command, cmd, &answer).inspect_err(|_| {
            attach::detach(context, &*device, device.id(), NO_PASID);
        })
    });
    if let Err(error) = result {
        unbind(context, device);
        return Err(error);
    }
    selftest.commit(Selftest {
        device: Mutex::new(Some(device)),
    });
    Ok(())
}

/// OP_MOCK_DOMAIN_REPLACE.
pub fn replace(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let mut to: test::PtId = arguments(cmd);
    let selftest: Ref<Selftest> = command.context.get(cmd.id)?;
    let device = selftest.device()?;
    to.id = attach::replace(command.context, &*device, device.id(), NO_PASID, to.id)?;
    respond(command, cmd, &to)
}

/// OP_PASID_ATTACH.
pub fn attach_pasid(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let (mut to, context): (test::Pasid, _) = (arguments(cmd), command.context);
    let selftest: Ref<Selftest> = context.get(cmd.id)?;
    let device = selftest.device()?;
    to.pt_id = attach::attach(context, &*device, device.id(), to.pasid, to.pt_id)?;
    respond(command, cmd, &to)
        .inspect_err(|_| attach::detach(context, &*device, device.id(), to.pasid))
}

/// OP_PASID_REPLACE.
pub fn replace_pasid(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let (mut to, context): (test::Pasid, _) = (arguments(cmd), command.context);
    let selftest: Ref<Selftest> = context.get(cmd.id)?;
    let device = selftest.device()?;
    to.pt_id = attach::replace(context, &*device, device.id(), to.pasid, to.pt_id)?;
    respond(command, cmd, &to)
}

/// OP_PASID_DETACH.
pub fn detach_pasid(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let of: test::Pasid = arguments(cmd);
    let selftest: Ref<Selftest> = command.context.get(cmd.id)?;
    let device = selftest.device()?;
    attach::detach(command.context, &*device, device.id(), of.pasid);
    Ok(())
}

/// OP_PASID_CHECK_HWPT.
pub fn check_pasid(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let expected: test::Pasid = arguments(cmd);
    let selftest: Ref<Selftest> = command.context.get(cmd.id)?;
    let table = selftest.device()?.group.table(expected.pasid);
    let same = match expected.pt_id {
        0 => table.is_none(),
        id => {
            let object = command.context.get_any(id)?;
            if !matches!(object.kind(), Kind::HwptPaging | Kind::HwptNested) {
                return Err(Errno::EINVAL);
            }
            table.is_some_and(|table| table.id() == id)
        }
    };
    same.then_some(()).ok_or(Errno::EINVAL)
}

/// A device by its id.
///
/// # Errors
/// ENOENT: there is none. EINVAL: it is no mock device.
fn device(command: &Command<'_>, id: u32) -> Result<Ref<MockDevice>, Errno> {
    let object = command.context.get_any(id)?;
    object.as_device().ok_or(Errno::ENOENT)?;
    object.downcast().ok_or(Errno::EINVAL)
}

/// OP_DEV_CHECK_CACHE.
pub fn check_cache(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    device(command, cmd.id)?.cache.expect(&arguments(cmd))
}

/// OP_TRIGGER_IOPF. A request that nobody takes is answered by the driver: the mock device does not care.
pub fn trigger_iopf(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let request: test::TriggerIopf = arguments(cmd);
    let device = device(command, request.dev_id)?;
    let mut flags = iommufd::PGFAULT_FLAGS_LAST_PAGE;
    if request.pasid != NO_PASID {
        flags |= iommufd::PGFAULT_FLAGS_PASID_VALID;
    }
    let state = device.state();
    if let Some(faults) = MockDevice::fault_queue(&state, request.pasid) {
        faults.queue.deliver(Group {
            device: device.id(),
            attachment: faults.attachment,
            requests: vec![PageRequest {
                flags,
                pasid: request.pasid,
                group: request.grpid,
                perm: request.perm,
                addr: request.addr,
            }],
            respond: Box::new(|_| ()),
        });
    }
    Ok(())
}

/// OP_TRIGGER_VEVENT.
pub fn trigger_vevent(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let of: test::PtId = arguments(cmd);
    let device = device(command, of.id)?;
    let state = device.state();
    let (viommu, id) = state
        .viommu
        .as_ref()
        .filter(|(_, id)| *id != 0)
        .ok_or(Errno::ENOENT)?;
    let event = test::ViommuEventSelftest {
        virt_id: *id as u32,
    };
    viommu.report(test::VEVENTQ_TYPE_SELFTEST, event.as_bytes())
}
