//! What the client set for each signal.
#![allow(unsafe_code)] // cells shared under a lock of our own

use super::kernel::{Action, blocked};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signal numbers are 1..=64.
const COUNT: usize = 65;

struct Slot {
    locked: AtomicBool,
    action: UnsafeCell<Action>,
}

// SAFETY: the cell is touched under the lock only.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; COUNT] = [const {
    Slot {
        locked: AtomicBool::new(false),
        action: UnsafeCell::new(Action {
            handler: libc::SIG_DFL,
            flags: 0,
            restorer: 0,
            mask: 0,
        }),
    }
}; COUNT];

/// Runs `f` on a signal's action. A handler may call this: holders have all signals blocked, so none of them can be
/// what it interrupted. `f` must not fault, allocate or call back.
pub(super) fn with<T>(signal: i32, f: impl FnOnce(&mut Action) -> T) -> T {
    let slot = &SLOTS[signal as usize];
    blocked(|| {
        while slot.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock is held.
        let value = f(unsafe { &mut *slot.action.get() });
        slot.locked.store(false, Ordering::Release);
        value
    })
}

/// The client's action as it stands. A handler that takes it for running also makes it the default if it was to run
/// once.
pub(super) fn take_for_delivery(signal: i32) -> (Action, bool) {
    with(signal, |action| {
        let taken = *action;
        let once = taken.flags & libc::SA_RESETHAND as u64 != 0 && taken.handler > libc::SIG_IGN;
        if once {
            action.handler = libc::SIG_DFL;
        }
        (taken, once)
    })
}
