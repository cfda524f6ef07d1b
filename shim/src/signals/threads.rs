//! Threads: every new one is prepared before its first instruction.
//!
//! The engine's own threads run on stacks in the library's heap: one that libc maps would fill a hole of the client's, and
//! make a wrong address valid. libc never says when it is done with such a stack, so each is used again, but never
//! given back: once its thread has been joined, or was left to itself and is gone.
#![allow(unsafe_code, clippy::missing_safety_doc)] // C functions; their obligations are in the manual pages

use super::handler::is_ready;
use super::symbols::Next;
use super::{OURS, Set, bit, kernel, thread};
use crate::lock::Quiet;
use crate::{audit, guard};
use libc::{c_int, c_void, pthread_attr_t, pthread_t};
use std::alloc::{Layout, alloc};

type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

/// What a new thread is to run.
struct Begin {
    start: Start,
    argument: *mut c_void,
    blocked: Set,
    /// The stack that the engine gave it, if the engine made it for itself.
    own: Option<usize>,
}

extern "C-unwind" fn begin(what: *mut c_void) -> *mut c_void {
    // SAFETY: made by `pthread_create` below, for this thread alone.
    let Begin {
        start,
        argument,
        blocked,
        own,
    } = *unsafe { Box::from_raw(what.cast::<Begin>()) };
    thread::prepare();
    thread::here(|thread| thread.blocked.set(blocked));
    audit::thread_started();
    let Some(base) = own else {
        return start(argument);
    };
    guard::enter(|| {
        stack(
            |stack| stack.base == base,
            |stack| stack.id = kernel::thread(),
        );
        start(argument)
    })
}

/// A stack of the engine's, from its guard page on.
struct Stack {
    base: usize,
    bytes: usize,
    /// The thread that it was given to; 0 while it is nobody's or that thread is being made.
    thread: pthread_t,
    /// That thread's id in the kernel; 0 before its first instruction.
    id: u32,
    user: User,
}

#[derive(PartialEq, Eq)]
enum User {
    Nobody,
    /// A thread that will be joined: libc looks at the stack until then.
    Joinable,
    /// One that nobody waits for.
    Detached,
}

impl Stack {
    fn is_free(&self) -> bool {
        match self.user {
            User::Nobody => true,
            User::Joinable => false,
            User::Detached => self.id != 0 && !kernel::has_thread(self.id),
        }
    }
}

static STACKS: Quiet<Vec<Stack>> = Quiet::new(Vec::new());

/// Before fork.
pub fn quiesce() {
    STACKS.quiesce();
}

/// After fork, in parent and child.
pub fn resume() {
    STACKS.resume();
}

/// Changes a stack, if there is such a one.
fn stack(which: impl Fn(&Stack) -> bool, change: impl FnOnce(&mut Stack)) {
    STACKS.with(|stacks| stacks.iter_mut().find(|stack| which(stack)).map(change));
}

/// A stack of at least `bytes`, for a thread that is about to be made: its base. None without memory.
fn take(bytes: usize) -> Option<usize> {
    STACKS.with(|stacks| {
        let free = stacks
            .iter_mut()
            .find(|stack| stack.bytes == bytes && stack.is_free());
        if let Some(stack) = free {
            (stack.thread, stack.id, stack.user) = (0, 0, User::Joinable);
            return Some(stack.base);
        }
        let layout = Layout::from_size_align(bytes, GUARD).ok()?;
        // SAFETY: the size is not zero: it is a thread's stack.
        let base = unsafe { alloc(layout) };
        // SAFETY: the lowest page of a block of whole pages that is ours and stays ours.
        if base.is_null() || unsafe { libc::mprotect(base.cast(), GUARD, libc::PROT_NONE) } != 0 {
            return None;
        }
        let base = base as usize;
        stacks.push(Stack {
            base,
            bytes,
            thread: 0,
            id: 0,
            user: User::Joinable,
        });
        Some(base)
    })
}

/// The page below a stack that is never touched.
const GUARD: usize = 4096;

/// Every signal but those by which libc itself speaks to its threads.
const ALL_BUT_LIBCS: Set = !(bit(32) | bit(33));

type Create =
    unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;

/// libc's pthread_create.
fn create() -> Create {
    static NEXT: Next = Next::new(c"pthread_create");
    // SAFETY: libc's function of this name.
    unsafe { std::mem::transmute::<usize, Create>(NEXT.get()) }
}

/// pthread_create(3): a new thread has its alternate stack before its first instruction. A thread of the engine's own
/// is inside for its whole life, and all signals of the client go to other threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    if !is_ready() {
        // SAFETY: as the manual page says.
        return unsafe { create()(thread, attributes, start, argument) };
    }
    let blocked = thread::here(|thread| thread.blocked.get());
    let what = Box::new(Begin {
        start,
        argument,
        blocked,
        own: None,
    });
    // SAFETY: as the manual page says.
    unsafe {
        if guard::inside() {
            create_own(thread, attributes, what)
        } else {
            create_with(thread, attributes, what)
        }
    }
}

/// # Safety
/// As the manual page of pthread_create says.
unsafe fn create_with(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    what: Box<Begin>,
) -> c_int {
    let what = Box::into_raw(what);
    // SAFETY: the caller's obligation; on failure nobody took the box.
    unsafe {
        let failed = create()(thread, attributes, begin, what.cast());
        if failed != 0 {
            drop(Box::from_raw(what));
        }
        failed
    }
}

/// A thread of the engine's own. Of the attributes it has the stack's size.
///
/// # Safety
/// As the manual page of pthread_create says.
unsafe fn create_own(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    mut what: Box<Begin>,
) -> c_int {
    // SAFETY: the attributes are the caller's or null; those on this stack live until they are destroyed; the stack
    // belongs to this thread from its guard page on.
    unsafe {
        let mut own = std::mem::zeroed::<pthread_attr_t>();
        libc::pthread_attr_init(&raw mut own);
        let mut bytes = 0;
        libc::pthread_attr_getstacksize(
            if attributes.is_null() {
                &raw const own
            } else {
                attributes
            },
            &raw mut bytes,
        );
        let Some(base) = take(bytes) else {
            return libc::EAGAIN;
        };
        what.own = Some(base);
        libc::pthread_attr_setstack(&raw mut own, (base + GUARD) as *mut c_void, bytes - GUARD);
        // The new thread begins with our mask.
        let mask = kernel::sigprocmask(libc::SIG_BLOCK, Some(ALL_BUT_LIBCS & !OURS));
        let failed = create_with(thread, &raw const own, what);
        if let Ok(mask) = mask {
            let _ = kernel::sigprocmask(libc::SIG_SETMASK, Some(mask));
        }
        libc::pthread_attr_destroy(&raw mut own);
        stack(
            |stack| stack.base == base,
            |stack| match failed {
                0 => stack.thread = *thread,
                _ => stack.user = User::Nobody,
            },
        );
        failed
    }
}

/// pthread_join(3): the stack of a thread of the engine's own is free then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    type Join = unsafe extern "C" fn(pthread_t, *mut *mut c_void) -> c_int;
    static NEXT: Next = Next::new(c"pthread_join");
    // SAFETY: libc's function of this name, called as the manual page says.
    let failed = unsafe { std::mem::transmute::<usize, Join>(NEXT.get())(thread, value) };
    if failed == 0 && guard::inside() {
        stack(
            |stack| stack.thread == thread,
            |stack| stack.user = User::Nobody,
        );
    }
    failed
}

/// pthread_detach(3): the stack of a thread of the engine's own is free when the thread is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_detach(thread: pthread_t) -> c_int {
    type Detach = unsafe extern "C" fn(pthread_t) -> c_int;
    static NEXT: Next = Next::new(c"pthread_detach");
    if guard::inside() {
        stack(
            |stack| stack.thread == thread,
            |stack| stack.user = User::Detached,
        );
    }
    // SAFETY: libc's function of this name, called as the manual page says.
    unsafe { std::mem::transmute::<usize, Detach>(NEXT.get())(thread) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut};

    /// A size that nothing else asks the heap for.
    const BYTES: usize = 64 << 20;

    extern "C-unwind" fn where_am_i(_: *mut c_void) -> *mut c_void {
        let local = 0u8;
        std::ptr::without_provenance_mut((&raw const local).addr())
    }

    /// Makes a thread of the engine's own.
    fn own_thread() -> pthread_t {
        let mut thread = 0;
        let what = Box::new(Begin {
            start: where_am_i,
            argument: null_mut(),
            blocked: 0,
            own: None,
        });
        // SAFETY: the attributes are made and destroyed here.
        let failed = unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstacksize(&raw mut attributes, BYTES);
            let failed = create_own(&raw mut thread, &raw const attributes, what);
            libc::pthread_attr_destroy(&raw mut attributes);
            failed
        };
        assert_eq!(failed, 0);
        thread
    }

    /// Joins a thread: where its stack was.
    fn join(thread: pthread_t) -> usize {
        let mut value = null_mut();
        // SAFETY: nobody else joins it.
        assert_eq!(unsafe { pthread_join(thread, &raw mut value) }, 0);
        value as usize
    }

    fn block() -> usize {
        // SAFETY: of a size that is not zero; it is never given back.
        unsafe { alloc(Layout::from_size_align_unchecked(BYTES / 2, GUARD)) as usize }
    }

    #[test]
    fn an_own_thread_runs_on_the_librarys_range_and_its_stack_is_used_again_once_it_is_joined() {
        guard::enter(|| {
            let before = block();
            let (first, second) = (own_thread(), own_thread());
            let after = block();
            let (first, second) = (join(first), join(second));
            assert!(
                before < first && first < after,
                "{before:x} {first:x} {after:x}"
            );
            assert!(first.abs_diff(second) >= BYTES, "two threads share a stack");
            let third = join(own_thread());
            assert!([first, second].contains(&third), "a joined thread's stack");
            let detached = own_thread();
            // SAFETY: nobody joins it.
            assert_eq!(unsafe { pthread_detach(detached) }, 0);
            while !STACKS.with(|stacks| {
                stacks
                    .iter()
                    .filter(|stack| stack.bytes == BYTES)
                    .all(Stack::is_free)
            }) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_clients_thread_has_the_stack_that_libc_gives_it() {
        let mut thread = 0;
        // SAFETY: the function takes what it is given.
        let failed = unsafe { pthread_create(&raw mut thread, null(), where_am_i, null_mut()) };
        assert_eq!(failed, 0);
        let at = join(thread);
        let base = |stack: &Stack| (stack.base..stack.base + stack.bytes).contains(&at);
        assert!(!STACKS.with(|stacks| stacks.iter().any(base)));
    }
}
