//! Faults: a DMA request that was blocked, with the words and the codes of the specification.
//!
//! VT-d: fault reasons of 7.1.3 and the fault recording register of 11.4.14. AMD: the event log entries
//! of 2.5. A fault is what the *device* suffers; it is never an errno.

use std::collections::VecDeque;
use std::fmt;

use crate::addr::{Access, Iova, StreamId};
use crate::config::Kind;

/// Why a request was blocked. One variant per step that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// VT-d: the present bit of the root entry (half) is clear: nothing on this bus is attached.
    RootNotPresent,
    /// VT-d: a reserved field of the root entry is not zero.
    RootReserved,
    /// VT-d: the present bit of the context entry is clear: the device is not attached.
    ContextNotPresent,
    /// VT-d: the context entry has a translation type or width this unit does not support.
    ContextInvalid,
    /// VT-d: a reserved field of the context entry is not zero.
    ContextReserved,
    /// VT-d scalable mode: the present bit of the PASID directory entry is clear.
    PasidDirectoryNotPresent,
    /// VT-d scalable mode: a reserved field of the PASID directory entry is not zero.
    PasidDirectoryReserved,
    /// VT-d scalable mode: the present bit of the PASID table entry is clear.
    PasidNotPresent,
    /// VT-d scalable mode: the PASID table entry has a translation type or width that is not supported.
    PasidInvalid,
    /// VT-d scalable mode: a reserved field of the PASID table entry is not zero.
    PasidReserved,
    /// AMD: the device table entry is not valid, or has a paging mode that is reserved.
    DeviceEntryInvalid,
    /// AMD: a reserved field of the device table entry is not zero.
    DeviceEntryReserved,
    /// AMD: the device table entry itself forbids the access (IR, IW): the device is not attached.
    DeviceBlocked,
    /// The address is beyond the width of the tables.
    BeyondWidth,
    /// The address lies in the window of interrupt messages and the request is not one.
    InterruptWindow,
    /// Nothing is mapped at the address.
    NotPresent,
    /// The address is mapped, but not for reading.
    ReadDenied,
    /// The address is mapped, but not for writing.
    WriteDenied,
    /// A paging entry on the way has reserved bits set.
    PageReserved,
}

/// An AMD event: code and flags of a log entry (specification 2.5.2, 2.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdEvent {
    /// The event code: 1 ILLEGAL_DEV_TABLE_ENTRY, 2 IO_PAGE_FAULT.
    pub code: u8,
    /// The flags, bit 0 being GN: [`AmdEvent::PR`], [`AmdEvent::RW`], [`AmdEvent::PE`], [`AmdEvent::RZ`].
    pub flags: u16,
}

impl AmdEvent {
    /// The transaction was to a page marked present.
    pub const PR: u16 = 1 << 4;
    /// The transaction was a write.
    pub const RW: u16 = 1 << 5;
    /// The permission was insufficient.
    pub const PE: u16 = 1 << 6;
    /// A reserved bit was not zero.
    pub const RZ: u16 = 1 << 7;
    /// Event code of a device table entry that is against the specification.
    pub const ILLEGAL_DEV_TABLE_ENTRY: u8 = 1;
    /// Event code of an access that the tables do not allow.
    pub const IO_PAGE_FAULT: u8 = 2;
}

/// A blocked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The requester.
    pub stream: StreamId,
    /// The first address that failed.
    pub iova: Iova,
    /// What was tried.
    pub access: Access,
    /// What stood in the way.
    pub reason: Reason,
    /// The domain whose tables were walked, if it came that far.
    pub domain: Option<u16>,
    /// The model that blocked it.
    pub kind: Kind,
}

impl Fault {
    /// VT-d's fault reason; `None` for an AMD unit.
    pub fn vtd_reason(&self) -> Option<u8> {
        let Kind::Vtd { scalable } = self.kind else {
            return None;
        };
        let (legacy, scalable_code) = match self.reason {
            Reason::RootNotPresent => (0x1, 0x39),
            Reason::RootReserved => (0xa, 0x3a),
            Reason::ContextNotPresent => (0x2, 0x41),
            Reason::ContextReserved => (0xb, 0x42),
            Reason::ContextInvalid => (0x3, 0x43),
            Reason::PasidDirectoryNotPresent => (0, 0x51),
            Reason::PasidDirectoryReserved => (0, 0x52),
            Reason::PasidNotPresent => (0, 0x59),
            Reason::PasidReserved => (0, 0x5a),
            Reason::PasidInvalid => (0, 0x5b),
            Reason::BeyondWidth => (0x4, 0x84),
            Reason::InterruptWindow => (0xe, 0x87),
            Reason::PageReserved => (0xc, 0x7a),
            Reason::WriteDenied => (0x5, 0x85),
            Reason::ReadDenied => (0x6, 0x86),
            // The second stage has no present bit: an absent entry lacks the permission asked for.
            Reason::NotPresent if self.access == Access::Write => (0x5, 0x85),
            Reason::NotPresent => (0x6, 0x86),
            Reason::DeviceEntryInvalid | Reason::DeviceEntryReserved | Reason::DeviceBlocked => {
                return None;
            }
        };
        Some(if scalable { scalable_code } else { legacy })
    }

    /// AMD's event; `None` for a VT-d unit.
    pub fn amd_event(&self) -> Option<AmdEvent> {
        if self.kind != Kind::Amd {
            return None;
        }
        let write = if self.access == Access::Write {
            AmdEvent::RW
        } else {
            0
        };
        let (code, flags) = match self.reason {
            Reason::DeviceEntryInvalid => (AmdEvent::ILLEGAL_DEV_TABLE_ENTRY, write),
            Reason::DeviceEntryReserved => {
                (AmdEvent::ILLEGAL_DEV_TABLE_ENTRY, write | AmdEvent::RZ)
            }
            Reason::PageReserved => (AmdEvent::IO_PAGE_FAULT, write | AmdEvent::PR | AmdEvent::RZ),
            Reason::ReadDenied | Reason::WriteDenied => {
                (AmdEvent::IO_PAGE_FAULT, write | AmdEvent::PR | AmdEvent::PE)
            }
            _ => (AmdEvent::IO_PAGE_FAULT, write),
        };
        Some(AmdEvent { code, flags })
    }

    /// The 128 bits that the hardware would record: a VT-d fault recording register or an AMD event log
    /// entry, low half first.
    pub fn record(&self) -> [u64; 2] {
        let source = u64::from(self.stream.0);
        if let Some(event) = self.amd_event() {
            let domain = u64::from(self.domain.unwrap_or(0));
            let head = u64::from(event.code) << 12 | u64::from(event.flags);
            return [head << 48 | domain << 32 | source, self.iova.0];
        }
        let read = u64::from(self.access == Access::Read);
        let reason = u64::from(self.vtd_reason().unwrap_or(0));
        [
            self.iova.0 & !0xfff,
            1 << 63 | read << 62 | reason << 32 | source,
        ]
    }

    fn words(&self) -> &'static str {
        match self.reason {
            Reason::RootNotPresent => "Present bit in root entry is clear",
            Reason::RootReserved => "Non-zero reserved field set in root entry",
            Reason::ContextNotPresent => "Present bit in context entry is clear",
            Reason::ContextInvalid => "Invalid context entry",
            Reason::ContextReserved => "Non-zero reserved field set in context entry",
            Reason::PasidDirectoryNotPresent => "Present bit in PASID directory entry is clear",
            Reason::PasidDirectoryReserved => {
                "Non-zero reserved field set in PASID directory entry"
            }
            Reason::PasidNotPresent => "Present bit in PASID table entry is clear",
            Reason::PasidInvalid => "Invalid PASID table entry",
            Reason::PasidReserved => "Non-zero reserved field set in PASID table entry",
            Reason::DeviceEntryInvalid => "invalid device table entry",
            Reason::DeviceEntryReserved => "reserved bits set in device table entry",
            Reason::DeviceBlocked => "device table entry allows no access",
            Reason::BeyondWidth => "address beyond the width of the page tables",
            Reason::InterruptWindow => "address in the interrupt message window",
            Reason::NotPresent => "page not present",
            Reason::ReadDenied => "read permission is not set",
            Reason::WriteDenied => "write permission is not set",
            Reason::PageReserved => "non-zero reserved field set in paging entry",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        write!(
            f,
            "DMA {verb} by {} at {}: {}",
            self.stream,
            self.iova,
            self.words()
        )?;
        match (self.vtd_reason(), self.amd_event()) {
            (Some(reason), _) => write!(f, " (fault reason {reason:#04x})"),
            (
                _,
                Some(AmdEvent {
                    code: AmdEvent::IO_PAGE_FAULT,
                    flags,
                }),
            ) => {
                write!(f, " (IO_PAGE_FAULT flags={flags:#06x})")
            }
            (_, Some(AmdEvent { flags, .. })) => {
                write!(f, " (ILLEGAL_DEV_TABLE_ENTRY flags={flags:#06x})")
            }
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// What was taken from the fault record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultLog {
    /// The faults, oldest first.
    pub faults: Vec<Fault>,
    /// Faults were lost because the record was full (VT-d FSTS.PFO, AMD EventOverflow).
    pub overflow: bool,
}

/// The bounded record.
#[derive(Default)]
pub(crate) struct Recorder {
    faults: VecDeque<Fault>,
    overflow: bool,
}

impl Recorder {
    /// As many as VT-d can have fault recording registers.
    pub(crate) const CAPACITY: usize = 256;

    pub(crate) fn record(&mut self, fault: Fault) {
        if self.faults.len() == Self::CAPACITY {
            self.overflow = true;
        } else {
            self.faults.push_back(fault);
        }
    }

    pub(crate) fn take(&mut self) -> FaultLog {
        FaultLog {
            faults: self.faults.drain(..).collect(),
            overflow: std::mem::take(&mut self.overflow),
        }
    }
}
