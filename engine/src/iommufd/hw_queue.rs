//! Queues of a virtual IOMMU that its hardware reads from client memory (`iommufd_hw_queue_alloc_ioctl`).
//!
//! The hardware reads by physical address, so the memory must be contiguous, is pinned, and cannot be unmapped from the
//! parent address space while the queue lives.

use swiommu_abi::{Errno, iommufd};
use swiommu_iommu::Pa;
use swiommu_mem::PAGE;

use super::file::Command;
use super::nesting::{HwQueue, NewHwQueue};
use super::object::{Kind, Object, Ref};
use super::space::Access;
use super::viommu::Viommu;

/// A queue. What it stands on goes after it, in this order.
pub struct HwQueueObject {
    _queue: Box<dyn HwQueue>,
    _memory: Memory,
    _viommu: Ref<Viommu>,
}

impl Object for HwQueueObject {
    fn kind(&self) -> Kind {
        Kind::HwQueue
    }
}

/// Pinned memory of a queue.
struct Memory {
    access: Access,
    iova: u64,
    bytes: u64,
}

impl Memory {
    /// Pins `bytes` bytes at `iova` of the parent address space, and where they are.
    fn pin(viommu: &Viommu, iova: u64, bytes: u64) -> Result<(Memory, Pa), Errno> {
        let offset = iova % PAGE;
        let whole = offset.checked_add(bytes).ok_or(Errno::ERANGE)?;
        let whole = whole.checked_next_multiple_of(PAGE).ok_or(Errno::ERANGE)?;
        let access = Access::internal();
        access.attach(Some(&viommu.parent.ioas))?;
        let pages = access.pin(iova - offset, whole, false)?;
        let memory = Memory {
            access,
            iova: iova - offset,
            bytes: whole,
        };
        let contiguous = pages.windows(2).all(|two| two[1].0 == two[0].0 + PAGE);
        if !contiguous {
            return Err(Errno::EFAULT);
        }
        Ok((memory, Pa(pages[0].0 + offset)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.access.unpin(self.iova, self.bytes);
    }
}

/// IOMMU_HW_QUEUE_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::HwQueueAlloc) -> Result<(), Errno> {
    if cmd.flags != 0 || cmd.kind == iommufd::HW_QUEUE_TYPE_DEFAULT {
        return Err(Errno::EOPNOTSUPP);
    }
    let less = cmd.length.checked_sub(1).ok_or(Errno::EINVAL)?;
    let last = cmd.nesting_parent_iova.checked_add(less);
    last.ok_or(Errno::EOVERFLOW)?;
    let context = command.context;
    let viommu: Ref<Viommu> = context.get(cmd.viommu_id)?;
    if !viommu.iommu.has_hw_queue(cmd.kind) {
        return Err(Errno::EOPNOTSUPP);
    }
    let reserved = context.reserve()?;
    let (memory, pa) = Memory::pin(&viommu, cmd.nesting_parent_iova, cmd.length)?;
    let queue = viommu.iommu.new_hw_queue(&NewHwQueue {
        context,
        id: reserved.id(),
        index: cmd.index,
        iova: cmd.nesting_parent_iova,
        pa,
        bytes: cmd.length,
    })?;
    cmd.out_hw_queue_id = reserved.id();
    command.respond(cmd)?;
    reserved.commit(HwQueueObject {
        _queue: queue,
        _memory: memory,
        _viommu: viommu.hold(),
    });
    Ok(())
}
