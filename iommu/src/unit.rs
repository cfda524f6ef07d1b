//! What the domains, ports and tables of one unit share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::drain::Drain;
use crate::fault::{Fault, FaultLog, Recorder};
use crate::radix::page::{NoMemory, Pool};
use crate::sync::relax;

/// The shared part of a unit. Its locks are leaf locks.
pub(crate) struct Unit {
    pub(crate) config: Config,
    /// Tag of all context caches; grows with every change to who is attached where.
    generation: Generation,
    pub(crate) pool: Pool,
    /// A table without entries, for walks that must find nothing.
    pub(crate) nothing: u64,
    pub(crate) drain: Arc<Drain>,
    recorder: Mutex<Recorder>,
    ids: Mutex<Ids>,
}

/// A counter that ports read on every translation, away from what writers write.
#[repr(align(128))]
pub(crate) struct Generation(AtomicU64);

impl Generation {
    pub(crate) fn new() -> Self {
        Generation(AtomicU64::new(1))
    }

    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Invalidates what was tagged before. Callers are serialised by the owner's lock.
    pub(crate) fn advance(&self) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Invalidates what was tagged before, from any thread.
    fn advance_shared(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// The lock of one domain's writers: taken with one exchange, released with a plain store, because it
/// is taken for every map and unmap and almost never contended. It must not be held across a drain, but by
/// [`Exclusive`](crate::Exclusive).
#[repr(align(64))]
pub(crate) struct WriterLock(AtomicBool);

/// Proof that the calling thread is the only writer.
pub(crate) struct Writer<'a>(&'a WriterLock);

impl WriterLock {
    pub(crate) fn new() -> Self {
        WriterLock(AtomicBool::new(false))
    }

    #[inline(always)]
    pub(crate) fn lock(&self) -> Writer<'_> {
        if self.0.swap(true, Ordering::Acquire) {
            self.contended();
        }
        Writer(self)
    }

    #[cold]
    fn contended(&self) {
        let mut round = 0u32;
        while self.0.load(Ordering::Relaxed) || self.0.swap(true, Ordering::Acquire) {
            relax(round);
            round = round.saturating_add(1);
        }
    }
}

impl Drop for Writer<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct Ids {
    next: u16,
    free: Vec<u16>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unit {
    pub(crate) fn new(config: Config) -> Result<Arc<Self>, NoMemory> {
        let pool = Pool::default();
        Ok(Arc::new(Unit {
            config,
            generation: Generation::new(),
            nothing: pool.take()?.address(),
            pool,
            drain: Drain::new(),
            recorder: Mutex::default(),
            ids: Mutex::default(),
        }))
    }

    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.now()
    }

    /// Invalidates every context cache and waits for the sessions that may still use one.
    pub(crate) fn invalidate_contexts(&self) {
        self.generation.advance_shared();
        self.drain.wait();
    }

    /// A domain id. 0 is left out: VT-d reserves it in caching mode.
    pub(crate) fn take_id(&self) -> Option<u16> {
        let mut ids = lock(&self.ids);
        if let Some(id) = ids.free.pop() {
            return Some(id);
        }
        ids.next = ids.next.checked_add(1)?;
        Some(ids.next)
    }

    pub(crate) fn give_id(&self, id: u16) {
        lock(&self.ids).free.push(id);
    }

    #[cold]
    pub(crate) fn record(&self, fault: Fault) {
        lock(&self.recorder).record(fault);
    }

    pub(crate) fn faults(&self) -> FaultLog {
        lock(&self.recorder).take()
    }
}
