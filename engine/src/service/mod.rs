//! How processes of a run reach each other: each that is asked to listens at `engines/PID.sock` in the run's directory.
//!
//! The engine lives in the process that opened the files. Whoever else has such a file (a child, a process that was given
//! the descriptor) sends its calls here, and the engine asks back for descriptors and memory of that process. Engines
//! send each other messages of their own ([`ask`]).

mod wire;

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use swiommu_abi::Errno;
use swiommu_mem::fd::Hidden;

pub use wire::{BODY_MOST, FDS_MOST, Head, Packet, Wire, op};

/// Kinds of messages between engines: what [`crate::door::Engine::message`] is given.
pub mod kind {
    /// A function is asked back for its host driver; the body is its address as text.
    pub const DEVICE_REQUESTED: u32 = 1;
    /// What a process is charged for; the body is its id, a little-endian word of 32 bits. Answers its pinned and its
    /// locked bytes, two of 64.
    pub const CHARGED: u32 = 2;
}

/// How long another engine may take to answer a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// The directory of the sockets in the run's.
const ENGINES: &str = "engines";

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// Calls `work` with the address of a process's socket. The directory is named by a descriptor: its path may be longer
/// than an address of a socket.
fn at<T>(
    run: &Path,
    pid: u32,
    work: impl FnOnce(&SocketAddrUnix) -> Result<T, rustix::io::Errno>,
) -> Result<T, Errno> {
    let path = run.join(ENGINES).join(format!("{pid}.sock"));
    if let Ok(address) = SocketAddrUnix::new(&path) {
        return work(&address).map_err(errno);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(run.join(ENGINES), flags, Mode::empty()).map_err(errno)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let short = format!("/proc/self/fd/{number}/{pid}.sock");
    work(&SocketAddrUnix::new(short).map_err(errno)?).map_err(errno)
}

fn socket() -> Result<OwnedFd, Errno> {
    let kind = SocketType::SEQPACKET;
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(errno)
}

/// This process's socket. Others reach it from the moment it is made; what they ask waits until it is accepted.
#[derive(Debug)]
pub struct Listener {
    socket: Hidden,
    path: PathBuf,
    pid: u32,
}

impl Listener {
    /// Listens. A socket that an earlier process of this id left behind is replaced.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(run: &Path) -> Result<Listener, Errno> {
        let pid = std::process::id();
        let socket = socket()?;
        let path = run.join(ENGINES).join(format!("{pid}.sock"));
        let _ = fs::create_dir(run.join(ENGINES));
        let _ = fs::remove_file(&path);
        at(run, pid, |address| rustix::net::bind(&socket, address))?;
        rustix::net::listen(&socket, BACKLOG).map_err(errno)?;
        let socket = Hidden::new(socket)?;
        Ok(Listener { socket, path, pid })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn accept(&self) -> Result<Wire, Errno> {
        let accepted = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC);
        Wire::new(accepted.map_err(errno)?)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A connection to a process of the run.
///
/// # Errors
/// `ENOENT` and `ECONNREFUSED` when it is not there.
pub fn connect(run: &Path, pid: u32) -> Result<Wire, Errno> {
    let socket = socket()?;
    at(run, pid, |address| {
        loop {
            match rustix::net::connect(&socket, address) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result,
            }
        }
    })
    .inspect_err(|error| {
        if *error == Errno::ECONNREFUSED {
            // It died without taking its socket along.
            let _ = fs::remove_file(run.join(ENGINES).join(format!("{pid}.sock")));
        }
    })?;
    Wire::new(socket)
}

/// The processes of the run that have listened, ascending; some may be gone.
pub fn processes(run: &Path) -> Vec<u32> {
    let entries = fs::read_dir(run.join(ENGINES)).into_iter().flatten();
    let mut found: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".sock")?
                .parse()
                .ok()
        })
        .collect();
    found.sort_unstable();
    found
}

/// Where it stands who answers for a file in place of `opener`, which opened it.
fn successor(run: &Path, opener: u32, file: u64) -> PathBuf {
    run.join(ENGINES).join(format!("{opener}-{file}.file"))
}

/// The process that took over a file, named by its opener and its key.
pub fn owner(run: &Path, opener: u32, file: u64) -> Option<u32> {
    let owner = fs::read_to_string(successor(run, opener, file)).ok()?;
    owner.parse().ok()
}

/// This process takes a file over. The caller holds the lock [`TAKING_OVER`].
///
/// # Errors
/// EIO when the run's directory is gone.
pub fn take_over(run: &Path, opener: u32, file: u64) -> Result<(), Errno> {
    let place = successor(run, opener, file);
    let new = place.with_extension("new");
    let written = fs::write(&new, std::process::id().to_string());
    written
        .and_then(|()| fs::rename(&new, &place))
        .map_err(|_| Errno::EIO)
}

/// The lock of the run that is held while a file is taken over.
pub const TAKING_OVER: &str = "take-over";

/// Sends a message to another engine of the run and waits for its answer.
///
/// # Errors
/// What it answers; `ENOENT` or `ECONNREFUSED` when it is not there; `ENODEV` when it goes before it has answered, or
/// does not answer for ten seconds.
pub fn ask(run: &Path, pid: u32, kind: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let wire = connect(run, pid)?;
    wire.wait_at_most(PATIENCE);
    let head = Head {
        op: op::ENGINE,
        args: [u64::from(kind), 0, 0, 0],
        ..Head::default()
    };
    Ok(wire.ask(&head, body, &[])?.body)
}

#[cfg(test)]
mod tests;
