//! Signals shared with the client.
//!
//! Four signals are ours: SIGSEGV and SIGBUS (faulting copies, trapped registers), SIGILL and SIGSYS. Our handler is
//! the one the kernel knows; the client's actions for them live in a table, and it sees in every answer what it set.
//! A fault goes, in this order, to [`swiommu_mem::recover`], to the trap hook, to the client's handler as its sigaction
//! would have run it, to the default action. The default is restored and the fault repeated, so that a core dump
//! shows the real place.
//!
//! All other signals keep their kernel semantics. Their handlers run behind a trampoline, which holds a signal back
//! while its thread is inside the engine ([`enter`]): it blocks the signal in the interrupted context and queues it
//! again to its own thread, so the kernel keeps it, and the engine's exit unblocks it. Entering costs a thread-local
//! increment, leaving a decrement and a test.
//!
//! | file | what |
//! |---|---|
//! | `kernel` | the raw system calls and their structs |
//! | `actions` | the client's view of every signal's action |
//! | `handler` | our fault handler, chaining, the trampoline |
//! | `thread` | per-thread state: alternate stack, depth, masks |
//! | `symbols` | the interposed functions |
//! | `threads` | those that begin and end threads; stacks of the engine's own threads |
//! | `waits` | those that wait with a mask of their own |
//!
//! Limits: a client handler that asks for its alternate stack runs on ours, which is always the larger one; while
//! one of the four is handled it is not blocked, so a handler that faults itself is entered again rather than killed
//! at once; the four, sent by someone while the client blocks them, are remembered once each; of several queued
//! instances of one real-time signal the first may come last when it was held back.
//!
//! Locks: one per action, taken with all signals blocked and never held across a call into anything else.

mod actions;
mod handler;
mod kernel;
mod resume;
pub mod symbols;
mod thread;
pub mod threads;
pub mod waits;

pub use handler::{TrapHook, Trapped, init, set_trap_hook};
pub use thread::{Inside, enter, with_faults};

/// A set of signals: bit `n - 1` is signal `n`, as the kernel has it.
type Set = u64;

/// The bit of a signal.
const fn bit(signal: i32) -> Set {
    1 << (signal - 1)
}

/// The four that never reach the client first.
const OURS: Set = bit(libc::SIGSEGV) | bit(libc::SIGBUS) | bit(libc::SIGILL) | bit(libc::SIGSYS);

/// Whether a signal is one of the four.
const fn is_ours(signal: i32) -> bool {
    signal >= 1 && signal <= 64 && OURS & bit(signal) != 0
}
