//! The atomics behind [`crate::drain`], switchable to loom's with `--cfg loom`.
//!
//! Only the announcements go through here. Table entries are always real atomics: they live in pages
//! that loom could not own.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Orders everything before a sequentially consistent read-modify-write, made just now by this
/// thread, before everything after it.
///
/// On x86-64 that instruction is already a full barrier, so only the compiler must be held back. The
/// C++ memory model, loom and other processors want the fence spelled out.
#[inline(always)]
pub(crate) fn barrier_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(all(not(target_arch = "x86_64"), not(loom)))]
    std::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// One step of waiting: spin a little, then let others run.
pub(crate) fn relax(_round: u32) {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    if _round < 200 {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// A value that no other live thread has. Never zero.
#[cfg(not(loom))]
#[inline]
pub(crate) fn thread_token() -> u64 {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token) as u64)
}

/// A value that no other live thread has. Never zero. (Loom's threads share one system thread.)
#[cfg(loom)]
pub(crate) fn thread_token() -> u64 {
    use std::sync::atomic::{AtomicU64 as Counter, Ordering};
    static NEXT: Counter = Counter::new(1);
    loom::thread_local!(static TOKEN: u64 = NEXT.fetch_add(1, Ordering::Relaxed));
    TOKEN.with(|token| *token)
}
