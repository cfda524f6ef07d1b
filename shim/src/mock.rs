//! What the kernel's iommufd selftests want of a system besides /dev/iommu. Only in a run with `--mock`.
//!
//! Memory of huge pages where the system has none, the pinned and locked memory of a process in its status, and fault
//! injection by `fail-nth` of procfs. The rest of debugfs that they look for are files of the run's tree.
#![allow(unsafe_code)] // mmap, and numbers handed on

use std::ffi::{CStr, c_char, c_int};
use std::fmt::Write as _;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE,
    O_ACCMODE, O_CLOEXEC, O_RDONLY, PROT_NONE,
};
use rustix::fs::{Access, Mode, OFlags, access, open};
use swiommu_abi::Errno;
use swiommu_engine::machine::tree::DEBUGFS;

use crate::config::Config;
use crate::map::Request;
use crate::sys::{self, syscall};
use crate::{engine, guard};

/// Whether the run has test equipment.
static ON: AtomicBool = AtomicBool::new(false);

/// Looks whether the run has test equipment: its tree has a debugfs then.
pub fn begin(config: &Config) {
    let tree = [&config.root, DEBUGFS.as_bytes()].concat();
    ON.store(access(tree, Access::EXISTS).is_ok(), Ordering::Relaxed);
}

/// Whether the run has test equipment.
#[inline]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether the run's tree answers for a path only because it has test equipment.
pub fn is_overlaid(path: &[u8]) -> bool {
    let rest = path.strip_prefix(DEBUGFS.as_bytes());
    is_on() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Which file of procfs a path names.
enum Proc {
    /// Of a process.
    Status(u32),
    /// Of a thread.
    FailNth(u32),
}

/// A process or thread as procfs names it.
fn number(name: &str) -> Option<u32> {
    match name {
        "self" => Some(sys::pid() as u32),
        "thread-self" => Some(guard::thread()),
        digits => digits.parse().ok(),
    }
}

fn parse(path: &str) -> Option<Proc> {
    let mut parts = path.strip_prefix("/proc/")?.split('/');
    let process = number(parts.next()?)?;
    match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        ("status", None, ..) => Some(Proc::Status(process)),
        ("fail-nth", None, ..) => Some(Proc::FailNth(process)),
        ("task", Some(thread), Some("fail-nth"), None) => Some(Proc::FailNth(number(thread)?)),
        _ => None,
    }
}

/// Opens a file of procfs that is answered here. `None`: it is the kernel's.
///
/// # Safety
/// `path` is null or a C string.
#[inline]
pub unsafe fn open_proc(path: *const c_char, flags: c_int) -> Option<c_int> {
    if !is_on() || path.is_null() || guard::inside() {
        return None;
    }
    // SAFETY: a C string.
    open_text(unsafe { CStr::from_ptr(path) }.to_str().ok()?, flags)
}

fn open_text(path: &str, flags: c_int) -> Option<c_int> {
    match parse(path)? {
        Proc::Status(process) if flags & O_ACCMODE == O_RDONLY => {
            let file = guard::enter(|| status(process))?;
            if flags & O_CLOEXEC == 0 {
                let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty());
            }
            Some(file.into_raw_fd())
        }
        Proc::Status(_) => None,
        Proc::FailNth(thread) => {
            let engine = engine::get()?;
            let new = engine::call(0, |call| engine.fail_nth(call, thread))?;
            Some(match new {
                Ok(new) => crate::symbols::open::install(new, flags & O_CLOEXEC != 0),
                Err(errno) => sys::fail(errno) as c_int,
            })
        }
    }
}

/// The status of a process, with what the run has pinned and locked of its memory. `None`: it cannot be read.
fn status(process: u32) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let real = open(format!("/proc/{process}/status"), flags, Mode::empty()).ok()?;
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match rustix::io::read(&real, &mut part) {
            Ok(0) => break,
            Ok(bytes) => text.extend_from_slice(&part[..bytes]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let (pinned, locked) = engine::get()?.accounted(process);
    let text = String::from_utf8_lossy(&text);
    let mut shown = String::with_capacity(text.len());
    for line in text.lines() {
        let more = match line.split(':').next() {
            Some("VmLck") => locked,
            Some("VmPin") => pinned,
            _ => 0,
        };
        let _ = match more {
            0 => writeln!(shown, "{line}"),
            more => writeln!(shown, "{}", add(line, more / 1024)),
        };
    }
    let file = swiommu_mem::fd::memfd("status", 0).ok()?;
    let written = rustix::io::pwrite(&file, shown.as_bytes(), 0);
    (written == Ok(shown.len())).then_some(file)
}

/// A line `VmXxx:   number kB` with so much more.
fn add(line: &str, more: u64) -> String {
    let (name, rest) = line.split_once(':').unwrap_or((line, ""));
    let number = rest.split_whitespace().next();
    let number: u64 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
    format!("{name}:\t{:8} kB", number + more)
}

/// Says, once a process, that memory is not what it was asked to be, unless only mistakes are to be told.
fn tell_stand_in() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let quiet = crate::config::get().is_none_or(|config| config.options.verbosity == 0);
    if !quiet && !TOLD.swap(true, Ordering::Relaxed) {
        sys::stderr(&[
            "swiommu: no huge pages are free: aligned ordinary memory stands in for them (--mock)\n",
        ]);
    }
}

/// Huge pages were asked for and not to be had: ordinary memory, aligned as they would be. The address or a negated
/// errno; `refused` if it is not a request for huge pages.
///
/// # Safety
/// With MAP_FIXED, what lies there goes.
pub unsafe fn without_huge_pages(request: &Request, refused: isize) -> isize {
    const HUGE: usize = 2 << 20;
    let size = request.flags as u32 >> libc::MAP_HUGE_SHIFT & libc::MAP_HUGE_MASK as u32;
    let anonymous = MAP_ANONYMOUS | MAP_HUGETLB;
    let asked = request.flags & anonymous == anonymous && matches!(size, 0 | 21);
    if !is_on() || !asked || refused != -(Errno::ENOMEM.raw() as isize) {
        return refused;
    }
    guard::enter(tell_stand_in);
    let Some(bytes) = request.bytes.checked_next_multiple_of(HUGE) else {
        return refused;
    };
    let mut ordinary = Request {
        bytes,
        flags: request.flags & !(MAP_HUGETLB | libc::MAP_HUGE_MASK << libc::MAP_HUGE_SHIFT),
        ..*request
    };
    if request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        if !request.address.is_multiple_of(HUGE) {
            return -(Errno::EINVAL.raw() as isize);
        }
        // SAFETY: the caller's.
        return unsafe { ordinary.raw() };
    }
    let reserve = Request {
        address: 0,
        bytes: bytes + HUGE,
        prot: PROT_NONE,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        fd: -1,
        offset: 0,
    };
    // SAFETY: new pages, of which those that are not used are given back at once.
    unsafe {
        let base = reserve.raw();
        if base < 0 {
            return base;
        }
        let first = (base as usize).next_multiple_of(HUGE);
        ordinary.address = first;
        ordinary.flags |= MAP_FIXED;
        let result = ordinary.raw();
        let end = base as usize + reserve.bytes;
        let kept = if result < 0 { base as usize } else { first };
        let behind = if result < 0 { kept } else { first + bytes };
        for (from, to) in [(base as usize, kept), (behind, end)] {
            if from < to {
                syscall!(sys::SYS_munmap, from, to - from);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_added_in_the_layout_of_the_kernel() {
        assert_eq!(add("VmPin:\t       0 kB", 4), "VmPin:\t       4 kB");
        assert_eq!(add("VmLck:\t     128 kB", 12), "VmLck:\t     140 kB");
    }

    #[test]
    fn only_status_and_fail_nth_of_procfs_are_answered_here() {
        assert!(matches!(parse("/proc/12/status"), Some(Proc::Status(12))));
        assert!(matches!(
            parse("/proc/12/task/13/fail-nth"),
            Some(Proc::FailNth(13))
        ));
        assert!(matches!(
            parse("/proc/12/fail-nth"),
            Some(Proc::FailNth(12))
        ));
        for path in [
            "/proc/12/maps",
            "/proc/12/status/x",
            "/proc/x/status",
            "/proc/12/task/13/status",
            "/proc/12/task/13/fail-nth/x",
            "/proc/status",
            "/sys/12/status",
        ] {
            assert!(parse(path).is_none(), "{path}");
        }
    }

    #[test]
    fn huge_pages_are_stood_in_for_only_in_a_run_with_test_equipment() {
        let request = Request {
            address: 0,
            bytes: 4096,
            prot: libc::PROT_READ,
            flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
            fd: -1,
            offset: 0,
        };
        let refused = -(Errno::ENOMEM.raw() as isize);
        // SAFETY: nothing is mapped.
        assert_eq!(unsafe { without_huge_pages(&request, refused) }, refused);
    }
}
