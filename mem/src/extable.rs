//! The exception table: which instructions of ours may fault, and where each goes on when it does.
//!
//! Every faulting instruction sequence in [`crate::moves`] leaves an entry in the section `swiommu_ex_table`: the
//! first byte it covers, the first byte after it, and where to continue, each relative to its own field so that the
//! table needs no relocation. The section's name is a C identifier, so the linker defines the symbols around it, in
//! a program as in a shared library.
//!
//! The contract between a sequence and [`recover`]: on a fault rdx receives the address that faulted and execution
//! continues at the fixup with every other register as the faulting instruction left it.
#![allow(unsafe_code)] // reads a linker-made table, edits a signal frame, installs handlers

use std::sync::atomic::{AtomicU64, Ordering};

/// One row: three self-relative offsets.
#[repr(C)]
struct Entry {
    first: i32,
    end: i32,
    fixup: i32,
}

unsafe extern "C" {
    #[link_name = "__start_swiommu_ex_table"]
    static TABLE_FIRST: Entry;
    #[link_name = "__stop_swiommu_ex_table"]
    static TABLE_END: Entry;
}

/// The table, as the linker laid it out.
fn table() -> &'static [Entry] {
    let first = &raw const TABLE_FIRST;
    let end = &raw const TABLE_END;
    let count = (end as usize - first as usize) / size_of::<Entry>();
    // SAFETY: the linker puts the two symbols around the section, which holds nothing but entries pushed by the
    // macro of `moves` with this layout; it is never written.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// The address a self-relative field stands for.
fn target(field: &i32) -> u64 {
    (std::ptr::from_ref(field) as u64).wrapping_add_signed(i64::from(*field))
}

/// Lowest and highest address that any entry covers; 0 until first asked. Most faults that reach the handler are
/// the client's, outside of them, and the table is not searched at all.
static LOWEST: AtomicU64 = AtomicU64::new(0);
static HIGHEST: AtomicU64 = AtomicU64::new(0);

fn bounds() -> (u64, u64) {
    let highest = HIGHEST.load(Ordering::Acquire);
    if highest != 0 {
        return (LOWEST.load(Ordering::Relaxed), highest);
    }
    let lowest = table()
        .iter()
        .map(|e| target(&e.first))
        .min()
        .unwrap_or(u64::MAX);
    let highest = table().iter().map(|e| target(&e.end)).max().unwrap_or(1);
    LOWEST.store(lowest, Ordering::Relaxed);
    HIGHEST.store(highest, Ordering::Release);
    (lowest, highest)
}

/// Where execution continues if the instruction at `rip` faulted.
fn fixup(rip: u64) -> Option<u64> {
    let (lowest, highest) = bounds();
    if rip < lowest || rip >= highest {
        return None;
    }
    let hit = table()
        .iter()
        .find(|e| (target(&e.first)..target(&e.end)).contains(&rip));
    hit.map(|e| target(&e.fixup))
}

/// Called first by a handler of SIGSEGV and SIGBUS: if the fault is that of a copy into or out of client memory,
/// makes the copy go on with its failure and answers true; the handler then just returns. Async-signal-safe.
///
/// # Safety
/// 1. `context` is the third argument of a `SA_SIGINFO` handler that is running, for a SIGSEGV or SIGBUS raised by
///    an instruction of this thread (not sent by `kill`).
/// 2. The handler returns normally to that context when the answer is true.
pub unsafe fn recover(context: *mut libc::ucontext_t) -> bool {
    // SAFETY: obligation 1: the context is live and this thread's alone while its handler runs.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let Some(fixup) = fixup(registers[libc::REG_RIP as usize] as u64) else {
        return false;
    };
    registers[libc::REG_RDX as usize] = registers[libc::REG_CR2 as usize];
    registers[libc::REG_RIP as usize] = fixup as i64;
    true
}

/// Handlers of SIGSEGV and SIGBUS for a program that uses this crate without the preloaded library: tests,
/// benchmarks, other VMMs. A fault that is not ours restores the action found here and lets the instruction repeat.
/// Calling it again changes nothing.
pub fn install_handlers() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for (signal, old) in [(libc::SIGSEGV, &OLD[0]), (libc::SIGBUS, &OLD[1])] {
            // SAFETY: an all-zero sigaction is a valid one (SIG_DFL, empty mask); both pointers are live.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
                let mut before: libc::sigaction = std::mem::zeroed();
                let failed = libc::sigaction(signal, &action, &mut before) != 0;
                assert!(!failed, "sigaction refused signal {signal}");
                let _ = old.set(before);
            }
        }
    });
}

static OLD: [std::sync::OnceLock<libc::sigaction>; 2] = [const { std::sync::OnceLock::new() }; 2];

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel calls this with the context of the fault, and this function returns to it.
    if unsafe { recover(context.cast()) } {
        return;
    }
    let before = OLD[usize::from(signal == libc::SIGBUS)].get();
    let old = before.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: sigaction is async-signal-safe; `old` is the action that was found, or null, which changes nothing.
    unsafe {
        if old.is_null() {
            libc::signal(signal, libc::SIG_DFL);
        } else {
            libc::sigaction(signal, old, std::ptr::null_mut());
        }
    }
}
