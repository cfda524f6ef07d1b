//! Points where an allocation or a pin can be made to fail, for tests of what happens then.
//!
//! The kernel has `/proc/thread-self/fail-nth`: the n-th allocation of that thread fails. Here every reservation of the
//! object table, area, set of pages, pin and page-table write asks [`fails`] first, and so does what the kernel allocates
//! for a container, a group or a device. Nothing is armed in ordinary use,
//! and then a point costs one load.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use swiommu_abi::Errno;

/// How many threads are armed.
static ARMED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// How many points this thread passes before the one that fails; 0 when it is not armed.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The `nth` point (from 1) that this thread comes to fails; 0 disarms.
pub fn arm(nth: u32) {
    let before = LEFT.replace(nth);
    match (before != 0, nth != 0) {
        (false, true) => drop(ARMED.fetch_add(1, Ordering::Relaxed)),
        (true, false) => drop(ARMED.fetch_sub(1, Ordering::Relaxed)),
        _ => {}
    }
}

/// How many points are left before the one that fails; 0 when this thread is not armed, or has failed.
pub fn left() -> u32 {
    LEFT.get()
}

/// Whether the caller must fail here.
#[inline]
pub fn fails() -> bool {
    ARMED.load(Ordering::Relaxed) != 0 && countdown()
}

/// A point where an allocation can be made to fail.
///
/// # Errors
/// ENOMEM, if it does.
#[inline]
pub fn point() -> Result<(), Errno> {
    if fails() { Err(Errno::ENOMEM) } else { Ok(()) }
}

#[cold]
fn countdown() -> bool {
    match LEFT.get() {
        0 => false,
        1 => {
            arm(0);
            true
        }
        left => {
            LEFT.set(left - 1);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_point_fails_once_and_only_in_the_thread_that_armed_it() {
        assert!(!fails());
        arm(2);
        std::thread::spawn(|| assert!(!fails())).join().unwrap();
        assert!(!fails());
        assert_eq!(left(), 1);
        assert!(fails());
        assert!(!fails());
        arm(5);
        arm(0);
        assert!((0..9).all(|_| !fails()));
    }
}
