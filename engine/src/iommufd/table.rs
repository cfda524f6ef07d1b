//! What an address space writes its mappings to: page tables of a modelled IOMMU, or of somebody else.

use std::any::Any;
use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_iommu::{Domain, Exclusive, Iova, MapError, Pa, Prot};

use super::dirty::Bitmap;
use super::inject;

/// A page table that is not a [`Domain`]. Addresses and lengths are multiples of its smallest page size.
pub trait PageTable: Send + Sync {
    /// Maps `bytes` at `first` to `pa` onwards; all or nothing.
    ///
    /// # Errors
    /// ENOMEM, or what the table has against the range.
    fn map(&self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<(), Errno>;
    /// Removes every translation in `first..=last`. On return no access uses them.
    fn unmap(&self, first: Iova, last: Iova);
    /// Makes what is mapped in `first..=last` lead to `pa` onwards; holes stay holes.
    fn remap(&self, first: Iova, last: Iova, pa: Pa);
    /// What an address leads to.
    fn lookup(&self, iova: Iova) -> Option<Pa>;
    /// The sizes of its pages, as a bitmap.
    fn page_sizes(&self) -> u64;
    /// The addresses it can translate, first to last.
    fn aperture(&self) -> (u64, u64);
    /// Whether it can track dirty pages.
    fn has_dirty(&self) -> bool {
        false
    }
    /// Switches dirty tracking.
    ///
    /// # Errors
    /// What the table has against it.
    fn set_tracking(&self, on: bool) -> Result<(), Errno> {
        let _ = on;
        Err(Errno::EOPNOTSUPP)
    }
    /// Calls `sink(first, bytes)` for what was written in `first..=last`; forgets it if `clear`.
    ///
    /// # Errors
    /// EINVAL while tracking is off.
    fn read_dirty(
        &self,
        first: Iova,
        last: Iova,
        clear: bool,
        sink: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Errno> {
        let _ = (first, last, clear, sink);
        Err(Errno::EOPNOTSUPP)
    }
    /// Forgets what was written in `first..=last`, before tracking is switched on.
    ///
    /// # Errors
    /// What the table has against it.
    fn forget_dirty(&self, first: Iova, last: Iova) -> Result<(), Errno> {
        let _ = (first, last);
        Ok(())
    }
    /// The table by its own type.
    fn as_any(&self) -> &dyn Any;
}

/// A page table.
#[derive(Clone)]
pub enum Table {
    /// Of a modelled IOMMU.
    Domain(Arc<Domain>),
    /// Of somebody else.
    Other(Arc<dyn PageTable>),
}

impl Table {
    /// The domain, if the table is of a modelled IOMMU.
    pub fn domain(&self) -> Option<&Arc<Domain>> {
        match self {
            Table::Domain(domain) => Some(domain),
            Table::Other(_) => None,
        }
    }

    /// Whether both are the same table.
    pub fn is(&self, other: &Table) -> bool {
        match (self, other) {
            (Table::Domain(one), Table::Domain(two)) => Arc::ptr_eq(one, two),
            (Table::Other(one), Table::Other(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }

    /// Maps `bytes` at `first` to `pa` onwards; all or nothing.
    ///
    /// # Errors
    /// ENOMEM by fault injection, else what the table has against the range.
    #[inline]
    pub fn map(&self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        match self {
            Table::Domain(domain) => domain.map(first, pa, bytes, prot).map_err(errno),
            Table::Other(table) => table.map(first, pa, bytes, prot),
        }
    }

    /// Removes every translation in `first..=last`. On return no access uses them.
    #[inline]
    pub fn unmap(&self, first: Iova, last: Iova) {
        match self {
            Table::Domain(domain) => drop(domain.unmap(first, last)),
            Table::Other(table) => table.unmap(first, last),
        }
    }

    /// [`Table::unmap`] of many ranges, which is waited for once.
    pub fn unmap_all(&self, ranges: impl IntoIterator<Item = (Iova, Iova)>) {
        match self {
            Table::Domain(domain) => drop(domain.unmap_batch(ranges)),
            Table::Other(table) => ranges
                .into_iter()
                .for_each(|(first, last)| table.unmap(first, last)),
        }
    }

    /// Makes what is mapped in `first..=last` lead to `pa` onwards; holes stay holes.
    pub fn remap(&self, first: Iova, last: Iova, pa: Pa) {
        match self {
            Table::Domain(domain) => domain.remap(first, last, pa),
            Table::Other(table) => table.remap(first, last, pa),
        }
    }

    /// What an address leads to.
    pub fn lookup(&self, iova: Iova) -> Option<Pa> {
        match self {
            Table::Domain(domain) => domain.lookup(iova).map(|(pa, ..)| pa),
            Table::Other(table) => table.lookup(iova),
        }
    }

    /// The sizes of its pages, as a bitmap.
    pub fn page_sizes(&self) -> u64 {
        match self {
            Table::Domain(domain) => domain.page_sizes(),
            Table::Other(table) => table.page_sizes(),
        }
    }

    /// The addresses it can translate, first to last.
    pub fn aperture(&self) -> (u64, u64) {
        match self {
            Table::Domain(domain) => domain.aperture(),
            Table::Other(table) => table.aperture(),
        }
    }

    /// Whether it can track dirty pages, if it was made with or without that in mind.
    pub(super) fn has_dirty(&self, wanted: bool) -> bool {
        match self {
            Table::Domain(_) => wanted,
            Table::Other(table) => table.has_dirty(),
        }
    }

    /// Switches dirty tracking.
    pub(super) fn set_tracking(&self, on: bool) -> Result<(), Errno> {
        match self {
            Table::Domain(domain) => domain.set_dirty_tracking(on),
            Table::Other(table) => return table.set_tracking(on),
        }
        Ok(())
    }

    /// Sets the bits of what was written in `first..=last`; forgets it if `clear`.
    pub(super) fn read_dirty(
        &self,
        first: u64,
        last: u64,
        clear: bool,
        bitmap: &mut Bitmap<'_>,
    ) -> Result<(), Errno> {
        let (first, last) = (Iova(first), Iova(last));
        match self {
            Table::Domain(domain) if !domain.is_tracking() => return Err(Errno::EINVAL),
            Table::Domain(domain) if clear => {
                domain.read_and_clear_dirty(first, last, |dirty| bitmap.set_pages(dirty));
            }
            Table::Domain(domain) => {
                domain.read_dirty(first, last, |dirty| bitmap.set_pages(dirty));
            }
            Table::Other(table) => {
                let sink = &mut |first, bytes| bitmap.set(first, bytes);
                return table.read_dirty(first, last, clear, sink);
            }
        }
        Ok(())
    }

    /// Forgets what was written in `first..=last`, before tracking is switched on.
    pub(super) fn forget_dirty(&self, first: u64, last: u64) -> Result<(), Errno> {
        match self {
            // a domain does that by itself
            Table::Domain(_) => Ok(()),
            Table::Other(table) => table.forget_dirty(Iova(first), Iova(last)),
        }
    }

    /// Whether [`Table::copy`] can make this table, which is empty, like another one.
    pub(super) fn can_copy(&self, from: &Table) -> bool {
        match (self, from) {
            (Table::Domain(to), Table::Domain(from)) => to.is_sibling(from),
            _ => false,
        }
    }

    /// Maps all that another table maps.
    ///
    /// # Errors
    /// ENOMEM; part of it is mapped then.
    pub(super) fn copy(&self, from: &Table) -> Result<(), Errno> {
        inject::point()?;
        match (self, from) {
            (Table::Domain(to), Table::Domain(from)) => to.copy(from).map_err(errno),
            _ => unreachable!("it was asked whether it can be copied"),
        }
    }

    /// The table for many changes in a row by this thread, which holds no session and changes it in no other way.
    pub(super) fn exclusive(&self) -> Writer<'_> {
        match self {
            Table::Domain(domain) => Writer::Domain(domain.exclusive()),
            Table::Other(table) => Writer::Other(&**table),
        }
    }
}

/// A table that one thread changes alone.
pub(super) enum Writer<'a> {
    Domain(Exclusive<'a>),
    Other(&'a dyn PageTable),
}

impl Writer<'_> {
    /// [`Table::map`].
    #[inline]
    pub(super) fn map(&mut self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        match self {
            Writer::Domain(domain) => domain.map(first, pa, bytes, prot).map_err(errno),
            Writer::Other(table) => table.map(first, pa, bytes, prot),
        }
    }
}

fn errno(error: MapError) -> Errno {
    match error {
        MapError::AlreadyMapped => Errno::EADDRINUSE,
        MapError::NoMemory => Errno::ENOMEM,
        _ => Errno::EINVAL,
    }
}
