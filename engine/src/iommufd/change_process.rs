//! IOMMU_IOAS_CHANGE_PROCESS: the calling process takes over what is mapped (`drivers/iommu/iommufd/ioas.c`).

use swiommu_abi::{Errno, iommufd};

use super::file::Command;
use super::space::IoasObject;

/// IOMMU_IOAS_CHANGE_PROCESS. Only pages of files can be taken over, since they belong to no process.
pub fn change(command: &Command<'_>, cmd: &mut iommufd::IoasChangeProcess) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let context = command.context;
    let _creation = context.ioas_creation.write().unwrap();
    for object in context.all::<IoasObject>() {
        object.lock().check_change_process()?;
    }
    Ok(())
}
