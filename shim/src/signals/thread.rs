//! What each thread has: an alternate stack of ours, its depth inside the engine, what the client believes its mask
//! and its alternate stack to be.
#![allow(unsafe_code)] // alternate stacks

use super::{Set, kernel};
use std::alloc::{self, Layout};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

/// Our stack's size unless the client wants more: the engine's deepest call and a nested frame with AMX state fit
/// several times. Only touched pages cost memory.
const STACK: usize = 256 << 10;
const PAGE: usize = 4096;
/// How much larger than the client's our stack is.
const MARGIN: usize = 128 << 10;

/// The thread-local words. All are plain cells without destructors, so a handler may use them at any time.
pub(super) struct Thread {
    /// Nested entries into the engine.
    depth: Cell<u32>,
    /// Signals held back meanwhile.
    pub deferred: Cell<Set>,
    /// Which of our four the client believes blocked.
    pub blocked: Cell<Set>,
    /// Which of those were sent meanwhile.
    pub held: Cell<Set>,
    /// Our stack: base and size; 0 before the first entry.
    base: Cell<usize>,
    size: Cell<usize>,
    /// The thread is ending and has given its stack back for good.
    ended: Cell<bool>,
    /// The client's stack: base, flags, size.
    client: Cell<(usize, i32, usize)>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            depth: Cell::new(0),
            deferred: Cell::new(0),
            blocked: Cell::new(0),
            held: Cell::new(0),
            base: Cell::new(0),
            size: Cell::new(0),
            ended: Cell::new(false),
            client: Cell::new((0, libc::SS_DISABLE, 0)),
        }
    };
}

/// This thread's words.
#[inline]
pub(super) fn here<T>(f: impl FnOnce(&Thread) -> T) -> T {
    THREAD.with(f)
}

/// While it lives, the thread is inside the engine: the client's handlers wait. It belongs to its thread.
#[must_use = "the thread is inside only while this lives"]
#[derive(Debug)]
pub struct Inside(PhantomData<*const ()>);

/// Enters the engine. Entries nest; the outermost exit lets held signals through.
#[inline]
pub fn enter() -> Inside {
    here(|thread| {
        if thread.base.get() == 0 {
            prepare();
        }
        thread.depth.set(thread.depth.get() + 1);
    });
    Inside(PhantomData)
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        let deferred = here(|thread| {
            let depth = thread.depth.get() - 1;
            thread.depth.set(depth);
            if depth == 0 {
                thread.deferred.replace(0)
            } else {
                0
            }
        });
        if deferred != 0 {
            let _ = kernel::sigprocmask(libc::SIG_UNBLOCK, Some(deferred));
        }
    }
}

impl Inside {
    /// Leaves from within a fault handler: its return restores the mask, which lets held signals through. True if none
    /// was held, so that the mask is as it was.
    pub(super) fn leave_by_return(self) -> bool {
        std::mem::forget(self);
        here(|thread| {
            let depth = thread.depth.get() - 1;
            thread.depth.set(depth);
            depth == 0 && thread.deferred.replace(0) == 0
        })
    }
}

/// Runs `f` with our four signals deliverable whatever the kernel's mask is, and restores the mask. For the engine's
/// work inside a call of libc's own: libc blocks every signal while a thread ends, and its last munmap comes then.
pub fn with_faults<T>(f: impl FnOnce() -> T) -> T {
    let old = kernel::sigprocmask(libc::SIG_UNBLOCK, Some(super::OURS));
    let value = f();
    if let Ok(old) = old.map(|old| old & super::OURS)
        && old != 0
    {
        let _ = kernel::sigprocmask(libc::SIG_BLOCK, Some(old));
    }
    value
}

/// Whether this thread is inside.
pub(super) fn is_inside() -> bool {
    here(|thread| thread.depth.get() != 0)
}

/// Gives this thread its alternate stack, once, and unblocks our four.
#[cold]
pub(super) fn prepare() {
    let _ = kernel::sigprocmask(libc::SIG_UNBLOCK, Some(super::OURS));
    if here(|thread| thread.base.get() == 0 && !thread.ended.get()) {
        // The heap enters, and must find nothing left to prepare.
        here(|thread| thread.base.set(COMING));
        give(STACK);
    }
}

/// In place of a base while the first stack is being made, or could not be.
const COMING: usize = 1;

/// A stack's place in the library's heap: a mapping of its own would fill a hole of the client's.
fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, PAGE).unwrap_or(Layout::new::<()>())
}

/// Makes a stack of at least `size` bytes this thread's. Without memory the thread keeps what it has.
fn give(size: usize) {
    let size = size.next_multiple_of(PAGE);
    // SAFETY: the size is not zero.
    let base = unsafe { alloc::alloc(layout(size)) };
    if base.is_null() {
        return;
    }
    let stack = libc::stack_t {
        ss_sp: base.cast(),
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the memory is the stack's until this thread has another one or none.
    if unsafe { kernel::sigaltstack(&stack) }.is_err() {
        free(base as usize, size);
        return;
    }
    let (old_base, old_size) = here(|thread| {
        (
            thread.base.replace(base as usize),
            thread.size.replace(size),
        )
    });
    free(old_base, old_size);
    mark_for_release();
}

fn free(base: usize, size: usize) {
    if size != 0 {
        // SAFETY: a former stack of this thread, made by `give`, which no longer runs on it.
        unsafe { alloc::dealloc(base as *mut u8, layout(size)) };
    }
}

/// The key whose destructor releases a thread's stack, plus one; 0 before [`create_key`].
static KEY: AtomicU32 = AtomicU32::new(0);

/// To be called once, before threads are.
pub(super) fn create_key() {
    let mut key = 0;
    // SAFETY: the destructor is a function that may run at a thread's end.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(release)) } == 0 {
        KEY.store(key + 1, Ordering::Release);
    }
}

fn mark_for_release() {
    if let Some(key) = KEY.load(Ordering::Acquire).checked_sub(1) {
        // SAFETY: the key exists; the value only has to be non-null.
        unsafe { libc::pthread_setspecific(key, std::ptr::dangling::<u8>().cast()) };
    }
}

extern "C" fn release(_: *mut libc::c_void) {
    let none = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    here(|thread| thread.ended.set(true));
    // SAFETY: a thread's end does not run on its alternate stack; without one, faults use the ordinary stack.
    if unsafe { kernel::sigaltstack(&none) }.is_ok() {
        let (base, size) = here(|thread| (thread.base.replace(0), thread.size.replace(0)));
        free(base, size);
    }
}

/// sigaltstack as the client sees it.
pub(super) fn client_stack(new: Option<libc::stack_t>) -> Result<libc::stack_t, i32> {
    let marker = 0u8;
    let sp = &raw const marker as usize;
    here(|thread| {
        let (base, flags, size) = thread.client.get();
        // On our stack with a stack of its own set means: in a handler that the kernel would run there.
        let on_ours = sp.wrapping_sub(thread.base.get()) < thread.size.get();
        let on_it = on_ours && flags & libc::SS_DISABLE == 0;
        let shown = if on_it { libc::SS_ONSTACK } else { flags };
        let old = libc::stack_t {
            ss_sp: base as *mut _,
            ss_flags: shown,
            ss_size: size,
        };
        let Some(new) = new else { return Ok(old) };
        if on_it {
            return Err(libc::EPERM);
        }
        let mode = new.ss_flags & !SS_AUTODISARM;
        match mode {
            libc::SS_DISABLE => thread.client.set((0, libc::SS_DISABLE, 0)),
            0 | libc::SS_ONSTACK => {
                if new.ss_size < MINIMUM {
                    return Err(libc::ENOMEM);
                }
                thread.client.set((
                    new.ss_sp as usize,
                    new.ss_flags & SS_AUTODISARM,
                    new.ss_size,
                ));
                if new.ss_size + MARGIN > thread.size.get() && !on_ours {
                    give(new.ss_size + MARGIN);
                }
            }
            _ => return Err(libc::EINVAL),
        }
        Ok(old)
    })
}

/// The kernel's MINSIGSTKSZ.
const MINIMUM: usize = 2048;
const SS_AUTODISARM: i32 = 1 << 31;

/// A mask change as the client sees it: applies what concerns the kernel, remembers the rest, answers the old mask.
pub(super) fn client_mask(how: i32, set: Option<Set>) -> Result<Set, i32> {
    let old = kernel::sigprocmask(
        how,
        set.map(|set| {
            if how == libc::SIG_UNBLOCK {
                set
            } else {
                set & !super::OURS
            }
        }),
    )?;
    here(|thread| {
        let before = thread.blocked.get();
        if let Some(set) = set {
            let ours = set & super::OURS;
            let after = match how {
                libc::SIG_BLOCK => before | ours,
                libc::SIG_UNBLOCK => before & !ours,
                _ => ours,
            };
            thread.blocked.set(after);
            let due = thread.held.get() & !after;
            thread.held.set(thread.held.get() & after);
            (1..=64)
                .filter(|&signal| due & super::bit(signal) != 0)
                .for_each(kernel::raise);
        }
        Ok(old & !super::OURS | before)
    })
}
