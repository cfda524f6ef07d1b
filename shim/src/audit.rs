//! `audit=1`: a tripwire for system calls that did not come through this library.
//!
//! Syscall User Dispatch makes the kernel raise SIGSYS for each system call of a thread whose instruction lies outside
//! one allowed range: libc's code. The handler lets the dynamic linker's and our own calls through; of the others it
//! records those that would touch an overlaid path or one of our descriptors, and then makes the call as it was meant.
//! At the end of the process the records are named on stderr. Every dispatched call costs a signal (about 2 us).
//!
//! Threads are covered when they are made by `pthread_create`, a child of fork by its fork handler. A raw clone cannot
//! be repeated in a handler, so the thread that makes one is not watched any longer, which is said.
#![allow(unsafe_code)] // a signal handler that repeats system calls

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::real::real;
use crate::sys::{self, syscall};
use crate::{config, files, guard, paths};

const PR_SET_SYSCALL_USER_DISPATCH: isize = 59;
const DISPATCH_ON: isize = 1;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// Code that may make system calls: libc (which the kernel lets through), the dynamic linker and this library.
static TRUSTED: [(AtomicUsize, AtomicUsize); 3] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 3];
static ON: AtomicBool = AtomicBool::new(false);

/// What escaped: number, address and how often.
struct Record {
    number: AtomicU64,
    address: AtomicUsize,
    count: AtomicUsize,
}

static RECORDS: [Record; 64] = [const {
    Record {
        number: AtomicU64::new(0),
        address: AtomicUsize::new(0),
        count: AtomicUsize::new(0),
    }
}; 64];

thread_local! {
    /// What the kernel reads at each system call of this thread.
    static SELECTOR: Cell<u8> = const { Cell::new(ALLOW) };
}

/// The executable segments of the three modules.
fn find_trusted() -> bool {
    let anchors = [
        libc::getpid as *const () as usize,
        linker_address(),
        find_trusted as *const () as usize,
    ];
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: the dynamic linker's description of a module; `data` are the anchors of `find_trusted`.
        unsafe {
            let anchors = &*data.cast::<[usize; 3]>();
            let headers = core::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum.into());
            for header in headers
                .iter()
                .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0)
            {
                let first = (*info).dlpi_addr as usize + header.p_vaddr as usize;
                let end = first + header.p_memsz as usize;
                for (place, _) in TRUSTED
                    .iter()
                    .zip(anchors)
                    .filter(|(_, anchor)| (first..end).contains(anchor))
                {
                    place.0.store(first, Ordering::Relaxed);
                    place.1.store(end, Ordering::Relaxed);
                }
            }
        }
        0
    }
    // SAFETY: the callback keeps to what it is given; the anchors outlive the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw const anchors).cast_mut().cast()) };
    TRUSTED[0].1.load(Ordering::Relaxed) != 0
}

/// An address in the dynamic linker's code: its entry point.
fn linker_address() -> usize {
    // SAFETY: getauxval takes no addresses; AT_BASE is where the linker's ELF header lies, which gives its entry.
    unsafe {
        let base = libc::getauxval(libc::AT_BASE) as usize;
        if base == 0 {
            0
        } else {
            base + (*(base as *const libc::Elf64_Ehdr)).e_entry as usize
        }
    }
}

/// Starts watching: this thread now, others as they are made.
pub fn begin() {
    if !find_trusted() || !handle() || !watch() {
        sys::stderr(&[
            "swiommu: audit: this kernel does not offer Syscall User Dispatch: nothing is audited\n",
        ]);
        return;
    }
    ON.store(true, Ordering::Relaxed);
}

fn handle() -> bool {
    // SAFETY: libc's sigaction with our own handler; the rest of the struct is zero, which is valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_dispatch as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        let set =
            real!(sigaction: fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int);
        set(libc::SIGSYS, &action, std::ptr::null_mut()) == 0
    }
}

/// Watches the calling thread.
pub fn watch() -> bool {
    let (first, end) = (
        TRUSTED[0].0.load(Ordering::Relaxed),
        TRUSTED[0].1.load(Ordering::Relaxed),
    );
    let selector = SELECTOR.with(Cell::as_ptr);
    // SAFETY: the selector lives as long as the thread.
    let result = unsafe {
        syscall!(
            libc::SYS_prctl,
            PR_SET_SYSCALL_USER_DISPATCH,
            DISPATCH_ON,
            first,
            end - first,
            selector
        )
    };
    if result == 0 {
        SELECTOR.with(|selector| selector.set(BLOCK));
    }
    result == 0
}

/// In the child of a fork: the kernel does not carry the setting over.
pub fn forked() {
    if ON.load(Ordering::Relaxed) {
        SELECTOR.with(|selector| selector.set(ALLOW));
        watch();
    }
}

/// Runs one of libc's own calls, which it may make with all signals blocked: a dispatch would kill.
#[inline]
pub fn pass<T>(work: impl FnOnce() -> T) -> T {
    if !ON.load(Ordering::Relaxed) {
        return work();
    }
    let before = SELECTOR.with(|selector| selector.replace(ALLOW));
    let result = work();
    SELECTOR.with(|selector| selector.set(before));
    result
}

/// In a new thread, before its own code.
pub fn thread_started() {
    if ON.load(Ordering::Relaxed) {
        watch();
    }
}

fn trusted(address: usize) -> bool {
    TRUSTED.iter().any(|(first, end)| {
        (first.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&address)
    })
}

extern "C" fn on_dispatch(_: c_int, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    SELECTOR.with(|selector| selector.set(ALLOW));
    // SAFETY: the kernel's own description of the signal and of the interrupted registers, this thread's alone.
    let again = unsafe {
        let address = (*info).si_addr() as usize; // the instruction after the call
        let registers = &mut (*context).uc_mcontext.gregs;
        let number = registers[libc::REG_RAX as usize];
        let argument = |register: c_int| registers[register as usize] as usize;
        let arguments = [
            argument(libc::REG_RDI),
            argument(libc::REG_RSI),
            argument(libc::REG_RDX),
            argument(libc::REG_R10),
            argument(libc::REG_R8),
            argument(libc::REG_R9),
        ];
        if !trusted(address) && escapes(number, &arguments) {
            record(number, address);
        }
        if matches!(
            number,
            libc::SYS_clone
                | libc::SYS_clone3
                | libc::SYS_vfork
                | libc::SYS_fork
                | libc::SYS_rt_sigreturn
        ) {
            // Not ours to make: the instruction runs again, unwatched.
            if !trusted(address) {
                record(number, address);
            }
            registers[libc::REG_RIP as usize] -= 2;
            false
        } else {
            let [a, b, c, d, e, f] = arguments;
            registers[libc::REG_RAX as usize] = syscall!(number, a, b, c, d, e, f) as i64;
            outlive(number, b, a, &mut *context);
            true
        }
    };
    if again {
        SELECTOR.with(|selector| selector.set(BLOCK));
    }
}

/// The return from this handler restores the mask and the alternate stack it interrupted: what the call just changed
/// of them is put there.
unsafe fn outlive(number: i64, set: usize, stack: usize, context: &mut libc::ucontext_t) {
    // SAFETY: the kernel's frame; it accepted the program's pointers a moment ago.
    unsafe {
        match number {
            libc::SYS_rt_sigprocmask if set != 0 => {
                let now = &raw mut context.uc_sigmask;
                syscall!(number, 0, 0, now, 8);
            }
            libc::SYS_sigaltstack if stack != 0 => {
                context.uc_stack = (stack as *const libc::stack_t).read()
            }
            _ => {}
        }
    }
}

/// Whether a call would have been ours.
unsafe fn escapes(number: i64, arguments: &[usize; 6]) -> bool {
    let path = |dir: c_int, path: usize| {
        // SAFETY: the program's own path argument.
        path > 4095
            && !guard::inside()
            && unsafe { paths::resolve(dir, path as *const c_char) }
                .is_some_and(|path| path.overlaid)
    };
    match number {
        libc::SYS_open
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_access
        | libc::SYS_readlink
        | libc::SYS_chdir => path(libc::AT_FDCWD, arguments[0]),
        libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_readlinkat
        | libc::SYS_faccessat => path(arguments[0] as c_int, arguments[1]),
        libc::SYS_mmap => files::get(arguments[4] as c_int).is_some(),
        libc::SYS_ioctl
        | libc::SYS_read
        | libc::SYS_write
        | libc::SYS_pread64
        | libc::SYS_pwrite64
        | libc::SYS_readv
        | libc::SYS_writev
        | libc::SYS_preadv
        | libc::SYS_pwritev
        | libc::SYS_fstat
        | libc::SYS_close
        | libc::SYS_dup
        | libc::SYS_dup2
        | libc::SYS_dup3
        | libc::SYS_lseek => files::get(arguments[0] as c_int).is_some(),
        _ => false,
    }
}

/// Counts one escape; the first 64 places are kept.
fn record(number: i64, address: usize) {
    for record in &RECORDS {
        let claimed =
            record
                .address
                .compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire);
        match claimed {
            Ok(_) => record.number.store(number as u64, Ordering::Relaxed),
            Err(there)
                if there == address && record.number.load(Ordering::Relaxed) == number as u64 => {}
            Err(_) => continue,
        }
        record.count.fetch_add(1, Ordering::Relaxed);
        return;
    }
}

/// Names what escaped, once.
pub fn report() {
    if !ON.swap(false, Ordering::Relaxed) {
        return;
    }
    SELECTOR.with(|selector| selector.set(ALLOW));
    guard::enter(|| {
        for record in RECORDS
            .iter()
            .filter(|record| record.address.load(Ordering::Acquire) != 0)
        {
            let address = record.address.load(Ordering::Relaxed);
            let number = record.number.load(Ordering::Relaxed);
            let (module, offset) = place(address);
            let count = record.count.load(Ordering::Relaxed);
            let line = format!(
                "swiommu: audit: {} (system call {number}) at {module}+{offset:#x} bypassed swiommu, {count} times\n",
                name(number as i64)
            );
            sys::stderr(&[&line]);
            write_report(&line);
        }
    });
}

/// The same line in the run's directory: `reports/PID.audit`.
fn write_report(line: &str) {
    let Some(config) = config::get() else { return };
    let Ok(path) = std::ffi::CString::new(format!("{}/reports/{}.audit", config.run, sys::pid()))
    else {
        return;
    };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: our own strings.
    unsafe {
        let fd = sys::openat(libc::AT_FDCWD, path.as_ptr(), flags, 0o644);
        if fd >= 0 {
            syscall!(sys::SYS_write, fd, line.as_ptr(), line.len());
            sys::close(fd as c_int);
        }
    }
}

/// The module an address lies in, and where.
fn place(address: usize) -> (String, usize) {
    // SAFETY: dladdr fills in the struct or answers 0; the name is the linker's own string.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return ("?".into(), address);
        }
        (
            CStr::from_ptr(info.dli_fname)
                .to_string_lossy()
                .into_owned(),
            address - info.dli_fbase as usize,
        )
    }
}

fn name(number: i64) -> &'static str {
    match number {
        libc::SYS_open => "open",
        libc::SYS_openat => "openat",
        libc::SYS_openat2 => "openat2",
        libc::SYS_ioctl => "ioctl",
        libc::SYS_mmap => "mmap",
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv => "a read",
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev => "a write",
        libc::SYS_close => "close",
        libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 => "a dup",
        libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_fstat => "a stat",
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => {
            "a raw clone (not watched from there on)"
        }
        _ => "a call",
    }
}
