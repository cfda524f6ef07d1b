//! An address space: which device addresses lead to which client memory, and who said so.
//!
//! The page table ([`Domain`]) is what DMA reads; this map is what calls read. An area is stored once here, its pages
//! are pinned ([`Pins`]), and its entries written to the domain. Ranges are `first..=last`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use swiommu_abi::Errno;
use swiommu_iommu::{Domain, Iova, Pa, Prot};
use swiommu_mem::{Client, UserAddr};

use super::pins::Pins;
use super::regions::Regions;
use crate::calls::CallRecord;

/// How many unmapped areas are remembered for reports.
const HISTORY: usize = 4096;

/// One mapping, as the client made it.
#[derive(Clone, Debug)]
pub struct Area {
    /// Last device address.
    pub last: u64,
    /// Client address of the first byte.
    pub va: UserAddr,
    /// Where the pages were pinned: differs from `va` after a VADDR update.
    pinned: UserAddr,
    /// What the device may do.
    pub prot: Prot,
    /// The call that mapped it.
    pub mapped: CallRecord,
    /// The client took the address back (VADDR unmap) and has not given a new one yet.
    vaddr_invalid: bool,
    /// Whether it counts against the locked-memory limit, in bytes.
    locked: u64,
}

/// A mapping that was, for reports.
#[derive(Clone, Debug)]
pub struct Gone {
    /// First device address.
    pub first: u64,
    /// What it was.
    pub area: Area,
    /// The call that unmapped it.
    pub unmapped: CallRecord,
}

/// Why a mapping was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Part of the range is mapped.
    #[error("part of the range is already mapped")]
    Overlap,
    /// The range is not wholly inside what the IOMMU can address, or touches a reserved range.
    #[error("the range is outside the aperture or touches a reserved range")]
    Reserved,
    /// The client memory cannot be pinned.
    #[error("client memory cannot be pinned: {0}")]
    Pin(Errno),
    /// The locked-memory limit.
    #[error("the locked-memory limit is reached")]
    Memlock,
}

impl MapError {
    /// The errno of MAP_DMA.
    pub fn errno(self) -> Errno {
        match self {
            MapError::Overlap => Errno::EEXIST,
            MapError::Reserved => Errno::EINVAL,
            MapError::Pin(errno) => errno,
            MapError::Memlock => Errno::ENOMEM,
        }
    }
}

/// Locked memory of the client, over all its address spaces.
#[derive(Debug, Default)]
pub struct Locked {
    bytes: AtomicU64,
}

impl Locked {
    fn charge(&self, bytes: u64, limit: Option<u64>) -> Result<(), MapError> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match limit {
            Some(limit) if before.saturating_add(bytes) > limit => {
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                Err(MapError::Memlock)
            }
            _ => Ok(()),
        }
    }

    fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What an address space borrows from the engine.
#[derive(Clone)]
pub struct Ground {
    /// The process-wide pins.
    pub pins: Arc<Pins>,
    /// Locked memory.
    pub locked: Arc<Locked>,
    /// Mappings of device regions in client memory.
    pub regions: Arc<Regions>,
    /// The client.
    pub client: Client,
}

/// Who a device belongs to, as far as a report wants to know: its address space, if it has one just now.
pub trait Space: Send + Sync {
    /// Shows the address space under its owner's lock; not called when there is none.
    fn show(&self, look: &mut dyn FnMut(&Ioas));
}

/// An address space with one domain.
pub struct Ioas {
    ground: Ground,
    domain: Arc<Domain>,
    usable: Vec<(u64, u64)>,
    areas: BTreeMap<u64, Area>,
    gone: VecDeque<Gone>,
}

impl Ioas {
    /// An empty address space over `domain`; `usable` are the ranges that can be mapped, sorted.
    pub fn new(ground: Ground, domain: Arc<Domain>, usable: Vec<(u64, u64)>) -> Ioas {
        Ioas {
            ground,
            domain,
            usable,
            areas: BTreeMap::new(),
            gone: VecDeque::new(),
        }
    }

    /// The domain devices attach to.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// The ranges that can be mapped.
    pub fn usable(&self) -> &[(u64, u64)] {
        &self.usable
    }

    /// All areas in order, as `(first, area)`.
    pub fn areas(&self) -> impl Iterator<Item = (u64, &Area)> {
        self.areas.iter().map(|(first, area)| (*first, area))
    }

    /// Whether nothing in `first..=last` is mapped.
    pub fn is_free(&self, first: u64, last: u64) -> bool {
        self.areas
            .range(..=last)
            .next_back()
            .is_none_or(|(_, area)| area.last < first)
    }

    /// Whether exactly `first..=last` is one area.
    pub fn is_area(&self, first: u64, last: u64) -> bool {
        self.areas.get(&first).is_some_and(|area| area.last == last)
    }

    /// The areas that intersect `first..=last`, in order.
    pub fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &Area)> {
        let from = self
            .areas
            .range(..first)
            .next_back()
            .filter(|(_, area)| area.last >= first)
            .map_or(first, |(at, _)| *at);
        self.areas
            .range(from..=last)
            .map(|(first, area)| (*first, area))
    }

    /// The area before an address that does not contain it, and the one after.
    pub fn neighbours(&self, iova: u64) -> [Option<(u64, &Area)>; 2] {
        let before = self
            .areas
            .range(..=iova)
            .next_back()
            .map(|(at, area)| (*at, area));
        let after = self
            .areas
            .range(iova..)
            .find(|(at, _)| **at > iova)
            .map(|(at, area)| (*at, area));
        [before.filter(|(_, area)| area.last < iova), after]
    }

    /// The latest unmapped area that contained an address.
    pub fn last_gone(&self, iova: u64) -> Option<&Gone> {
        self.gone
            .iter()
            .rev()
            .find(|gone| gone.first <= iova && iova <= gone.area.last)
    }

    /// Maps `bytes` (not 0, no wrap) of client memory at `va` to `iova`: pins, then writes entries.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is changed then.
    pub fn map(
        &mut self,
        iova: u64,
        va: UserAddr,
        bytes: u64,
        prot: Prot,
        memlock: Option<u64>,
        mapped: CallRecord,
    ) -> Result<(), MapError> {
        let last = iova + (bytes - 1);
        if !self.is_free(iova, last) {
            return Err(MapError::Overlap);
        }
        if !self.usable.iter().any(|&(lo, hi)| lo <= iova && last <= hi) {
            return Err(MapError::Reserved);
        }
        let runs = self.ground.regions.split(va, bytes);
        let locked = runs
            .iter()
            .filter(|run| run.region.is_none())
            .map(|run| run.bytes)
            .sum();
        self.ground.locked.charge(locked, memlock)?;
        let area = Area {
            last,
            va,
            pinned: va,
            prot,
            mapped,
            vaddr_invalid: false,
            locked,
        };
        for (done, run) in runs.iter().enumerate() {
            let result = match run.region {
                Some(pa) => self.enter(iova + run.offset, pa, run.bytes, prot),
                None => self.pin(
                    iova + run.offset,
                    UserAddr(va.0 + run.offset),
                    run.bytes,
                    prot,
                ),
            };
            if let Err(error) = result {
                let mapped: u64 = runs[..done].iter().map(|run| run.bytes).sum();
                self.drop_pages(iova, va, mapped);
                self.ground.locked.release(locked);
                return Err(error);
            }
        }
        self.areas.insert(iova, area);
        Ok(())
    }

    /// Pins client pages and enters them.
    fn pin(&self, iova: u64, va: UserAddr, bytes: u64, prot: Prot) -> Result<(), MapError> {
        let write = prot.contains(Prot::WRITE);
        self.fault_in(va, bytes, write).map_err(MapError::Pin)?;
        self.ground.pins.pin(&self.domain, iova, va, bytes);
        self.enter(iova, Pa(va.0), bytes, prot).inspect_err(|_| {
            self.ground.pins.unpin(&self.domain, iova, va, bytes);
        })
    }

    /// Faults client pages in, with the kernel's refusals.
    fn fault_in(&self, va: UserAddr, bytes: u64, write: bool) -> Result<(), Errno> {
        let (client, warm) = (&self.ground.client, &self.ground.pins.warm);
        if write && warm.covers(va, bytes) && client.touch(va, bytes).is_ok() {
            return Ok(());
        }
        client.populate(va, bytes, write)?;
        if write {
            warm.add(va, bytes);
        }
        Ok(())
    }

    fn enter(&self, iova: u64, pa: Pa, bytes: u64, prot: Prot) -> Result<(), MapError> {
        self.domain
            .map(Iova(iova), pa, bytes, prot)
            .map_err(|_| MapError::Reserved)
    }

    fn drop_pages(&self, iova: u64, va: UserAddr, bytes: u64) {
        if bytes > 0 {
            self.domain.unmap(Iova(iova), Iova(iova + (bytes - 1)));
            self.ground.pins.unpin(&self.domain, iova, va, bytes);
        }
    }

    /// Takes the client addresses of the areas that begin at `firsts` away; DMA goes on. Returns their bytes.
    ///
    /// # Errors
    /// EINVAL if one has been taken away already; then none is.
    pub fn invalidate_vaddr(&mut self, firsts: &[u64]) -> Result<u64, Errno> {
        if firsts.iter().any(|first| self.areas[first].vaddr_invalid) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = 0;
        for first in firsts {
            let area = self
                .areas
                .get_mut(first)
                .expect("the caller found it under this lock");
            area.vaddr_invalid = true;
            bytes += area.last - first + 1;
        }
        Ok(bytes)
    }

    /// Gives an area a new client address for the memory it has.
    ///
    /// # Errors
    /// ENOENT where nothing is mapped; EINVAL unless the range is exactly an area whose address was taken away.
    pub fn set_vaddr(&mut self, iova: u64, bytes: u64, va: UserAddr) -> Result<(), Errno> {
        let last = iova + (bytes - 1);
        let first = self.overlapping(iova, last).next().ok_or(Errno::ENOENT)?.0;
        let area = self.areas.get_mut(&first).expect("just found");
        if first != iova || area.last != last || !area.vaddr_invalid {
            return Err(Errno::EINVAL);
        }
        area.va = va;
        area.vaddr_invalid = false;
        Ok(())
    }

    /// Unmaps the areas that begin at `firsts`. On return no DMA reaches them. Returns the bytes unmapped.
    pub fn unmap(&mut self, firsts: &[u64], unmapped: &CallRecord) -> u64 {
        match firsts {
            [first] => {
                self.domain
                    .unmap(Iova(*first), Iova(self.areas[first].last));
            }
            _ => {
                let last = |first| Iova(self.areas[first].last);
                self.domain
                    .unmap_batch(firsts.iter().map(|first| (Iova(*first), last(first))));
            }
        }
        let mut bytes = 0;
        for &first in firsts {
            let area = self
                .areas
                .remove(&first)
                .expect("the caller found it under this lock");
            let length = area.last - first + 1;
            self.ground
                .pins
                .unpin(&self.domain, first, area.pinned, length);
            self.ground.locked.release(area.locked);
            bytes += length;
            if self.gone.len() == HISTORY {
                self.gone.pop_front();
            }
            self.gone.push_back(Gone {
                first,
                area,
                unmapped: unmapped.clone(),
            });
        }
        bytes
    }
}

impl Drop for Ioas {
    fn drop(&mut self) {
        for (first, area) in std::mem::take(&mut self.areas) {
            self.drop_pages(first, area.pinned, area.last - first + 1);
            self.ground.locked.release(area.locked);
        }
    }
}
