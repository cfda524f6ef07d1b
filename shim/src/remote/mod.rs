//! Files that several processes have: the engine answers here, whoever holds the descriptor.
//!
//! ```text
//! registry  the owner's side: which file a kernel object stands for, alive until the last process closed it
//! service   the socket and its threads, in the owner and in every process that uses another one's file
//! serve     what is asked there: a file's operations; a descriptor or memory of this process
//! peer      another process, as the engine here sees it
//! file      the other side: a file whose engine is elsewhere
//! share     this process's memory, moved where another engine can map it
//! adopt     descriptors that came over a socket or an exec
//! takeover  files that their opener left behind unused
//! ```
//!
//! A file is the same file in every process that has its descriptor because its kernel object is: what names it is the
//! object's inode.

pub mod adopt;
pub mod file;
mod peer;
pub mod registry;
mod serve;
pub mod service;
pub mod share;
mod takeover;

use crate::guard;

/// Before a fork that libc does not see: the child will be able to ask for what it inherits.
pub fn offer() {
    if !guard::inside() && registry::enter_all() {
        service::start();
    }
}

/// Before fork: the child will be able to ask for what it inherits, and nothing is half done until [`resume`] or
/// [`forked`].
pub fn quiesce() {
    if registry::enter_all() {
        service::prepare();
    }
    share::quiesce();
    registry::REAPING.quiesce();
    registry::SHARED.quiesce();
    service::SERVICE.quiesce();
    file::IDLE.quiesce();
}

/// After fork, in the parent.
pub fn resume() {
    file::IDLE.resume();
    service::SERVICE.resume();
    registry::SHARED.resume();
    registry::REAPING.resume();
    share::resume();
    service::start_if_prepared();
}

/// After fork, in the child, first: the parent's locks and descriptors are not ours.
pub fn forked() {
    file::IDLE.resume();
    service::SERVICE.resume();
    registry::SHARED.resume();
    registry::REAPING.resume();
    swiommu_mem::fd::forked();
    service::forget();
    file::forget();
}

/// After fork, in the child, last: every file has become one of the parent's.
pub fn settled() {
    registry::forget();
    share::forked();
}
