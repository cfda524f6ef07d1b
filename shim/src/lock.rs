//! A lock that one function takes and another gives back, as fork's handlers need it.

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
