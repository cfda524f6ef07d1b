//! This process's memory, handed to the engine of another: pinned here, mapped there.
//!
//! Shared memory is handed over as it is, by a descriptor or by what it is; private memory moves into a memory file
//! first (`swiommu_mem::share`). To this process nothing has changed then, with three exceptions that are kept from
//! it: a child of fork gets private copies, memory that is thrown away (MADV_DONTNEED) is zero afterwards, and a
//! mapping that grows goes on as private memory.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use std::sync::atomic::{AtomicBool, Ordering};
use swiommu_abi::Errno;
use swiommu_engine::service::{FDS_MOST, Head};
use swiommu_mem::fd::{self, Hidden};
use swiommu_mem::share::{self, Copy, Origin, Piece};
use swiommu_mem::{PAGE, UserAddr};

use super::serve::Reply;
use crate::engine;
use crate::lock::Quiet;

/// Most runs of one answer; the owner asks for the rest.
const RUNS_MOST: usize = 256;

/// A run of memory on its way to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes.
    pub(super) bytes: u64,
    /// Offset in what it is part of.
    pub(super) at: u64,
    /// Device and inode of that.
    device: u64,
    inode: u64,
    /// Index of its descriptor in the packet; beyond them: the other process must have it mapped.
    pub(super) fd: u64,
}

const WORDS: usize = 5;

impl Run {
    fn words(&self) -> [u64; WORDS] {
        [self.bytes, self.at, self.device, self.inode, self.fd]
    }

    /// The runs in a packet's body.
    pub(super) fn all(body: &[u8]) -> impl Iterator<Item = Run> {
        body.chunks_exact(8 * WORDS).map(|words| {
            let word = |index: usize| {
                let bytes = words[8 * index..8 * index + 8].try_into();
                u64::from_le_bytes(bytes.expect("eight bytes"))
            };
            Run {
                bytes: word(0),
                at: word(1),
                device: word(2),
                inode: word(3),
                fd: word(4),
            }
        })
    }
}

/// Where this process has a run mapped.
pub(super) fn find_here(run: &Run) -> Option<UserAddr> {
    let origin = Origin {
        device: run.device,
        inode: run.inode,
        offset: run.at,
    };
    share::find(origin, run.bytes)
}

/// What has moved: one file each.
#[derive(Default)]
struct Moved {
    files: Vec<(u64, Hidden)>,
    /// Made before a fork, for the child.
    copies: Vec<Copy>,
}

static MOVED: Quiet<Moved> = Quiet::new(Moved {
    files: Vec::new(),
    copies: Vec::new(),
});
/// Whether anything has.
static ANY: AtomicBool = AtomicBool::new(false);

/// Pins memory of this process for another one, from `first` on, as far as one answer goes.
pub(super) fn pin(first: UserAddr, bytes: u64, write: bool) -> Result<Reply, Errno> {
    let last = first
        .0
        .checked_add(bytes.wrapping_sub(1))
        .ok_or(Errno::EFAULT)?;
    if bytes == 0 || !(first.0 | bytes).is_multiple_of(PAGE) {
        return Err(Errno::EFAULT);
    }
    engine::client().populate(first, bytes, write)?;
    let mut reply = Reply::default();
    let mut next = first.0;
    MOVED.with(|moved| {
        moved.forget_gone()?;
        for piece in share::pieces(first.0, last)? {
            let full = reply.fds.len() == FDS_MOST || reply.body.len() >= RUNS_MOST * 8 * WORDS;
            if piece.first != next || full {
                break;
            }
            let run = moved.hand_over(&piece, &mut reply.fds)?;
            reply
                .body
                .extend(run.words().iter().flat_map(|word| word.to_le_bytes()));
            next += run.bytes;
        }
        Ok(())
    })?;
    reply.head = Head {
        args: [next - first.0, 0, 0, 0],
        ..Head::default()
    };
    Ok(reply)
}

impl Moved {
    fn file(&self, inode: u64) -> Option<&Hidden> {
        let found = self.files.iter().find(|(known, _)| *known == inode);
        found.map(|(_, file)| file)
    }

    /// Drops the files of memory that is no longer mapped.
    fn forget_gone(&mut self) -> Result<(), Errno> {
        if !self.files.is_empty() {
            let mapped = share::pieces(0, u64::MAX)?;
            let inodes: Vec<u64> = mapped
                .iter()
                .filter_map(|piece| Some(piece.shared?.inode))
                .collect();
            self.files.retain(|(inode, _)| inodes.contains(inode));
            ANY.store(!self.files.is_empty(), Ordering::Release);
        }
        Ok(())
    }

    /// One piece as a run; private memory moves.
    fn hand_over(&mut self, piece: &Piece, fds: &mut Vec<OwnedFd>) -> Result<Run, Errno> {
        let origin = match piece.shared {
            Some(origin) => origin,
            None => self.move_out(piece)?,
        };
        let file = match self.file(origin.inode) {
            Some(file) => Some(fd::duplicate(file)?),
            None => open_of(&origin),
        };
        let index = fds.len() as u64;
        let handed = file.is_some();
        fds.extend(file);
        Ok(Run {
            bytes: piece.bytes,
            at: origin.offset,
            device: origin.device,
            inode: origin.inode,
            fd: if handed { index } else { u64::MAX },
        })
    }

    fn move_out(&mut self, piece: &Piece) -> Result<Origin, Errno> {
        let file = Hidden::new(share::into_file(piece.first, piece.bytes, piece.prot)?)?;
        let stat = rustix::fs::fstat(&file).map_err(|_| Errno::EFAULT)?;
        self.files.push((stat.st_ino, file));
        ANY.store(true, Ordering::Release);
        Ok(Origin {
            device: stat.st_dev,
            inode: stat.st_ino,
            offset: 0,
        })
    }

    /// The pieces in a range that have moved.
    fn pieces(&self, first: u64, last: u64) -> Vec<Piece> {
        let all = share::pieces(first, last).unwrap_or_default();
        let is_moved = |piece: &Piece| {
            let inode = piece.shared.map(|origin| origin.inode);
            inode.is_some_and(|inode| self.file(inode).is_some())
        };
        all.into_iter().filter(is_moved).collect()
    }
}

/// A descriptor of shared memory that the client still has open, opened anew.
fn open_of(origin: &Origin) -> Option<OwnedFd> {
    let numbers = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    numbers
        .filter_map(|entry| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let path = entry.path();
            let there = rustix::fs::open(&path, flags, Mode::empty()).ok()?;
            let stat = rustix::fs::fstat(there).ok()?;
            ((stat.st_dev, stat.st_ino) == (origin.device, origin.inode)).then_some(path)
        })
        .find_map(|path| {
            [OFlags::RDWR, OFlags::RDONLY].iter().find_map(|mode| {
                rustix::fs::open(&path, *mode | OFlags::CLOEXEC, Mode::empty()).ok()
            })
        })
}

/// The client throws `bytes` bytes at `first` away: where they have moved, fresh memory takes their place.
#[inline]
pub fn discarded(first: usize, bytes: usize) {
    if bytes != 0 && ANY.load(Ordering::Acquire) {
        crate::guard::enter(|| discard(first as u64, bytes as u64));
    }
}

#[cold]
fn discard(first: u64, bytes: u64) {
    let Some(last) = first.checked_add(bytes - 1) else {
        return;
    };
    MOVED.with(|moved| {
        for piece in moved.pieces(first, last | (PAGE - 1)) {
            // Without memory the pages stay what they were, which the advice allows.
            let _ = share::renew(piece);
        }
    });
}

/// Before fork: private copies for the child, and nothing is on the move.
pub(super) fn quiesce() {
    if ANY.load(Ordering::Acquire) {
        crate::guard::enter(|| {
            MOVED.with(|moved| {
                moved.copies = moved
                    .pieces(0, u64::MAX)
                    .into_iter()
                    .filter_map(|piece| Copy::new(piece).ok())
                    .collect();
            });
        });
    }
    MOVED.quiesce();
}

/// After fork, in the parent.
pub(super) fn resume() {
    MOVED.resume();
    if ANY.load(Ordering::Acquire) {
        crate::guard::enter(|| drop(MOVED.with(|moved| std::mem::take(&mut moved.copies))));
    }
}

/// In the child of a fork: what was private is private again.
pub(super) fn forked() {
    MOVED.resume();
    if !ANY.swap(false, Ordering::AcqRel) {
        return;
    }
    MOVED.with(|moved| {
        let mut copies = std::mem::take(&mut moved.copies);
        if copies.is_empty() {
            // A raw fork: nobody made copies before it. Those of now are the best there is.
            let pieces = moved.pieces(0, u64::MAX);
            copies = pieces
                .into_iter()
                .filter_map(|p| Copy::new(p).ok())
                .collect();
        }
        for copy in copies {
            let _ = copy.put();
        }
        // The parent's numbers, closed already.
        std::mem::forget(std::mem::take(&mut moved.files));
    });
}
