//! What other processes ask: a file's operations of the owner, descriptors and memory of the one that called.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_engine::door::{Answer, Call, File, Files, Mmio, Process, Span};
use swiommu_engine::service::{BODY_MOST, Head, Packet, Wire, op};
use swiommu_mem::{Caller, UserAddr, fd};

use super::peer::Peer;
use super::{registry, share};
use crate::engine;

thread_local! {
    /// The process this thread answers.
    static PEER: RefCell<Option<Arc<Peer>>> = const { RefCell::new(None) };
    /// One more than the number that the process was given during this call.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// An answer under construction.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Reply {
    fn value(value: u64) -> Reply {
        let mut reply = Reply::default();
        reply.head.args[0] = value;
        reply
    }
}

/// Answers until the other end is gone.
pub(super) fn until_closed(wire: &Wire) {
    // A process of another user is no client of this run.
    let Some(pid) = wire.peer() else { return };
    while let Some(request) = wire.receive() {
        let reply = answer(pid, &request).unwrap_or_else(|errno| {
            let mut reply = Reply::default();
            reply.head.op = errno.raw() as u32;
            reply
        });
        let fds: Vec<BorrowedFd<'_>> = reply.fds.iter().map(AsFd::as_fd).collect();
        if wire.send(&reply.head, &reply.body, &fds).is_err() {
            break;
        }
    }
    PEER.take();
}

fn answer(pid: u32, request: &Packet) -> Result<Reply, Errno> {
    let head = &request.head;
    match head.op {
        op::FETCH => {
            let number = i32::try_from(head.args[0]).map_err(|_| Errno::EBADF)?;
            let mut reply = Reply::default();
            reply.fds.push(fd::dup_client_fd(number, 0)?);
            Ok(reply)
        }
        op::PIN => share::pin(UserAddr(head.args[0]), head.args[1], head.args[2] != 0),
        op::ENGINE => {
            let engine = engine::existing().ok_or(Errno::ENODEV)?;
            let body = engine.message(head.args[0] as u32, &request.body)?;
            let head = Head::default();
            let fits = body.len() <= BODY_MOST;
            fits.then_some(Reply {
                head,
                body,
                fds: Vec::new(),
            })
            .ok_or(Errno::EMSGSIZE)
        }
        op::GIVE => {
            let given = request.fds.first().ok_or(Errno::EINVAL)?;
            let number = fd::duplicate(given)?.into_raw_fd();
            Ok(Reply::value(number as u64))
        }
        op::CLOSED => {
            registry::reap();
            Ok(Reply::default())
        }
        op::KEEPS => {
            registry::keep(head.file).ok_or(Errno::ENODEV)?;
            Ok(Reply::default())
        }
        op::IOCTL => {
            let file = registry::keep(head.file).ok_or(Errno::ENODEV)?;
            let reply = fd::of_other_process(fetch, || of_file(pid, head, &file));
            registry::used();
            reply
        }
        _ => {
            let file = registry::find(head.file).ok_or(Errno::ENODEV)?;
            fd::of_other_process(fetch, || of_file(pid, head, &file))
        }
    }
}

/// A descriptor of the process this thread answers.
fn fetch(number: i32) -> Result<OwnedFd, Errno> {
    let peer = PEER.with_borrow(|peer| peer.clone());
    peer.ok_or(Errno::EBADF)?.fetch(number)
}

/// The other process's table and memory.
struct Theirs;

impl Files for Theirs {
    fn get(&self, number: i32) -> Option<Arc<dyn File>> {
        registry::behind(fetch(number).ok()?.as_fd())
    }
    fn number(&self, object: BorrowedFd<'_>) -> Result<i32, Errno> {
        let peer = PEER.with_borrow(|peer| peer.clone()).ok_or(Errno::ENODEV)?;
        let number = peer.give(object)?;
        GIVEN.set(number as u64 + 1);
        Ok(number)
    }
    fn process(&self) -> Option<Arc<dyn Process>> {
        PEER.with_borrow(|peer| peer.clone().map(|peer| peer as Arc<dyn Process>))
    }
}

fn of_file(pid: u32, head: &Head, file: &Arc<dyn File>) -> Result<Reply, Errno> {
    if head.op == op::DESCRIBE {
        return Ok(describe(file));
    }
    PEER.with_borrow_mut(|peer| {
        if peer.is_none() {
            *peer = Peer::new(pid).ok().map(Arc::new);
        }
    });
    let process = std::num::NonZeroU32::new(pid).ok_or(Errno::EPERM)?;
    let call = Call {
        client: Caller::Other(process),
        thread: head.thread,
        site: head.site,
        files: &Theirs,
    };
    let [a, b, c, d] = head.args;
    GIVEN.set(0);
    match head.op {
        op::IOCTL => match file.ioctl(&call, a as u32, b)? {
            Answer::Value(value) => Ok(Reply::value(value as u64)),
            Answer::Open(new) | Answer::Also(new) => {
                let mut reply = describe(&new.file);
                reply.head.args[3] = GIVEN.take();
                let (key, lifeline) = registry::enter(new.object.as_fd(), &new.file);
                reply.head.file = key;
                reply.fds.push(new.object);
                reply.fds.extend(lifeline);
                Ok(reply)
            }
        },
        op::PREAD => file.pread(&call, UserAddr(a), b, c).map(Reply::value),
        op::PWRITE => file.pwrite(&call, UserAddr(a), b, c).map(Reply::value),
        op::MMAP => spans(&file.mmap(&call, a, b, c != 0)?),
        op::MMIO => {
            let bytes = u8::try_from(b).ok().filter(|b| matches!(b, 1 | 2 | 4 | 8));
            let access = match c {
                0 => Mmio::Read,
                _ => Mmio::Write(d),
            };
            let value = file.mmio(&call, a, bytes.ok_or(Errno::EINVAL)?, access);
            value.map(Reply::value).ok_or(Errno::EFAULT)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Spans as they go over the wire.
fn spans(spans: &[(u64, Span)]) -> Result<Reply, Errno> {
    let mut reply = Reply::default();
    for (bytes, span) in spans {
        let (kind, offset) = match span {
            Span::Memory => (0, 0),
            Span::Trap => (1, 0),
            Span::Elsewhere { object, offset } => {
                // The number is this process's, whose descriptor the engine keeps while the file is open.
                reply.fds.push(fd::own(*object)?);
                (2, *offset)
            }
        };
        let words = [*bytes, kind, offset];
        reply
            .body
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    Ok(reply)
}

fn describe(file: &Arc<dyn File>) -> Reply {
    let device = file.char_device();
    let number = |part: Option<u32>| u64::from(part.unwrap_or(0));
    let mut reply = Reply::default();
    reply.head.args = [
        number(device.map(|device| device.major)),
        number(device.map(|device| device.minor)),
        u64::from(device.is_some()) | u64::from(file.is_stream()) << 1,
        0,
    ];
    reply.body = file.link().into_bytes();
    reply
}
