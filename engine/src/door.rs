//! The door between the interposed symbols and the engine: what stands behind a file descriptor.
//!
//! The shim knows file numbers and nothing else; the engine knows files and no numbers. A [`File`] is shared by
//! all duplicates of its descriptor and released when the last one closes (`Drop`).

use std::any::Any;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_mem::{Caller, Client, UserAddr, Window};

use crate::iommufd::pages::DmaBuf;

/// One call by the client: who, from where, and how to find its other files.
pub struct Call<'a> {
    /// The memory the arguments point into.
    pub client: Caller,
    /// Kernel thread id of the caller.
    pub thread: u32,
    /// Return address of the interposed call, 0 if unknown.
    pub site: u64,
    /// The client's descriptors that are ours.
    pub files: &'a dyn Files,
}

impl Call<'_> {
    /// What is done for the client by nobody's call: a device reaches another, an eventfd was written to.
    pub fn of_engine(client: Client, thread: u32, site: u64) -> Call<'static> {
        Call {
            client: client.into(),
            thread,
            site,
            files: &NoFiles,
        }
    }
}

struct NoFiles;

impl Files for NoFiles {
    fn get(&self, _: i32) -> Option<Arc<dyn File>> {
        None
    }
}

/// What the calling process has.
pub trait Files {
    /// The file behind its descriptor `fd`, or `None` when that is not one of ours (or not open).
    fn get(&self, fd: i32) -> Option<Arc<dyn File>>;
    /// The number that a new descriptor will have for it, when it must be told before the call ends ([`Answer::Also`]).
    ///
    /// # Errors
    /// EMFILE; ENODEV when the process is gone.
    fn number(&self, object: BorrowedFd<'_>) -> Result<i32, Errno> {
        Ok(object.as_raw_fd())
    }
    /// The process, if it is another one than this.
    fn process(&self) -> Option<Arc<dyn Process>> {
        None
    }
}

/// Another process that uses files of this engine.
pub trait Process: Send + Sync {
    /// Its id, as this process sees it.
    fn id(&self) -> u32;
    /// Pins its memory, `bytes` bytes at `first` (whole pages): from now on `window` shows the same pages at `offset`,
    /// whatever becomes of the process.
    ///
    /// # Errors
    /// What pinning answers; `EFAULT` when the process is gone.
    fn pin(
        &self,
        first: UserAddr,
        bytes: u64,
        write: bool,
        window: &Window,
        offset: u64,
    ) -> Result<(), Errno>;
}

/// What the shim does for an engine.
pub trait Host: Send + Sync {
    /// From now on other processes of the run reach this one ([`crate::service`]). Does nothing if they do already.
    fn serve(&self);
}

/// A new descriptor for the client: the kernel object whose number it gets, and what we keep behind it.
pub struct NewFile {
    /// A real kernel object (a memfd), close-on-exec as the kernel would make it.
    pub object: OwnedFd,
    /// What answers for it.
    pub file: Arc<dyn File>,
}

/// What an ioctl answers.
pub enum Answer {
    /// The return value, 0 or more.
    Value(i32),
    /// A new descriptor: its number is the return value.
    Open(NewFile),
    /// A new descriptor whose number the client has been told already: the return value is 0.
    Also(NewFile),
}

/// How one span of a mapping behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Plain memory: the kernel object's own page at that offset.
    Memory,
    /// Registers: every access must reach [`File::mmio`].
    Trap,
    /// Plain memory of another kernel object, which the engine keeps.
    Elsewhere {
        /// Its descriptor.
        object: i32,
        /// Where in it the span begins.
        offset: u64,
    },
}

/// What `fstat` shows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CharDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// One access to a mapped register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mmio {
    /// Read.
    Read,
    /// Write of this value (low bytes).
    Write(u64),
}

/// What stands behind a descriptor. The default of every operation is the kernel's refusal.
pub trait File: Any + Send + Sync {
    /// The path that /proc/self/fd shows, e.g. `/dev/vfio/vfio` or `anon_inode:[vfio-device]`.
    fn link(&self) -> String;
    /// The device number, if it is a character device (containers, groups and cdevs are; group device fds are not).
    fn char_device(&self) -> Option<CharDevice> {
        None
    }
    /// The memory of a device behind the descriptor, if it is a dma-buf.
    fn dma_buf(&self) -> Option<Arc<dyn DmaBuf>> {
        None
    }
    /// Whether nothing was done with it since its node was opened: another opening of the node is as good.
    fn is_fresh(&self) -> bool {
        false
    }
    /// ioctl.
    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno>;
    /// Whether it has no position, so that only read and write go to [`File::pread`] and [`File::pwrite`], with 0 for it.
    fn is_stream(&self) -> bool {
        false
    }
    /// pread of `bytes` at `offset` to client memory: bytes read.
    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        let _ = (call, to, bytes, offset);
        Err(Errno::EINVAL)
    }
    /// pwrite.
    fn pwrite(
        &self,
        call: &Call<'_>,
        from: UserAddr,
        bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        let _ = (call, from, bytes, offset);
        Err(Errno::EINVAL)
    }
    /// Checks a shared mapping of `bytes` at `offset` and says how each page of it behaves:
    /// `(bytes, span)` pairs that add up to `bytes`, each a multiple of 4096.
    fn mmap(
        &self,
        call: &Call<'_>,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        let _ = (call, offset, bytes, write);
        Err(Errno::ENODEV)
    }
    /// One access of 1, 2, 4 or 8 bytes to a mapped register at `offset` of the file. Returns what was read (0 for
    /// writes), `None` where no page is behind the mapping at this moment: the client gets SIGBUS.
    fn mmio(&self, call: &Call<'_>, offset: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let _ = (call, offset, bytes, access);
        None
    }
}

/// What the shim calls in the engine besides [`File`]. Built once per process from the run's directory.
pub trait Engine: Send + Sync {
    /// Opens a device node of the machine, by the client's name for it: `/dev/vfio/vfio`, `/dev/vfio/12`.
    /// `None`: the machine has no such node (the shim lets the path be looked up in the run's tree).
    fn open(&self, call: &Call<'_>, path: &str) -> Option<Result<NewFile, Errno>>;
    /// The client is about to take `bytes` bytes at `first` away (munmap, MAP_FIXED, mremap source, MADV_DONTNEED):
    /// pages pinned there move aside first. Cheap when nothing is pinned.
    fn vacate(&self, call: &Call<'_>, first: UserAddr, bytes: u64);
    /// A mapping of ours (register or BAR pages) was made in, or removed from, the client's address space.
    fn mapped(&self, first: UserAddr, bytes: u64, file: Option<(&Arc<dyn File>, u64)>);
    /// Whether `fd` is a descriptor that the engine keeps for itself. The client never opened it, so it cannot close or
    /// replace it. Called on every close: an array look-up, no lock.
    fn owns(&self, fd: i32) -> bool {
        let _ = fd;
        false
    }
    /// Called once, right after the engine was made.
    fn attach(&self, host: &'static dyn Host) {
        let _ = host;
    }
    /// A message of another engine of the run ([`crate::service::kind`]): the answer. Called in a thread of its own.
    ///
    /// # Errors
    /// Passed on; `ENOTTY` for a kind that is not known.
    fn message(&self, kind: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let _ = (kind, body);
        Err(Errno::ENOTTY)
    }
    /// Opens `fail-nth` of a thread ([`crate::mock`]). `None`: the machine has no test equipment.
    fn fail_nth(&self, call: &Call<'_>, thread: u32) -> Option<Result<NewFile, Errno>> {
        let _ = (call, thread);
        None
    }
    /// Bytes of a process's memory that are pinned, and bytes that count as locked, by whichever engine of the run.
    fn accounted(&self, process: u32) -> (u64, u64) {
        let _ = process;
        (0, 0)
    }
    /// The process is exiting in good order: last reports, mappings left behind.
    fn exit(&self);
}
