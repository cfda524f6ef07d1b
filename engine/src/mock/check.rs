//! What tests compare: where page tables lead, and how often pages are pinned.

use swiommu_abi::Errno;
use swiommu_abi::iommufd_test as test;
use swiommu_iommu::{Iova, Pa};
use swiommu_mem::{Client, PAGE, UserAddr};

use super::arguments;
use super::table::with_table;
use crate::iommufd::file::Command;
use crate::iommufd::table::PageTable;

/// Whether physical addresses are those of client memory.
pub struct Resident<'a> {
    client: &'a Client,
    /// Looked at once, and only if an address is not the client's own.
    files: Option<swiommu_mem::Files>,
}

impl<'a> Resident<'a> {
    /// Nothing has been looked at.
    pub fn new(command: &'a Command<'_>) -> Resident<'a> {
        Resident {
            client: &command.context.run().client,
            files: None,
        }
    }

    /// Whether the page at `va` is the one at `pa`: the same address, or another mapping of the same byte of a file.
    ///
    /// # Errors
    /// EFAULT: there is no page at `va`.
    pub fn is_at(&mut self, va: UserAddr, pa: Pa) -> Result<bool, Errno> {
        let page = UserAddr(va.0 & !(PAGE - 1));
        self.client.populate(page, PAGE, false)?;
        if va.0 == pa.0 {
            return Ok(true);
        }
        let files = self.files.get_or_insert_with(swiommu_mem::Files::now);
        let place = files.byte(va);
        Ok(place.is_some() && place == files.byte(UserAddr(pa.0)))
    }
}

/// OP_MD_CHECK_MAP.
pub fn map(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let check: test::CheckMap = arguments(cmd);
    with_table(command, cmd.id, |table| {
        let page = 1 << table.page_sizes().trailing_zeros();
        let whole = [check.iova, check.length, check.uptr];
        let fits = check.uptr.checked_add(check.length).is_some();
        if !fits || !whole.iter().all(|value| value.is_multiple_of(page)) {
            return Err(Errno::EINVAL);
        }
        let mut resident = Resident::new(command);
        for at in (0..check.length).step_by(page as usize) {
            let va = UserAddr(check.uptr + at);
            let pa = table.lookup(Iova(check.iova.wrapping_add(at)));
            if !resident.is_at(va, pa.unwrap_or(Pa(0)))? {
                return Err(Errno::EINVAL);
            }
        }
        Ok(())
    })
}

/// OP_MD_CHECK_REFS.
pub fn refs(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let check: test::CheckRefs = arguments(cmd);
    let fits = check.uptr.checked_add(check.length).is_some();
    if !fits || !check.length.is_multiple_of(PAGE) || !check.uptr.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let run = command.context.run();
    let counts = run.pin_counts();
    for at in (0..check.length).step_by(PAGE as usize) {
        let va = UserAddr(check.uptr + at);
        run.client.populate(va, PAGE, false)?;
        if counts.of(va) != check.refs {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}
