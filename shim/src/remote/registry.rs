//! The owner's side: files that other processes may have too.
//!
//! A file enters when the process forks, or when another process asks for it, and stays until no process has its kernel
//! object open. The kernel itself says when that is: the client's open file carries a shared lock, which goes with the
//! last descriptor, wherever that is (in a child, or on its way through a socket); a second opening of the same inode,
//! ours, can have the exclusive lock from then on.
#![allow(unsafe_code)] // borrows the client's numbers

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FileType, FlockOperation, flock, fstat};
use swiommu_engine::door::File;
use swiommu_mem::fd::{self, Hidden};

use super::file::RemoteFile;
use crate::lock::Quiet;
use crate::{files, guard};

pub(super) struct Entry {
    key: u64,
    file: Arc<dyn File>,
    /// A second opening of what tells that the file is open; `None`: it cannot be told elsewhere than here.
    probe: Option<Hidden>,
    /// Where the object is no memory file of the file's own, one goes with it to each process that has the object: this is
    /// this process's, while the file is open here.
    lifeline: Option<Hidden>,
    /// Nothing was done with it yet, as its object says.
    fresh: bool,
}

pub(super) static SHARED: Quiet<Vec<Entry>> = Quiet::new(Vec::new());
/// Held while entries go: who finds none left knows that their files have ended.
pub(super) static REAPING: Quiet<()> = Quiet::new(());
/// Whether there are entries, or the last are going just now.
static ANY: AtomicBool = AtomicBool::new(false);
/// Keys of objects without an inode of their own.
static NEXT: AtomicU64 = AtomicU64::new(1 << 63);

/// The client's descriptor of a number.
fn borrow<T>(number: i32, work: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the number is borrowed for system calls, which check it.
    work(unsafe { BorrowedFd::borrow_raw(number) })
}

/// What names the kernel object of a file, if it is a memory file.
pub(super) fn inode(object: BorrowedFd<'_>) -> Option<u64> {
    let stat = fstat(object).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat.st_ino)
}

/// Says, as long as a description of `object` is open anywhere, that the file is: a second opening that can tell.
fn watch(object: BorrowedFd<'_>) -> Option<Hidden> {
    flock(object, FlockOperation::NonBlockingLockShared).ok()?;
    Hidden::new(fd::reopen(object).ok()?).ok()
}

/// Enters a file with a descriptor of its object: the key by which other processes name it, and a copy of its lifeline.
pub(super) fn enter(object: BorrowedFd<'_>, file: &Arc<dyn File>) -> (u64, Option<OwnedFd>) {
    if let Some(key) = key_of(file) {
        return (key, lifeline(file));
    }
    let inode = inode(object);
    let lifeline = match inode {
        Some(_) => None,
        None => fd::memfd("swiommu lifeline", 0).and_then(Hidden::kept).ok(),
    };
    let object = lifeline.as_ref().map_or(object, AsFd::as_fd);
    let copy = lifeline.as_ref().and_then(|it| fd::duplicate(it).ok());
    let entry = Entry {
        key: inode.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed)),
        file: Arc::clone(file),
        probe: watch(object),
        lifeline,
        fresh: file.is_fresh(),
    };
    let key = entry.key;
    SHARED.with(|entries| entries.push(entry));
    ANY.store(true, Ordering::Release);
    (key, copy)
}

/// A copy of the lifeline of a file, for a process that has it too.
pub(super) fn lifeline(file: &Arc<dyn File>) -> Option<OwnedFd> {
    SHARED.with(|entries| {
        let same = |entry: &&Entry| Arc::ptr_eq(&entry.file, file);
        let entry = entries.iter().find(same)?;
        fd::duplicate(entry.lifeline.as_ref()?).ok()
    })
}

/// Enters all files of this process, before a fork. Whether there are any that a child could use.
pub(super) fn enter_all() -> bool {
    let mut any = false;
    guard::enter(|| {
        files::each(|number, file| {
            if RemoteFile::of(&file).is_none() {
                borrow(number, |object| drop(enter(object, &file)));
                any = true;
            }
        });
    });
    any
}

/// The key of a file that was entered.
pub(super) fn key_of(file: &Arc<dyn File>) -> Option<u64> {
    SHARED.with(|entries| {
        let same = |entry: &&Entry| Arc::ptr_eq(&entry.file, file);
        entries.iter().find(same).map(|entry| entry.key)
    })
}

/// The file of a key.
pub(super) fn find(key: u64) -> Option<Arc<dyn File>> {
    let known = SHARED.with(|entries| {
        let same = |entry: &&Entry| entry.key == key;
        entries
            .iter()
            .find(same)
            .map(|entry| Arc::clone(&entry.file))
    });
    known.or_else(|| find_open(key))
}

/// The file of a key, if this process goes on answering for it. Files that nothing was done with and that are all it
/// knows of, all open elsewhere alone, it leaves to those who have them: they can open the nodes themselves.
pub(super) fn keep(key: u64) -> Option<Arc<dyn File>> {
    let file = find(key)?;
    let mut here = false;
    files::each(|_, file| here |= RemoteFile::of(&file).is_none());
    if here || !file.is_fresh() {
        return Some(file);
    }
    let left = SHARED.with(|entries| {
        let all = entries
            .iter()
            .all(|entry| entry.fresh && entry.file.is_fresh());
        let at = entries.iter().position(|entry| entry.key == key)?;
        all.then(|| entries.swap_remove(at))
    });
    match left {
        // What it held is free when the other process learns of it.
        Some(entry) => drop((entry, file)),
        None => return Some(file),
    }
    None
}

/// A call of another process has ended: objects of files that something was done with say so from now on.
pub(super) fn used() {
    SHARED.with(|entries| {
        let changed = |entry: &&mut Entry| entry.fresh && !entry.file.is_fresh();
        for entry in entries.iter_mut().filter(changed) {
            entry.fresh = false;
            if let Some(probe) = &entry.probe {
                fd::mark_used(probe);
            }
        }
    });
}

/// A file of this process's table by its inode; it enters, for another process has it.
fn find_open(key: u64) -> Option<Arc<dyn File>> {
    let mut found = None;
    files::each(|number, file| {
        if found.is_none() && RemoteFile::of(&file).is_none() && borrow(number, inode) == Some(key)
        {
            borrow(number, |object| drop(enter(object, &file)));
            found = Some(file);
        }
    });
    found
}

/// The file behind a descriptor of whatever process.
pub(super) fn behind(object: BorrowedFd<'_>) -> Option<Arc<dyn File>> {
    find(inode(object)?)
}

/// Something was closed here or elsewhere: files that no process has any more go. Whether some are left that only other
/// processes have.
#[inline]
pub fn reap() -> bool {
    ANY.load(Ordering::Acquire) && guard::enter(reap_now)
}

#[cold]
fn reap_now() -> bool {
    REAPING.with(|()| {
        let (gone, orphans) = take_gone();
        // A file's end may close others and take the engine's locks.
        drop(gone);
        SHARED.with(|entries| ANY.store(!entries.is_empty(), Ordering::Release));
        orphans
    })
}

/// Takes the entries out that nobody has any more; whether some are left that only other processes have.
fn take_gone() -> (Vec<Entry>, bool) {
    let mut here = Vec::new();
    files::each(|_, file| here.push(Arc::as_ptr(&file).cast::<()>()));
    let is_here = |entry: &Entry| here.contains(&Arc::as_ptr(&entry.file).cast());
    SHARED.with(|entries| {
        let gone: Vec<Entry> = entries
            .extract_if(.., |entry| {
                let here = is_here(entry);
                if !here {
                    entry.lifeline = None;
                }
                match &entry.probe {
                    None => !here,
                    Some(probe) => {
                        flock(probe.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok()
                    }
                }
            })
            .collect();
        let orphans = entries.iter().any(|entry| !is_here(entry));
        (gone, orphans)
    })
}

/// In the child of a fork: the entries are the parent's.
pub(super) fn forget() {
    SHARED.with(|entries| {
        for mut entry in std::mem::take(entries) {
            // The copy of it that came with the fork.
            drop(entry.lifeline.take());
            std::mem::forget(entry);
        }
    });
    ANY.store(false, Ordering::Release);
}
