//! What a PCI device model sees of the world, and what the world sees of it.
//!
//! A model implements [`Device`] and speaks to the world only through [`Bus`]: it does not know that an
//! IOMMU, VFIO or a client exists. Configuration space, BAR sizing, the MSI-X table and interrupt
//! delivery are not the model's business; it says what it has in its [`Identity`].

pub mod bus;
pub mod codec;
pub mod config;
pub mod dma_log;
pub mod function;
pub mod irq;
pub mod migration;
pub mod spans;
pub mod virqfd;

use std::os::fd::BorrowedFd;

use swiommu_mem::Mapping;

pub use spans::{Span, Spans};

/// One base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bar {
    /// Not implemented (or the upper half of a 64-bit one).
    #[default]
    None,
    /// Memory space.
    Memory {
        /// A power of two, 16 or more; VFIO offers it for mapping from 4096 up.
        bytes: u64,
        /// A 64-bit BAR: the next slot must be `None`.
        wide: bool,
        /// Prefetchable.
        prefetch: bool,
    },
    /// I/O space.
    Io {
        /// A power of two, 4..=256.
        bytes: u64,
    },
}

/// Where a function keeps its MSI-X structures. Accesses to them never reach the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Vectors, 1..=2048.
    pub vectors: u16,
    /// BAR of the table (16 bytes a vector) and its offset, 8-byte aligned.
    pub table: (u8, u32),
    /// BAR of the pending bits and their offset.
    pub pba: (u8, u32),
}

/// What a function has to do with SR-IOV (PCI Express 5.0 chapter 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Nothing.
    #[default]
    Ordinary,
    /// It can be divided: it has the capability.
    Physical(Sriov),
    /// It is a part of one. Memory decoding cannot be switched off, and it has no INTx.
    Virtual,
}

/// The SR-IOV capability of a physical function. Its virtual functions have the memory BARs that it has itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sriov {
    /// Virtual functions there can be, 1 or more.
    pub total: u16,
    /// Routing id of the first, counted from the physical function's, and from each to the next.
    pub offset: u16,
    /// See `offset`.
    pub stride: u16,
    /// Their device ID.
    pub device: u16,
}

/// What a function is: everything its configuration space is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor and device ID.
    pub subsystem: (u16, u16),
    /// Class code: base class, subclass, programming interface; 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// The six BARs.
    pub bars: [Bar; 6],
    /// 0 = no INTx, 1 = INTA.
    pub interrupt_pin: u8,
    /// MSI vectors: 0 (no capability), 1, 2, 4, 8, 16 or 32.
    pub msi: u8,
    /// MSI-X, if the function has it.
    pub msix: Option<Msix>,
    /// A PCI Express endpoint: 4096 bytes of configuration space and function level reset. Otherwise a conventional
    /// device with 256 bytes and no reset.
    pub express: bool,
    /// Its part in SR-IOV.
    pub role: Role,
}

/// A DMA did not happen, or not wholly: master abort, IOMMU block or bus master off. The device sees only this;
/// the reason has gone to the IOMMU's fault record and to the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// A function's way to memory and to interrupts, for the time of one call into the model.
pub trait Bus {
    /// DMA read: memory at `iova` to `to`. On an error a prefix may have been read.
    fn read(&mut self, iova: u64, to: &mut [u8]) -> Result<(), BusError> {
        self.gather(Spans::one(iova, to.len() as u64), to)
    }
    /// DMA write: `from` to memory at `iova`. On an error a prefix may have been written.
    fn write(&mut self, iova: u64, from: &[u8]) -> Result<(), BusError> {
        self.scatter(Spans::one(iova, from.len() as u64), from)
    }
    /// [`Bus::read`] from many places, as many bytes as `to` has.
    fn gather(&mut self, from: Spans<'_>, to: &mut [u8]) -> Result<(), BusError>;
    /// [`Bus::write`] to many places, as many bytes as `from` has.
    fn scatter(&mut self, to: Spans<'_>, from: &[u8]) -> Result<(), BusError>;
    /// DMA write of one record whose last four bytes (the phase bit of an NVMe completion, a status word) become
    /// visible after all others. `iova` is 4-byte aligned, the record a multiple of 4 bytes.
    fn publish(&mut self, iova: u64, record: &[u8]) -> Result<(), BusError>;
    /// DMA write straight from a medium.
    fn write_from(
        &mut self,
        to: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError>;
    /// DMA read straight to a medium.
    fn read_into(
        &mut self,
        from: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError>;
    /// DMA read straight to an open file, from its byte `offset` on, in system calls that copy once. Returns how many
    /// bytes arrived: fewer than asked where this way is closed (memory that only copies of ours reach, a file
    /// that cannot be written), and the rest is to be moved by other means, which find out why.
    fn read_to_file(
        &mut self,
        from: Spans<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, BusError> {
        let _ = (from, file, offset);
        Ok(0)
    }
    /// Message `vector` of MSI-X or MSI, whichever the client enabled. Nothing happens if neither is.
    fn message(&mut self, vector: u16);
    /// Drives the function's INTx line. Level: stays asserted until driven low.
    fn intx(&mut self, asserted: bool);
    /// Names what the function is doing, for reports of the DMA that follows: `"NVMe SQ 1, command 17 (READ)"`.
    /// Called lazily: only when a report is made.
    fn doing(&mut self, what: Doing);
    /// The client did something this model does not do. Reported by name once per distinct text.
    fn unmodelled(&mut self, what: std::fmt::Arguments<'_>);
    /// The client did something the device's specification forbids (a doorbell beyond the queue, say). Reported as a
    /// client bug once per distinct text; the device then behaves as the specification says.
    fn misuse(&mut self, what: std::fmt::Arguments<'_>);
    /// Something legal but unusual that explains what may follow. Noted once per distinct text.
    fn remark(&mut self, what: std::fmt::Arguments<'_>);
}

/// Why a transfer between a medium and memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// The memory side.
    Bus,
    /// The medium side: the file is shorter than it was, or cannot be read or written.
    Medium,
}

/// What a function is doing; rendered only when a report needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// What, e.g. `"READ"`, `"fetching a command"`, `"posting a completion"`, `"edu DMA"`.
    pub what: &'static str,
    /// Queue number, if the device has queues.
    pub queue: Option<u16>,
    /// Command identifier, if it has one.
    pub command: Option<u16>,
}

/// A PCI function's model: registers in, DMA and interrupts out. It runs in the thread that touched a register.
pub trait Device: Send {
    /// What the function is. Constant over its life.
    fn identity(&self) -> Identity;
    /// A register read of 1, 2, 4 or 8 bytes, inside the BAR, value in the low bytes.
    fn read(&mut self, bus: &mut dyn Bus, bar: u8, offset: u64, bytes: u8) -> u64;
    /// A register write of 1, 2, 4 or 8 bytes, inside the BAR, value in the low bytes.
    fn write(&mut self, bus: &mut dyn Bus, bar: u8, offset: u64, bytes: u8, value: u64);
    /// Function level reset, power-on included. Must drop INTx; must not fail.
    fn reset(&mut self, bus: &mut dyn Bus);
    /// The last client file closed, in good order: media reach their files.
    fn close(&mut self);
    /// Time passes (about every millisecond while the model asked for it); `true` = keep calling.
    fn tick(&mut self, bus: &mut dyn Bus) -> bool {
        let _ = bus;
        false
    }
    /// Its way to another machine, if it can go there.
    fn migrate(&mut self) -> Option<&mut dyn migration::Migrate> {
        None
    }
}
