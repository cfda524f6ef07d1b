//! Descriptors of the client, by raw system calls, for an engine that holds no unsafe code.
#![allow(unsafe_code)] // borrows a descriptor number that the client alleges

use crate::raw::errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use swiommu_abi::Errno;

/// Fetches a descriptor of another process by its number there.
pub type Fetch = fn(i32) -> Result<OwnedFd, Errno>;

thread_local! {
    /// Where the numbers come from that this thread's call is about; `None`: from this process.
    static FOREIGN: Cell<Option<Fetch>> = const { Cell::new(None) };
}

/// Runs `work`, a call of another process: the numbers of descriptors it names are that process's.
pub fn of_other_process<T>(fetch: Fetch, work: impl FnOnce() -> T) -> T {
    let before = FOREIGN.replace(Some(fetch));
    let result = work();
    FOREIGN.set(before);
    result
}

/// A duplicate of the client's descriptor `fd` with a number of at least `least`, close-on-exec. `EBADF` if it is not
/// open, `EMFILE` if no number is free.
pub fn dup_client_fd(fd: i32, least: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    if let Some(fetch) = FOREIGN.get() {
        let fetched = fetch(fd)?;
        return match fetched.as_raw_fd() >= least {
            true => Ok(fetched),
            false => rustix::io::fcntl_dupfd_cloexec(fetched, least).map_err(errno),
        };
    }
    // SAFETY: the number is borrowed for one system call, which checks it; nothing relies on its staying open.
    let client = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_dupfd_cloexec(client, least).map_err(errno)
}

/// Whether the descriptor is an eventfd, by the name the kernel gives it.
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::readlink(path, Vec::new())
        .is_ok_and(|name| name.to_bytes() == b"anon_inode:[eventfd]")
}

/// A new memory file of `bytes` bytes, zero, close-on-exec.
pub fn memfd(name: &str, bytes: u64) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(errno)?;
    rustix::fs::ftruncate(&file, bytes).map_err(errno)?;
    Ok(file)
}

/// How the memory files of [`object`] are called: behind it stands the id of the process that made them.
pub const OBJECT: &str = "swiommu:";

/// The kernel object of a new file of ours, `bytes` bytes large, close-on-exec. Its name says whose it is, so that
/// another process that is given the descriptor knows whom to ask.
///
/// # Errors
/// What the kernel says.
pub fn object(bytes: u64) -> Result<OwnedFd, Errno> {
    memfd(&format!("{OBJECT}{}", std::process::id()), bytes)
}

/// As [`object`] for a node that was opened by its path, which the name says too.
///
/// # Errors
/// What the kernel says.
pub fn node_object(path: &str, bytes: u64) -> Result<OwnedFd, Errno> {
    memfd(&format!("{OBJECT}{} {path}", std::process::id()), bytes)
}

/// Says on a kernel object, to whoever has it, that something was done with its file: by a seal, which stays with the
/// object and hinders nobody, for an object never grows.
pub fn mark_used(object: impl AsFd) {
    // Every object of ours takes seals.
    let _ = rustix::fs::fcntl_add_seals(object, SealFlags::GROW);
}

/// Whether something was done with the file of a kernel object.
pub fn is_used(object: impl AsFd) -> bool {
    rustix::fs::fcntl_get_seals(object).is_ok_and(|seals| seals.contains(SealFlags::GROW))
}

/// The file behind a descriptor, opened once more: the same inode, a description of its own. A duplicate where /proc is
/// not mounted.
///
/// # Errors
/// `EMFILE` and the like.
pub fn reopen(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).or_else(|_| duplicate(fd))
}

/// Where our own descriptors live, so that a client which counts low numbers does not meet them.
const HIDDEN: i32 = 512;

/// Numbers below this are remembered in [`OWNED`].
const REMEMBERED: usize = 65536;

/// Makes the process's descriptor table large enough for our numbers. While one thread runs that costs microseconds;
/// in a process of several threads the kernel waits for all processors before it enlarges a table, which takes milliseconds.
pub fn make_room() {
    // Where there is no descriptor to be had now, the table grows when it has to.
    if let Ok(low) = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC) {
        drop(rustix::io::fcntl_dupfd_cloexec(low, HIDDEN));
    }
}

/// One bit per number: a descriptor of ours.
static OWNED: [AtomicU64; REMEMBERED / 64] = [const { AtomicU64::new(0) }; REMEMBERED / 64];

/// Of these, those that a child of fork goes on using.
static KEPT: [AtomicU64; REMEMBERED / 64] = [const { AtomicU64::new(0) }; REMEMBERED / 64];

/// The word and bit of a number, if it is remembered.
fn owned_bit(fd: i32) -> Option<(&'static AtomicU64, u64)> {
    bit_of(&OWNED, fd)
}

fn bit_of(set: &'static [AtomicU64], fd: i32) -> Option<(&'static AtomicU64, u64)> {
    let at = usize::try_from(fd).ok()?;
    Some((set.get(at / 64)?, 1 << (at % 64)))
}

/// In the child of a fork: closes the parent's descriptors, which the child only has copies of, but for those kept.
pub fn forked() {
    for (at, (owned, kept)) in OWNED.iter().zip(&KEPT).enumerate() {
        let kept = kept.load(Ordering::Relaxed);
        let mut rest = owned.load(Ordering::Relaxed) & !kept;
        owned.store(kept, Ordering::Relaxed);
        while rest != 0 {
            let fd = (at * 64) as i32 + rest.trailing_zeros() as i32;
            rest &= rest - 1;
            // SAFETY: the number is of a descriptor of ours, whose owner is the parent's and never dropped here.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// Whether a number is a descriptor of ours, which the client never opened and so must not close or replace. One load.
#[inline]
pub fn owns(fd: i32) -> bool {
    owned_bit(fd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// Whether there is any such number.
pub fn owns_any() -> bool {
    OWNED.iter().any(|word| word.load(Ordering::Relaxed) != 0)
}

/// A descriptor of ours, out of the client's way and known to [`owns`] while it lives.
#[derive(Debug)]
pub struct Hidden(OwnedFd);

impl Hidden {
    /// Moves a descriptor out of the client's way, close-on-exec. It stays where it is when the client's limit on
    /// descriptors leaves no room up there.
    ///
    /// # Errors
    /// `EMFILE` and the like from the duplication.
    pub fn new(fd: OwnedFd) -> Result<Hidden, Errno> {
        let fd = match rustix::io::fcntl_dupfd_cloexec(&fd, HIDDEN) {
            Ok(high) => high,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::MFILE) => fd,
            Err(error) => return Err(errno(error)),
        };
        if let Some((word, bit)) = owned_bit(fd.as_raw_fd()) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(Hidden(fd))
    }

    /// The same for one that a child of fork goes on using.
    ///
    /// # Errors
    /// As [`Hidden::new`].
    pub fn kept(fd: OwnedFd) -> Result<Hidden, Errno> {
        let hidden = Hidden::new(fd)?;
        if let Some((word, bit)) = bit_of(&KEPT, hidden.0.as_raw_fd()) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(hidden)
    }
}

impl AsFd for Hidden {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for set in [&OWNED, &KEPT] {
            if let Some((word, bit)) = bit_of(set, self.0.as_raw_fd()) {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }
}

/// A reference of our own to an eventfd of the client.
#[derive(Debug)]
pub struct EventFd {
    fd: Hidden,
    /// The client made it non-blocking: a write never waits.
    nonblocking: bool,
}

impl EventFd {
    /// Takes a reference. `EBADF` if the number is not open, `EINVAL` if it is not an eventfd, as `eventfd_ctx_fdget`
    /// answers.
    pub fn of_client(fd: i32) -> Result<EventFd, Errno> {
        let fd = dup_client_fd(fd, 0)?;
        if !is_eventfd(fd.as_fd()) {
            return Err(Errno::EINVAL);
        }
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(errno)?;
        let nonblocking = flags.contains(rustix::fs::OFlags::NONBLOCK);
        Ok(EventFd {
            fd: Hidden::new(fd)?,
            nonblocking,
        })
    }

    /// Adds one to the counter; a counter that is full stays so, as when the kernel signals it. Never blocks, unless
    /// the client fills the counter of a blocking eventfd in between.
    pub fn signal(&self) {
        if !self.nonblocking {
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let mut ready = [PollFd::new(&self.fd, PollFlags::OUT)];
            if poll(&mut ready, Some(&now)) == Ok(0) {
                return;
            }
        }
        while rustix::io::write(&self.fd, &1u64.to_ne_bytes()) == Err(rustix::io::Errno::INTR) {}
    }
}

/// Lets a descriptor outlive exec.
pub fn keep_on_exec(fd: impl AsFd) -> Result<(), Errno> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(errno)
}

/// Another descriptor of the same file, with the lowest free number: one for the client.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(errno)
}

/// A duplicate of a descriptor of this process by its number, whatever process calls.
///
/// # Errors
/// `EBADF`, `EMFILE`.
pub fn own(fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: the number is borrowed for one system call, which checks it.
    duplicate(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Whether a number of the client is an open descriptor.
pub fn is_open(fd: i32) -> bool {
    if fd < 0 {
        return false;
    }
    if let Some(fetch) = FOREIGN.get() {
        return fetch(fd).is_ok();
    }
    // SAFETY: the number is borrowed for one system call, which checks it.
    let client = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(client).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn a_duplicate_lies_at_or_above_the_least_number() {
        let file = memfd("x", 4096).unwrap();
        let copy = dup_client_fd(file.as_raw_fd(), 700).unwrap();
        assert!(copy.as_raw_fd() >= 700);
    }

    #[test]
    fn in_a_call_of_another_process_numbers_are_that_process_s() {
        let fetch = |fd| match fd {
            3 => memfd("theirs", 4096),
            _ => Err(Errno::EBADF),
        };
        of_other_process(fetch, || {
            assert!(is_open(3) && !is_open(0));
            assert!(dup_client_fd(3, 700).unwrap().as_raw_fd() >= 700);
            assert_eq!(EventFd::of_client(3).unwrap_err(), Errno::EINVAL);
            assert_eq!(EventFd::of_client(4).unwrap_err(), Errno::EBADF);
        });
        assert_eq!(is_open(3), dup_client_fd(3, 0).is_ok());
    }

    #[test]
    fn a_file_that_is_opened_again_has_its_inode_and_a_lock_of_its_own() {
        use rustix::fs::{FlockOperation, flock, fstat};
        let file = object(4096).unwrap();
        let again = reopen(&file).unwrap();
        assert_eq!(fstat(&file).unwrap().st_ino, fstat(&again).unwrap().st_ino);
        flock(&file, FlockOperation::LockShared).unwrap();
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(file);
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_ok());
    }

    #[test]
    fn what_was_done_with_a_file_is_known_to_all_who_have_its_object() {
        let file = node_object("/dev/vfio/7", 4096).unwrap();
        let again = reopen(&file).unwrap();
        assert!(!is_used(&again));
        mark_used(&file);
        mark_used(&again);
        assert!(is_used(&again) && is_used(&file));
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert_eq!(dup_client_fd(-1, 0).unwrap_err(), Errno::EBADF);
        assert_eq!(dup_client_fd(i32::MAX, 0).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn an_eventfd_is_told_from_other_files() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let file = memfd("x", 4096).unwrap();
        assert!(is_eventfd(event.as_fd()));
        assert!(!is_eventfd(file.as_fd()));
    }

    #[test]
    fn a_signal_adds_one_and_a_full_counter_does_not_block() {
        for flags in [EventfdFlags::CLOEXEC, EventfdFlags::NONBLOCK] {
            let event = eventfd(0, flags).unwrap();
            let ours = EventFd::of_client(event.as_raw_fd()).unwrap();
            ours.signal();
            ours.signal();
            let mut count = [0; 8];
            rustix::io::read(&event, &mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), 2);
            rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
            ours.signal();
        }
    }

    #[test]
    fn only_an_eventfd_can_be_signalled() {
        let file = memfd("x", 4096).unwrap();
        assert_eq!(
            EventFd::of_client(file.as_raw_fd()).unwrap_err(),
            Errno::EINVAL
        );
        assert_eq!(EventFd::of_client(i32::MAX).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn a_hidden_descriptor_is_owned_while_it_lives() {
        let hidden = Hidden::new(memfd("x", 4096).unwrap()).unwrap();
        let number = hidden.as_fd().as_raw_fd();
        assert!(owns(number));
        drop(hidden);
        assert!(!owns(number));
        assert!(!owns(-1) && !owns(i32::MAX));
    }
}
