//! The preloaded library of swiommu: what a client's calls to libc meet first.
//!
//! ```text
//! symbols/*   the C functions; decide whether a call is ours
//!   paths     which paths lead into the run's tree, and back
//!   files     descriptor number -> the engine's file (slot: one number)
//!   attributes writes to files below /sys: the host's side of the machine
//!   map       mappings of our files; traps: address -> file, read by the fault handler
//!   signals   the client's signal handlers behind ours
//!   trap      one faulting instruction on a register page, carried out (mmio) on the device
//!   engine    the engine of this process, made at the first touch
//!   guard     whether this thread is inside the engine; heap: its own memory
//!   signals, mmio, trap   the client's signals behind ours; a register access carried out
//!   libc_entry  libc's own calls of munmap and its kin
//!   mock      what selftests of the kernel want, in a run with test equipment
//!   process   fork, vfork, exit
//!   remote    files that several processes have
//! ```
//!
//! In a process without `SWIOMMU_RUN` every symbol is libc's.
#![allow(unsafe_code)] // the constructor

#[cfg(not(loom))]
mod attributes;
#[cfg(not(loom))]
mod audit;
#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod files;
#[cfg(not(loom))]
pub mod guard;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
pub mod libc_entry;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
pub mod map;
#[cfg(not(loom))]
pub mod mmio;
#[cfg(not(loom))]
mod mock;
#[cfg(not(loom))]
mod node;
#[cfg(not(loom))]
pub mod paths;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
mod real;
#[cfg(not(loom))]
pub mod remote;
#[cfg(not(loom))]
mod selftest;
#[cfg(not(loom))]
pub mod signals;
pub mod slot;
#[cfg(not(loom))]
mod stat;
#[cfg(not(loom))]
pub mod symbols;
pub mod sync;
#[cfg(not(loom))]
pub mod sys;
#[cfg(not(loom))]
pub mod trap;
#[cfg(not(loom))]
pub mod traps;

/// Run by the dynamic linker before main.
#[cfg(not(loom))]
extern "C" fn begin() {
    let Some(config) = config::get() else { return };
    config::announce(config);
    mock::begin(config);
    // SAFETY: one thread, before main; other code reaches these signals through the functions that we define; the
    // library is never unloaded (see `.init_array` below: it was preloaded).
    unsafe { signals::init() };
    guard::share_signals();
    swiommu_mem::fd::make_room();
    process::install();
    let caught = symbols::catch_libc();
    if config.options.selftest {
        selftest::run(config, &caught);
    }
    paths::working_directory_changed();
    attributes::inherited();
    remote::adopt::inherited();
    if config.options.audit {
        audit::begin();
    }
}

#[cfg(not(loom))]
#[used]
// SAFETY: the dynamic linker calls the addresses in this section with the C convention, once, in one thread.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// An engine was made: what only its users need is prepared.
#[cfg(not(loom))]
fn ready() {
    mmio::warm_up();
    signals::set_trap_hook(trap::on_fault);
}
