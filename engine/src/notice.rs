//! What other processes of the run tell the engine of this one.
//!
//! A process that listens has a socket in the run's directory, `notices/PID`, and a thread that reads it. It listens
//! from the first time it has a reason to: a client that never asks to be told costs nothing.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use rustix::fs::{Mode, OFlags, openat};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv,
    sendto, socket_with,
};
use swiommu_abi::Errno;
use swiommu_mem::fd::Hidden;
use swiommu_mem::quiet;

use crate::machine::Bdf;
use crate::run::Run;

/// One notice: a datagram of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody wants a function back: its client is asked to close it.
    Request(Bdf),
}

const DIRECTORY: &str = "notices";

/// Tells a notice to all engines of the run that listen.
pub fn send(run: &Path, notice: &Notice) {
    let Notice::Request(bdf) = notice;
    let text = format!("request {bdf}");
    let Ok(socket) = socket() else { return };
    let Ok(entries) = fs::read_dir(run.join(DIRECTORY)) else {
        return;
    };
    for entry in entries.flatten() {
        let sent =
            address(run, &entry.file_name().to_string_lossy()).map(|(address, _directory)| {
                sendto(
                    &socket,
                    text.as_bytes(),
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                    &address,
                )
            });
        // nobody reads there any more: its process has ended
        if let Ok(Err(rustix::io::Errno::CONNREFUSED)) = sent {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes this process listen.
///
/// # Errors
/// EIO when the run's directory is gone; what the kernel answered when it had no socket or thread to give.
pub fn listen(run: &Arc<Run>) -> Result<(), Errno> {
    let directory = run.dir().join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(|_| Errno::EIO)?;
    let name = std::process::id().to_string();
    // a socket of that name is of an engine of this process that is gone
    let _ = fs::remove_file(directory.join(&name));
    let socket = socket()?;
    let (address, _directory) = address(run.dir(), &name)?;
    bind(&socket, &address).map_err(raw)?;
    let socket = Hidden::new(socket)?;
    let run = Arc::downgrade(run);
    quiet::spawn("swiommu", move || read(&socket, &run)).map_err(|_| Errno::EAGAIN)
}

fn read(socket: &Hidden, run: &Weak<Run>) {
    let mut text = [0; 64];
    loop {
        let bytes = match recv(socket, &mut text[..], RecvFlags::empty()) {
            Ok((bytes, _)) => bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        let Some(run) = run.upgrade() else { return };
        let text = std::str::from_utf8(&text[..bytes]).unwrap_or("");
        if let Some(Ok(bdf)) = text.strip_prefix("request ").map(str::parse::<Bdf>)
            && let Some(function) = run.functions.iter().find(|function| function.bdf() == bdf)
        {
            function.request();
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let made = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    made.map_err(raw)
}

/// A socket's address, however long the run's path is, and what must stay open while it is used.
fn address(run: &Path, name: &str) -> Result<(SocketAddrUnix, OwnedFd), Errno> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        openat(rustix::fs::CWD, run.join(DIRECTORY), flags, Mode::empty()).map_err(raw)?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    Ok((SocketAddrUnix::new(path).map_err(raw)?, directory))
}

fn raw(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}
