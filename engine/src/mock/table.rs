//! The mock IOMMU's page tables, and dirty pages in them.
//!
//! The default one has pages of 2 KiB and a small aperture; the other one is for large pages of 1 MiB. A table is kept
//! as runs of pages rather than as entries: nothing walks it but tests.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};
use swiommu_iommu::{Iova, Pa, Prot};
use swiommu_mem::UserAddr;

use super::{arguments, respond};
use crate::iommufd::device::UserData;
use crate::iommufd::file::Command;
use crate::iommufd::hwpt::Hwpt;
use crate::iommufd::nesting;
use crate::iommufd::object::Ref;
use crate::iommufd::table::{PageTable, Table};

/// What one word of dirty bits covers: 64 small pages.
const WORD_BYTES: u64 = 64 * test::MOCK_PAGE_SIZE;
/// Most bits of one OP_DIRTY: those of 16 MiB.
const DIRTY_MOST: u64 = 8 << 24;
/// The page sizes of the default table: every power of two it can have, as AMD's format has.
const SMALL_SIZES: u64 = ((1 << 51) - 1) & !(test::MOCK_PAGE_SIZE - 1);
/// Pages of a client without large pages are accepted by the other table, too.
const LARGE_SIZES: u64 = test::MOCK_HUGE_PAGE_SIZE | 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    last: u64,
    pa: u64,
}

#[derive(Default)]
struct State {
    /// By first address.
    runs: BTreeMap<u64, Run>,
    /// One bit for each small page, by the address of the first of 64.
    dirty: BTreeMap<u64, u64>,
    tracking: bool,
}

/// A page table of the mock IOMMU.
pub struct MockTable {
    large: bool,
    tracks: bool,
    state: Mutex<State>,
}

impl MockTable {
    /// A fresh one. `flags` are `HWPT_ALLOC_*`.
    ///
    /// # Errors
    /// EOPNOTSUPP for flags or a kind of table that the driver does not have. As [`nesting::read`].
    pub fn new(flags: u32, data: Option<&UserData>, can_track: bool) -> Result<MockTable, Errno> {
        const FLAGS: u32 = iommufd::HWPT_ALLOC_DIRTY_TRACKING
            | iommufd::HWPT_ALLOC_NEST_PARENT
            | iommufd::HWPT_ALLOC_PASID;
        let tracks = flags & iommufd::HWPT_ALLOC_DIRTY_TRACKING != 0;
        if flags & !FLAGS != 0 || tracks && !can_track {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut wanted = test::HwptSelftest::default();
        if let Some(data) = data {
            if data.kind != test::HWPT_DATA_SELFTEST {
                return Err(Errno::EOPNOTSUPP);
            }
            wanted = nesting::read(data, test::HWPT_DATA_SELFTEST, size_of::<u32>())?;
        }
        let large = match wanted.pagetable_type {
            test::MOCK_IOMMUPT_DEFAULT => false,
            test::MOCK_IOMMUPT_HUGE => true,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        Ok(MockTable {
            large,
            tracks,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A device wrote through it at `iova`: the page is dirty, if one is mapped.
    fn write(&self, iova: u64) {
        let mut state = self.state();
        let Some((first, run)) = state.run_at(iova) else {
            return;
        };
        let page = self.page(first, run, iova);
        for at in (page.0..=page.1).step_by(test::MOCK_PAGE_SIZE as usize) {
            *state.dirty.entry(at - at % WORD_BYTES).or_default() |= bit(at);
        }
    }

    /// The page that translates an address of a run, first to last: as large as both addresses and the run allow.
    fn page(&self, first: u64, run: Run, iova: u64) -> (u64, u64) {
        let around = |bytes: u64| (iova & !(bytes - 1), iova | (bytes - 1));
        let large = around(test::MOCK_HUGE_PAGE_SIZE);
        let aligned = (run.pa.wrapping_sub(first)).is_multiple_of(test::MOCK_HUGE_PAGE_SIZE);
        match self.large {
            true if aligned && large.0 >= first && large.1 <= run.last => large,
            true => around(4096),
            false => around(test::MOCK_PAGE_SIZE),
        }
    }
}

fn bit(iova: u64) -> u64 {
    1 << (iova % WORD_BYTES / test::MOCK_PAGE_SIZE)
}

impl State {
    fn run_at(&self, iova: u64) -> Option<(u64, Run)> {
        let (first, run) = self.runs.range(..=iova).next_back()?;
        (run.last >= iova).then_some((*first, *run))
    }

    /// Splits runs so that none lies across `first` or behind `last`.
    fn cut(&mut self, first: u64, last: u64) {
        for at in [Some(first), last.checked_add(1)].into_iter().flatten() {
            let Some((from, run)) = self.run_at(at).filter(|(from, _)| *from < at) else {
                continue;
            };
            let behind = Run {
                pa: run.pa + (at - from),
                ..run
            };
            self.runs.insert(at, behind);
            self.runs.insert(
                from,
                Run {
                    last: at - 1,
                    ..run
                },
            );
        }
    }

    /// Takes the dirty bits of `first..=last` out, with their pages' first addresses.
    fn clean(&mut self, first: u64, last: u64) {
        for (at, word) in self.dirty.range_mut(first - first % WORD_BYTES..=last) {
            *word &= !within(*at, first, last);
        }
        self.dirty.retain(|_, word| *word != 0);
    }
}

/// The bits of the word at `at` whose pages are in `first..=last`.
fn within(at: u64, first: u64, last: u64) -> u64 {
    let from = first
        .saturating_sub(at)
        .div_ceil(test::MOCK_PAGE_SIZE)
        .min(64);
    let to = ((last - at) / test::MOCK_PAGE_SIZE).min(63);
    (from..=to).fold(0, |bits, index| bits | 1 << index)
}

impl PageTable for MockTable {
    fn map(&self, first: Iova, pa: Pa, bytes: u64, _: Prot) -> Result<(), Errno> {
        let mut state = self.state();
        let last = first.0 + (bytes - 1);
        if state
            .runs
            .range(..=last)
            .next_back()
            .is_some_and(|(_, run)| run.last >= first.0)
        {
            return Err(Errno::EADDRINUSE);
        }
        state.runs.insert(first.0, Run { last, pa: pa.0 });
        Ok(())
    }

    fn unmap(&self, first: Iova, last: Iova) {
        let mut state = self.state();
        state.cut(first.0, last.0);
        let gone: Vec<u64> = (state.runs.range(first.0..=last.0))
            .map(|(at, _)| *at)
            .collect();
        for at in gone {
            state.runs.remove(&at);
        }
        state.clean(first.0, last.0);
    }

    fn remap(&self, first: Iova, last: Iova, pa: Pa) {
        let mut state = self.state();
        state.cut(first.0, last.0);
        for (at, run) in state.runs.range_mut(first.0..=last.0) {
            run.pa = pa.0 + (at - first.0);
        }
    }

    fn lookup(&self, iova: Iova) -> Option<Pa> {
        let (first, run) = self.state().run_at(iova.0)?;
        Some(Pa(run.pa + (iova.0 - first)))
    }

    fn page_sizes(&self) -> u64 {
        if self.large { LARGE_SIZES } else { SMALL_SIZES }
    }

    fn aperture(&self) -> (u64, u64) {
        match self.large {
            true => (0, (1 << 56) - 1),
            false => (test::MOCK_APERTURE_START, test::MOCK_APERTURE_LAST),
        }
    }

    fn has_dirty(&self) -> bool {
        self.tracks
    }

    fn set_tracking(&self, on: bool) -> Result<(), Errno> {
        self.state().tracking = on;
        Ok(())
    }

    fn read_dirty(
        &self,
        first: Iova,
        last: Iova,
        clear: bool,
        sink: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Errno> {
        let mut state = self.state();
        for (at, word) in state.dirty.range(first.0 - first.0 % WORD_BYTES..=last.0) {
            let mut left = word & within(*at, first.0, last.0);
            while left != 0 {
                let index = left.trailing_zeros();
                let pages = (left >> index).trailing_ones();
                let from = at + u64::from(index) * test::MOCK_PAGE_SIZE;
                sink(from, u64::from(pages) * test::MOCK_PAGE_SIZE);
                left &= !(((1u128 << pages) - 1) << index) as u64;
            }
        }
        if clear {
            state.clean(first.0, last.0);
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Does something with the mock table of a page table.
///
/// # Errors
/// ENOENT: no such page table. EINVAL: it is not of the mock IOMMU.
pub fn with_table<R>(
    command: &Command<'_>,
    id: u32,
    work: impl FnOnce(&MockTable) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let hwpt: Ref<Hwpt> = command.context.get(id)?;
    match &hwpt.table {
        Table::Other(table) => work(table.as_any().downcast_ref().ok_or(Errno::EINVAL)?),
        Table::Domain(_) => Err(Errno::EINVAL),
    }
}

/// OP_DIRTY: a device writes the pages whose bits are set.
pub fn make_dirty(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let mut dirty: test::Dirty = arguments(cmd);
    let page = dirty.page_size;
    let whole = |value: u64| page != 0 && value.is_multiple_of(page);
    if dirty.length == 0 || !whole(dirty.iova) || !whole(dirty.length) || dirty.uptr == 0 {
        return Err(Errno::EINVAL);
    }
    let pages = dirty.length / page;
    if pages > DIRTY_MOST {
        return Err(Errno::EOVERFLOW);
    }
    dirty.out_nr_dirty = with_table(command, cmd.id, |table| {
        if !table.tracks || !table.state().tracking {
            return Err(Errno::EINVAL);
        }
        let mut bits = vec![0; pages.div_ceil(8) as usize];
        let read = command.call.client.read(UserAddr(dirty.uptr), &mut bits);
        read.map_err(|_| Errno::EFAULT)?;
        let set = (0..pages).filter(|page| bits[(page / 8) as usize] >> (page % 8) & 1 != 0);
        Ok(set
            .inspect(|index| table.write(dirty.iova + index * page))
            .count() as u64)
    })?;
    respond(command, cmd, &dirty)
}

#[cfg(test)]
mod tests;
