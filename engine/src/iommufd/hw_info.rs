//! IOMMU_GET_HW_INFO: what a device's IOMMU can do (`drivers/iommu/iommufd/device.c`).

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::UserAddr;

use super::file::Command;

/// What an IOMMU's driver says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HwInfo {
    /// `HW_INFO_TYPE_*`
    pub kind: u32,
    /// The struct of that type.
    pub data: Vec<u8>,
}

/// IOMMU_GET_HW_INFO.
///
/// # Errors
/// EOPNOTSUPP: unknown flags, or a type that the device's IOMMU is not. ENOENT: no such device. EFAULT.
pub fn get(command: &Command<'_>, cmd: &mut iommufd::HwInfo) -> Result<(), Errno> {
    if cmd.flags & !iommufd::HW_INFO_FLAG_INPUT_TYPE != 0 || cmd.reserved != [0; 3] {
        return Err(Errno::EOPNOTSUPP);
    }
    let wanted = match cmd.flags & iommufd::HW_INFO_FLAG_INPUT_TYPE {
        0 => iommufd::HW_INFO_TYPE_NONE,
        _ => cmd.data_type,
    };
    let device = command.context.get_any(cmd.dev_id)?;
    let device = device.as_device().ok_or(Errno::ENOENT)?;
    let info = device.hw_info(wanted)?;
    let room = cmd.data_len as usize;
    let copied = info.data.len().min(room);
    let client = &command.call.client;
    client
        .write(UserAddr(cmd.data_uptr), &info.data[..copied])
        .map_err(|_| Errno::EFAULT)?;
    clear(
        command,
        cmd.data_uptr,
        copied as u64,
        u64::from(cmd.data_len),
    )?;
    cmd.data_type = info.kind;
    cmd.data_len = info.data.len() as u32;
    cmd.out_capabilities = device.capabilities();
    cmd.out_max_pasid_log2 = device.max_pasid_log2();
    command.respond(cmd)
}

/// Zeroes bytes `from..to` of the client's room.
fn clear(command: &Command<'_>, at: u64, from: u64, to: u64) -> Result<(), Errno> {
    let zeros = [0; 4096];
    let mut done = from;
    while done < to {
        let bytes = (to - done).min(zeros.len() as u64);
        let first = at.checked_add(done).ok_or(Errno::EFAULT)?;
        command
            .call
            .client
            .write(UserAddr(first), &zeros[..bytes as usize])
            .map_err(|_| Errno::EFAULT)?;
        done += bytes;
    }
    Ok(())
}
