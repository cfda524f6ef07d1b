//! An address space: which device addresses lead to which client memory, and who said so.
//!
//! The kernel's `io_pagetable` (`drivers/iommu/iommufd/io_pagetable.c`): *areas* of device addresses, each a slice of a
//! set of pages, are written into every page table of the space. With no page table nothing is pinned. The tables are
//! what DMA reads; this map is what calls read. Ranges are `first..=last`.
//!
//! An area of client memory owns its set of pages, which costs nothing, until a copy or an access shares it.

mod access;
mod area;
mod change;
mod fill;
mod find;
mod iovas;
mod tables;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use swiommu_abi::Errno;
use swiommu_iommu::{Domain, Iova, Prot};
use swiommu_mem::{Client, PAGE, UserAddr};

use super::account::{Account, Locked};
use super::inject;
use super::pages::Pinning;
use super::pins::{Pins, Targets};
use super::regions::Regions;
use super::table::Table;
use crate::calls::CallRecord;

pub(super) use access::Pinned;
pub use access::UnmapNotice;
pub use area::{Area, Gone};
use area::{Areas, Backing, Origin};
pub use change::{Slice, Unmapping};
use iovas::Iovas;
pub use iovas::Owner;
pub(super) use iovas::overlaps;

/// How many unmapped areas are remembered for reports.
const HISTORY: usize = 4096;
/// The owner of what a container cannot map.
const CONTAINER: Owner = 0;

/// Why a mapping was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Part of the range is mapped.
    #[error("part of the range is already mapped")]
    Overlap,
    /// The range is not wholly inside what the IOMMU can address, or touches a reserved range.
    #[error("the range is outside the aperture or touches a reserved range")]
    Reserved,
    /// The client memory cannot be pinned, or not be counted, or the page tables do not take it.
    #[error("client memory cannot be pinned or mapped: {0}")]
    Pin(Errno),
}

impl MapError {
    /// The errno of MAP_DMA.
    pub fn errno(self) -> Errno {
        match self {
            MapError::Overlap => Errno::EEXIST,
            MapError::Reserved => Errno::EINVAL,
            MapError::Pin(errno) => errno,
        }
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

impl Ground {
    fn pinning(&self) -> Pinning<'_> {
        Pinning {
            client: &self.client,
            pins: &self.pins,
            locked: &self.locked,
        }
    }
}

/// Who a device belongs to, as far as a report wants to know: its address space, if it has one just now.
pub trait Space: Send + Sync {
    /// Shows the address space under its owner's lock; not called when there is none.
    fn show(&self, look: &mut dyn FnMut(&Ioas));
}

/// An address space.
pub struct Ioas {
    ground: Ground,
    /// Its page tables, in the order the kernel keeps them.
    tables: Vec<Table>,
    targets: Arc<Targets>,
    iovas: Iovas,
    /// What device addresses and lengths are multiples of.
    alignment: u64,
    large_pages: bool,
    /// That changed while there were tables: they may have smaller pages than a new one.
    mixed_pages: bool,
    /// Who may access it by processor, and the alignment each needs.
    users: Vec<(u64, Weak<Pinned>)>,
    areas: Areas,
    gone: VecDeque<Gone>,
}

impl Ioas {
    /// An empty address space without a page table. Everything can be mapped.
    pub fn new(ground: Ground) -> Ioas {
        Ioas {
            ground,
            tables: Vec::new(),
            targets: Targets::new(),
            iovas: Iovas::new(),
            alignment: 1,
            large_pages: true,
            mixed_pages: false,
            users: Vec::new(),
            areas: Areas::default(),
            gone: VecDeque::new(),
        }
    }

    /// The empty address space of a container: `domain` is its table, `usable` are the ranges that can be mapped, sorted.
    pub fn over(ground: Ground, domain: Arc<Domain>, usable: Vec<(u64, u64)>) -> Ioas {
        let mut ioas = Ioas::new(ground);
        let mut next = Some(0);
        for (first, last) in usable {
            if let Some(at) = next.filter(|at| *at < first) {
                ioas.reserve_anyway(at, first - 1);
            }
            next = last.checked_add(1);
        }
        if let Some(at) = next {
            ioas.reserve_anyway(at, u64::MAX);
        }
        ioas.alignment = PAGE;
        let table = Table::Domain(domain);
        let mut still = ioas.ground.pins.still();
        still.add_table(&ioas.targets, table.clone());
        drop(still);
        ioas.tables.push(table);
        ioas
    }

    fn reserve_anyway(&mut self, first: u64, last: u64) {
        self.iovas
            .reserve(first, last, CONTAINER)
            .expect("nothing is allowed in a container");
    }

    /// The domain that a container's devices attach to.
    pub fn domain(&self) -> &Arc<Domain> {
        self.tables[0]
            .domain()
            .expect("the table of a container is a domain")
    }

    /// Its page tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// What device addresses and lengths must be multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Whether large pages are used.
    pub fn uses_large_pages(&self) -> bool {
        self.large_pages
    }

    /// Maps `bytes` (not 0, no wrap) of client memory at `va` to `iova`, as MAP_DMA of a container does.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is changed then.
    pub fn map(
        &mut self,
        iova: u64,
        va: UserAddr,
        bytes: u64,
        prot: Prot,
        account: Account,
        mapped: CallRecord,
    ) -> Result<(), MapError> {
        let last = iova + (bytes - 1);
        if !self.is_free(iova, last) {
            return Err(MapError::Overlap);
        }
        if !self.iovas.is_usable(iova, last) {
            return Err(MapError::Reserved);
        }
        if inject::fails() {
            return Err(MapError::Pin(Errno::ENOMEM));
        }
        let mut area = Area::of_client(last, va, prot, mapped, account);
        self.fill_for_container(iova, &mut area, bytes)?;
        self.areas.insert(iova, area);
        Ok(())
    }

    /// Unmaps the areas that begin at `firsts`. On return no DMA reaches them. Returns the bytes unmapped.
    pub fn unmap(&mut self, firsts: &[u64], unmapped: &CallRecord) -> u64 {
        for table in &self.tables {
            match firsts {
                [first] => table.unmap(Iova(*first), Iova(self.areas[first].last)),
                _ => {
                    let last = |first| Iova(self.areas[first].last);
                    table.unmap_all(firsts.iter().map(|first| (Iova(*first), last(first))));
                }
            }
        }
        let mut bytes = 0;
        for &first in firsts {
            let area = self
                .areas
                .remove(&first)
                .expect("the caller found it under this lock");
            bytes += area.last - first + 1;
            self.let_go(first, &area);
            self.remember(first, area, unmapped);
        }
        bytes
    }

    fn remember(&mut self, first: u64, area: Area, unmapped: &CallRecord) {
        if self.gone.len() == HISTORY {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone {
            first,
            last: area.last,
            va: area.va,
            prot: area.prot,
            origin: area.origin,
            unmapped: unmapped.clone(),
        });
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
}

impl Drop for Ioas {
    fn drop(&mut self) {
        for (first, area) in std::mem::take(&mut *self.areas) {
            for table in &self.tables {
                table.unmap(Iova(first), Iova(area.last));
            }
            self.let_go(first, &area);
        }
    }
}
