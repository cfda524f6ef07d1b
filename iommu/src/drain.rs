//! The drain: how an unmap knows that no access can still use what it cleared.
//!
//! Each port has a [`Seat`]. A session announces itself on the seat with one sequentially consistent
//! exchange and takes the announcement back with a plain store. [`Drain::wait`] returns when every
//! announcement that was standing when it was called is gone; it does not wait for later ones, because
//! those are certain to see what the caller wrote before. docs/adr/0002-unmap-guarantee.md has the
//! argument, tests/loom_drain.rs the model.
//!
//! Words: *standing* is an announcement not yet taken back (odd word). *Parked* is an announcement
//! that its own thread took back for the time of a wait.
//!
//! No lock is held while waiting. `free` is taken only when a seat is made or dropped.

use std::sync::{Arc, OnceLock, PoisonError};

use crate::sync::{
    AtomicU64, AtomicUsize, Mutex, Ordering, barrier_after_rmw, relax, thread_token,
};

/// Chunk `k` of the seat list holds `FIRST_CHUNK << k` places.
const FIRST_CHUNK: usize = if cfg!(loom) { 4 } else { 16 };
const CHUNKS: usize = 16;

/// Where one port announces its sessions. On a cache line pair of its own: its port writes it once a
/// session, drains only read it.
#[repr(align(128))]
struct Slot {
    /// Odd while a session stands; every change is an increment, so no value comes back.
    word: AtomicU64,
    /// The thread that made the standing announcement.
    owner: AtomicU64,
}

impl Slot {
    fn new() -> Self {
        Slot {
            word: AtomicU64::new(0),
            owner: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn announce(&self, owner: u64) {
        self.owner.store(owner, Ordering::Relaxed);
        // A leaked session left the word odd; it must change and stay odd.
        let word = self.word.load(Ordering::Relaxed).wrapping_add(1) | 1;
        self.word.swap(word, Ordering::SeqCst);
        barrier_after_rmw();
    }

    #[inline(always)]
    fn take_back(&self) {
        let word = (self.word.load(Ordering::Relaxed) | 1).wrapping_add(1);
        self.word.store(word, Ordering::Release);
    }
}

type Chunk = Box<[OnceLock<Arc<Slot>>]>;

/// All seats of one unit.
pub struct Drain {
    chunks: [OnceLock<Chunk>; CHUNKS],
    /// Places ever used; the scan ends here.
    used: AtomicUsize,
    /// Places whose seat was dropped.
    free: Mutex<Vec<usize>>,
    /// Counts waits. Its increment is the barrier of [`Drain::wait`].
    waits: AtomicU64,
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            chunks: [const { OnceLock::new() }; CHUNKS],
            used: AtomicUsize::new(0),
            free: Mutex::new(Vec::new()),
            waits: AtomicU64::new(0),
        }
    }
}

/// Chunk and place in the chunk of seat `index`.
fn position(index: usize) -> (usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2() as usize;
    (chunk, index - FIRST_CHUNK * ((1 << chunk) - 1))
}

impl Drain {
    /// A drain without seats.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A place to announce sessions.
    ///
    /// # Panics
    ///
    /// When more than a million seats are held at once.
    pub fn seat(self: &Arc<Self>) -> Seat {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.pop().unwrap_or_else(|| {
            // SeqCst: with the barrier in `announce` and the one in `wait`, a wait that does not see
            // the new count is one whose writes this seat's sessions are sure to see.
            self.used.fetch_add(1, Ordering::SeqCst)
        });
        drop(free);
        let slot = self.place(index).get_or_init(|| Arc::new(Slot::new()));
        Seat {
            drain: Arc::clone(self),
            slot: Arc::clone(slot),
            index,
        }
    }

    fn place(&self, index: usize) -> &OnceLock<Arc<Slot>> {
        let (chunk, place) = position(index);
        let chunk = self.chunks[chunk]
            .get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| OnceLock::new()).collect());
        &chunk[place]
    }

    /// Returns when every session that stands now, except the caller's own, has ended.
    ///
    /// Whatever the caller wrote before is seen by every session that begins later. Sessions of the
    /// calling thread are parked meanwhile, so two threads that drain inside their own sessions do
    /// not wait for each other; what a parked session translated before is void.
    pub fn wait(&self) {
        self.waits.fetch_add(1, Ordering::SeqCst);
        barrier_after_rmw();
        let used = self.used.load(Ordering::SeqCst);
        let mut others = Vec::new();
        let mut own = Vec::new();
        let mut left = used;
        for chunk in &self.chunks {
            let Some(chunk) = chunk.get().filter(|_| left > 0) else {
                break;
            };
            for place in chunk.iter().take(left) {
                // An empty place is a seat still being made: its sessions begin later.
                let Some(slot) = place.get() else { continue };
                let word = slot.word.load(Ordering::Acquire);
                if word & 1 == 1 {
                    self.standing(slot, word, &mut own, &mut others);
                }
            }
            left = left.saturating_sub(chunk.len());
        }
        if !(own.is_empty() && others.is_empty()) {
            settle(&own, &others);
        }
    }

    #[cold]
    fn standing<'a>(
        &self,
        slot: &'a Slot,
        word: u64,
        own: &mut Vec<&'a Slot>,
        others: &mut Vec<(&'a Slot, u64)>,
    ) {
        if slot.owner.load(Ordering::Relaxed) == thread_token() {
            own.push(slot);
        } else {
            others.push((slot, word));
        }
    }
}

/// Parks the caller's sessions, waits for the others, announces the caller's again.
#[cold]
fn settle(own: &[&Slot], others: &[(&Slot, u64)]) {
    for slot in own {
        slot.take_back();
    }
    for (slot, word) in others {
        let mut round = 0;
        while slot.word.load(Ordering::Acquire) == *word {
            relax(round);
            round = round.saturating_add(1);
        }
    }
    for slot in own {
        slot.announce(thread_token());
    }
}

/// One port's place in the drain.
pub struct Seat {
    drain: Arc<Drain>,
    slot: Arc<Slot>,
    index: usize,
}

impl Seat {
    /// Announces a session of the calling thread: from here to [`Seat::take_back`] every
    /// [`Drain::wait`] of another thread waits.
    #[inline(always)]
    pub fn announce(&mut self) {
        self.slot.announce(thread_token());
    }

    /// Ends the session.
    #[inline(always)]
    pub fn take_back(&mut self) {
        self.slot.take_back();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut free = self
            .drain
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(self.index);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn seats_fill_chunk_after_chunk() {
        assert_eq!(position(0), (0, 0));
        assert_eq!(position(15), (0, 15));
        assert_eq!(position(16), (1, 0));
        assert_eq!(position(47), (1, 31));
        assert_eq!(position(48), (2, 0));
    }

    #[test]
    fn a_dropped_seat_is_used_again() {
        let drain = Drain::new();
        let first = drain.seat();
        let second = drain.seat();
        let index = first.index;
        drop(first);
        assert_eq!(drain.seat().index, index);
        assert_ne!(second.index, index);
    }

    #[test]
    fn waiting_inside_ones_own_session_returns_and_the_session_stands_again() {
        let drain = Drain::new();
        let mut seat = drain.seat();
        seat.announce();
        drain.wait();
        assert_eq!(seat.slot.word.load(Ordering::Relaxed) & 1, 1);
        seat.take_back();
        drain.wait();
    }

    #[test]
    fn two_threads_that_drain_inside_their_sessions_do_not_wait_for_each_other() {
        let drain = Drain::new();
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seat = drain.seat();
                    for _ in 0..100 {
                        seat.announce();
                        barrier.wait();
                        drain.wait();
                        seat.take_back();
                    }
                });
            }
        });
    }
}
