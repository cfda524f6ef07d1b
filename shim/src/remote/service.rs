//! The threads that answer other processes: one that accepts, one for each connection, so that a call that waits keeps
//! nobody else waiting.
//!
//! They are started when a process forks with files of ours open, or first uses a file of another process, never before.
//! They block the client's signals, belong to the engine as far as interposed symbols are concerned, and end with the
//! process. Code that must be alone in its process (`unshare`) stops the first one meanwhile.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use swiommu_engine::door::Host;
use swiommu_engine::service::{Listener, Wire};
use swiommu_mem::fd::Hidden;

use super::{registry, serve};
use crate::lock::Quiet;
use crate::{config, guard};

/// What a thread needs of the client's address space for its stack.
const STACK: usize = 256 << 10;
/// How often files that only other processes have are looked at, while there are any.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

pub(super) struct Service {
    listener: Arc<Listener>,
    wake: Arc<Hidden>,
    thread: Option<JoinHandle<()>>,
}

pub(super) static SERVICE: Quiet<Option<Service>> = Quiet::new(None);
/// Connections that are being answered.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Makes the socket, from which on others can connect. `false` where that fails: they find nobody then.
pub(super) fn prepare() -> bool {
    let Some(config) = config::get() else {
        return false;
    };
    guard::enter(|| {
        SERVICE.with(|service| {
            if service.is_none() {
                *service = make(Path::new(&config.run));
            }
            service.is_some()
        })
    })
}

fn make(run: &Path) -> Option<Service> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    Some(Service {
        listener: Arc::new(Listener::new(run).ok()?),
        wake: Arc::new(Hidden::new(wake).ok()?),
        thread: None,
    })
}

/// Starts to answer, if there is a socket.
pub(super) fn start_if_prepared() {
    guard::enter(|| {
        SERVICE.with(|service| {
            if let Some(service) = service
                && service.thread.is_none()
            {
                let (listener, wake) = (Arc::clone(&service.listener), Arc::clone(&service.wake));
                service.thread = spawn(move || accept(&listener, &wake));
            }
        });
    });
}

/// Answers other processes from now on. Whether it does.
pub fn start() -> bool {
    let prepared = prepare();
    if prepared {
        start_if_prepared();
    }
    prepared
}

/// A thread of the engine's own: see `signals::threads`.
fn spawn(work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let builder = Builder::new().name("swiommu".into()).stack_size(STACK);
    builder.spawn(work).ok()
}

/// Accepts until it is told to stop.
fn accept(listener: &Listener, wake: &Hidden) {
    let mut orphans = false;
    loop {
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        let _ = poll(&mut ready, orphans.then_some(&LOOK));
        let (called, woken) = (
            !ready[0].revents().is_empty(),
            !ready[1].revents().is_empty(),
        );
        if woken {
            let mut count = [0; 8];
            let _ = rustix::io::read(wake.as_fd(), &mut count);
            if u64::from_ne_bytes(count) >= STOP {
                return;
            }
        }
        orphans = registry::reap();
        if called && let Ok(wire) = listener.accept() {
            // Without a thread to be had the connection closes, and the other process is told.
            CONNECTIONS.fetch_add(1, Ordering::Relaxed);
            if spawn(move || connection(&wire)).is_none() {
                CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn connection(wire: &Wire) {
    serve::until_closed(wire);
    CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    // The process may have ended: what only it had is nobody's now, at the latest in a moment.
    nudge();
}

/// What the event counter is set to for a stop; one stands for a look at the files.
const STOP: u64 = 1 << 32;

/// Lets the service look which files are still somebody's.
pub fn nudge() {
    signal(1);
}

fn signal(count: u64) {
    SERVICE.with(|service| {
        if let Some(service) = service {
            let _ = rustix::io::write(service.wake.as_fd(), &count.to_ne_bytes());
        }
    });
}

/// Runs `work` without the service's thread, if no process is being served just now. What others ask meanwhile waits.
pub fn without_thread<T>(work: impl FnOnce() -> T) -> T {
    let thread = match CONNECTIONS.load(Ordering::Relaxed) {
        0 => guard::enter(|| {
            SERVICE.with(|service| service.as_mut().and_then(|service| service.thread.take()))
        }),
        _ => None,
    };
    let Some(thread) = thread else { return work() };
    guard::enter(|| {
        signal(STOP);
        let _ = thread.join();
    });
    let result = work();
    start_if_prepared();
    result
}

/// In the child of a fork: the socket and the thread are the parent's.
pub(super) fn forget() {
    SERVICE.with(|service| std::mem::forget(service.take()));
    CONNECTIONS.store(0, Ordering::Relaxed);
}

/// The engine's way to the service.
pub struct Serving;

impl Host for Serving {
    fn serve(&self) {
        start();
    }
}
