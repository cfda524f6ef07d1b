//! The commands of address spaces (`drivers/iommu/iommufd/ioas.c`).

use std::collections::BTreeMap;
use std::sync::Arc;

use swiommu_abi::{Errno, iommufd};
use swiommu_iommu::Prot;
use swiommu_mem::{PAGE, UserAddr};

use super::account::{Account, Charged, Mode};
use super::context::Context;
use super::file::Command;
use super::file_pages::FilePages;
use super::inject;
use super::ioas::{Ioas, overlaps};
use super::object::Ref;
use super::other_pages::OtherPages;
use super::pages::{Pages, Source};
use super::space::IoasObject;
use crate::door::{Call, Process};

/// IOMMU_IOAS_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::IoasAlloc) -> Result<(), Errno> {
    if cmd.flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let context = command.context;
    let reserved = context.reserve()?;
    let ioas = IoasObject::new(Ioas::new(context.run().ground()));
    cmd.out_ioas_id = reserved.id();
    command.respond(cmd)?;
    let _creation = context.ioas_creation.read().unwrap();
    reserved.commit(ioas);
    Ok(())
}

/// IOMMU_IOAS_IOVA_RANGES.
pub fn iova_ranges(command: &Command<'_>, cmd: &mut iommufd::IoasIovaRanges) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let object: Ref<IoasObject> = command.context.get(cmd.ioas_id)?;
    let ioas = object.lock();
    let room = cmd.num_iovas as usize;
    for (index, &(start, last)) in ioas.usable().iter().enumerate().take(room) {
        let at = cmd
            .allowed_iovas
            .wrapping_add((index * size_of::<iommufd::IovaRange>()) as u64);
        let range = iommufd::IovaRange { start, last };
        let client = &command.call.client;
        client
            .write_obj(UserAddr(at), &range)
            .map_err(|_| Errno::EFAULT)?;
    }
    cmd.num_iovas = ioas.usable().len() as u32;
    cmd.out_iova_alignment = ioas.alignment();
    command.respond(cmd)?;
    if cmd.num_iovas as usize > room {
        return Err(Errno::EMSGSIZE);
    }
    Ok(())
}

/// IOMMU_IOAS_ALLOW_IOVAS.
pub fn allow_iovas(command: &Command<'_>, cmd: &mut iommufd::IoasAllowIovas) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let object: Ref<IoasObject> = command.context.get(cmd.ioas_id)?;
    let mut allowed = BTreeMap::new();
    for index in 0..u64::from(cmd.num_iovas) {
        let at = cmd
            .allowed_iovas
            .wrapping_add(index * size_of::<iommufd::IovaRange>() as u64);
        let range: iommufd::IovaRange = command
            .call
            .client
            .read_obj(UserAddr(at))
            .map_err(|_| Errno::EFAULT)?;
        if range.start >= range.last || overlaps(&allowed, range.start, range.last) {
            return Err(Errno::EINVAL);
        }
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        allowed.insert(range.start, range.last);
    }
    object.lock().allow(allowed)
}

/// What the flags of a mapping say.
struct Wanted {
    prot: Prot,
    fixed: bool,
}

/// Checks what all three commands that map check first.
fn wanted(flags: u32, reserved: u32, limits: &[u64]) -> Result<Wanted, Errno> {
    let (read, write) = (iommufd::IOAS_MAP_READABLE, iommufd::IOAS_MAP_WRITEABLE);
    if flags & !(iommufd::IOAS_MAP_FIXED_IOVA | write | read) != 0 || reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if limits.contains(&u64::MAX) {
        return Err(Errno::EOVERFLOW);
    }
    let mut prot = Prot::empty();
    prot.set(Prot::READ, flags & read != 0);
    prot.set(Prot::WRITE, flags & write != 0);
    if prot.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(Wanted {
        prot,
        fixed: flags & iommufd::IOAS_MAP_FIXED_IOVA != 0,
    })
}

/// How what a call maps is counted when it is pinned.
pub(super) fn account(context: &Context, call: &Call<'_>) -> Account {
    let process = call.client.process();
    let limit = context.run().memlock(process);
    let mode = match limit {
        None if context.run().may_lock_all(process) => Mode::None,
        _ if context.counts_per_process() => Mode::Process,
        _ => Mode::User,
    };
    Account {
        mode,
        limit,
        pinned: true,
        process: process.map(Charged::of),
    }
}

/// IOMMU_IOAS_MAP.
pub fn map(command: &Command<'_>, cmd: &mut iommufd::IoasMap) -> Result<(), Errno> {
    let wanted = wanted(cmd.flags, cmd.reserved, &[cmd.iova, cmd.length])?;
    let object: Ref<IoasObject> = command.context.get(cmd.ioas_id)?;
    let account = account(command.context, command.call);
    let record = command.record(iommufd::IOAS_MAP);
    let iova = wanted.fixed.then_some(cmd.iova);
    let va = UserAddr(cmd.user_va);
    let other = match command.call.files.process() {
        Some(process) => Some(pages_of(process, va, cmd.length, wanted.prot, account)?),
        None => None,
    };
    let mut ioas = object.lock();
    cmd.iova = match other {
        Some(pages) => {
            let slice = (va.0 % PAGE, cmd.length);
            ioas.map_pages(iova, pages, slice, va.0, wanted.prot, record)?
        }
        None => ioas.map_user(iova, va, cmd.length, wanted.prot, account, record)?,
    };
    drop(ioas);
    command.respond(cmd)
}

/// A set of pages of another process, which calls.
fn pages_of(
    process: Arc<dyn Process>,
    va: UserAddr,
    bytes: u64,
    prot: Prot,
    account: Account,
) -> Result<Pages, Errno> {
    va.0.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
    let last = (va.0 % PAGE).checked_add(bytes.wrapping_sub(1));
    let last = last.filter(|_| bytes != 0).ok_or(Errno::EINVAL)?;
    let whole = last.checked_add(PAGE).ok_or(Errno::EINVAL)? & !(PAGE - 1);
    let other = OtherPages::new(process, UserAddr(va.0 & !(PAGE - 1)), whole)?;
    let writable = prot.contains(Prot::WRITE);
    Ok(Pages::new(
        other.base(),
        writable,
        Source::Other(other),
        account,
    ))
}

/// IOMMU_IOAS_MAP_FILE.
pub fn map_file(command: &Command<'_>, cmd: &mut iommufd::IoasMapFile) -> Result<(), Errno> {
    let wanted = wanted(cmd.flags, 0, &[cmd.iova, cmd.length])?;
    let object: Ref<IoasObject> = command.context.get(cmd.ioas_id)?;
    let less = cmd.length.checked_sub(1).ok_or(Errno::EINVAL)?;
    cmd.start.checked_add(less).ok_or(Errno::EOVERFLOW)?;
    let pages = file_pages(command, cmd, wanted.prot.contains(Prot::WRITE))?;
    let record = command.record(iommufd::IOAS_MAP_FILE);
    let iova = wanted.fixed.then_some(cmd.iova);
    let slice = (cmd.start % PAGE, cmd.length);
    let mut ioas = object.lock();
    cmd.iova = ioas.map_pages(iova, pages, slice, cmd.start, wanted.prot, record)?;
    drop(ioas);
    command.respond(cmd)
}

/// The pages of the file or dma-buf behind the client's descriptor.
fn file_pages(
    command: &Command<'_>,
    cmd: &iommufd::IoasMapFile,
    writable: bool,
) -> Result<Pages, Errno> {
    let first = cmd.start & !(PAGE - 1);
    let file = command.call.files.get(cmd.fd);
    if let Some(buffer) = file.and_then(|file| file.dma_buf()) {
        if buffer.bytes() <= cmd.start + (cmd.length - 1) {
            return Err(Errno::EINVAL);
        }
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        let pins = &command.context.run().ground().pins;
        return Pages::of_dma_buf(buffer, first, writable, pins);
    }
    let last = cmd.start % PAGE + (cmd.length - 1);
    let bytes = last.checked_add(PAGE).ok_or(Errno::EINVAL)? & !(PAGE - 1);
    let file = FilePages::open(cmd.fd, first, bytes, writable)?;
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let account = account(command.context, command.call);
    Ok(Pages::new(
        file.base(),
        writable,
        Source::File(file),
        account,
    ))
}

/// IOMMU_IOAS_COPY.
pub fn copy(command: &Command<'_>, cmd: &mut iommufd::IoasCopy) -> Result<(), Errno> {
    let limits = [cmd.length, cmd.src_iova, cmd.dst_iova];
    let wanted = wanted(cmd.flags, 0, &limits)?;
    let source: Ref<IoasObject> = command.context.get(cmd.src_ioas_id)?;
    let slices = source.lock().slices(cmd.src_iova, cmd.length)?;
    drop(source);
    let object: Ref<IoasObject> = command.context.get(cmd.dst_ioas_id)?;
    let record = command.record(iommufd::IOAS_COPY);
    let iova = wanted.fixed.then_some(cmd.dst_iova);
    let mut ioas = object.lock();
    cmd.dst_iova = ioas.copy_in(iova, &slices, cmd.length, wanted.prot, record)?;
    drop(ioas);
    command.respond(cmd)
}

/// IOMMU_IOAS_UNMAP.
pub fn unmap(command: &Command<'_>, cmd: &mut iommufd::IoasUnmap) -> Result<(), Errno> {
    let object: Ref<IoasObject> = command.context.get(cmd.ioas_id)?;
    let record = command.record(iommufd::IOAS_UNMAP);
    cmd.length = if cmd.iova == 0 && cmd.length == u64::MAX {
        let (bytes, result) = object.unmap(0, u64::MAX, &record);
        result.map(|()| bytes)?
    } else {
        if cmd.iova == u64::MAX || cmd.length == u64::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let less = cmd.length.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = cmd.iova.checked_add(less).ok_or(Errno::EOVERFLOW)?;
        let (bytes, result) = object.unmap(cmd.iova, last, &record);
        result?;
        if bytes == 0 {
            return Err(Errno::ENOENT);
        }
        bytes
    };
    command.respond(cmd)
}
