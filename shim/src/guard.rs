//! Whether the calling thread is inside the engine, and the door in and out of it.
//!
//! While a thread is inside, symbols that the engine, std or the allocator happen to call go straight to the kernel.
//! The thread-local is a plain integer with a constant initialiser: reading it allocates nothing and is safe in a
//! signal handler.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{signals, sys};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// Whether the client's signals wait while a thread is inside.
static SIGNALS: AtomicBool = AtomicBool::new(false);

/// From now on they do: [`signals::init`] has run.
pub fn share_signals() {
    SIGNALS.store(true, Ordering::Relaxed);
}

/// Whether the calling thread runs engine code right now.
#[inline]
pub fn inside() -> bool {
    DEPTH.with(|depth| depth.get() != 0)
}

/// Runs engine code. A panic in there is our bug: it is reported and the process aborts, for nothing may unwind into
/// the client. `errno` is what it was before, so that success leaves it alone as the kernel does.
#[inline]
pub fn enter<T>(work: impl FnOnce() -> T) -> T {
    let errno = sys::errno();
    let held = SIGNALS.load(Ordering::Relaxed).then(signals::enter);
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    drop(held);
    sys::set_errno(errno);
    match result {
        Ok(value) => value,
        Err(panic) => bug(&*panic),
    }
}

/// Runs something short and signal-safe while the client's signals wait.
#[inline]
pub fn held<T>(work: impl FnOnce() -> T) -> T {
    let _held = SIGNALS.load(Ordering::Relaxed).then(signals::enter);
    work()
}

#[cold]
fn bug(panic: &(dyn std::any::Any + Send)) -> ! {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    sys::stderr(&["swiommu: internal error, please report it: ", text, "\n"]);
    std::process::abort()
}

/// Kernel thread id of the caller, remembered per thread.
#[inline]
pub fn thread() -> u32 {
    THREAD.with(|thread| {
        if thread.get() == 0 {
            thread.set(rustix::thread::gettid().as_raw_nonzero().get() as u32);
        }
        thread.get()
    })
}

/// Forgets what was remembered of the thread that called fork: in the child it has another id.
pub fn forked() {
    THREAD.with(|thread| thread.set(0));
    DEPTH.with(|depth| depth.set(0));
}
