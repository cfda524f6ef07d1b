//! One descriptor number: empty, or holding what answers for it.
//!
//! A slot is one word and one cell. The word counts the threads that are copying the value out and carries three
//! flags; a copy takes two atomic additions and never waits. Whoever removes a value and finds copies under way leaves
//! it to the last of them to take it out, so a signal handler may close a descriptor that its own thread was just
//! looking up. Only `put` waits, for a removal of the same number to finish.
//!
//! Generic over the value so that loom can drive it (`tests/loom_files.rs`).
#![allow(unsafe_code)] // the cell; the word says who may touch it

use crate::sync::{AtomicU32, Ordering, UnsafeCell, relax};

const PRESENT: u32 = 1 << 31;
/// Removed, but the value is still in the cell: readers came before.
const CLOSING: u32 = 1 << 30;
/// One thread owns the cell.
const OWNED: u32 = 1 << 29;
const READERS: u32 = OWNED - 1;
const FLAGS: u32 = !READERS;

/// A place for one value.
pub struct Slot<T> {
    word: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is handed between threads (Send) and cloned by several at once (Sync) under the word's protocol.
unsafe impl<T: Send + Sync> Send for Slot<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T: Clone> Slot<T> {
    /// An empty slot.
    #[cfg(not(loom))]
    #[allow(clippy::new_without_default)] // nobody needs one
    pub const fn new() -> Self {
        Slot {
            word: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        }
    }

    /// An empty slot.
    #[cfg(loom)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Slot {
            word: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        }
    }

    /// Whether a value is here.
    #[inline]
    pub fn present(&self) -> bool {
        self.word.load(Ordering::Acquire) & PRESENT != 0
    }

    /// A copy of the value.
    #[inline]
    pub fn get(&self) -> Option<T> {
        if !self.present() {
            return None;
        }
        let before = self.word.fetch_add(1, Ordering::Acquire);
        // SAFETY: announced while PRESENT: the value is not taken out before we leave, and only read meanwhile.
        let copy = (before & PRESENT != 0)
            .then(|| self.value.with(|value| unsafe { (*value).clone() }))
            .flatten();
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        if before & CLOSING != 0 {
            drop(self.finish());
        }
        copy
    }

    /// Removes the value: `None` if there was none, otherwise whether it could be taken at once (a reader that is
    /// copying it takes it out when it is done).
    pub fn remove(&self) -> Option<Option<T>> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & PRESENT == 0 {
                return None;
            }
            let closing = word & !PRESENT | CLOSING;
            match self.word.compare_exchange_weak(
                word,
                closing,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(self.finish()),
                Err(now) => word = now,
            }
        }
    }

    /// Takes a removed value out if no reader is left.
    fn finish(&self) -> Option<T> {
        self.word
            .compare_exchange(CLOSING, OWNED, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        // SAFETY: OWNED is ours alone, and readers that announce themselves now do not see PRESENT.
        let value = self.value.with_mut(|value| unsafe { (*value).take() });
        self.word.fetch_and(!OWNED, Ordering::Release);
        value
    }

    /// Puts a value here; a value that was still here is replaced.
    pub fn put(&self, value: T) {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & PRESENT != 0 {
                drop(self.remove());
                continue;
            }
            if word & FLAGS != 0 {
                relax();
                continue;
            }
            let owned = word | OWNED;
            if self
                .word
                .compare_exchange(word, owned, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            // SAFETY: OWNED is ours alone; readers announced now came without PRESENT and do not look.
            self.value.with_mut(|cell| unsafe { *cell = Some(value) });
            self.word.fetch_xor(OWNED | PRESENT, Ordering::Release);
            return;
        }
    }

    /// In the child of a fork, where the other threads are gone in the middle of whatever they did: replaces the value
    /// without dropping it (it belongs to the parent). `f` sees the old one.
    ///
    /// # Safety
    /// No other thread exists.
    pub unsafe fn replace_after_fork(&self, f: impl FnOnce(&T) -> T) {
        let present = self.present();
        // SAFETY: we are the only thread.
        self.value.with_mut(|cell| unsafe {
            let old = core::mem::ManuallyDrop::new(core::ptr::read(cell));
            let new = if present {
                (*old).as_ref().map(f)
            } else {
                None
            };
            core::ptr::write(cell, new);
        });
        self.word
            .store(if present { PRESENT } else { 0 }, Ordering::Release);
    }
}
