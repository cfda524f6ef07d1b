//! Eventfds that the client writes to and a function acts on: the end of a line interrupt that a virtual machine has
//! dealt with, and ioeventfds (`drivers/vfio/virqfd.c`).
//!
//! Somebody has to watch the eventfd while the client's threads do other things: a thread that sleeps, from the call
//! that sets the eventfd until the one that takes it away. What it does it does under the lock of the function.

use std::sync::{Arc, Weak};

use swiommu_abi::Errno;
use swiommu_mem::EventWatch;

/// Bytes of the watching thread's stack.
const STACK: usize = 128 << 10;

/// A function that acts on eventfds.
pub trait Watcher: Send + Sync {
    /// The client wrote to an eventfd. The function may have done with it meanwhile.
    fn written(&self, watch: &Arc<EventWatch>);
}

/// An eventfd that a function acts on, and its thread. Dropping it lets both go.
#[derive(Debug)]
pub struct Virqfd(Arc<EventWatch>);

impl Virqfd {
    /// Begins to watch.
    ///
    /// # Errors
    /// ENOMEM without another thread.
    pub fn start(watch: EventWatch, watcher: Weak<dyn Watcher>) -> Result<Virqfd, Errno> {
        let virqfd = Virqfd(Arc::new(watch));
        let watch = virqfd.0.clone();
        std::thread::Builder::new()
            .name("swiommu-virqfd".into())
            .stack_size(STACK)
            .spawn(move || {
                while watch.wait()
                    && let Some(watcher) = watcher.upgrade()
                {
                    watcher.written(&watch);
                }
            })
            .map_err(|_| Errno::ENOMEM)?;
        Ok(virqfd)
    }

    /// Whether this is what the thread of `watch` watches for.
    pub fn is(&self, watch: &Arc<EventWatch>) -> bool {
        Arc::ptr_eq(&self.0, watch)
    }

    /// Whether it bars another: the kernel forgets an eventfd with its last descriptor.
    pub fn is_in_use(&self) -> bool {
        self.0.is_open()
    }
}

impl Drop for Virqfd {
    fn drop(&mut self) {
        self.0.stop();
    }
}
