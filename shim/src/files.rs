//! The file table: descriptor number -> the engine's file.
//!
//! Slots come in chunks of 1024 that are published once and never freed; a number in a chunk that was never made is a
//! miss after one load. Beside its slot a number has marks: things the shim knows of descriptors that are not the
//! engine's (see [`Mark`]). A stale mark is harmless: whoever uses it looks again.
#![allow(unsafe_code)] // chunks are published as raw pointers

use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use swiommu_engine::door::{File, Files};

use crate::remote::file::RemoteFile;
use crate::slot::Slot;
use crate::{guard, process};

const CHUNK: usize = 1024;
const CHUNKS: usize = 1024;

struct Chunk {
    slots: [Slot<Arc<dyn File>>; CHUNK],
    marks: [AtomicU8; CHUNK],
}

/// What the shim remembers of a descriptor that leads into the run's tree.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Mark {
    /// A file or directory of the tree.
    Tree = 1,
    /// A directory of the tree in which regular files stand for device nodes.
    Nodes = 2,
    /// A file below /sys that was opened for writing: an attribute.
    Attribute = 4,
    /// A file of the engine's that nothing was done with, as far as is known.
    Fresh = 8,
}

static TABLE: [AtomicPtr<Chunk>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

#[inline]
fn chunk(fd: c_int) -> Option<(&'static Chunk, usize)> {
    let number = fd as u32 as usize;
    let chunk = TABLE.get(number / CHUNK)?.load(Ordering::Acquire);
    // SAFETY: a published chunk is never freed or written except through its atomics.
    Some((unsafe { chunk.as_ref() }?, number % CHUNK))
}

fn make(fd: c_int) -> Option<(&'static Chunk, usize)> {
    let number = fd as u32 as usize;
    let place = TABLE.get(number / CHUNK)?;
    if place.load(Ordering::Acquire).is_null() {
        let new = Box::into_raw(Box::new(Chunk {
            slots: [const { Slot::new() }; CHUNK],
            marks: [const { AtomicU8::new(0) }; CHUNK],
        }));
        if place
            .compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: another thread was first, and nobody has seen ours.
            drop(unsafe { Box::from_raw(new) });
        }
    }
    chunk(fd)
}

/// The engine's file behind a number.
#[inline]
pub fn get(fd: c_int) -> Option<Arc<dyn File>> {
    let (chunk, index) = chunk(fd)?;
    chunk.slots[index].get()
}

/// The same for the client's calls: inside the engine every number is the kernel's.
#[inline]
pub fn ours(fd: c_int) -> Option<Arc<dyn File>> {
    let (chunk, index) = chunk(fd)?;
    if !chunk.slots[index].present() || guard::inside() {
        return None;
    }
    process::check();
    chunk.slots[index].get()
}

/// Whether anything is known of a number.
#[inline]
pub fn known(fd: c_int) -> bool {
    chunk(fd).is_some_and(|(chunk, index)| {
        chunk.slots[index].present() || chunk.marks[index].load(Ordering::Relaxed) != 0
    })
}

/// Puts a file behind a number. `false`: the number is beyond the table (2^20).
pub fn put(fd: c_int, file: Arc<dyn File>) -> bool {
    guard::enter(|| match make(fd) {
        Some((chunk, index)) => {
            chunk.slots[index].put(file);
            true
        }
        None => false,
    })
}

/// The number was closed, or is about to be: forgets what it was. `true` if it was the engine's. What a vfork child
/// does to its copies of the numbers changes nothing here.
#[inline]
pub fn remove(fd: c_int) -> bool {
    if !known(fd) || process::is_borrowed() {
        return false;
    }
    let Some((chunk, index)) = chunk(fd) else {
        return false;
    };
    chunk.marks[index].store(0, Ordering::Relaxed);
    guard::enter(|| chunk.slots[index].remove().map(drop)).is_some()
}

/// Forgets all of `first..=last`.
pub fn remove_range(first: u32, last: u32) {
    let end = (CHUNKS * CHUNK - 1) as u32;
    let mut fd = first;
    while fd <= last.min(end) {
        if chunk(fd as c_int).is_none() {
            fd = (fd / CHUNK as u32 + 1) * CHUNK as u32;
            continue;
        }
        remove(fd as c_int);
        fd += 1;
    }
}

/// `new` became a duplicate of `old`.
pub fn duplicate(old: c_int, new: c_int) {
    let marks = chunk(old).map_or(0, |(chunk, index)| {
        chunk.marks[index].load(Ordering::Relaxed)
    });
    if let Some(file) = get(old) {
        put(new, file);
    } else {
        remove(new);
    }
    if marks != 0
        && let Some((chunk, index)) = guard::enter(|| make(new))
    {
        chunk.marks[index].store(marks, Ordering::Relaxed);
    }
}

/// Whether a number carries a mark.
#[inline]
pub fn marked(fd: c_int, mark: Mark) -> bool {
    chunk(fd)
        .is_some_and(|(chunk, index)| chunk.marks[index].load(Ordering::Relaxed) & mark as u8 != 0)
}

/// Marks a number.
pub fn mark(fd: c_int, mark: Mark) {
    if let Some((chunk, index)) = guard::enter(|| make(fd)) {
        chunk.marks[index].fetch_or(mark as u8, Ordering::Relaxed);
    }
}

/// Puts a file behind a number that other processes may know, and that may be fresh.
pub fn put_node(fd: c_int, file: Arc<dyn File>) -> bool {
    let fresh = file.is_fresh();
    let put = put(fd, file);
    if put && fresh {
        mark(fd, Mark::Fresh);
    }
    put
}

/// A call of a fresh file has ended. If something was done with it, its object says so from now on, and those of other
/// files that the call was about.
#[cold]
pub fn used(fd: c_int) {
    if get(fd).is_none_or(|file| file.is_fresh()) {
        return;
    }
    guard::enter(|| {
        each(|number, file| {
            if marked(number, Mark::Fresh) && !file.is_fresh() {
                // SAFETY: the number is borrowed for one system call, which checks it.
                swiommu_mem::fd::mark_used(unsafe { BorrowedFd::borrow_raw(number) });
                if let Some((chunk, index)) = chunk(number) {
                    chunk.marks[index].fetch_and(!(Mark::Fresh as u8), Ordering::Relaxed);
                }
            }
        });
    });
}

/// Puts `new` in the place of `old`, behind all its numbers.
pub fn replace(old: *const (), new: &Arc<dyn File>) {
    each(|number, file| {
        if std::ptr::eq(Arc::as_ptr(&file).cast(), old) {
            put_node(number, Arc::clone(new));
        }
    });
}

/// Every number that is the engine's, with its file.
pub fn each(mut f: impl FnMut(c_int, Arc<dyn File>)) {
    for (base, place) in TABLE.iter().enumerate() {
        // SAFETY: published chunks live forever.
        let Some(chunk) = (unsafe { place.load(Ordering::Acquire).as_ref() }) else {
            continue;
        };
        for (index, slot) in chunk.slots.iter().enumerate() {
            if let Some(file) = slot.get() {
                f((base * CHUNK + index) as c_int, file);
            }
        }
    }
}

/// In the child of a fork: every file becomes what `f` makes of it; the parent's are not dropped.
pub fn forked(mut f: impl FnMut(c_int, &Arc<dyn File>) -> Arc<dyn File>) {
    for (base, place) in TABLE.iter().enumerate() {
        // SAFETY: published chunks live forever.
        let Some(chunk) = (unsafe { place.load(Ordering::Acquire).as_ref() }) else {
            continue;
        };
        for (index, slot) in chunk.slots.iter().enumerate() {
            // SAFETY: the child of a fork has one thread.
            unsafe { slot.replace_after_fork(|file| f((base * CHUNK + index) as c_int, file)) }
        }
    }
}

/// The table as the engine sees it.
pub struct Table;

impl Files for Table {
    fn get(&self, fd: i32) -> Option<Arc<dyn File>> {
        let file = get(fd)?;
        // The engine takes a file for what it is: one of another process may have become ours.
        let heir = RemoteFile::of(&file).and_then(RemoteFile::heir);
        Some(heir.unwrap_or(file))
    }
}
