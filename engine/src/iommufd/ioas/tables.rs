//! Page tables that join and leave an address space.

use swiommu_abi::Errno;
use swiommu_iommu::Iova;
use swiommu_mem::PAGE;

use super::super::inject;
use super::super::pins::Still;
use super::super::table::Table;
use super::{Area, Backing, Ioas, Owner};

/// The owner of what a table cannot address.
fn owner(table: &Table) -> Owner {
    match table {
        Table::Domain(domain) => std::sync::Arc::as_ptr(domain) as usize as Owner,
        Table::Other(table) => std::sync::Arc::as_ptr(table).cast::<u8>() as usize as Owner,
    }
}

/// The smallest page of a table.
fn page_of(table: &Table) -> u64 {
    1 << table.page_sizes().trailing_zeros()
}

impl Ioas {
    /// A table joins: every area is written to it. The first one makes all memory pinned.
    ///
    /// # Errors
    /// EINVAL: its pages are larger than 4 KiB. EADDRINUSE: an area is not aligned to its pages, or lies where it cannot
    /// translate, or the client wants such addresses kept. What pinning answers. Then nothing has changed.
    pub fn add_table(&mut self, table: &Table) -> Result<(), Errno> {
        let alignment = page_of(table).max(self.alignment);
        if alignment > PAGE {
            return Err(Errno::EINVAL);
        }
        if alignment != self.alignment {
            self.check_alignment(alignment)?;
        }
        let (first, last) = table.aperture();
        let owner = owner(table);
        let below = first.checked_sub(1).map(|below| (0, below));
        let above = last.checked_add(1).map(|above| (above, u64::MAX));
        let filled = below
            .into_iter()
            .chain(above)
            .try_for_each(|(first, last)| self.reserve(owner, first, last))
            .and_then(|()| self.fill_table(table));
        if let Err(error) = filled {
            self.iovas.unreserve(owner);
            return Err(error);
        }
        self.alignment = alignment;
        self.tables.push(table.clone());
        Ok(())
    }

    fn check_alignment(&self, alignment: u64) -> Result<(), Errno> {
        let crooked = |(first, area): (&u64, &Area)| {
            (first | (area.last - first).wrapping_add(1) | area.offset()) & (alignment - 1) != 0
        };
        if self.areas.iter().any(crooked) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }

    /// Writes all areas to a table; if it is the first, all are held from here on.
    fn fill_table(&mut self, table: &Table) -> Result<(), Errno> {
        let is_first = self.tables.is_empty();
        if is_first {
            self.hold_all()?;
        }
        let mut still = self.ground.pins.still();
        still.add_table(&self.targets, table.clone());
        if is_first {
            for (&iova, area) in self.areas.iter() {
                self.keep(&mut still, iova, area);
            }
        }
        // Every table of a space maps the same; one that is there is in fewer places of memory than the areas.
        let twin = self.tables.iter().find(|twin| table.can_copy(twin));
        let written = match twin.filter(|_| !self.mixed_pages) {
            Some(twin) => table.copy(twin),
            None => self.write_areas(&still, table),
        };
        if let Err(error) = written {
            self.empty_table(table);
            still.remove_table(&self.targets, table);
            drop(still);
            if is_first {
                self.let_go_all();
            }
            return Err(error);
        }
        Ok(())
    }

    fn write_areas(&self, still: &Still<'_>, table: &Table) -> Result<(), Errno> {
        let mut writer = table.exclusive();
        self.areas.iter().try_for_each(|(&iova, area)| {
            if let Backing::Shared(pages) = &area.backing
                && pages.is_revoked()
            {
                return Ok(());
            }
            self.entries(iova, area).write(still, &mut writer)
        })
    }

    fn hold_all(&mut self) -> Result<(), Errno> {
        let firsts: Vec<u64> = self.areas.keys().copied().collect();
        for (done, iova) in firsts.iter().enumerate() {
            let mut area = self.areas.remove(iova).expect("its key was just listed");
            let held = self.hold(*iova, &mut area);
            self.areas.insert(*iova, area);
            if let Err(error) = held {
                for iova in &firsts[..done] {
                    self.release(*iova, &self.areas[iova]);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn let_go_all(&self) {
        for (&iova, area) in self.areas.iter() {
            self.release(iova, area);
        }
    }

    /// Takes all areas out of a table.
    fn empty_table(&self, table: &Table) {
        let ranges = self.areas.iter();
        table.unmap_all(ranges.map(|(first, area)| (Iova(*first), Iova(area.last))));
    }

    /// A table leaves: its entries go, and with the last one the pins.
    pub fn remove_table(&mut self, table: &Table) {
        let Some(at) = self.tables.iter().position(|other| other.is(table)) else {
            return;
        };
        self.tables.swap_remove(at);
        self.empty_table(table);
        let mut still = self.ground.pins.still();
        still.remove_table(&self.targets, table);
        drop(still);
        if self.tables.is_empty() {
            self.mixed_pages = false;
            self.let_go_all();
        }
        self.iovas.unreserve(owner(table));
        self.alignment = self.needed_alignment();
    }

    pub(super) fn needed_alignment(&self) -> u64 {
        let least = if self.large_pages { 1 } else { PAGE };
        let tables = self.tables.iter().map(page_of);
        let users = self.users.iter().map(|(alignment, _)| *alignment);
        tables.chain(users).fold(least, u64::max)
    }

    /// Computes the alignment anew.
    pub(super) fn realign(&mut self) -> Result<(), Errno> {
        let alignment = self.needed_alignment();
        if alignment > self.alignment {
            self.check_alignment(alignment)?;
        }
        self.alignment = alignment;
        Ok(())
    }

    /// Says whether large pages are used.
    ///
    /// # Errors
    /// EINVAL: tables hold areas already. EADDRINUSE: an area is not of whole 4 KiB pages.
    pub fn use_large_pages(&mut self, on: bool) -> Result<(), Errno> {
        if !on && self.large_pages && !self.tables.is_empty() && !self.areas.is_empty() {
            return Err(Errno::EINVAL);
        }
        let before = std::mem::replace(&mut self.large_pages, on);
        self.realign().inspect_err(|_| self.large_pages = before)?;
        self.mixed_pages |= on != before && !self.tables.is_empty();
        Ok(())
    }

    /// Reserves a range for an owner (not 0).
    ///
    /// # Errors
    /// EADDRINUSE: something is mapped there, or the client wants it kept.
    pub fn reserve(&mut self, owner: Owner, first: u64, last: u64) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        if !self.is_free(first, last) {
            return Err(Errno::EADDRINUSE);
        }
        self.iovas.reserve(first, last, owner)
    }

    /// Gives back all that an owner reserved.
    pub fn unreserve(&mut self, owner: Owner) {
        self.iovas.unreserve(owner);
    }

    /// Replaces the ranges the client wants kept, by first address.
    ///
    /// # Errors
    /// EADDRINUSE: part of one is reserved.
    pub fn allow(&mut self, allowed: std::collections::BTreeMap<u64, u64>) -> Result<(), Errno> {
        self.iovas.allow(allowed)
    }
}
