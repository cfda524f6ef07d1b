//! Areas: mappings as the client made them, and those that were.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use swiommu_iommu::Prot;
use swiommu_mem::{PAGE, UserAddr};

use super::super::account::Account;
use super::super::pages::{Pages, fresh_id};
use super::super::pins::PagesId;
use crate::calls::CallRecord;

/// One mapping, as the client made it. A new page table is filled from all of them, so they are small: what only reports
/// and accounting need is elsewhere.
#[derive(Clone)]
pub struct Area {
    /// Last device address.
    pub last: u64,
    /// Client address of the first byte.
    pub va: UserAddr,
    /// Where the first byte was when it was pinned: differs from `va` after a VADDR update.
    pub(super) pinned: UserAddr,
    /// What the device may do.
    pub prot: Prot,
    pub(super) origin: Arc<Origin>,
    pub(super) backing: Backing,
    /// Pins of the processor, and those of them that keep it from being unmapped.
    pub(super) accesses: u32,
    pub(super) locks: u32,
    /// It is being unmapped: no access begins.
    pub(super) leaving: bool,
    /// The client took the address back (VADDR unmap) and has not given a new one yet.
    pub(super) vaddr_invalid: bool,
}

/// The areas of a space by their first device address.
#[derive(Default)]
pub(super) struct Areas {
    by_first: BTreeMap<u64, Area>,
    asked: Option<Asked>,
}

/// How far areas reach without a hole, as [`Ioas::contiguous_to`](super::Ioas::contiguous_to) answered.
struct Asked {
    range: (u64, u64),
    answer: Option<u64>,
}

impl Areas {
    /// What was answered for a range, if no area has been touched since: whoever follows dirty pages asks for the same
    /// range again and again.
    pub(super) fn answered(&self, range: (u64, u64)) -> Option<Option<u64>> {
        let asked = self.asked.as_ref().filter(|asked| asked.range == range);
        asked.map(|asked| asked.answer)
    }

    /// Keeps an answer.
    pub(super) fn answer(&mut self, range: (u64, u64), answer: Option<u64>) {
        self.asked = Some(Asked { range, answer });
    }
}

impl Deref for Areas {
    type Target = BTreeMap<u64, Area>;

    fn deref(&self) -> &BTreeMap<u64, Area> {
        &self.by_first
    }
}

impl DerefMut for Areas {
    fn deref_mut(&mut self) -> &mut BTreeMap<u64, Area> {
        self.asked = None;
        &mut self.by_first
    }
}

/// Who made an area.
pub(super) struct Origin {
    pub(super) mapped: CallRecord,
    /// Who is charged for pages that are its own; `None`: it has none.
    pub(super) account: Option<Account>,
}

/// What stands behind an area.
#[derive(Clone)]
pub(super) enum Backing {
    /// Client memory of its own, of which it pins all while the space has a table.
    Own(Own),
    /// A slice of pages that others may use too.
    Shared(Arc<Pages>),
}

#[derive(Clone, Copy)]
pub(super) struct Own {
    pub(super) id: PagesId,
    /// Bytes that count as locked, for as long as the area is pinned.
    pub(super) locked: u64,
}

impl Area {
    /// The call that mapped it.
    pub fn mapped(&self) -> &CallRecord {
        &self.origin.mapped
    }

    pub(super) fn of_client(
        last: u64,
        va: UserAddr,
        prot: Prot,
        mapped: CallRecord,
        account: Account,
    ) -> Area {
        let id = fresh_id();
        let origin = Origin {
            mapped,
            account: Some(account),
        };
        Area::behind(
            last,
            va,
            prot,
            Arc::new(origin),
            Backing::Own(Own { id, locked: 0 }),
        )
    }

    pub(super) fn behind(
        last: u64,
        va: UserAddr,
        prot: Prot,
        origin: Arc<Origin>,
        backing: Backing,
    ) -> Area {
        Area {
            last,
            va,
            pinned: va,
            prot,
            origin,
            backing,
            accesses: 0,
            locks: 0,
            leaving: false,
            vaddr_invalid: false,
        }
    }

    /// The offset of the first byte in its page.
    pub(super) fn offset(&self) -> u64 {
        self.pinned.0 % PAGE
    }

    /// The shared set of pages, and its bytes `first..=last` that this area of `bytes` bytes maps.
    pub(super) fn slice(&self, pages: &Pages, bytes: u64) -> (u64, u64) {
        let first = self.pinned.0 - pages.base.0;
        (first, first + (bytes - 1))
    }
}

/// A mapping that was, for reports.
#[derive(Clone)]
pub struct Gone {
    /// First device address.
    pub first: u64,
    /// Last device address.
    pub last: u64,
    /// Client address of the first byte.
    pub va: UserAddr,
    /// What the device could do.
    pub prot: Prot,
    pub(super) origin: Arc<Origin>,
    /// The call that unmapped it.
    pub unmapped: CallRecord,
}

impl Gone {
    /// The call that mapped it.
    pub fn mapped(&self) -> &CallRecord {
        &self.origin.mapped
    }
}

impl Origin {
    /// Who is charged for the pages of an area that has its own.
    pub(super) fn account(&self) -> &Account {
        let account = self.account.as_ref();
        account.expect("whoever maps pages of its own is charged")
    }
}
