//! The VFIO container calls on `/dev/iommu` (`drivers/iommu/iommufd/vfio_compat.c`), and its address space for them.

use std::sync::Arc;

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_iommu::Prot;
use swiommu_mem::{PAGE, UserAddr};
use zerocopy::IntoBytes;

use super::context::Context;
use super::file::Command;
use super::hwpt::Hwpt;
use super::ioas::Ioas;
use super::ioas_commands::account;
use super::object::Ref;
use super::space::IoasObject;
use super::table::Table;
use crate::argsz::{copy_in, copy_out, through};
use crate::calls::CallRecord;
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

/// Makes an address space for the VFIO calls, unless there is one: a group takes this file for its container.
///
/// # Errors
/// EINVAL when a device without an IOMMU uses the VFIO calls.
pub fn ensure_ioas(context: &Arc<Context>) -> Result<(), Errno> {
    let reserved = context.reserve()?;
    let ioas = IoasObject::new(Ioas::new(context.run().ground()));
    context.offer_vfio_ioas(reserved, ioas)
}

/// A call that is none of iommufd's own.
///
/// # Errors
/// As the kernel.
pub fn ioctl(context: &Arc<Context>, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
    let value = match cmd {
        vfio::GET_API_VERSION => vfio::API_VERSION as i32,
        vfio::CHECK_EXTENSION => check_extension(context, arg)?,
        vfio::SET_IOMMU => set_iommu(context, arg).map(|()| 0)?,
        vfio::IOMMU_GET_INFO => get_info(context, call, arg).map(|()| 0)?,
        vfio::IOMMU_MAP_DMA => map_dma(context, call, arg).map(|()| 0)?,
        vfio::IOMMU_UNMAP_DMA => unmap_dma(context, call, arg).map(|()| 0)?,
        _ => return Err(Errno::ENOTTY),
    };
    Ok(Answer::Value(value))
}

fn check_extension(context: &Context, extension: u64) -> Result<i32, Errno> {
    match extension {
        vfio::TYPE1_IOMMU | vfio::TYPE1V2_IOMMU | vfio::UNMAP_ALL => {
            Ok(i32::from(!context.is_no_iommu()))
        }
        vfio::NOIOMMU_IOMMU => Ok(1),
        vfio::DMA_CC_IOMMU => {
            let ioas: Ref<IoasObject> = context.vfio_ioas()?;
            let hwpts = ioas.hwpts.lock().unwrap();
            let incoherent = |id: &u32| {
                let hwpt = context.get::<Hwpt>(*id);
                hwpt.is_ok_and(|hwpt| !hwpt.coherent)
            };
            Ok(i32::from(!hwpts.iter().any(incoherent)))
        }
        _ => Ok(0),
    }
}

/// type1 (v1) may unmap parts of mappings, which large pages are in the way of.
fn set_iommu(context: &Context, kind: u64) -> Result<(), Errno> {
    let no_iommu = context.is_no_iommu();
    if kind == vfio::NOIOMMU_IOMMU && no_iommu {
        return Ok(());
    }
    if !matches!(kind, vfio::TYPE1_IOMMU | vfio::TYPE1V2_IOMMU) || no_iommu {
        return Err(Errno::EINVAL);
    }
    let ioas: Ref<IoasObject> = context.vfio_ioas()?;
    if kind == vfio::TYPE1_IOMMU {
        ioas.lock().use_large_pages(false)?;
    }
    Ok(())
}

fn map_dma(context: &Arc<Context>, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let least = through!(vfio::DmaMap, size);
    let map: vfio::DmaMap = copy_in(call, arg, least)?;
    let (read, write) = (vfio::DMA_MAP_FLAG_READ, vfio::DMA_MAP_FLAG_WRITE);
    if (map.argsz as usize) < least || map.flags & !(read | write) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut prot = Prot::empty();
    prot.set(Prot::READ, map.flags & read != 0);
    prot.set(Prot::WRITE, map.flags & write != 0);
    let ioas: Ref<IoasObject> = context.vfio_ioas()?;
    let record = CallRecord::new(call, "VFIO_IOMMU_MAP_DMA", &context.run().options);
    let (account, va) = (account(context, call), UserAddr(map.vaddr));
    let mut ioas = ioas.lock();
    ioas.map_user(Some(map.iova), va, map.size, prot, account, record)?;
    Ok(())
}

fn unmap_dma(context: &Arc<Context>, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let least = through!(vfio::DmaUnmap, size);
    let mut unmap: vfio::DmaUnmap = copy_in(call, arg, least)?;
    if (unmap.argsz as usize) < least || unmap.flags & !vfio::DMA_UNMAP_FLAG_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let ioas: Ref<IoasObject> = context.vfio_ioas()?;
    let record = CallRecord::new(call, "VFIO_IOMMU_UNMAP_DMA", &context.run().options);
    let (bytes, result) = if unmap.flags & vfio::DMA_UNMAP_FLAG_ALL != 0 {
        if unmap.iova != 0 || unmap.size != 0 {
            return Err(Errno::EINVAL);
        }
        ioas.unmap(0, u64::MAX, &record)
    } else {
        cut_around(&ioas, unmap.iova, unmap.size)?;
        match range(unmap.iova, unmap.size) {
            Ok((first, last)) => ioas.unmap(first, last, &record),
            Err(error) => (0, Err(error)),
        }
    };
    unmap.size = bytes;
    copy_out(call, arg, &unmap, least)?;
    result
}

fn range(iova: u64, bytes: u64) -> Result<(u64, u64), Errno> {
    let less = bytes.checked_sub(1).ok_or(Errno::EINVAL)?;
    let last = iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
    Ok((iova, last))
}

/// In type1 (v1) a range may begin and end within mappings: they are cut there.
fn cut_around(ioas: &IoasObject, iova: u64, bytes: u64) -> Result<(), Errno> {
    let mut ioas = ioas.lock();
    if ioas.uses_large_pages() {
        return Ok(());
    }
    ioas.cut_behind(iova.wrapping_add(bytes).wrapping_sub(1))?;
    if iova != 0 {
        ioas.cut_behind(iova - 1)?;
    }
    Ok(())
}

fn get_info(context: &Context, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let least = through!(vfio::IommuType1Info, iova_pgsizes);
    let mut info: vfio::IommuType1Info = copy_in(call, arg, least)?;
    if (info.argsz as usize) < least {
        return Err(Errno::EINVAL);
    }
    let answer = (info.argsz as usize).min(size_of::<vfio::IommuType1Info>());
    let ioas: Ref<IoasObject> = context.vfio_ioas()?;
    let ioas = ioas.lock();
    info.flags = vfio::IOMMU_INFO_PGSIZES | vfio::IOMMU_INFO_CAPS;
    info.iova_pgsizes = page_sizes(&ioas);
    let head = size_of::<vfio::IommuType1Info>() as u64;
    let total = put_capabilities(&ioas, call, arg, u64::from(info.argsz))?;
    info.cap_offset = if u64::from(info.argsz) >= total {
        head as u32
    } else {
        0
    };
    info.argsz = total as u32;
    copy_out(call, arg, &info, answer)
}

fn page_sizes(ioas: &Ioas) -> u64 {
    let sizes = ioas.tables().iter().map(Table::page_sizes);
    let mut sizes = sizes.fold(u64::MAX, |all, sizes| all & sizes);
    if sizes & (PAGE - 1) != 0 {
        sizes = sizes & !(PAGE - 1) | PAGE;
    }
    sizes.max(ioas.alignment())
}

/// Writes as many of the capabilities as there is room for, in part even: unlike in a container, the chain is not all
/// or nothing. Returns what all of it takes, the struct included.
fn put_capabilities(ioas: &Ioas, call: &Call<'_>, arg: u64, room: u64) -> Result<u64, Errno> {
    let put = |at: u64, bytes: &[u8]| {
        let at = UserAddr(arg.wrapping_add(at));
        call.client.write(at, bytes).map_err(|_| Errno::EFAULT)
    };
    let header = |id| {
        let (version, next) = (1, 0);
        vfio::InfoCapHeader { id, version, next }
    };
    // struct vfio_iommu_type1_info_dma_avail, filled up to a multiple of 8
    let first = size_of::<vfio::IommuType1Info>() as u64;
    let mut avail = header(vfio::IOMMU_TYPE1_INFO_DMA_AVAIL).as_bytes().to_vec();
    avail.extend_from_slice(u32::MAX.as_bytes());
    if room >= first + avail.len() as u64 {
        put(first, &avail)?;
    }
    // struct vfio_iommu_type1_info_cap_iova_range
    let second = first + 16;
    let ranges = ioas.usable();
    let size = |ranges: usize| 16 + 16 * ranges as u64;
    for (index, &(start, end)) in ranges.iter().enumerate() {
        if room > second && room - second >= size(index + 1) {
            put(
                second + size(index),
                vfio::IovaRange { start, end }.as_bytes(),
            )?;
        }
    }
    if room > second && room - second >= size(ranges.len()) {
        put(
            second,
            header(vfio::IOMMU_TYPE1_INFO_CAP_IOVA_RANGE).as_bytes(),
        )?;
        put(second + 8, (ranges.len() as u64).as_bytes())?;
    }
    if room >= second {
        put(first + 4, (second as u32).as_bytes())?;
    }
    Ok(second + size(ranges.len()))
}
