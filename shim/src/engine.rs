//! The engine of this process: made at the first touch of a device node, gone with the process.
#![allow(unsafe_code)] // the engine is published as a raw pointer

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex};

use swiommu_engine::door::{Call, Engine};
use swiommu_mem::{Client, UserAddr};

use crate::files::Table;
use crate::lock::Lock;
use crate::remote::service::Serving;
use crate::{config, guard, process, sys};

/// How an engine is made from the run's directory.
pub type Factory = fn(&str) -> Result<Arc<dyn Engine>, String>;

static ENGINE: AtomicPtr<Arc<dyn Engine>> = AtomicPtr::new(null_mut());
static FACTORY: Mutex<Factory> = Mutex::new(open_run);
static EXITED: AtomicBool = AtomicBool::new(false);
static MAKING: Lock = Lock::new();

/// The real engine.
fn open_run(run: &str) -> Result<Arc<dyn Engine>, String> {
    let options = config::get()
        .map(|config| config.options.clone())
        .unwrap_or_default();
    if crate::symbols::map::is_libc_unseen() {
        sys::stderr(&[
            "swiommu: pages that libc gives back while they are pinned are not kept; see `swiommu doctor`\n",
        ]);
    }
    swiommu_engine::open_run(run, options, client())
}

/// Makes later engines with another factory (tests).
pub fn set_factory(factory: Factory) {
    *FACTORY
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = factory;
}

/// The engine, if one was made.
#[inline]
pub fn existing() -> Option<&'static Arc<dyn Engine>> {
    // SAFETY: a published engine is never freed.
    unsafe { ENGINE.load(Ordering::Acquire).as_ref() }
}

/// The engine, made now if need be. `None` after a message on stderr.
pub fn get() -> Option<&'static Arc<dyn Engine>> {
    if process::is_borrowed() {
        sys::stderr(&[
            "swiommu: not supported by swiommu: opening a VFIO node between vfork and exec\n",
        ]);
        return None;
    }
    existing().or_else(|| guard::enter(make))
}

#[cold]
fn make() -> Option<&'static Arc<dyn Engine>> {
    MAKING.lock();
    let made = existing().is_some() || build();
    MAKING.unlock();
    if made { existing() } else { None }
}

/// Makes and publishes the engine; the caller holds the lock.
fn build() -> bool {
    let Some(config) = config::get() else {
        return false;
    };
    let factory = *FACTORY
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match factory(&config.run) {
        Ok(engine) => {
            engine.attach(&Serving);
            ENGINE.store(Box::into_raw(Box::new(engine)), Ordering::Release);
            crate::ready();
            true
        }
        Err(why) => {
            sys::stderr(&["swiommu: ", &why, "\n"]);
            false
        }
    }
}

/// The client: this process.
pub fn client() -> Client {
    // SAFETY: the client is the process this library was loaded into.
    unsafe { Client::local() }
}

/// Runs `work` as a call of the client that returns to `site`.
#[inline]
pub fn call<T>(site: usize, work: impl FnOnce(&Call<'_>) -> T) -> T {
    guard::enter(|| {
        work(&Call {
            client: client().into(),
            thread: guard::thread(),
            site: site as u64,
            files: &Table,
        })
    })
}

/// The client is about to take away `bytes` bytes at `first`: pinned pages there move aside before it does.
#[inline]
pub fn vacate(site: usize, first: usize, bytes: usize) {
    if bytes == 0 || guard::inside() {
        return;
    }
    if let Some(engine) = existing() {
        call(site, |call| {
            engine.vacate(call, UserAddr(first as u64), bytes as u64)
        });
    }
}

/// The process exits in good order. Only the first call counts.
pub fn exit() {
    if let Some(engine) = existing()
        && !process::is_borrowed()
        && !EXITED.swap(true, Ordering::Relaxed)
    {
        guard::enter(|| engine.exit());
    }
}

/// Before fork: no engine is being made until [`resume`] or [`forked`].
pub fn quiesce() {
    MAKING.lock();
}

/// After fork, in the parent.
pub fn resume() {
    MAKING.unlock();
}

/// In the child of a fork: the parent's engine is not ours to call or to drop.
pub fn forked() {
    ENGINE.store(null_mut(), Ordering::Release);
    EXITED.store(false, Ordering::Relaxed);
    MAKING.unlock();
}
