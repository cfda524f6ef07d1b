//! Writing areas into page tables, and taking them out again.

use swiommu_abi::Errno;
use swiommu_iommu::{Iova, Pa, Prot};
use swiommu_mem::{PAGE, UserAddr};

use super::super::pins::{PagesId, Still};
use super::super::regions::Run;
use super::super::table::{Table, Writer};
use super::{Area, Backing, Ioas, MapError};

/// What is written: where it begins and what it is.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    pub(super) iova: u64,
    pub(super) pages: PagesId,
    pub(super) va: UserAddr,
    pub(super) bytes: u64,
    pub(super) prot: Prot,
    /// In pages of 4 KiB, whatever is possible.
    pub(super) small: bool,
}

impl Entries {
    /// Writes to each of `tables` what `still` says is where; all or nothing.
    fn write_all(&self, still: &Still<'_>, tables: &[Table]) -> Result<(), Errno> {
        let places = still.places(self.pages, self.va, self.bytes);
        for (done, table) in tables.iter().enumerate() {
            let written = places.as_slice().iter().try_for_each(|place| {
                let Some(pa) = place.pa else { return Ok(()) };
                let first = self.iova + place.offset;
                pieces(place.bytes, self.small, |at, bytes| {
                    table.map(Iova(first + at), Pa(pa.0 + at), bytes, self.prot)
                })
            });
            if let Err(error) = written {
                let last = Iova(self.iova + (self.bytes - 1));
                for table in &tables[..=done] {
                    table.unmap(Iova(self.iova), last);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes to one table that nobody else changes. What was written before a failure stays.
    #[inline]
    pub(super) fn write(&self, still: &Still<'_>, writer: &mut Writer<'_>) -> Result<(), Errno> {
        let places = still.places(self.pages, self.va, self.bytes);
        for place in places.as_slice() {
            let Some(pa) = place.pa else { continue };
            let first = self.iova + place.offset;
            pieces(place.bytes, self.small, |at, bytes| {
                writer.map(Iova(first + at), Pa(pa.0 + at), bytes, self.prot)
            })?;
        }
        Ok(())
    }
}

/// Calls `each(offset, bytes)` for a run in one piece, or in pages.
#[inline]
fn pieces(
    bytes: u64,
    small: bool,
    mut each: impl FnMut(u64, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    if !small {
        return each(0, bytes);
    }
    (0..bytes)
        .step_by(PAGE as usize)
        .try_for_each(|at| each(at, PAGE.min(bytes - at)))
}

impl Ioas {
    pub(super) fn entries(&self, iova: u64, area: &Area) -> Entries {
        let pages = match &area.backing {
            Backing::Own(own) => own.id,
            Backing::Shared(pages) => pages.id,
        };
        Entries {
            iova,
            pages,
            va: area.pinned,
            bytes: area.last - iova + 1,
            prot: area.prot,
            small: !self.large_pages,
        }
    }

    /// Pins what a new area of a container maps and writes it to the container's table. Device regions, which are
    /// mapped in the client, are entered as such.
    pub(super) fn fill_for_container(
        &self,
        iova: u64,
        area: &mut Area,
        bytes: u64,
    ) -> Result<(), MapError> {
        let split = self.ground.regions.split(area.va, bytes);
        let whole = [Run {
            offset: 0,
            bytes,
            region: None,
        }];
        let runs = split.as_deref().unwrap_or(&whole);
        let memory = runs.iter().filter(|run| run.region.is_none());
        let locked = memory.map(|run| run.bytes).sum();
        let Backing::Own(own) = &mut area.backing else {
            unreachable!("a container's areas share nothing")
        };
        self.ground
            .locked
            .count(locked, area.origin.account())
            .map_err(MapError::Pin)?;
        own.locked = locked;
        for (done, run) in runs.iter().enumerate() {
            if let Err(error) = self.fill_run(iova, area, run) {
                let mapped: u64 = runs[..done].iter().map(|run| run.bytes).sum();
                self.take_back(iova, area, mapped);
                return Err(MapError::Pin(error));
            }
        }
        Ok(())
    }

    fn fill_run(&self, iova: u64, area: &Area, run: &Run) -> Result<(), Errno> {
        let (at, va) = (iova + run.offset, UserAddr(area.va.0 + run.offset));
        if let Some(pa) = run.region {
            let [table] = &self.tables[..] else {
                unreachable!("a container has one table")
            };
            return table.map(Iova(at), pa, run.bytes, area.prot);
        }
        let mut entries = self.entries(iova, area);
        (entries.iova, entries.va, entries.bytes) = (at, va, run.bytes);
        self.pin_and_write(&entries)
    }

    /// Undoes the first bytes of a container's area.
    fn take_back(&self, iova: u64, area: &Area, bytes: u64) {
        let Backing::Own(own) = &area.backing else {
            unreachable!("a container's areas share nothing")
        };
        if bytes > 0 {
            let last = Iova(iova + (bytes - 1));
            for table in &self.tables {
                table.unmap(Iova(iova), last);
            }
            let mut still = self.ground.pins.still();
            still.unpin(&self.targets, iova, area.pinned, bytes);
            still.release(own.id, area.pinned, bytes);
        }
        let account = area.origin.account();
        self.ground.locked.uncount(own.locked, account);
    }

    /// Faults client memory in, pins it and writes it to all tables.
    #[inline]
    fn pin_and_write(&self, entries: &Entries) -> Result<(), Errno> {
        let Entries {
            iova, va, bytes, ..
        } = *entries;
        let write = entries.prot.contains(Prot::WRITE);
        self.ground.pinning().fault_in(va, bytes, write)?;
        let mut still = self.ground.pins.still();
        still.pin(&self.targets, iova, va, bytes, entries.pages);
        entries.write_all(&still, &self.tables).inspect_err(|_| {
            still.unpin(&self.targets, iova, va, bytes);
            still.release(entries.pages, va, bytes);
        })
    }

    /// Pins what an area maps and writes it to all tables; nothing if there is none.
    ///
    /// # Errors
    /// What pinning, counting or a table answers; nothing has changed then.
    pub(super) fn fill(&self, iova: u64, area: &mut Area) -> Result<(), Errno> {
        if self.tables.is_empty() {
            return Ok(());
        }
        self.hold(iova, area)?;
        let mut still = self.ground.pins.still();
        self.keep(&mut still, iova, area);
        let written = match &area.backing {
            Backing::Shared(pages) if pages.is_revoked() => Ok(()),
            _ => self.entries(iova, area).write_all(&still, &self.tables),
        };
        drop(still);
        if written.is_err() {
            self.let_go(iova, area);
        }
        written
    }

    /// Holds the pages of an area: they are faulted in and counted.
    pub(super) fn hold(&self, iova: u64, area: &mut Area) -> Result<(), Errno> {
        let bytes = area.last - iova + 1;
        let with = self.ground.pinning();
        match &mut area.backing {
            Backing::Own(own) => {
                let write = area.prot.contains(Prot::WRITE);
                with.fault_in(area.pinned, bytes, write)?;
                let locked = pages_around(area.pinned, bytes);
                with.locked.count(locked, area.origin.account())?;
                own.locked = locked;
                Ok(())
            }
            Backing::Shared(pages) => {
                let pages = pages.clone();
                let (first, last) = area.slice(&pages, bytes);
                pages.hold(first, last, with)
            }
        }
    }

    /// Enters the pages of an area that is held among the pins, so that its entries follow them.
    pub(super) fn keep(&self, still: &mut Still<'_>, iova: u64, area: &Area) {
        let bytes = area.last - iova + 1;
        match &area.backing {
            Backing::Own(own) => still.pin(&self.targets, iova, area.pinned, bytes, own.id),
            Backing::Shared(pages) if pages.is_device_memory() => {
                pages.track(&self.targets, iova, bytes);
            }
            Backing::Shared(pages) => {
                let places = still.places(pages.id, area.pinned, bytes);
                for place in places.as_slice().iter().filter(|place| place.here) {
                    let va = UserAddr(area.pinned.0 + place.offset);
                    let iova = iova + place.offset;
                    still.pin(&self.targets, iova, va, place.bytes, pages.id);
                }
            }
        }
    }

    /// An area of a space with tables is in none of them any more: its pages go, if nobody else holds them.
    pub(super) fn let_go(&self, iova: u64, area: &Area) {
        if !self.tables.is_empty() {
            self.release(iova, area);
        }
    }

    /// Gives up what an area holds.
    pub(super) fn release(&self, iova: u64, area: &Area) {
        let bytes = area.last - iova + 1;
        let mut still = self.ground.pins.still();
        match &area.backing {
            Backing::Own(own) => {
                still.unpin(&self.targets, iova, area.pinned, bytes);
                still.release(own.id, area.pinned, bytes);
                drop(still);
                let account = area.origin.account();
                self.ground.locked.uncount(own.locked, account);
            }
            Backing::Shared(pages) if pages.is_device_memory() => {
                pages.untrack(&self.targets, iova);
            }
            Backing::Shared(pages) => {
                still.unpin(&self.targets, iova, area.pinned, bytes);
                drop(still);
                let (first, last) = area.slice(pages, bytes);
                pages.release(first, last, self.ground.pinning());
            }
        }
    }
}

/// Bytes of the pages that a range touches.
fn pages_around(va: UserAddr, bytes: u64) -> u64 {
    let first = va.0 & !(PAGE - 1);
    ((va.0 + (bytes - 1)) | (PAGE - 1)) - first + 1
}
