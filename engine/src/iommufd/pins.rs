//! Which client pages are pinned for DMA, and under which device addresses.
//!
//! The kernel pins pages: after munmap they stay alive, and DMA reaches the old page, never what is mapped at that
//! address next. Here a physical address is a client address, so before the client takes an address away the pages
//! move aside ([`Pins::vacate`]) and the page-table entries follow. Three steps, none of which loses a byte:
//! entries point to "moving" (DMA waits), the pages are stolen by mremap, entries point to their new place.
//!
//! Words: a *pin* is one run of client addresses behind one run of device addresses of one address space, whose page
//! tables are its [`Targets`]. Pins may overlap: the same page can be mapped twice. They are kept by size class (a
//! power of two), so that all pins that overlap a range are found by looking no further back than the class is long.
//! Where pages that moved are now is remembered for the set of pages ([`PagesId`]) that pinned them, because an address
//! space that is attached later must find them there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use swiommu_iommu::{Iova, Pa};
use swiommu_mem::park::{self, Parked};
use swiommu_mem::{PAGE, UserAddr};

use super::place;
use super::table::Table;
use super::warm::Warm;

/// A set of pages that was pinned as one: every mapping of client memory is one, its copies share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PagesId(pub u64);

/// The page tables of an address space, as pages that move need them.
pub struct Targets {
    key: u64,
    tables: Mutex<Vec<Table>>,
}

impl Targets {
    /// Those of a new address space, which has none yet.
    pub fn new() -> Arc<Targets> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Targets {
            key: NEXT.fetch_add(1, Ordering::Relaxed),
            tables: Mutex::default(),
        })
    }

    fn tables(&self) -> MutexGuard<'_, Vec<Table>> {
        self.tables.lock().unwrap()
    }

    /// Does something to each table. The pins are held still.
    pub(super) fn each(&self, change: impl FnMut(&Table)) {
        self.tables().iter().for_each(change);
    }
}

/// The tables of pages that no page table leads to: none.
fn nowhere() -> &'static Arc<Targets> {
    static NOWHERE: OnceLock<Arc<Targets>> = OnceLock::new();
    NOWHERE.get_or_init(Targets::new)
}

/// One run of pinned pages.
#[derive(Clone)]
struct Pin {
    bytes: u64,
    iova: u64,
    targets: Arc<Targets>,
    pages: PagesId,
}

/// Key of a pin: first client address, first device address, address space. No two pins share the latter two.
type Key = (u64, u64, u64);

/// Where pages went that moved.
struct Moved {
    bytes: u64,
    /// `None` when they could not be kept.
    parked: Option<Arc<Parked>>,
    /// Of the first byte.
    pa: u64,
}

#[derive(Default)]
struct Kept {
    /// By size class: class k holds pins of 2^k..2^(k+1) bytes.
    classes: BTreeMap<u32, BTreeMap<Key, Pin>>,
    /// Pages that moved, by the set they belong to and the client address (of a page) they had.
    moved: BTreeMap<(PagesId, u64), Moved>,
    /// How often a page is pinned for the processor, by its set and client address.
    accessed: BTreeMap<(PagesId, u64), u32>,
}

/// All pins of this process.
#[derive(Default)]
pub struct Pins {
    /// How many there are: read without the lock by every munmap of the client.
    live: AtomicUsize,
    kept: Mutex<Kept>,
    /// What need not be faulted in again.
    pub warm: Warm,
}

/// One run of pages and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the start of the range that was asked for.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where; `None` when the pages could not be kept.
    pub pa: Option<Pa>,
    /// It still is at its client address, from where it may move.
    pub here: bool,
}

impl Place {
    /// Bytes that are where the client has them.
    fn here(va: UserAddr, offset: u64, bytes: u64) -> Place {
        Place {
            offset,
            bytes,
            pa: Some(Pa(va.0 + offset)),
            here: true,
        }
    }
}

/// The pins, held still: no page moves while this is held.
pub struct Still<'a> {
    pins: &'a Pins,
    kept: MutexGuard<'a, Kept>,
}

impl Pins {
    /// Holds all pages still.
    pub fn still(&self) -> Still<'_> {
        Still {
            pins: self,
            kept: self.kept.lock().unwrap(),
        }
    }

    /// Every run of pinned pages: first address, bytes, and the set of pages that pins it.
    pub fn runs(&self) -> Vec<(UserAddr, u64, PagesId)> {
        let kept = self.kept.lock().unwrap();
        let pins = kept.classes.values().flatten();
        pins.map(|(key, pin)| (UserAddr(key.0), pin.bytes, pin.pages))
            .collect()
    }

    /// How many runs of pages are pinned.
    pub fn count(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Whether nothing is pinned at all.
    pub fn is_empty(&self) -> bool {
        self.live.load(Ordering::Acquire) == 0
    }

    /// The client is about to take `bytes` at `first` away: pinned pages there move aside and stay what DMA reaches.
    /// Returns the ranges whose pages could not be kept; their entries are gone.
    pub fn vacate(&self, first: UserAddr, bytes: u64) -> Vec<Lost> {
        if bytes == 0 {
            return Vec::new();
        }
        self.warm.forget(first, bytes);
        if self.is_empty() {
            return Vec::new();
        }
        let mut still = self.still();
        let hit = still.kept.overlapping(first.0, bytes, |_| true);
        if hit.is_empty() {
            return Vec::new();
        }
        let last = first.0 + (bytes - 1);
        let pieces: Vec<Piece> = hit
            .into_iter()
            .map(|(class, key)| still.kept.cut(class, key, first.0, last, &self.live))
            .collect();
        let mut lost = Vec::new();
        for run in union(&pieces) {
            still.kept.move_aside(run, &pieces, &mut lost);
        }
        lost
    }
}

impl Still<'_> {
    /// `bytes` bytes of client memory at `va`, of a set of pages, are reachable at `iova` of an address space.
    pub fn pin(
        &mut self,
        targets: &Arc<Targets>,
        iova: u64,
        va: UserAddr,
        bytes: u64,
        pages: PagesId,
    ) {
        let pin = Pin {
            bytes,
            iova,
            targets: targets.clone(),
            pages,
        };
        self.kept.insert(va.0, pin);
        self.pins.live.fetch_add(1, Ordering::Release);
    }

    /// `bytes` bytes at `iova` of an address space, pinned at `va`, are no longer reachable.
    pub fn unpin(&mut self, targets: &Arc<Targets>, iova: u64, va: UserAddr, bytes: u64) {
        let gone = if self.kept.remove_whole((va.0, iova, targets.key), bytes) {
            1
        } else {
            let gone = self.kept.overlapping(va.0, bytes, |pin| {
                pin.targets.key == targets.key && pin.iova >= iova && pin.iova - iova < bytes
            });
            for (class, key) in &gone {
                self.kept.remove(*class, *key);
            }
            gone.len()
        };
        self.pins.live.fetch_sub(gone, Ordering::Release);
    }

    /// The pages of a set at client addresses `va..va+bytes` are pinned though no page table leads to them.
    pub fn pin_for_access(&mut self, va: UserAddr, bytes: u64, pages: PagesId) {
        let places = self.places(pages, va, bytes);
        for place in places.as_slice() {
            let (first, last) = around(va.0 + place.offset, place.bytes);
            for at in (first..=last).step_by(PAGE as usize) {
                let users = self.kept.accessed.entry((pages, at)).or_default();
                *users += 1;
                if *users == 1 && place.here {
                    self.pin(nowhere(), pages.0 << 12, UserAddr(at), PAGE, pages);
                }
            }
        }
    }

    /// Takes back what [`Still::pin_for_access`] did.
    pub fn unpin_for_access(&mut self, va: UserAddr, bytes: u64, pages: PagesId) {
        let (first, last) = around(va.0, bytes);
        for at in (first..=last).step_by(PAGE as usize) {
            let users = self.kept.accessed.get_mut(&(pages, at));
            let users = users.expect("what is unpinned was pinned");
            *users -= 1;
            if *users == 0 {
                self.kept.accessed.remove(&(pages, at));
                self.unpin(nowhere(), pages.0 << 12, UserAddr(at), PAGE);
            }
        }
    }

    /// Pages of a set that had client addresses `va..va+bytes` are not pinned any more: if they moved, they go.
    pub fn release(&mut self, pages: PagesId, va: UserAddr, bytes: u64) {
        if self.kept.moved.is_empty() {
            return;
        }
        let (first, last) = around(va.0, bytes);
        let inside = self.kept.moved_in(pages, first, last);
        for at in inside {
            let moved = self
                .kept
                .moved
                .remove(&(pages, at))
                .expect("it was just found");
            let end = at + moved.bytes;
            if at < first {
                let bytes = first - at;
                let parked = moved.parked.clone();
                let pa = moved.pa;
                self.kept
                    .moved
                    .insert((pages, at), Moved { bytes, parked, pa });
            }
            if end > last + 1 {
                let (bytes, pa) = (end - (last + 1), moved.pa + (last + 1 - at));
                let parked = moved.parked;
                self.kept
                    .moved
                    .insert((pages, last + 1), Moved { bytes, parked, pa });
            }
        }
    }

    /// Where the pages of a set with client addresses `va..va+bytes` are, in order.
    #[inline]
    pub fn places(&self, pages: PagesId, va: UserAddr, bytes: u64) -> Places {
        if self.kept.moved.is_empty() {
            return Places::One(Place::here(va, 0, bytes));
        }
        Places::Many(self.moved_places(pages, va, bytes))
    }

    fn moved_places(&self, pages: PagesId, va: UserAddr, bytes: u64) -> Vec<Place> {
        let last = va.0 + (bytes - 1);
        let mut places = Vec::new();
        let mut at = va.0;
        for first in self.kept.moved_in(pages, va.0, last) {
            let moved = &self.kept.moved[&(pages, first)];
            if first > at {
                places.push(Place::here(va, at - va.0, first - at));
                at = first;
            }
            let bytes = (first + moved.bytes - at).min(last - at + 1);
            places.push(Place {
                offset: at - va.0,
                bytes,
                pa: moved.parked.as_ref().map(|_| Pa(moved.pa + (at - first))),
                here: false,
            });
            at += bytes;
        }
        if at <= last {
            places.push(Place::here(va, at - va.0, last - at + 1));
        }
        places
    }

    /// A table joins an address space: entries in it follow pages that move.
    pub fn add_table(&mut self, targets: &Targets, table: Table) {
        targets.tables().push(table);
    }

    /// A table leaves an address space.
    pub fn remove_table(&mut self, targets: &Targets, table: &Table) {
        targets.tables().retain(|other| !other.is(table));
    }
}

/// One place mostly; more once pages have moved.
pub enum Places {
    /// One.
    One(Place),
    /// Several.
    Many(Vec<Place>),
}

impl Places {
    /// All of them, in order.
    #[inline]
    pub fn as_slice(&self) -> &[Place] {
        match self {
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }
}

/// Pages that could not be moved aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// First device address that is no longer mapped.
    pub iova: u64,
    /// Its client address.
    pub va: UserAddr,
    /// Bytes.
    pub bytes: u64,
}

/// The part of a pin inside the range that goes away.
struct Piece {
    va: u64,
    bytes: u64,
    iova: u64,
    targets: Arc<Targets>,
    pages: PagesId,
}

/// First and last byte of the pages that a range touches.
fn around(va: u64, bytes: u64) -> (u64, u64) {
    (va & !(PAGE - 1), (va + (bytes - 1)) | (PAGE - 1))
}

fn class_of(bytes: u64) -> u32 {
    bytes.ilog2()
}

/// The runs of pages that the pieces touch, each once.
fn union<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = pieces
        .into_iter()
        .map(|piece| around(piece.va, piece.bytes))
        .collect();
    runs.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (first, last) in runs {
        match out.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

impl Kept {
    fn insert(&mut self, va: u64, pin: Pin) {
        let key = (va, pin.iova, pin.targets.key);
        self.classes
            .entry(class_of(pin.bytes))
            .or_default()
            .insert(key, pin);
    }

    fn remove(&mut self, class: u32, key: Key) -> Option<Pin> {
        let pins = self.classes.get_mut(&class)?;
        let pin = pins.remove(&key);
        if pins.is_empty() {
            self.classes.remove(&class);
        }
        pin
    }

    /// Removes a pin that nothing was cut from: the common case.
    fn remove_whole(&mut self, key: Key, bytes: u64) -> bool {
        let class = class_of(bytes);
        let whole = self
            .classes
            .get(&class)
            .and_then(|pins| pins.get(&key))
            .is_some_and(|pin| pin.bytes == bytes);
        whole && self.remove(class, key).is_some()
    }

    fn overlapping(&self, va: u64, bytes: u64, wanted: impl Fn(&Pin) -> bool) -> Vec<(u32, Key)> {
        let last = va.saturating_add(bytes - 1);
        let mut found = Vec::new();
        for (&class, pins) in &self.classes {
            let from = va.saturating_sub((2u64 << class) - 1);
            for (&key, pin) in pins.range((from, 0, 0)..=(last, u64::MAX, u64::MAX)) {
                if key.0 + (pin.bytes - 1) >= va && wanted(pin) {
                    found.push((class, key));
                }
            }
        }
        found
    }

    /// The old addresses of the moved runs of a set that touch `first..=last`.
    fn moved_in(&self, pages: PagesId, first: u64, last: u64) -> Vec<u64> {
        let before = self.moved.range((pages, 0)..(pages, first)).next_back();
        let reaches = before.filter(|((_, at), moved)| at + (moved.bytes - 1) >= first);
        let inside = self.moved.range((pages, first)..=(pages, last));
        reaches
            .into_iter()
            .chain(inside)
            .map(|((_, at), _)| *at)
            .collect()
    }

    /// Takes `first..=last` out of a pin; what lies outside stays pinned.
    fn cut(&mut self, class: u32, key: Key, first: u64, last: u64, live: &AtomicUsize) -> Piece {
        let pin = self
            .remove(class, key)
            .expect("the pin was found under this lock");
        live.fetch_sub(1, Ordering::Release);
        let (va, pin_last) = (key.0, key.0 + (pin.bytes - 1));
        let (cut_first, cut_last) = (va.max(first), pin_last.min(last));
        if va < cut_first {
            let bytes = cut_first - va;
            let left = pin.clone();
            self.insert(va, Pin { bytes, ..left });
            live.fetch_add(1, Ordering::Release);
        }
        if cut_last < pin_last {
            let (bytes, iova) = (pin_last - cut_last, pin.iova + (cut_last + 1 - va));
            let right = pin.clone();
            let pin = Pin {
                bytes,
                iova,
                ..right
            };
            self.insert(cut_last + 1, pin);
            live.fetch_add(1, Ordering::Release);
        }
        Piece {
            va: cut_first,
            bytes: cut_last - cut_first + 1,
            iova: pin.iova + (cut_first - va),
            targets: pin.targets,
            pages: pin.pages,
        }
    }

    /// Moves one run of client pages aside; every piece in it follows.
    fn move_aside(&mut self, run: (u64, u64), pieces: &[Piece], lost: &mut Vec<Lost>) {
        let inside = || pieces.iter().filter(|p| p.va >= run.0 && p.va <= run.1);
        let entries = |change: &dyn Fn(&Table, &Piece, Iova, Iova)| {
            for piece in inside() {
                let last = Iova(piece.iova + (piece.bytes - 1));
                for table in &*piece.targets.tables() {
                    change(table, piece, Iova(piece.iova), last);
                }
            }
        };
        entries(&|table, _, first, last| table.remap(first, last, place::moving()));
        let parked = park::steal(UserAddr(run.0), run.1 - run.0 + 1).map(Arc::new);
        match &parked {
            Ok(parked) => entries(&|table, piece, first, last| {
                let to = parked.base().0 + (piece.va - run.0);
                table.remap(first, last, Pa(to));
            }),
            Err(_) => {
                entries(&|table, _, first, last| table.unmap(first, last));
                lost.extend(inside().map(|piece| Lost {
                    iova: piece.iova,
                    va: UserAddr(piece.va),
                    bytes: piece.bytes,
                }));
            }
        }
        let parked = parked.ok();
        let mut sets: Vec<PagesId> = inside().map(|piece| piece.pages).collect();
        sets.sort_unstable();
        sets.dedup();
        for pages in sets {
            for (first, last) in union(inside().filter(|piece| piece.pages == pages)) {
                let moved = Moved {
                    bytes: last - first + 1,
                    pa: parked
                        .as_ref()
                        .map_or(0, |parked| parked.base().0 + (first - run.0)),
                    parked: parked.clone(),
                };
                self.moved.insert((pages, first), moved);
            }
        }
    }
}
