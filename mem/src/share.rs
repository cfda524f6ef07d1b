//! Moving this process's memory to where another process can map it as well.
//!
//! Anonymous memory has no name by which anybody else could map it. [`into_file`] gives it one: the pages are copied to a
//! memory file, which then takes their place at the same addresses, shared. Other threads may run meanwhile: one that
//! stores to a page on the move faults, and its handler waits ([`is_moving`]) and lets it store again.
//!
//! What was private must not become common to a child of fork: [`Copy`] is a private copy, made before the fork for the
//! child to put in the place of the file.
#![allow(unsafe_code)] // maps over the client's memory

use crate::maps::{self, Area};
use crate::raw::errno;
use crate::{Client, PAGE, Stretch, UserAddr, fd};
use rustix::mm::{self, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use swiommu_abi::Errno;

/// What lies in a range of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First address.
    pub first: u64,
    /// Bytes.
    pub bytes: u64,
    /// What can be done there.
    pub prot: ProtFlags,
    /// The shared memory that it is; `None` for private memory.
    pub shared: Option<Origin>,
}

/// A place in memory that several processes can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Device number of the filesystem, as stat has it.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Offset in bytes.
    pub offset: u64,
}

fn piece(area: &Area, first: u64, last: u64) -> Piece {
    let (from, to) = (area.first.max(first), area.last.min(last));
    let offset = area.offset + (from - area.first);
    let mut prot = ProtFlags::empty();
    prot.set(ProtFlags::READ, area.readable);
    prot.set(ProtFlags::WRITE, area.writable);
    prot.set(ProtFlags::EXEC, area.executable);
    Piece {
        first: from,
        bytes: to - from + 1,
        prot,
        shared: area.shared.then_some(Origin {
            device: area.device_number(),
            inode: area.inode,
            offset,
        }),
    }
}

/// The pieces of memory in `first..=last`, ascending.
///
/// # Errors
/// When the list cannot be read.
pub fn pieces(first: u64, last: u64) -> Result<Vec<Piece>, Errno> {
    let areas = maps::areas(first, last)?;
    Ok(areas.iter().map(|area| piece(area, first, last)).collect())
}

/// Where `bytes` bytes of some shared memory are mapped in this process, if they are in one piece.
pub fn find(origin: Origin, bytes: u64) -> Option<UserAddr> {
    let last = origin.offset.checked_add(bytes.checked_sub(1)?)?;
    let everything = pieces(0, u64::MAX).ok()?;
    everything.iter().find_map(|piece| {
        let here = piece.shared?;
        let same = (here.device, here.inode) == (origin.device, origin.inode);
        let holds = here.offset <= origin.offset && last < here.offset + piece.bytes;
        (same && holds).then(|| UserAddr(piece.first + (origin.offset - here.offset)))
    })
}

/// The range that is on the move, `1..=0` when none is.
static MOVING: [AtomicU64; 2] = [AtomicU64::new(1), AtomicU64::new(0)];
/// How many ranges have moved.
static MOVES: AtomicU64 = AtomicU64::new(0);
/// The lowest and the highest address that ever moved.
static MOVED: [AtomicU64; 2] = [AtomicU64::new(u64::MAX), AtomicU64::new(0)];

thread_local! {
    /// The last fault that was tried again: its address and what [`MOVES`] was.
    static TRIED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// A store at `at` faulted. If that is because the page is moving, or was just now, waits until it has moved: the store
/// is to be tried again. Safe in a signal handler.
pub fn is_moving(at: u64) -> bool {
    let moves = MOVES.load(Ordering::Acquire);
    if moves == 0 || at < MOVED[0].load(Ordering::Relaxed) || at > MOVED[1].load(Ordering::Relaxed)
    {
        return false;
    }
    let inside = || {
        let (first, last) = (&MOVING[0], &MOVING[1]);
        (first.load(Ordering::Acquire)..=last.load(Ordering::Acquire)).contains(&at)
    };
    if inside() {
        while inside() {
            std::thread::yield_now();
        }
        return true;
    }
    // It may have arrived since: once is worth a try.
    TRIED.replace((at, moves)) != (at, moves)
}

/// Moves `bytes` bytes of private memory at `first` (whole pages of one piece, present, `prot` as it is now) into a new
/// memory file, which is mapped there instead. One at a time: the caller sees to it.
///
/// # Errors
/// `ENOMEM` and the like; the memory is then as it was.
pub fn into_file(first: u64, bytes: u64, prot: ProtFlags) -> Result<OwnedFd, Errno> {
    let file = fd::memfd("swiommu pages", bytes)?;
    MOVED[0].fetch_min(first, Ordering::Relaxed);
    MOVED[1].fetch_max(first + (bytes - 1), Ordering::Relaxed);
    MOVING[1].store(first + (bytes - 1), Ordering::Release);
    MOVING[0].store(first, Ordering::Release);
    MOVES.fetch_add(1, Ordering::AcqRel);
    let moved = copy_and_replace(first, bytes, prot, &file);
    if moved.is_err() {
        let _ = protect(first, bytes, prot);
    }
    MOVING[0].store(1, Ordering::Release);
    MOVING[1].store(0, Ordering::Release);
    moved.map(|()| file)
}

fn protect(first: u64, bytes: u64, prot: ProtFlags) -> Result<(), Errno> {
    let flags = MprotectFlags::from_bits_retain(prot.bits());
    // SAFETY: the range is the client's; a store that faults meanwhile is tried again.
    unsafe { mm::mprotect(first as *mut _, bytes as usize, flags) }.map_err(errno)
}

fn copy_and_replace(first: u64, bytes: u64, prot: ProtFlags, file: &OwnedFd) -> Result<(), Errno> {
    protect(first, bytes, ProtFlags::READ)?;
    fill(file, first, bytes)?;
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: the same bytes appear at the same addresses, in one step; the file cannot be truncated by anyone but us.
    unsafe {
        mm::mmap(
            first as *mut _,
            bytes as usize,
            prot,
            flags,
            file.as_fd(),
            0,
        )
    }
    .map(drop)
    .map_err(errno)
}

/// Copies memory to a file from its start.
fn fill(file: &OwnedFd, first: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: the copy is made by a system call, which checks the addresses.
    let client = unsafe { Client::local() };
    let mut done = 0;
    while done < bytes {
        let rest = Stretch {
            first: UserAddr(first + done),
            bytes: (bytes - done).min(1 << 30),
        };
        match client.write_to_file(file.as_fd(), done, &[rest])? {
            0 => return Err(Errno::EFAULT),
            copied => done += copied,
        }
    }
    Ok(())
}

/// A private copy of a piece of memory, kept aside. Unmapped when dropped.
#[derive(Debug)]
pub struct Copy {
    of: Piece,
    at: u64,
}

impl Copy {
    /// Copies a piece.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` when it cannot be read.
    pub fn new(of: Piece) -> Result<Copy, Errno> {
        let (all, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let length = of.bytes as usize;
        // SAFETY: a mapping at an address the kernel chooses replaces nothing.
        let at = unsafe { mm::mmap_anonymous(null_mut(), length, all, flags) }.map_err(errno)?;
        let copy = Copy { of, at: at as u64 };
        // SAFETY: handlers are installed wherever this crate's copies run.
        let client = unsafe { Client::local() };
        let copied = client.copy(UserAddr(copy.at), UserAddr(of.first), of.bytes);
        copied.map_err(|_| Errno::EFAULT)?;
        Ok(copy)
    }

    /// Puts it where the piece is, which it replaces.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn put(self) -> Result<(), Errno> {
        let length = self.of.bytes as usize;
        let flags = MprotectFlags::from_bits_retain(self.of.prot.bits());
        let (from, to) = (self.at as *mut _, self.of.first as *mut _);
        // SAFETY: the same bytes appear at the same addresses, private as the client believes them to be.
        unsafe {
            mm::mprotect(from, length, flags).map_err(errno)?;
            mm::mremap_fixed(from, length, length, MremapFlags::MAYMOVE, to).map_err(errno)?;
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody else has seen.
        let unmapped = unsafe { mm::munmap(self.at as *mut _, self.of.bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Puts fresh private memory, all zero, in the place of a piece.
///
/// # Errors
/// `ENOMEM`.
pub fn renew(piece: Piece) -> Result<(), Errno> {
    debug_assert!(piece.first.is_multiple_of(PAGE) && piece.bytes.is_multiple_of(PAGE));
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the client gives up what is there.
    unsafe {
        mm::mmap_anonymous(
            piece.first as *mut _,
            piece.bytes as usize,
            piece.prot,
            flags,
        )
    }
    .map(drop)
    .map_err(errno)
}

#[cfg(test)]
#[path = "share/tests.rs"]
mod tests;
