//! Our fault handler, the client's handlers behind it, and the trampoline for all other signals.
#![allow(unsafe_code)] // signal frames and the client's function pointers

use super::kernel::{self, Action};
use super::{OURS, actions, bit, is_ours, resume, thread};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Asked about every SIGSEGV and SIGBUS that is not a faulting copy: the address that faulted and the interrupted
/// context, which it may change. It runs inside the engine (client handlers wait) on our alternate stack.
pub type TrapHook = fn(u64, &mut libc::ucontext_t) -> Trapped;

/// What a [`TrapHook`] makes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trapped {
    /// It is dealt with: the context shall be resumed.
    Done,
    /// It is the client's own.
    NotOurs,
    /// The client shall get SIGSEGV or SIGBUS with this address instead.
    Signal(i32, u64),
}

static HOOK: AtomicUsize = AtomicUsize::new(0);
static READY: AtomicBool = AtomicBool::new(false);

/// Registers the trap hook, once.
pub fn set_trap_hook(hook: TrapHook) {
    HOOK.store(hook as usize, Ordering::Release);
}

/// Whether [`init`] has run: before, interposed calls go to the kernel as they are.
pub(super) fn is_ready() -> bool {
    READY.load(Ordering::Acquire)
}

/// Takes the four signals over: what the process had for them becomes the client's action. To be called once, by the
/// library's constructor, before other threads exist.
///
/// # Safety
/// 1. No other code of the process relies on its own handlers for these signals being the kernel's, except through
///    the interposed functions.
/// 2. The library is never unloaded.
pub unsafe fn init() {
    thread::create_key();
    thread::prepare();
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGSYS] {
        let action = Action {
            handler: on_fault as *const () as usize,
            flags: (libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK) as u64,
            restorer: 0,
            mask: 0,
        };
        // SAFETY: `on_fault` has the signature that SA_SIGINFO promises and is async-signal-safe.
        if let Ok(old) = unsafe { kernel::sigaction(signal, Some(action)) } {
            actions::with(signal, |client| *client = old);
        }
    }
    own();
    // SAFETY: the function only stores a number.
    unsafe { libc::pthread_atfork(None, None, Some(own)) };
    READY.store(true, Ordering::Release);
}

/// The process whose actions the table describes. A vfork child shares this memory but not the actions.
static OWNER: AtomicU32 = AtomicU32::new(0);

extern "C" fn own() {
    OWNER.store(kernel::process(), Ordering::Relaxed);
}

extern "C-unwind" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel's pointers are live until this returns.
    let code = unsafe { (*info).si_code };
    if code > 0 && (signal == libc::SIGSEGV || signal == libc::SIGBUS) {
        // SAFETY: raised by an instruction of this thread (a positive code); this returns to the context.
        if unsafe { swiommu_mem::recover(context) } {
            return;
        }
        // SAFETY: as above; the address is valid for these signals.
        match unsafe { trapped((*info).si_addr() as u64, &mut *context) } {
            Trapped::Done => return,
            Trapped::NotOurs => {}
            Trapped::Signal(signal, at) => {
                let mut info = Fault::new(signal, at);
                // SAFETY: as above; nothing repeats this signal.
                return unsafe { chain(signal, (&raw mut info).cast(), context, false) };
            }
        }
    }
    let repeats = code > 0 && signal != libc::SIGSYS;
    // SAFETY: as above.
    unsafe { chain(signal, info, context, repeats) };
}

/// A siginfo of a fault, as the kernel lays it out.
#[repr(C)]
struct Fault {
    signal: i32,
    errno: i32,
    code: i32,
    at: u64,
    rest: [u64; 13],
}

impl Fault {
    /// Code 1 is SEGV_MAPERR, 2 is BUS_ADRERR: nothing is mapped there.
    fn new(signal: i32, at: u64) -> Fault {
        Fault {
            signal,
            errno: 0,
            code: if signal == libc::SIGBUS { 2 } else { 1 },
            at,
            rest: [0; 13],
        }
    }
}

const _: () = assert!(size_of::<Fault>() == size_of::<libc::siginfo_t>());

fn trapped(at: u64, context: &mut libc::ucontext_t) -> Trapped {
    let hook = HOOK.load(Ordering::Acquire);
    if hook == 0 {
        return Trapped::NotOurs;
    }
    // SAFETY: only `set_trap_hook` stores here.
    let hook: TrapHook = unsafe { std::mem::transmute(hook) };
    let inside = thread::enter();
    let done = hook(at, context);
    let mask_is_kept = inside.leave_by_return();
    if done == Trapped::Done && mask_is_kept {
        // SAFETY: the context is that of the handler we run in, which would return now; its mask was not changed.
        unsafe { resume::resume(context) };
    }
    done
}

/// Runs the client's action for one of the four. `repeats`: the signal would come again if this just returned.
///
/// # Safety
/// The arguments are those of a running handler.
unsafe fn chain(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
    repeats: bool,
) {
    // SAFETY: the caller's obligation.
    let raised = unsafe { (*info).si_code } > 0;
    let blocked = thread::here(|t| t.blocked.get()) & bit(signal) != 0;
    if blocked && !raised {
        thread::here(|t| t.held.set(t.held.get() | bit(signal)));
        return;
    }
    let (action, _) = actions::take_for_delivery(signal);
    match action.handler {
        libc::SIG_IGN if !raised => {}
        handler if handler > libc::SIG_IGN && !blocked => {
            let _ = kernel::sigprocmask(libc::SIG_BLOCK, Some(action.mask & !OURS));
            // SAFETY: the client registered this function for this use; the mask is restored by our return.
            unsafe { call(handler, action.flags, signal, info, context) };
        }
        // A fault that is blocked or ignored kills, as the kernel does it.
        _ => {
            // SAFETY: the default action needs no handler.
            let _ = unsafe { kernel::sigaction(signal, Some(Action::default())) };
            if !repeats {
                kernel::raise(signal);
            }
        }
    }
}

/// # Safety
/// `handler` is a function of the kind `flags` says, the rest the arguments of a running handler.
unsafe fn call(
    handler: usize,
    flags: u64,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    type Plain = extern "C-unwind" fn(i32);
    type Full = extern "C-unwind" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: obligation of the caller.
    unsafe {
        if flags & libc::SA_SIGINFO as u64 != 0 {
            std::mem::transmute::<usize, Full>(handler)(signal, info, context.cast());
        } else {
            std::mem::transmute::<usize, Plain>(handler)(signal);
        }
    }
}

/// Signals whose delivery cannot wait: raised by an instruction, or by the process to end itself.
fn cannot_wait(signal: i32, code: i32) -> bool {
    signal == libc::SIGABRT
        || (code > 0 && code != SI_KERNEL && matches!(signal, libc::SIGFPE | libc::SIGTRAP))
}

const SI_KERNEL: i32 = 0x80;

/// The kernel's handler for every other signal that the client handles.
extern "C-unwind" fn trampoline(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel's pointers are live until this returns.
    let code = unsafe { (*info).si_code };
    if thread::is_inside() && !cannot_wait(signal, code) {
        let _ = kernel::sigprocmask(libc::SIG_BLOCK, Some(bit(signal)));
        // SAFETY: the siginfo is the kernel's own; the first word of uc_sigmask is the kernel's mask, which our return
        // restores.
        unsafe {
            let mask = (&raw mut (*context).uc_sigmask).cast::<u64>();
            *mask |= bit(signal);
            kernel::queue_to_self(signal, info);
        }
        thread::here(|t| t.deferred.set(t.deferred.get() | bit(signal)));
        return;
    }
    let (action, once) = actions::take_for_delivery(signal);
    if once {
        // SAFETY: the default action needs no handler.
        let _ = unsafe { kernel::sigaction(signal, Some(Action::default())) };
    }
    if action.handler > libc::SIG_IGN {
        // SAFETY: the client registered this function for this use.
        unsafe { call(action.handler, action.flags, signal, info, context) };
    }
}

/// sigaction as the client sees it: sets `new`, if given, and answers what it had set before.
///
/// # Safety
/// A handler in `new` is a function of the kind its flags say.
pub(super) unsafe fn client_action(signal: i32, new: Option<Action>) -> Result<Action, i32> {
    if !(1..=64).contains(&signal) {
        return Err(libc::EINVAL);
    }
    if !is_ready() || kernel::process() != OWNER.load(Ordering::Relaxed) {
        // SAFETY: the caller's obligation.
        return unsafe { kernel::sigaction(signal, new) };
    }
    if is_ours(signal) {
        return Ok(actions::with(signal, |client| match new {
            Some(new) => std::mem::replace(client, new),
            None => *client,
        }));
    }
    actions::with(signal, |client| {
        let behind = new.map(|new| {
            if new.handler > libc::SIG_IGN {
                behind_trampoline(new)
            } else {
                new
            }
        });
        let before = *client;
        let installs = behind.is_some_and(|action| action.handler > libc::SIG_IGN);
        if let (true, Some(new)) = (installs, new) {
            *client = new;
        }
        // SAFETY: the trampoline has the signature that its flags promise; otherwise there is no handler.
        let old = unsafe { kernel::sigaction(signal, behind) }.inspect_err(|_| *client = before)?;
        if let (false, Some(new)) = (installs, new) {
            *client = new;
        }
        // What something else than our trampoline had installed is shown as it is.
        Ok(if old.handler == trampoline as *const () as usize {
            before
        } else {
            old
        })
    })
}

fn behind_trampoline(client: Action) -> Action {
    let once = libc::SA_RESETHAND as u64;
    Action {
        handler: trampoline as *const () as usize,
        flags: client.flags & !once | libc::SA_SIGINFO as u64,
        restorer: 0,
        mask: client.mask & !OURS,
    }
}
