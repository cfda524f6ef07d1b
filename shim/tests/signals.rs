//! Signals in a process that has the handlers of the library: its own fault handlers, masks and stacks stay its own.
#![allow(unsafe_code)] // C functions, raw memory

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use swiommu::guard;
use swiommu::mmio::{Bus, Registers, emulate, warm_up};
use swiommu::signals::{Trapped, enter, init, set_trap_hook, symbols, with_faults};
use swiommu_mem::{Client, UserAddr};

static TRAPPED: AtomicU64 = AtomicU64::new(0);
static WRITES: AtomicU64 = AtomicU64::new(0);
/// A page whose registers are not there.
static GONE: AtomicU64 = AtomicU64::new(1);

struct Device;

impl Bus for Device {
    fn is_trapped(&self, at: u64) -> bool {
        at & !4095 == TRAPPED.load(Ordering::Relaxed)
    }
    fn read(&mut self, at: u64, _: u8) -> Option<u64> {
        Some(0xabcd_0000 | at & 4095)
    }
    fn write(&mut self, _: u64, _: u8, value: u64) -> Option<()> {
        WRITES.store(value, Ordering::Relaxed);
        // The engine itself touches client memory from within a trap.
        let absent = client().load(UserAddr(8), 8);
        assert!(absent.is_err());
        Some(())
    }
}

fn client() -> Client {
    // SAFETY: `init` has installed the handlers; the addresses are tests' own.
    unsafe { Client::local() }
}

fn on_trap(at: u64, context: &mut libc::ucontext_t) -> Trapped {
    if at & !4095 == GONE.load(Ordering::Relaxed) {
        return Trapped::Signal(libc::SIGBUS, at);
    }
    if !Device.is_trapped(at) {
        return Trapped::NotOurs;
    }
    // SAFETY: the context of the running handler.
    let mut registers = unsafe { Registers::of_context(context) };
    let mut code = [0; 15];
    let read = client().read(UserAddr(registers.rip), &mut code);
    assert_eq!(read, Ok(()));
    emulate(&mut registers, &code, client(), &mut Device).unwrap();
    // SAFETY: as above.
    unsafe { registers.to_context(context) };
    Trapped::Done
}

/// One test at a time, with everything set up.
fn set_up() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    static ONCE: Once = Once::new();
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    ONCE.call_once(|| {
        // SAFETY: a test program without handlers of its own so far.
        unsafe { init() };
        warm_up();
        set_trap_hook(on_trap);
        TRAPPED.store(page(ProtFlags::empty()), Ordering::Relaxed);
    });
    guard
}

fn page(protection: ProtFlags) -> u64 {
    // SAFETY: the kernel chooses the address.
    unsafe { rustix::mm::mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) }.unwrap()
        as u64
}

/// A register access by an instruction of the client's own.
fn register_round_trip() {
    let at = TRAPPED.load(Ordering::Relaxed);
    let value: u32;
    // SAFETY: the page traps, and the hook carries the accesses out.
    unsafe {
        std::arch::asm!("mov {v:e}, [{at} + 0x14]", "mov [{at}], {v:e}", at = in(reg) at, v = out(reg) value);
    }
    assert_eq!(value, 0xabcd_0014);
    assert_eq!(WRITES.load(Ordering::Relaxed), 0xabcd_0014);
}

/// Installs a handler by the interposed sigaction and answers the old action.
fn install(signal: i32, handler: usize, flags: i32) -> libc::sigaction {
    // SAFETY: plain structs.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        let mut old: libc::sigaction = zeroed();
        assert_eq!(symbols::sigaction(signal, &action, &mut old), 0);
        old
    }
}

static SEEN: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU32 = AtomicU32::new(0);

extern "C" fn repair(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo; the page is the test's.
    unsafe {
        assert_eq!((*info).si_signo, signal);
        let at = (*info).si_addr() as u64;
        SEEN.store(at, Ordering::Relaxed);
        let all = MprotectFlags::READ | MprotectFlags::WRITE;
        rustix::mm::mprotect((at & !4095) as *mut _, 4096, all).unwrap();
    }
}

extern "C" fn count(_: i32) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn take_value(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo.
    SEEN.store(
        unsafe { (*info).si_value() }.sival_ptr as u64,
        Ordering::Relaxed,
    );
    COUNT.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_register_access_reaches_the_hook_and_the_engine_may_fault_meanwhile() {
    let _one = set_up();
    register_round_trip();
}

#[test]
fn vector_registers_are_read_from_and_written_to_the_signal_frame() {
    let _one = set_up();
    let at = TRAPPED.load(Ordering::Relaxed);
    let (mut low, mut high) = ([0u64; 2], [0u64; 4]);
    // SAFETY: the page traps, and the hook carries the accesses out.
    unsafe {
        std::arch::asm!(
            "movups xmm13, [{at} + 0x20]", "movups [{low}], xmm13", "movups [{at} + 0x40], xmm13",
            at = in(reg) at, low = in(reg) &raw mut low, out("xmm13") _
        );
        assert_eq!(WRITES.load(Ordering::Relaxed), low[1]);
        if std::arch::is_x86_feature_detected!("avx") {
            std::arch::asm!(
                "vzeroall", "vmovdqu ymm9, [{at} + 0x60]", "vmovdqu [{high}], ymm9", "vmovdqu [{at}], ymm9", "vzeroupper",
                at = in(reg) at, high = in(reg) &raw mut high,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _
            );
            assert_eq!(high, [0xabcd_0060, 0xabcd_0068, 0xabcd_0070, 0xabcd_0078]);
            assert_eq!(WRITES.load(Ordering::Relaxed), high[3]);
        }
    }
    assert_eq!(low, [0xabcd_0020, 0xabcd_0028]);
}

#[test]
fn a_fault_handler_may_itself_access_registers() {
    let _one = set_up();
    let old = install(
        libc::SIGSEGV,
        skip as *const () as usize,
        libc::SA_SIGINFO | libc::SA_ONSTACK,
    );
    SEEN.store(0, Ordering::Relaxed);
    for _ in 0..2000 {
        touch_nothing();
        register_round_trip();
    }
    assert_eq!(SEEN.load(Ordering::Relaxed), 2000);
    install(libc::SIGSEGV, old.sa_sigaction, old.sa_flags);
}

/// Resumes behind the load of `touch_nothing`, from a nested engine access.
extern "C" fn skip(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SEEN.fetch_add(1, Ordering::Relaxed);
    register_round_trip();
    // SAFETY: the context of the running handler; the load is two bytes long, three with a prefix.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        *rip += if *(*rip as *const u8) & 0xf0 == 0x40 {
            3
        } else {
            2
        };
    }
}

#[test]
fn a_new_thread_can_access_registers_at_once() {
    let _one = set_up();
    std::thread::spawn(register_round_trip).join().unwrap();
}

/// The signals that the kernel does not deliver to this thread, one bit each from signal 1 on.
fn blocked_here() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

/// Whether a thread made here is inside, and its signal mask. Not by std, whose threads in a Rust program insist on
/// libc's guard page.
fn seen_by_a_thread() -> (bool, u64) {
    extern "C" fn look(seen: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: it is waited for where that lives.
        unsafe { *seen.cast() = (guard::inside(), blocked_here()) };
        null_mut()
    }
    let (mut thread, mut seen) = (0, (false, 0));
    // SAFETY: the thread is joined before what it writes to is gone.
    unsafe {
        let seen = (&raw mut seen).cast();
        let made = libc::pthread_create(&mut thread, std::ptr::null(), look, seen);
        assert_eq!(made, 0);
        assert_eq!(libc::pthread_join(thread, null_mut()), 0);
    }
    seen
}

#[test]
fn a_thread_of_the_engines_own_is_inside_and_gets_no_signal_of_the_client() {
    let _one = set_up();
    let before = blocked_here();
    let client = seen_by_a_thread();
    let engine = guard::enter(seen_by_a_thread);
    assert_eq!(client, (false, before), "a thread of the client");
    let own = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGSYS,
        libc::SIGKILL,
        libc::SIGSTOP,
    ];
    // 32 and 33 are libc's own
    let open = own.into_iter().chain([32, 33]);
    let open = open.fold(0u64, |set, signal| set | 1 << (signal - 1));
    assert_eq!(engine, (true, !open));
    assert_eq!(blocked_here(), before);
}

#[test]
fn an_access_to_registers_that_are_not_there_is_a_bus_error_of_the_client() {
    let _one = set_up();
    let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    let old = install(libc::SIGBUS, repair as *const () as usize, flags);
    let gone = page(ProtFlags::empty());
    GONE.store(gone, Ordering::Relaxed);
    // SAFETY: the handler makes the page accessible.
    unsafe { ((gone + 40) as *mut u64).write_volatile(7) };
    GONE.store(1, Ordering::Relaxed);
    assert_eq!(SEEN.load(Ordering::Relaxed), gone + 40);
    // SAFETY: accessible now.
    assert_eq!(unsafe { ((gone + 40) as *mut u64).read() }, 7);
    install(libc::SIGBUS, old.sa_sigaction, old.sa_flags);
}

#[test]
fn the_clients_own_fault_handler_runs_and_resumes() {
    let _one = set_up();
    let old = install(
        libc::SIGSEGV,
        repair as *const () as usize,
        libc::SA_SIGINFO | libc::SA_NODEFER,
    );
    let hidden = page(ProtFlags::empty());
    // SAFETY: the handler makes the page accessible.
    unsafe { ((hidden + 24) as *mut u64).write_volatile(7) };
    assert_eq!(SEEN.load(Ordering::Relaxed), hidden + 24);
    register_round_trip();
    let mine = install(libc::SIGSEGV, old.sa_sigaction, old.sa_flags);
    assert_eq!(mine.sa_sigaction, repair as *const () as usize);
    assert_eq!(mine.sa_flags, libc::SA_SIGINFO | libc::SA_NODEFER);
}

#[test]
fn an_action_is_shown_as_it_was_set_whether_ours_or_not() {
    let _one = set_up();
    for signal in [libc::SIGBUS, libc::SIGUSR2] {
        let flags = libc::SA_RESTART | libc::SA_NODEFER;
        let old = install(signal, count as *const () as usize, flags);
        let mine = install(signal, libc::SIG_IGN, 0);
        assert_eq!(
            (mine.sa_sigaction, mine.sa_flags),
            (count as *const () as usize, flags)
        );
        let ignored = install(signal, old.sa_sigaction, old.sa_flags);
        assert_eq!(ignored.sa_sigaction, libc::SIG_IGN);
    }
    // SAFETY: a signal that cannot be.
    unsafe {
        assert_eq!(symbols::sigaction(65, std::ptr::null(), null_mut()), -1);
        assert_eq!(symbols::signal(libc::SIGKILL, libc::SIG_IGN), libc::SIG_ERR);
    }
}

#[test]
fn a_signal_waits_until_the_thread_leaves_the_engine_and_keeps_its_value() {
    let _one = set_up();
    let old = install(
        libc::SIGUSR1,
        take_value as *const () as usize,
        libc::SA_SIGINFO,
    );
    COUNT.store(0, Ordering::Relaxed);
    let send = |value: usize| {
        let value = libc::sigval {
            sival_ptr: value as *mut _,
        };
        // SAFETY: a signal to this very thread.
        let failed = unsafe { libc::pthread_sigqueue(libc::pthread_self(), libc::SIGUSR1, value) };
        assert_eq!(failed, 0);
    };
    let outer = enter();
    let inner = enter();
    send(77);
    drop(inner);
    assert_eq!(COUNT.load(Ordering::Relaxed), 0);
    drop(outer);
    assert_eq!(
        (COUNT.load(Ordering::Relaxed), SEEN.load(Ordering::Relaxed)),
        (1, 77)
    );
    send(78);
    assert_eq!(
        (COUNT.load(Ordering::Relaxed), SEEN.load(Ordering::Relaxed)),
        (2, 78)
    );
    install(libc::SIGUSR1, old.sa_sigaction, old.sa_flags);
}

thread_local! {
    static WORKING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

extern "C" fn note_working(_: i32) {
    if WORKING.get() {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn of_many_queued_signals_none_is_lost_and_none_runs_inside() {
    const SIGNALS: u32 = 2000;
    let _one = set_up();
    let signal = libc::SIGRTMIN() + 3;
    let old = install(signal, note_working as *const () as usize, libc::SA_RESTART);
    SEEN.store(0, Ordering::Relaxed);
    COUNT.store(0, Ordering::Relaxed);
    // SAFETY: names this very thread.
    let target = unsafe { libc::pthread_self() };
    let sender = std::thread::spawn(move || {
        for _ in 0..SIGNALS {
            let value = libc::sigval {
                sival_ptr: null_mut(),
            };
            // SAFETY: the thread outlives this one, which it joins.
            while unsafe { libc::pthread_sigqueue(target, signal, value) } == libc::EAGAIN {
                std::thread::yield_now();
            }
        }
    });
    while COUNT.load(Ordering::Relaxed) < SIGNALS {
        let inside = enter();
        WORKING.set(true);
        register_round_trip();
        WORKING.set(false);
        drop(inside);
    }
    sender.join().unwrap();
    assert_eq!(
        (COUNT.load(Ordering::Relaxed), SEEN.load(Ordering::Relaxed)),
        (SIGNALS, 0)
    );
    install(signal, old.sa_sigaction, old.sa_flags);
}

#[test]
fn a_handler_for_one_delivery_is_gone_after_it() {
    let _one = set_up();
    COUNT.store(0, Ordering::Relaxed);
    // SAFETY: the handler takes one argument.
    unsafe {
        symbols::sysv_signal(libc::SIGUSR2, count as *const () as usize);
        libc::raise(libc::SIGUSR2);
        assert_eq!(COUNT.load(Ordering::Relaxed), 1);
        assert_eq!(symbols::signal(libc::SIGUSR2, libc::SIG_DFL), libc::SIG_DFL);
    }
}

#[test]
fn a_full_mask_leaves_registers_working_and_is_shown_full() {
    let _one = set_up();
    // SAFETY: plain signal sets.
    unsafe {
        let (mut full, mut old, mut seen): (libc::sigset_t, libc::sigset_t, libc::sigset_t) =
            zeroed();
        libc::sigfillset(&mut full);
        assert_eq!(
            symbols::pthread_sigmask(libc::SIG_SETMASK, &full, &mut old),
            0
        );
        register_round_trip();
        assert_eq!(
            symbols::pthread_sigmask(libc::SIG_SETMASK, &old, &mut seen),
            0
        );
        assert_eq!(libc::sigismember(&seen, libc::SIGSEGV), 1);
        assert_eq!(libc::sigismember(&seen, libc::SIGUSR1), 1);
        assert_eq!(
            symbols::sigprocmask(libc::SIG_SETMASK, std::ptr::null(), &mut seen),
            0
        );
        assert_eq!(libc::sigismember(&seen, libc::SIGSEGV), 0);
        assert_eq!(symbols::sigprocmask(99, &old, null_mut()), -1);
    }
}

#[test]
fn the_engine_may_fault_although_libc_has_blocked_everything() {
    let _one = set_up();
    let (all, mut old) = (u64::MAX, 0u64);
    let mask = |set: *const u64, old: *mut u64| {
        // SAFETY: the system call as libc itself makes it.
        let failed =
            unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, old, 8) };
        assert_eq!(failed, 0);
    };
    mask(&all, &mut old);
    assert!(with_faults(|| client().load(UserAddr(8), 8)).is_err());
    let mut after = 0;
    mask(&old, &mut after);
    assert_eq!(after & 1 << (libc::SIGSEGV - 1), 1 << (libc::SIGSEGV - 1));
}

#[test]
fn one_of_the_four_that_is_sent_while_blocked_arrives_when_unblocked() {
    let _one = set_up();
    let old = install(libc::SIGBUS, count as *const () as usize, 0);
    COUNT.store(0, Ordering::Relaxed);
    // SAFETY: plain signal sets.
    unsafe {
        let mut bus: libc::sigset_t = zeroed();
        libc::sigaddset(&mut bus, libc::SIGBUS);
        symbols::sigprocmask(libc::SIG_BLOCK, &bus, null_mut());
        libc::raise(libc::SIGBUS);
        assert_eq!(COUNT.load(Ordering::Relaxed), 0);
        symbols::sigprocmask(libc::SIG_UNBLOCK, &bus, null_mut());
    }
    assert_eq!(COUNT.load(Ordering::Relaxed), 1);
    install(libc::SIGBUS, old.sa_sigaction, old.sa_flags);
}

#[test]
fn the_clients_alternate_stack_is_what_it_set() {
    let _one = set_up();
    let mut memory = vec![0u8; 1 << 20];
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: memory.len(),
    };
    // SAFETY: plain structs; the stack is taken back before its memory goes.
    unsafe {
        let (mut before, mut seen): (libc::stack_t, libc::stack_t) = zeroed();
        assert_eq!(symbols::sigaltstack(&stack, &mut before), 0);
        assert_eq!(symbols::sigaltstack(std::ptr::null(), &mut seen), 0);
        assert_eq!(
            (seen.ss_sp, seen.ss_flags, seen.ss_size),
            (stack.ss_sp, 0, stack.ss_size)
        );
        register_round_trip();
        let small = libc::stack_t {
            ss_size: 100,
            ..stack
        };
        assert_eq!(symbols::sigaltstack(&small, null_mut()), -1);
        assert_eq!(symbols::sigaltstack(&before, null_mut()), 0);
    }
}

/// Runs `child` in a forked process and answers its wait status.
fn forked(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs a few calls and ends.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            child();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        status
    }
}

fn touch_nothing() {
    // SAFETY: faults, which is what the test is about.
    unsafe { std::arch::asm!("mov eax, [{at}]", at = in(reg) 64u64, out("eax") _) };
}

#[test]
fn a_fault_without_a_handler_kills_with_its_own_signal() {
    let _one = set_up();
    let status = forked(|| {
        install(libc::SIGSEGV, libc::SIG_DFL, 0);
        touch_nothing();
    });
    assert!(
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
        "{status:#x}"
    );
}

#[test]
fn a_fault_that_is_ignored_kills_and_a_sent_signal_that_is_ignored_does_not() {
    let _one = set_up();
    let status = forked(|| {
        install(libc::SIGSEGV, libc::SIG_IGN, 0);
        // SAFETY: a signal to oneself.
        unsafe { libc::raise(libc::SIGSEGV) };
        register_round_trip();
        touch_nothing();
    });
    assert!(
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
        "{status:#x}"
    );
}
