//! Files whose opener is gone, or done with them, and that nothing was done with: another opening of the same node is as
//! good, so the first process that wants such a file opens the node itself and answers for the file from then on.
//!
//! The name of the kernel object says which node it was, a seal on it that the file is not fresh any more, and a file in
//! the run's directory who took it over.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use swiommu_engine::door::File;
use swiommu_engine::hostdrv::lock::Lock;
use swiommu_engine::service;
use swiommu_mem::fd::{self, OBJECT};

use super::file::RemoteFile;
use super::{registry, service as own_service};
use crate::{config, engine, sys};

/// What the name of a kernel object of ours says.
pub(super) struct Name {
    /// The process that opened it.
    pub(super) opener: u32,
    /// The path of its node, if it has one.
    pub(super) node: Option<String>,
}

impl Name {
    /// The name of a descriptor's object, if it is one of ours.
    pub(super) fn of(object: BorrowedFd<'_>) -> Option<Name> {
        let mut path = [0; 32];
        write!(&mut path[..31], "/proc/self/fd/{}", object.as_raw_fd()).ok()?;
        let path = CStr::from_bytes_until_nul(&path).ok()?;
        let mut name = [0; 128];
        let length = usize::try_from(sys::readlink(libc::AT_FDCWD, path, &mut name)).ok()?;
        let text = std::str::from_utf8(name.get(..length)?).ok()?;
        let mut words = text
            .strip_prefix("/memfd:")?
            .strip_prefix(OBJECT)?
            .split(' ');
        Some(Name {
            opener: words.next()?.parse().ok()?,
            node: words
                .next()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        })
    }
}

/// The file behind a kernel object, whoever answers for it now.
pub(super) fn find(object: BorrowedFd<'_>) -> Option<Arc<dyn File>> {
    let name = Name::of(object)?;
    if let Some(file) = registry::behind(object).or_else(|| elsewhere(&name, object)) {
        return Some(file);
    }
    let (run, node) = (Path::new(&config::get()?.run), name.node.as_ref()?);
    let _taking = Lock::wait(run, service::TAKING_OVER).ok()?;
    // Another process may have been faster.
    if let Some(file) = elsewhere(&name, object) {
        return Some(file);
    }
    if fd::is_used(object) {
        return None;
    }
    let file = engine::call(0, |call| engine::get()?.open(call, node))?
        .ok()?
        .file;
    registry::enter(object, &file);
    own_service::start();
    service::take_over(run, name.opener, registry::inode(object)?).ok()?;
    Some(file)
}

/// The same if it is another process, which answers.
fn elsewhere(name: &Name, object: BorrowedFd<'_>) -> Option<Arc<dyn File>> {
    let run = Path::new(&config::get()?.run);
    let key = registry::inode(object)?;
    let owner = service::owner(run, name.opener, key).unwrap_or(name.opener);
    if owner == sys::pid() as u32 {
        return None;
    }
    let file = RemoteFile::ask_for(owner, key, fd::duplicate(object).ok()?).ok()?;
    Some(Arc::new(file))
}
