//! A lock that one function takes and another gives back, as fork's handlers need it, and a value behind one.
#![allow(unsafe_code)] // the cell; the lock says who may touch it

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Held or not. Never taken in a signal handler.
pub struct Lock(AtomicBool);

impl Lock {
    /// Free.
    pub const fn new() -> Lock {
        Lock(AtomicBool::new(false))
    }

    /// Waits until it is ours.
    pub fn lock(&self) {
        while self.0.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// Gives it back.
    pub fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A value behind a lock that fork's handlers hold, so that a child finds it whole.
pub(crate) struct Quiet<T> {
    lock: Lock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is touched under the lock only.
unsafe impl<T: Send> Sync for Quiet<T> {}

impl<T> Quiet<T> {
    pub(crate) const fn new(value: T) -> Quiet<T> {
        Quiet {
            lock: Lock::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Does something with the value; `work` takes locks of this kind only in the order in which fork's handlers take them.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        self.lock.lock();
        // SAFETY: the lock is ours, and `work` cannot let the reference escape.
        let result = work(unsafe { &mut *self.value.get() });
        self.lock.unlock();
        result
    }

    /// Before fork: nothing is under way until [`Quiet::resume`].
    pub(crate) fn quiesce(&self) {
        self.lock.lock();
    }

    /// After fork, in parent and child.
    pub(crate) fn resume(&self) {
        self.lock.unlock();
    }
}
