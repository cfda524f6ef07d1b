//! INTx unmask by eventfd: a client that forwards its line to a virtual machine has the end of the interrupt written
//! there (`drivers/vfio/virqfd.c`).
//!
//! Somebody has to watch the eventfd while the client's threads do other things: a thread that sleeps, from the call
//! that sets the eventfd until the one that takes it away. What it does it does under the lock of the function.

use std::sync::{Arc, Weak};

use swiommu_abi::Errno;
use swiommu_mem::EventWatch;

/// Bytes of the watching thread's stack.
const STACK: usize = 128 << 10;

/// A function with an INTx line.
pub trait Line: Send + Sync {
    /// The client wrote to the eventfd that unmasks the line.
    fn unmask_written(&self, watch: &Arc<EventWatch>);
}

/// An eventfd that unmasks INTx, and its thread. Dropping it lets both go.
#[derive(Debug)]
pub struct Unmask(Arc<EventWatch>);

impl Unmask {
    /// Begins to watch.
    ///
    /// # Errors
    /// ENOMEM without another thread.
    pub fn start(watch: EventWatch, line: Weak<dyn Line>) -> Result<Unmask, Errno> {
        let unmask = Unmask(Arc::new(watch));
        let watch = unmask.0.clone();
        std::thread::Builder::new()
            .name("swiommu-unmask".into())
            .stack_size(STACK)
            .spawn(move || {
                while watch.wait()
                    && let Some(line) = line.upgrade()
                {
                    line.unmask_written(&watch);
                }
            })
            .map_err(|_| Errno::ENOMEM)?;
        Ok(unmask)
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

impl Drop for Unmask {
    fn drop(&mut self) {
        self.0.stop();
    }
}
