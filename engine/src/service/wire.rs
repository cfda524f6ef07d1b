//! One connection between two processes of a run, and what goes over it: packets of a fixed head, a body and descriptors.
//!
//! What arrives is an allegation, as everything from a client. A packet that is not whole ends the connection.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use swiommu_abi::Errno;
use swiommu_mem::fd::Hidden;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes of a body.
pub const BODY_MOST: usize = 32 << 10;
/// Most descriptors with one packet.
pub const FDS_MOST: usize = 64;

/// What a request is about. The answer's `op` is an errno, 0 for success.
pub mod op {
    /// `File::ioctl`: args command, argument. Answers the value; or a new file, with its key, its descriptor and what
    /// DESCRIBE says; in the fourth word, one more than the number the caller was GIVEn for it.
    pub const IOCTL: u32 = 1;
    /// `File::pread`: args address, bytes, offset. Answers the bytes done.
    pub const PREAD: u32 = 2;
    /// `File::pwrite`: likewise.
    pub const PWRITE: u32 = 3;
    /// `File::mmap`: args offset, bytes, write. Answers the spans, each of three words: bytes; 0 for memory, 1 for
    /// registers, 2 for memory of the next descriptor; where in that.
    pub const MMAP: u32 = 4;
    /// `File::mmio`: args offset, bytes, 1 for a write, value. Answers the value.
    pub const MMIO: u32 = 5;
    /// What stat and readlink show of a file: args major and minor number, 1 for a device + 2 for a stream; the body is
    /// the link.
    pub const DESCRIBE: u32 = 6;
    /// The process has closed a descriptor or all it knew of the file.
    pub const CLOSED: u32 = 7;
    /// Whether the process goes on answering for the file. ENODEV when it does not know it, or is done with it and
    /// nothing was done with the file: whoever asks may take it over.
    pub const KEEPS: u32 = 8;
    /// To the process that called: its descriptor of this number.
    pub const FETCH: u32 = 16;
    /// To the process that called: pins memory, args address, bytes, write. Answers how many bytes the runs cover.
    pub const PIN: u32 = 17;
    /// To the process that called: a descriptor for it. Answers the number it has there now.
    pub const GIVE: u32 = 18;
    /// `Engine::message`: args kind. Bodies both ways.
    pub const ENGINE: u32 = 32;
}

/// The fixed part of a packet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Head {
    /// See [`op`].
    pub op: u32,
    /// Kernel thread id of the caller.
    pub thread: u32,
    /// Return address of the call in the caller, 0 if unknown.
    pub site: u64,
    /// Which file.
    pub file: u64,
    /// See [`op`].
    pub args: [u64; 4],
}

/// What arrived.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its fixed part.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

/// A connection.
#[derive(Debug)]
pub struct Wire(Hidden);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

impl Wire {
    /// A connection over a socket.
    ///
    /// # Errors
    /// What moving the descriptor out of the client's way says.
    pub fn new(socket: OwnedFd) -> Result<Wire, Errno> {
        Ok(Wire(Hidden::new(socket)?))
    }

    /// The id of the process at the other end, as this one sees it, if it is of the same user.
    pub fn peer(&self) -> Option<u32> {
        let peer = sockopt::socket_peercred(&self.0).ok()?;
        let same = peer.uid == rustix::process::geteuid();
        same.then(|| peer.pid.as_raw_nonzero().get() as u32)
    }

    /// How long [`Wire::receive`] waits; without end by default.
    pub fn wait_at_most(&self, time: Duration) {
        let _ = sockopt::set_socket_timeout(&self.0, Timeout::Recv, Some(time));
        let _ = sockopt::set_socket_timeout(&self.0, Timeout::Send, Some(time));
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// `EPIPE` when the other end is gone; `EMSGSIZE` for a packet that is too large.
    pub fn send(&self, head: &Head, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        if body.len() > BODY_MOST || fds.len() > FDS_MOST {
            return Err(Errno::EMSGSIZE);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::EMSGSIZE);
        }
        let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(body)];
        loop {
            match rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(errno(error)),
            }
        }
    }

    /// Waits for a packet; `None` when the other end is gone or sends what is none.
    pub fn receive(&self) -> Option<Packet> {
        let mut packet = Packet {
            body: vec![0; BODY_MOST],
            ..Packet::default()
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut parts = [
                IoSliceMut::new(packet.head.as_mut_bytes()),
                IoSliceMut::new(&mut packet.body),
            ];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags) {
                Ok(message) => break message,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                packet.fds.extend(fds);
            }
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        let body = message.bytes.checked_sub(size_of::<Head>())?;
        if message.flags.intersects(cut) {
            return None;
        }
        packet.body.truncate(body);
        Some(packet)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What the other end answers; `ENODEV` when it is gone.
    pub fn ask(&self, head: &Head, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Packet, Errno> {
        self.send(head, body, fds).map_err(|error| match error {
            Errno::EMSGSIZE => error,
            _ => Errno::ENODEV,
        })?;
        let answer = self.receive().ok_or(Errno::ENODEV)?;
        match answer.head.op {
            0 => Ok(answer),
            number => Err(Errno::from_raw(number as i32).unwrap_or(Errno::EIO)),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
