//! Page tables of the client's own (`iommufd_hwpt_nested_alloc`), and IOMMU_HWPT_INVALIDATE.

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::{PAGE, UserAddr};

use super::attach::Translation;
use super::device::{Device, UserData};
use super::file::Command;
use super::hwpt::{Hwpt, fault_queue};
use super::nesting::{Done, NestedTable, Requests};
use super::object::{AnyRef, Kind, Object, Ref};
use super::viommu::Viommu;

/// The most requests of one IOMMU_HWPT_INVALIDATE.
const REQUESTS_MOST: u32 = 1 << 19;

/// What a nested page table was made on.
enum Base {
    Parent(Ref<Hwpt>),
    Viommu(Ref<Viommu>),
}

/// A page table of the client's own.
pub struct NestedHwpt {
    /// The table.
    pub table: Box<dyn NestedTable>,
    base: Base,
    pasid_compat: bool,
    driver: usize,
    fault: Option<AnyRef>,
}

impl NestedHwpt {
    /// The virtual IOMMU it is of.
    pub fn viommu(&self) -> Option<&Ref<Viommu>> {
        match &self.base {
            Base::Parent(_) => None,
            Base::Viommu(viommu) => Some(viommu),
        }
    }

    /// Which IOMMU driver made it.
    pub fn driver(&self) -> usize {
        self.driver
    }
}

impl Object for NestedHwpt {
    fn kind(&self) -> Kind {
        Kind::HwptNested
    }

    fn as_translation(&self) -> Option<&dyn Translation> {
        Some(self)
    }
}

impl Translation for NestedHwpt {
    fn paging(&self) -> Option<&Hwpt> {
        Some(match &self.base {
            Base::Parent(parent) => parent,
            Base::Viommu(viommu) => &viommu.parent,
        })
    }

    fn pasid_compat(&self) -> bool {
        self.pasid_compat
    }

    fn fault(&self) -> Option<&AnyRef> {
        self.fault.as_ref()
    }
}

/// IOMMU_HWPT_ALLOC on a paging page table or a virtual IOMMU.
///
/// # Errors
/// EOPNOTSUPP for flags or data that the driver does not know, or none. EINVAL: it is no nesting parent, or of another
/// driver. ENOENT: there is no such fault queue.
pub fn alloc(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptAlloc,
    parent: &AnyRef,
    device: &dyn Device,
    data: &UserData,
) -> Result<(), Errno> {
    const FLAGS: u32 = iommufd::HWPT_FAULT_ID_VALID | iommufd::HWPT_ALLOC_PASID;
    let (flags, context) = (cmd.flags & !iommufd::HWPT_FAULT_ID_VALID, command.context);
    let viommu: Option<Ref<Viommu>> = parent.get();
    if viommu
        .as_ref()
        .is_some_and(|viommu| viommu.driver != device.driver())
    {
        return Err(Errno::EINVAL);
    }
    let nesting = device.nesting();
    if cmd.flags & !FLAGS != 0 || data.bytes == 0 || viommu.is_none() && nesting.is_none() {
        return Err(Errno::EOPNOTSUPP);
    }
    let (table, reserved, base) = match (viommu, nesting) {
        (Some(viommu), _) => {
            let reserved = context.reserve()?;
            let table = viommu.iommu.nested_table(flags, data)?;
            (table, reserved, Base::Viommu(viommu.hold()))
        }
        (None, nesting) => {
            let parent: Ref<Hwpt> = parent.get().ok_or(Errno::EINVAL)?;
            if parent.auto_domain || !parent.nest_parent || parent.driver != device.driver() {
                return Err(Errno::EINVAL);
            }
            let reserved = context.reserve()?;
            let nesting = nesting.ok_or(Errno::EOPNOTSUPP)?;
            let table = nesting.nested_table(&parent, flags, data)?;
            (table, reserved, Base::Parent(parent.hold()))
        }
    };
    let fault = match cmd.flags & iommufd::HWPT_FAULT_ID_VALID {
        0 => None,
        _ => Some(fault_queue(context, cmd.fault_id)?),
    };
    cmd.out_hwpt_id = reserved.id();
    command.respond(cmd)?;
    reserved.commit(NestedHwpt {
        table,
        base,
        pasid_compat: flags & iommufd::HWPT_ALLOC_PASID != 0,
        driver: device.driver(),
        fault,
    });
    Ok(())
}

/// IOMMU_HWPT_INVALIDATE: whatever becomes of it, the caller learns how many requests were done.
pub fn invalidate(command: &Command<'_>, cmd: &mut iommufd::HwptInvalidate) -> Result<(), Errno> {
    let (done, result) = invalidate_requests(command, cmd);
    cmd.entry_num = done;
    command.respond(cmd)?;
    result
}

fn invalidate_requests(command: &Command<'_>, cmd: &iommufd::HwptInvalidate) -> Done {
    if cmd.reserved != 0 {
        return (0, Err(Errno::EOPNOTSUPP));
    }
    let sized = (1..=PAGE as u32).contains(&cmd.entry_len);
    if cmd.entry_num != 0 && (cmd.data_uptr == 0 || !sized || cmd.entry_num > REQUESTS_MOST) {
        return (0, Err(Errno::EINVAL));
    }
    let requests = Requests {
        from: command.call.client,
        kind: cmd.data_type,
        at: UserAddr(cmd.data_uptr),
        entry_bytes: cmd.entry_len,
        count: cmd.entry_num,
    };
    let object = match command.context.get_any(cmd.hwpt_id) {
        Ok(object) => object,
        Err(error) => return (0, Err(error)),
    };
    if let Some(hwpt) = object.get::<NestedHwpt>() {
        hwpt.table.invalidate(&requests)
    } else if let Some(viommu) = object.get::<Viommu>() {
        viommu.iommu.invalidate(&viommu.vdevices, &requests)
    } else {
        (0, Err(Errno::EINVAL))
    }
}
