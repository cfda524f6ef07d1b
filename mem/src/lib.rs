//! Client memory: the one place where a client's address becomes bytes.
//!
//! A client hands the engine addresses in structs, page tables and DMA descriptors. Each is an allegation: the page
//! may be absent, read-only, or vanish in the middle of a copy, because the client's other threads run. So no Rust
//! reference into client memory is ever made. Bytes move by a few instructions that are allowed to fault; a signal
//! handler recognises them by an exception table ([`recover`]) and the copy answers [`MemFault`] instead of dying.
//! A bad pointer costs about a microsecond, a good one nothing.
//!
//! Around that door stand the operations that only make sense beside it: faulting pages in as pinning would
//! ([`Client::populate`]), moving pages aside that the client gives up while a device may still use them
//! ([`park::steal`]), our own mappings of a medium ([`Mapping`]), and a few descriptors and limits of the client
//! ([`fd`], [`limit`]) that need raw system calls. No policy lives here: what is pinned, by whom and for how long is
//! the engine's affair.
//!
//! Nothing in this crate calls a libc function that a preloaded library may have replaced, except
//! [`install_handlers`], which is for programs without one. There are no locks.

mod caller;
mod client;
mod extable;
pub mod fd;
mod file;
mod forced;
pub mod limit;
mod mapping;
mod maps;
mod moves;
pub mod park;
mod populate;
mod raw;
pub mod share;
mod watch;
mod window;

pub use caller::Caller;
pub use client::Client;
pub use extable::{install_handlers, recover};
pub use file::{STRETCHES_MOST, Stretch};
pub use mapping::Mapping;
pub use maps::Files;
pub use populate::note_shared_file_mapping;
pub use watch::EventWatch;
pub use window::Window;

/// First address that no client has: 2^47. Above it lie non-canonical addresses and, on machines with five-level
/// paging, memory that Linux hands out only on request; both are refused without being touched.
pub const ADDRESS_END: u64 = 1 << 47;

/// Bytes in the smallest page.
pub const PAGE: u64 = 4096;

/// An address the client gave us: an allegation. Having one proves nothing about what lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

/// A copy stopped: `done` bytes were moved, the byte at `at` could not be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemFault {
    /// Bytes moved before the fault, always a prefix.
    pub done: u64,
    /// The address that faulted.
    pub at: UserAddr,
}
