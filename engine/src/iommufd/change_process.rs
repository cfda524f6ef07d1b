//! IOMMU_IOAS_CHANGE_PROCESS: the calling process takes over what is mapped (`drivers/iommu/iommufd/ioas.c`).

use std::sync::Arc;

use swiommu_abi::{Errno, iommufd};

use super::account::{Account, Charged, Locked, Mode};
use super::file::Command;
use super::inject;
use super::pages::Pages;
use super::space::IoasObject;

/// IOMMU_IOAS_CHANGE_PROCESS. Only pages of files can be taken over, since they belong to no process. What is pinned of
/// them is charged to the caller instead of to whom it was, and so is what will be.
///
/// All address spaces are locked meanwhile, in the order of their ids: nothing else locks two. What nobody was charged
/// for, as its client may lock what it wants, is left as it is; the kernel does not move it either.
///
/// # Errors
/// EOPNOTSUPP: a reserved field is not 0. EINVAL: something other than a file is mapped. ENOMEM: the caller may not lock
/// so much; then nothing has changed.
pub fn change(command: &Command<'_>, cmd: &mut iommufd::IoasChangeProcess) -> Result<(), Errno> {
    if cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let context = command.context;
    let _creation = context.ioas_creation.write().unwrap();
    let objects = context.all::<IoasObject>();
    let spaces: Vec<_> = objects.iter().map(|object| object.lock()).collect();
    let mut pages = Vec::new();
    for space in &spaces {
        pages.extend(space.files()?);
    }
    let caller = command.call.client.process();
    let process = caller.map(Charged::of);
    pages.retain(|pages| pages.charged_elsewhere(process).is_some());
    pages.sort_by_key(Arc::as_ptr);
    pages.dedup_by(|one, other| Arc::ptr_eq(one, other));
    let limit = context.run().memlock(caller);
    let locked = context.run().ground().locked;
    charge(&pages, process, limit, &locked)?;
    for pages in pages {
        pages.charge_to(process, limit, &locked);
    }
    Ok(())
}

/// Charges a process for what is pinned of all the sets, or for nothing.
fn charge(
    pages: &[Arc<Pages>],
    process: Option<Charged>,
    limit: Option<u64>,
    locked: &Locked,
) -> Result<(), Errno> {
    let [user, own] = [Mode::User, Mode::Process].map(|mode| {
        let sets = pages
            .iter()
            .filter_map(|pages| pages.charged_elsewhere(process));
        let of_mode = sets.filter(|(set, _)| *set == mode);
        let account = Account {
            mode,
            limit,
            pinned: true,
            process,
        };
        (of_mode.map(|(_, bytes)| bytes).sum::<u64>(), account)
    });
    locked.charge(user.0, &user.1)?;
    inject::point()
        .and_then(|()| locked.charge(own.0, &own.1))
        .inspect_err(|_| locked.uncount(user.0, &user.1))
}
