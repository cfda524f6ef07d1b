//! The VFIO container calls on `/dev/iommu` (`drivers/iommu/iommufd/vfio_compat.c`), and its address space for them.

use std::sync::Arc;

use swiommu_abi::{Errno, iommufd, vfio};

use super::context::Context;
use super::file::Command;
use super::object::Ref;
use super::space::IoasObject;
use crate::door::{Answer, Call};

/// IOMMU_VFIO_IOAS.
pub fn vfio_ioas(command: &Command<'_>, cmd: &mut iommufd::VfioIoas) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let context = command.context;
    match cmd.op {
        iommufd::VFIO_IOAS_GET => {
            let ioas: Ref<IoasObject> = context.vfio_ioas()?;
            cmd.ioas_id = ioas.id();
            command.respond(cmd)
        }
        iommufd::VFIO_IOAS_SET => {
            let ioas: Ref<IoasObject> = context.get(cmd.ioas_id)?;
            context.set_vfio_ioas(Some(ioas.id()));
            Ok(())
        }
        iommufd::VFIO_IOAS_CLEAR => {
            context.set_vfio_ioas(None);
            Ok(())
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A call that is none of iommufd's own.
///
/// # Errors
/// As the kernel.
pub fn ioctl(context: &Arc<Context>, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
    let _ = (context, call, arg);
    match cmd {
        vfio::GET_API_VERSION => Ok(Answer::Value(vfio::API_VERSION as i32)),
        _ => Err(Errno::ENOTTY),
    }
}
