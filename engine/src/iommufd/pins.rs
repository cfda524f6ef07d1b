//! Which client pages are pinned for DMA, and under which device addresses.
//!
//! The kernel pins pages: after munmap they stay alive, and DMA reaches the old page, never what is mapped at that
//! address next. Here a physical address is a client address, so before the client takes an address away the pages
//! move aside ([`Pins::vacate`]) and the page-table entries follow. Three steps, none of which loses a byte:
//! entries point to "moving" (DMA waits), the pages are stolen by mremap, entries point to their new place.
//!
//! Words: a *pin* is one run of client addresses behind one run of device addresses of one domain. Pins may overlap:
//! the same page can be mapped twice. They are kept by size class (a power of two), so that all pins that overlap a
//! range are found by looking no further back than the class is long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use swiommu_iommu::{Domain, Iova};
use swiommu_mem::UserAddr;
use swiommu_mem::park::{self, Parked};

use super::place;
use super::warm::Warm;

/// One run of pinned pages.
#[derive(Clone)]
struct Pin {
    bytes: u64,
    iova: u64,
    domain: Arc<Domain>,
}

/// Key of a pin: first client address, first device address, domain. No two pins share the latter two.
type Key = (u64, u64, u64);

#[derive(Default)]
struct Table {
    /// By size class: class k holds pins of 2^k..2^(k+1) bytes.
    classes: BTreeMap<u32, BTreeMap<Key, Pin>>,
    /// Pages that moved aside, by domain id and first device address.
    parked: BTreeMap<(u64, u64), (u64, Arc<Parked>)>,
}

/// All pins of this process.
#[derive(Default)]
pub struct Pins {
    /// How many there are: read without the lock by every munmap of the client.
    live: AtomicUsize,
    table: Mutex<Table>,
    /// What need not be faulted in again.
    pub warm: Warm,
}

impl Pins {
    /// `bytes` bytes of client memory at `va` are now reachable at `iova` of `domain`.
    pub fn pin(&self, domain: &Arc<Domain>, iova: u64, va: UserAddr, bytes: u64) {
        let mut table = self.table.lock().unwrap();
        table.insert(
            va.0,
            Pin {
                bytes,
                iova,
                domain: domain.clone(),
            },
        );
        self.live.fetch_add(1, Ordering::Release);
    }

    /// The range `iova..iova+bytes` of `domain`, pinned at `va`, is unmapped: its pins and parked pages go.
    pub fn unpin(&self, domain: &Arc<Domain>, iova: u64, va: UserAddr, bytes: u64) {
        let mut table = self.table.lock().unwrap();
        let id = domain_key(domain);
        let gone = if table.remove_whole((va.0, iova, id), bytes) {
            1
        } else {
            let gone = table.overlapping(va.0, bytes, |pin| {
                Arc::ptr_eq(&pin.domain, domain) && pin.iova >= iova && pin.iova - iova < bytes
            });
            for (class, key) in &gone {
                table.remove(*class, *key);
            }
            gone.len()
        };
        self.live.fetch_sub(gone, Ordering::Release);
        if table.parked.is_empty() {
            return;
        }
        let parked: Vec<_> = table
            .parked
            .range((id, iova)..=(id, iova + (bytes - 1)))
            .map(|(key, _)| *key)
            .collect();
        for key in parked {
            table.parked.remove(&key);
        }
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
        let mut table = self.table.lock().unwrap();
        let hit = table.overlapping(first.0, bytes, |_| true);
        if hit.is_empty() {
            return Vec::new();
        }
        let last = first.0 + (bytes - 1);
        let pieces: Vec<Piece> = hit
            .into_iter()
            .map(|(class, key)| table.cut(class, key, first.0, last, &self.live))
            .collect();
        let mut lost = Vec::new();
        for run in union(&pieces) {
            table.move_aside(run, &pieces, &mut lost);
        }
        lost
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
    domain: Arc<Domain>,
}

fn domain_key(domain: &Arc<Domain>) -> u64 {
    Arc::as_ptr(domain) as usize as u64
}

fn class_of(bytes: u64) -> u32 {
    bytes.ilog2()
}

/// The runs of client addresses that the pieces cover, each once.
fn union(pieces: &[Piece]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = pieces
        .iter()
        .map(|p| (p.va, p.va + (p.bytes - 1)))
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

impl Table {
    fn insert(&mut self, va: u64, pin: Pin) {
        let key = (va, pin.iova, domain_key(&pin.domain));
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

    /// Takes `first..=last` out of a pin; what lies outside stays pinned.
    fn cut(&mut self, class: u32, key: Key, first: u64, last: u64, live: &AtomicUsize) -> Piece {
        let pin = self
            .remove(class, key)
            .expect("the pin was found under this lock");
        live.fetch_sub(1, Ordering::Release);
        let (va, pin_last) = (key.0, key.0 + (pin.bytes - 1));
        let (cut_first, cut_last) = (va.max(first), pin_last.min(last));
        if va < cut_first {
            self.insert(
                va,
                Pin {
                    bytes: cut_first - va,
                    ..pin.clone()
                },
            );
            live.fetch_add(1, Ordering::Release);
        }
        if cut_last < pin_last {
            let iova = pin.iova + (cut_last + 1 - va);
            self.insert(
                cut_last + 1,
                Pin {
                    bytes: pin_last - cut_last,
                    iova,
                    domain: pin.domain.clone(),
                },
            );
            live.fetch_add(1, Ordering::Release);
        }
        Piece {
            va: cut_first,
            bytes: cut_last - cut_first + 1,
            iova: pin.iova + (cut_first - va),
            domain: pin.domain,
        }
    }

    /// Moves one run of client pages aside; every piece in it follows.
    fn move_aside(&mut self, run: (u64, u64), pieces: &[Piece], lost: &mut Vec<Lost>) {
        let inside = || pieces.iter().filter(|p| p.va >= run.0 && p.va <= run.1);
        for piece in inside() {
            let last = piece.iova + (piece.bytes - 1);
            piece
                .domain
                .remap(Iova(piece.iova), Iova(last), place::moving());
        }
        let parked = park::steal(UserAddr(run.0), run.1 - run.0 + 1).map(Arc::new);
        for piece in inside() {
            let last = Iova(piece.iova + (piece.bytes - 1));
            match &parked {
                Ok(parked) => {
                    let to = parked.base().0 + (piece.va - run.0);
                    piece
                        .domain
                        .remap(Iova(piece.iova), last, swiommu_iommu::Pa(to));
                    self.parked.insert(
                        (domain_key(&piece.domain), piece.iova),
                        (piece.bytes, parked.clone()),
                    );
                }
                Err(_) => {
                    piece.domain.unmap(Iova(piece.iova), last);
                    lost.push(Lost {
                        iova: piece.iova,
                        va: UserAddr(piece.va),
                        bytes: piece.bytes,
                    });
                }
            }
        }
    }
}
