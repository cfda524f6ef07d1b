//! Sets of pages behind areas (`drivers/iommu/iommufd/pages.c`).
//!
//! A page is pinned, and counted, once, as long as a page table or an access of the processor uses it: each use is a
//! *hold* of a run of pages. An address space without page tables holds nothing: client memory that is mapped there is
//! not looked at. Copies of a mapping share its set of pages, so what one has pinned the other finds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::Errno;
use swiommu_iommu::{Iova, Pa};
use swiommu_mem::{Client, PAGE, UserAddr};

use super::account::{Account, Charged, Locked, Mode};
use super::file_pages::FilePages;
use super::inject;
use super::other_pages::OtherPages;
use super::pins::{PagesId, Pins, Targets};

/// A fresh id of a set of pages.
pub(super) fn fresh_id() -> PagesId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    PagesId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Memory of a device that was exported as a dma-buf.
pub trait DmaBuf: Send + Sync {
    /// Its size in bytes.
    fn bytes(&self) -> u64;
    /// Somebody maps it: where its first byte is. `revoked` is told when it goes away.
    ///
    /// # Errors
    /// What the exporter has against it.
    fn attach(&self, revoked: Arc<dyn Revoked>) -> Result<Pa, Errno>;
    /// That mapping is gone.
    fn detach(&self, revoked: &Arc<dyn Revoked>);
}

/// Who maps a dma-buf.
pub trait Revoked: Send + Sync {
    /// It goes away: on return no device reaches it.
    fn revoke(&self);
}

/// Where pages come from.
pub(super) enum Source {
    /// Client memory at its own address.
    Client,
    /// A file.
    File(FilePages),
    /// Memory of another process.
    Other(OtherPages),
    /// Memory of a device.
    DmaBuf {
        buffer: Arc<dyn DmaBuf>,
        /// Where the pages begin in it.
        start: u64,
        mappings: Arc<Mappings>,
    },
}

/// Where a dma-buf is mapped, so that it can be taken away.
#[derive(Default)]
pub(super) struct Mappings {
    revoked: AtomicBool,
    list: Mutex<Vec<(Arc<Targets>, u64, u64)>>,
    pins: Option<Arc<Pins>>,
}

/// A set of pages that several areas or accesses may use.
pub struct Pages {
    pub(super) id: PagesId,
    /// Where the first page is, or was when it was pinned.
    pub(super) base: UserAddr,
    pub(super) writable: bool,
    pub(super) source: Source,
    holds: Mutex<Holds>,
}

/// What is in use of a set, and who is charged for it.
struct Holds {
    list: Vec<Hold>,
    account: Account,
}

/// Pages `first..=last` of a set are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hold {
    first: u64,
    last: u64,
    users: u64,
}

/// What pinning needs.
#[derive(Clone, Copy)]
pub(super) struct Pinning<'a> {
    pub(super) client: &'a Client,
    pub(super) pins: &'a Pins,
    pub(super) locked: &'a Locked,
}

impl Pinning<'_> {
    /// Faults client pages in, with the kernel's refusals.
    #[inline]
    pub(super) fn fault_in(&self, va: UserAddr, bytes: u64, write: bool) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::EFAULT);
        }
        let warm = &self.pins.warm;
        if write && warm.covers(va, bytes) && self.client.touch(va, bytes).is_ok() {
            return Ok(());
        }
        self.client.populate(va, bytes, write)?;
        if write {
            warm.add(va, bytes);
        }
        Ok(())
    }
}

impl Pages {
    /// A set that nobody holds.
    pub(super) fn new(base: UserAddr, writable: bool, source: Source, account: Account) -> Pages {
        Pages {
            id: fresh_id(),
            base,
            writable,
            source,
            holds: Mutex::new(Holds {
                list: Vec::new(),
                account,
            }),
        }
    }

    /// A set of client memory that was an area's own, with the pages `0..=last` of it held if it was pinned.
    pub(super) fn of_area(
        id: PagesId,
        base: UserAddr,
        writable: bool,
        account: Account,
        held: Option<u64>,
    ) -> Pages {
        let hold = |last| Hold {
            first: 0,
            last,
            users: 1,
        };
        Pages {
            id,
            base,
            writable,
            source: Source::Client,
            holds: Mutex::new(Holds {
                list: held.map(hold).into_iter().collect(),
                account,
            }),
        }
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap()
    }

    /// Whether it is memory of a device, which is not pinned or counted.
    pub(super) fn is_device_memory(&self) -> bool {
        matches!(self.source, Source::DmaBuf { .. })
    }

    /// Whether its pages are where they are only while somebody holds them.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.source, Source::File(_) | Source::Other(_))
    }

    /// Whether it is a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// Whether there is nothing to map any more.
    pub(super) fn is_revoked(&self) -> bool {
        match &self.source {
            Source::DmaBuf { mappings, .. } => mappings.revoked.load(Ordering::Acquire),
            _ => false,
        }
    }

    /// Holds the pages that bytes `first..=last` of the set touch: those nobody held are pinned and counted.
    ///
    /// # Errors
    /// What pinning answers; ENOMEM at the limit. Then nothing has changed.
    pub(super) fn hold(&self, first: u64, last: u64, with: Pinning<'_>) -> Result<(), Errno> {
        if self.is_device_memory() {
            return Ok(());
        }
        let (first, last) = (first / PAGE, last / PAGE);
        let mut holds = self.holds();
        let fresh = gaps(&holds.list, first, last);
        let mut bytes = 0;
        for &(from, to) in &fresh {
            bytes += (to - from + 1) * PAGE;
            self.fault_in(from, to, with)?;
        }
        if bytes > 0 {
            with.locked.count(bytes, &holds.account)?;
        }
        match holds
            .list
            .iter_mut()
            .find(|hold| (hold.first, hold.last) == (first, last))
        {
            Some(hold) => hold.users += 1,
            None => holds.list.push(Hold {
                first,
                last,
                users: 1,
            }),
        }
        Ok(())
    }

    fn fault_in(&self, from: u64, to: u64, with: Pinning<'_>) -> Result<(), Errno> {
        let (at, bytes) = (UserAddr(self.base.0 + from * PAGE), (to - from + 1) * PAGE);
        match &self.source {
            Source::Client => with.fault_in(at, bytes, self.writable),
            Source::File(file) if inject::fails() => {
                let _ = file;
                Err(Errno::EFAULT)
            }
            Source::File(file) => file.fault_in(with.client, from * PAGE, bytes),
            Source::Other(_) if inject::fails() => Err(Errno::EFAULT),
            Source::Other(other) => other.fault_in(from * PAGE, bytes, self.writable),
            Source::DmaBuf { .. } => Ok(()),
        }
    }

    /// Gives a hold up: pages nobody holds any more are unpinned.
    pub(super) fn release(&self, first: u64, last: u64, with: Pinning<'_>) {
        if self.is_device_memory() {
            return;
        }
        let (first, last) = (first / PAGE, last / PAGE);
        let mut holds = self.holds();
        let at = holds
            .list
            .iter()
            .position(|hold| (hold.first, hold.last) == (first, last))
            .expect("what is released was held");
        holds.list[at].users -= 1;
        if holds.list[at].users > 0 {
            return;
        }
        holds.list.swap_remove(at);
        let mut bytes = 0;
        let mut still = with.pins.still();
        for (from, to) in gaps(&holds.list, first, last) {
            let length = (to - from + 1) * PAGE;
            still.release(self.id, UserAddr(self.base.0 + from * PAGE), length);
            bytes += length;
        }
        if bytes > 0 {
            with.locked.uncount(bytes, &holds.account);
        }
    }

    /// Splits the hold of bytes `first..=last` behind byte `at`.
    pub(super) fn split_hold(&self, first: u64, at: u64, last: u64) {
        if self.is_device_memory() {
            return;
        }
        let holds = &mut self.holds().list;
        let whole = (first / PAGE, last / PAGE);
        let index = holds
            .iter()
            .position(|hold| (hold.first, hold.last) == whole)
            .expect("what is split was held");
        holds[index].users -= 1;
        if holds[index].users == 0 {
            holds.swap_remove(index);
        }
        for (from, to) in [(whole.0, at / PAGE), ((at + 1) / PAGE, whole.1)] {
            match holds
                .iter_mut()
                .find(|hold| (hold.first, hold.last) == (from, to))
            {
                Some(hold) => hold.users += 1,
                None => holds.push(Hold {
                    first: from,
                    last: to,
                    users: 1,
                }),
            }
        }
    }

    /// The bytes that another process than `process` is charged for, and how they are counted. `None`: it is charged
    /// already, or nobody is.
    pub(super) fn charged_elsewhere(&self, process: Option<Charged>) -> Option<(Mode, u64)> {
        let holds = self.holds();
        let (mode, owner) = (holds.account.mode, holds.account.process);
        (mode != Mode::None && owner != process).then(|| (mode, covered(&holds.list)))
    }

    /// From now on `process`, with its limit, is charged, as it has been already for what is pinned now.
    pub(super) fn charge_to(&self, process: Option<Charged>, limit: Option<u64>, locked: &Locked) {
        let mut holds = self.holds();
        locked.uncount(covered(&holds.list), &holds.account);
        holds.account.process = process;
        holds.account.limit = limit;
    }

    /// An area maps the dma-buf at `iova`.
    pub(super) fn track(&self, targets: &Arc<Targets>, iova: u64, bytes: u64) {
        if let Source::DmaBuf { mappings, .. } = &self.source {
            let mut list = mappings.list.lock().unwrap();
            list.push((targets.clone(), iova, bytes));
        }
    }

    /// An area maps the dma-buf at `iova` no longer.
    pub(super) fn untrack(&self, targets: &Arc<Targets>, iova: u64) {
        if let Source::DmaBuf { mappings, .. } = &self.source {
            let mut list = mappings.list.lock().unwrap();
            list.retain(|(other, at, _)| !(Arc::ptr_eq(other, targets) && *at == iova));
        }
    }

    /// A dma-buf of `bytes` bytes from `start` (of a page) on.
    ///
    /// # Errors
    /// What the exporter says.
    pub(super) fn of_dma_buf(
        buffer: Arc<dyn DmaBuf>,
        start: u64,
        writable: bool,
        pins: &Arc<Pins>,
    ) -> Result<Pages, Errno> {
        let mappings = Arc::new(Mappings {
            pins: Some(pins.clone()),
            ..Mappings::default()
        });
        let first = buffer.attach(mappings.clone())?;
        let account = Account {
            mode: Mode::None,
            limit: None,
            pinned: false,
            process: None,
        };
        let source = Source::DmaBuf {
            buffer,
            start,
            mappings,
        };
        let base = UserAddr(first.0 + start);
        Ok(Pages::new(base, writable, source, account))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        debug_assert!(
            self.holds
                .get_mut()
                .is_ok_and(|holds| holds.list.is_empty())
        );
        if let Source::DmaBuf {
            buffer, mappings, ..
        } = &self.source
        {
            let revoked: Arc<dyn Revoked> = mappings.clone();
            buffer.detach(&revoked);
        }
    }
}

impl Revoked for Mappings {
    fn revoke(&self) {
        // No area is written to a table while the pins are still, and none afterwards.
        let still = self.pins.as_ref().map(|pins| pins.still());
        if self.revoked.swap(true, Ordering::AcqRel) {
            return;
        }
        for (targets, iova, bytes) in &*self.list.lock().unwrap() {
            let last = Iova(iova + (bytes - 1));
            targets.each(|table| table.unmap(Iova(*iova), last));
        }
        drop(still);
    }
}

/// How many bytes are held.
fn covered(holds: &[Hold]) -> u64 {
    let Some(last) = holds.iter().map(|hold| hold.last).max() else {
        return 0;
    };
    let free: u64 = gaps(holds, 0, last)
        .iter()
        .map(|(from, to)| to - from + 1)
        .sum();
    (last + 1 - free) * PAGE
}

/// The parts of pages `first..=last` that nobody holds, in order.
fn gaps(holds: &[Hold], first: u64, last: u64) -> Vec<(u64, u64)> {
    let mut inside: Vec<_> = holds
        .iter()
        .filter(|hold| hold.first <= last && first <= hold.last)
        .map(|hold| (hold.first, hold.last))
        .collect();
    inside.sort_unstable();
    let (mut free, mut at) = (Vec::new(), first);
    for (from, to) in inside {
        if from > at {
            free.push((at, from - 1));
        }
        at = at.max(to + 1);
    }
    if at <= last {
        free.push((at, last));
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(first: u64, last: u64) -> Hold {
        Hold {
            first,
            last,
            users: 1,
        }
    }

    #[test]
    fn gaps_are_what_no_hold_covers() {
        assert_eq!(gaps(&[], 2, 5), [(2, 5)]);
        assert_eq!(gaps(&[hold(3, 3), hold(0, 2), hold(3, 4)], 2, 6), [(5, 6)]);
        assert_eq!(gaps(&[hold(0, 9)], 2, 6), []);
        assert_eq!(gaps(&[hold(4, 4), hold(7, 9)], 2, 6), [(2, 3), (5, 6)]);
    }

    #[test]
    fn a_page_that_several_hold_is_charged_once() {
        assert_eq!(covered(&[]), 0);
        assert_eq!(covered(&[hold(2, 4), hold(3, 5), hold(8, 8)]), 5 * PAGE);
    }
}
