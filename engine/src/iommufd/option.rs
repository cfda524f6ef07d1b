//! IOMMU_OPTION (`drivers/iommu/iommufd/ioas.c`).

use swiommu_abi::{Errno, iommufd};

use super::file::Command;
use super::object::Ref;
use super::space::IoasObject;

/// IOMMU_OPTION.
pub fn option(command: &Command<'_>, cmd: &mut iommufd::IommuOption) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    match cmd.option_id {
        iommufd::OPTION_RLIMIT_MODE => rlimit_mode(command, cmd)?,
        iommufd::OPTION_HUGE_PAGES => huge_pages(command, cmd)?,
        _ => return Err(Errno::EOPNOTSUPP),
    }
    let offset = std::mem::offset_of!(iommufd::IommuOption, val64);
    command.write(offset as u64, &cmd.val64.to_ne_bytes())
}

/// How pinned memory is counted. The machine is the client's own, so it may choose.
fn rlimit_mode(command: &Command<'_>, cmd: &mut iommufd::IommuOption) -> Result<(), Errno> {
    if cmd.object_id != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    match cmd.op {
        iommufd::OPTION_OP_GET => {
            cmd.val64 = command.context.counts_per_process().into();
            Ok(())
        }
        iommufd::OPTION_OP_SET => command.context.set_rlimit_mode(cmd.val64),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn huge_pages(command: &Command<'_>, cmd: &mut iommufd::IommuOption) -> Result<(), Errno> {
    let object: Ref<IoasObject> = command.context.get(cmd.object_id)?;
    let mut ioas = object.lock();
    match (cmd.op, cmd.val64) {
        (iommufd::OPTION_OP_GET, _) => {
            cmd.val64 = ioas.uses_large_pages().into();
            Ok(())
        }
        (iommufd::OPTION_OP_SET, value @ 0..=1) => ioas.use_large_pages(value == 1),
        (iommufd::OPTION_OP_SET, _) => Err(Errno::EINVAL),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
