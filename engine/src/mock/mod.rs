//! Test equipment: the mock IOMMU of the kernel's iommufd selftests (`drivers/iommu/iommufd/selftest.c`).
//!
//! Part of the machine only with `swiommu run --mock`. Its devices have no registers and make no DMA; what their page
//! tables hold, what is pinned and what caches keep is inspected by IOMMU_TEST_CMD.

mod access;
mod check;
mod device;
mod dma_buf;
pub mod fail_nth;
mod nested;
mod table;
mod viommu;

use swiommu_abi::Errno;
use swiommu_abi::iommufd_test as test;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::iommufd::file::Command;
use crate::iommufd::object::Ref;
use crate::iommufd::space::IoasObject;

/// The driver's number, as [`Device::driver`](crate::iommufd::device::Device::driver) tells it.
const DRIVER: usize = usize::MAX;
/// The owner of addresses that a test reserves.
const RESERVED: u64 = u64::MAX;
/// The smallest limit of OP_SET_TEMP_MEMORY_LIMIT: one element of the kernel's buffers, in bytes.
const LIMIT_LEAST: u32 = 12;

/// The arguments of an operation.
fn arguments<T: FromBytes>(cmd: &test::TestCmd) -> T {
    let bytes = &cmd.arguments.as_bytes()[..size_of::<T>()];
    T::read_from_bytes(bytes).expect("the bytes are as many as it has")
}

/// Writes the answers of an operation over its arguments, and copies them out.
fn respond<T>(command: &Command<'_>, cmd: &mut test::TestCmd, answer: &T) -> Result<(), Errno>
where
    T: IntoBytes + Immutable,
{
    let answer = answer.as_bytes();
    cmd.arguments.as_mut_bytes()[..answer.len()].copy_from_slice(answer);
    command.respond(cmd)
}

/// IOMMU_TEST_CMD.
pub fn run(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    match cmd.op {
        test::OP_ADD_RESERVED => add_reserved(command, cmd),
        test::OP_MOCK_DOMAIN | test::OP_MOCK_DOMAIN_FLAGS => device::create(command, cmd),
        test::OP_MOCK_DOMAIN_REPLACE => device::replace(command, cmd),
        test::OP_PASID_ATTACH => device::attach_pasid(command, cmd),
        test::OP_PASID_REPLACE => device::replace_pasid(command, cmd),
        test::OP_PASID_DETACH => device::detach_pasid(command, cmd),
        test::OP_PASID_CHECK_HWPT => device::check_pasid(command, cmd),
        test::OP_TRIGGER_IOPF => device::trigger_iopf(command, cmd),
        test::OP_TRIGGER_VEVENT => device::trigger_vevent(command, cmd),
        test::OP_DEV_CHECK_CACHE => device::check_cache(command, cmd),
        test::OP_MD_CHECK_MAP => check::map(command, cmd),
        test::OP_MD_CHECK_REFS => check::refs(command, cmd),
        test::OP_MD_CHECK_IOTLB => nested::check_iotlb(command, cmd),
        test::OP_DIRTY => table::make_dirty(command, cmd),
        test::OP_CREATE_ACCESS => access::create(command, cmd),
        test::OP_ACCESS_REPLACE_IOAS => access::replace_ioas(command, cmd),
        test::OP_ACCESS_PAGES => access::pin(command, cmd),
        test::OP_DESTROY_ACCESS_PAGES => access::unpin(command, cmd),
        test::OP_ACCESS_RW => access::read_write(command, cmd),
        test::OP_SET_TEMP_MEMORY_LIMIT => set_memory_limit(cmd),
        test::OP_DMABUF_GET => dma_buf::get(command, cmd),
        test::OP_DMABUF_REVOKE => dma_buf::revoke(command, cmd),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn add_reserved(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let range: test::AddReserved = arguments(cmd);
    let less = range.length.checked_sub(1).ok_or(Errno::EINVAL)?;
    let last = range.start.checked_add(less).ok_or(Errno::EOVERFLOW)?;
    let ioas: Ref<IoasObject> = command.context.get(cmd.id)?;
    ioas.lock().reserve(RESERVED, range.start, last)
}

/// The kernel's lists of pages are limited by it; ours are runs, which need no limit.
fn set_memory_limit(cmd: &test::TestCmd) -> Result<(), Errno> {
    let limit: test::MemoryLimit = arguments(cmd);
    match limit.limit {
        LIMIT_LEAST.. => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}
