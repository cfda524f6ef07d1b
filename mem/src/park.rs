//! Moving pages aside that the client takes away while a device may still use them.
//!
//! [`steal`] moves the pages of a range to a parking place of ours and leaves the range itself mapped and empty, so that
//! nothing else can move in there before the caller has changed its tables and then really unmaps it. A DMA that
//! touches the old range meanwhile sees zero pages, not a fault: the caller retries what overlapped with a steal.
//!
//! One `mremap(MREMAP_DONTUNMAP)` does it when one mapping covers the range, which is nearly always. Otherwise the pieces are
//! looked up and moved one by one into one reservation, so that offsets within a parked range are those of the
//! client's. Where the kernel cannot leave a shared mapping behind, it is aliased instead (`old_size` 0), which has the
//! same meaning: both places show the same pages until the caller unmaps one.
//!
//! Pages keep their huge mappings if the parking place is congruent to the range modulo 2 MiB.
#![allow(unsafe_code)] // moves mappings of the client's address space

use crate::raw::errno;
use crate::{ADDRESS_END, PAGE, UserAddr, maps};
use rustix::io::Errno as Raw;
use rustix::mm::{self, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use std::ptr::null_mut;
use swiommu_abi::Errno;

const HUGE: u64 = 2 << 20;

/// Pages that were moved aside. Dropping it unmaps what is left of them.
#[derive(Debug)]
pub struct Parked {
    base: u64,
    bytes: u64,
    /// What has not been released: offsets, first and end, ascending and disjoint.
    kept: Vec<(u64, u64)>,
}

impl Parked {
    /// Where the first byte of the stolen range now lies.
    pub fn base(&self) -> UserAddr {
        UserAddr(self.base)
    }

    /// Size of the stolen range in bytes, released parts included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives `bytes` bytes at `offset` back to the kernel. Both are multiples of 4096; parts that were released before
    /// stay so.
    ///
    /// # Panics
    /// If the part is not page-aligned or does not lie in the range.
    pub fn release(&mut self, offset: u64, bytes: u64) {
        let end = offset + bytes;
        assert!(
            offset.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && end <= self.bytes,
            "release of {offset:#x}+{bytes:#x}"
        );
        let mut kept = Vec::with_capacity(self.kept.len() + 1);
        for &(first, last_end) in &self.kept {
            let (cut, cut_end) = (first.max(offset), last_end.min(end));
            if cut >= cut_end {
                kept.push((first, last_end));
                continue;
            }
            unmap(self.base + cut, cut_end - cut);
            kept.extend(
                [(first, cut), (cut_end, last_end)]
                    .into_iter()
                    .filter(|(a, b)| a < b),
            );
        }
        self.kept = kept;
    }

    /// Whether every part was released.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        for &(first, end) in &self.kept {
            unmap(self.base + first, end - first);
        }
    }
}

/// Moves the pages of `bytes` bytes at `first` aside. The range stays mapped, reading zero where it was anonymous;
/// holes in it stay holes and are parked as inaccessible memory. Both numbers are multiples of 4096, else `EINVAL`;
/// `EFAULT` when nothing at all is mapped there; `ENOMEM` when the kernel has no room (the limit of mappings included).
/// Parked pages are readable and writable where the kernel allows, as a pinned page stays to a device after `mprotect`.
///
/// If it fails midway, pieces already moved are moved back.
pub fn steal(first: UserAddr, bytes: u64) -> Result<Parked, Errno> {
    let end = first
        .0
        .checked_add(bytes)
        .filter(|&end| end <= ADDRESS_END)
        .ok_or(Errno::EINVAL)?;
    if bytes == 0 || !first.0.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let holds_huge = first.0.next_multiple_of(HUGE) + HUGE <= end;
    if !holds_huge {
        match leave_behind(first.0, bytes, None) {
            Ok(base) => return Ok(parked(base, bytes)),
            Err(Raw::FAULT | Raw::INVAL) => {}
            Err(other) => return Err(errno(other)),
        }
    }
    by_pieces(first.0, bytes)
}

/// Steals mapping by mapping into one reservation.
fn by_pieces(first: u64, bytes: u64) -> Result<Parked, Errno> {
    let last = first + bytes - 1;
    let place = reserve(first, bytes)?;
    let mut moved: Vec<(u64, u64)> = Vec::new();
    let areas = maps::areas(first, last)?;
    for area in &areas {
        let from = area.first.max(first);
        let length = area.last.min(last) - from + 1;
        let to = place.base + (from - first);
        let taken = leave_behind(from, length, Some(to)).or_else(|refusal| {
            if area.shared {
                alias(from, length, to)
            } else {
                Err(refusal)
            }
        });
        match taken {
            Ok(_) => moved.push((from, length)),
            Err(refusal) => {
                put_back(first, place.base, &moved);
                return Err(errno(refusal));
            }
        }
    }
    if moved.is_empty() {
        return Err(Errno::EFAULT);
    }
    for &(from, length) in &moved {
        make_accessible(place.base + (from - first), length);
    }
    Ok(place)
}

/// Makes parked pages accessible to us, whatever the client's protection was.
fn make_accessible(base: u64, length: u64) {
    let all = MprotectFlags::READ | MprotectFlags::WRITE;
    for protection in [all, MprotectFlags::READ] {
        // SAFETY: the range is a parking place, which is ours.
        if unsafe { mm::mprotect(base as *mut _, length as usize, protection) }.is_ok() {
            return;
        }
    }
}

fn put_back(first: u64, base: u64, moved: &[(u64, u64)]) {
    for &(from, length) in moved {
        // SAFETY: the source is a parking place of ours, the destination the mapping its pages came from moments ago.
        let _ = unsafe {
            mm::mremap_fixed(
                (base + (from - first)) as *mut _,
                length as usize,
                length as usize,
                MremapFlags::MAYMOVE,
                from as *mut _,
            )
        };
    }
}

fn parked(base: u64, bytes: u64) -> Parked {
    make_accessible(base, bytes);
    Parked {
        base,
        bytes,
        kept: vec![(0, bytes)],
    }
}

/// Address space of ours for `bytes` bytes, congruent to `like` modulo 2 MiB.
fn reserve(like: u64, bytes: u64) -> Result<Parked, Errno> {
    let total = bytes + HUGE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a mapping at an address the kernel chooses replaces nothing.
    let start = unsafe { mm::mmap_anonymous(null_mut(), total as usize, ProtFlags::empty(), flags) }
        .map_err(errno)? as u64;
    let base = start + (like.wrapping_sub(start) & (HUGE - 1));
    unmap(start, base - start);
    unmap(base + bytes, start + total - base - bytes);
    Ok(Parked {
        base,
        bytes,
        kept: vec![(0, bytes)],
    })
}

/// Moves pages, leaving the old mapping in place and empty.
fn leave_behind(from: u64, length: u64, to: Option<u64>) -> Result<u64, Raw> {
    let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
    let length = length as usize;
    // SAFETY: the client's pages move at the client's own request to give them up; `to` is a reservation of ours.
    let moved = unsafe {
        match to {
            Some(to) => mm::mremap_fixed(from as *mut _, length, length, flags, to as *mut _),
            None => mm::mremap(from as *mut _, length, length, flags),
        }
    };
    moved.map(|base| base as u64)
}

/// A second mapping of shared pages.
fn alias(from: u64, length: u64, to: u64) -> Result<u64, Raw> {
    let flags = MremapFlags::MAYMOVE;
    // SAFETY: an old size of 0 leaves the client's mapping as it is; `to` is a reservation of ours.
    let moved =
        unsafe { mm::mremap_fixed(from as *mut _, 0, length as usize, flags, to as *mut _) };
    moved.map(|base| base as u64)
}

fn unmap(base: u64, bytes: u64) {
    if bytes != 0 {
        // SAFETY: the range belongs to a parking place or reservation of ours.
        let unmapped = unsafe { mm::munmap(base as *mut _, bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}
