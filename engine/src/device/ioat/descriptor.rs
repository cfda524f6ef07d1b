//! One descriptor of a chain: 64 bytes in memory, and what is wrong with it.

use super::channel::error;

/// Bytes of a descriptor, and its alignment.
pub const BYTES: u64 = 64;

/// Bits of the control word.
mod control {
    pub const INTERRUPT: u32 = 1 << 0;
    pub const SOURCE_NO_SNOOP: u32 = 1 << 1;
    pub const DESTINATION_NO_SNOOP: u32 = 1 << 2;
    pub const COMPLETION: u32 = 1 << 3;
    pub const FENCE: u32 = 1 << 4;
    pub const NULL: u32 = 1 << 5;
    pub const BUNDLE: u32 = 1 << 8;
    pub const DESTINATION_CACHE: u32 = 1 << 9;
    pub const HINT: u32 = 1 << 10;

    /// What a fill may have. Nothing but the interrupt and the completion changes what a client sees: descriptors are
    /// done in order, each wholly.
    pub const OF_FILL: u32 = INTERRUPT | DESTINATION_NO_SNOOP | COMPLETION | FENCE | BUNDLE;
    /// What a copy may have. Page breaks (bits 6 and 7) are not in DMACAPABILITY.
    pub const OF_COPY: u32 = OF_FILL | SOURCE_NO_SNOOP | NULL | DESTINATION_CACHE | HINT;
}

/// What a descriptor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing.
    Null,
    /// Copies from `source`.
    Copy { source: u64 },
    /// Repeats the 8 bytes of `pattern`.
    Fill { pattern: u64 },
}

/// A descriptor that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What to do.
    pub operation: Operation,
    /// Where to.
    pub destination: u64,
    /// How many bytes, 1 or more.
    pub bytes: u32,
    /// Address of the next descriptor.
    pub next: u64,
    /// Interrupt when done.
    pub interrupt: bool,
    /// Write the channel's status when done.
    pub completion: bool,
}

/// Why a descriptor cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The bit of CHANERR.
    pub error: u32,
    /// In words, for the report.
    pub what: &'static str,
}

const fn defect(error: u32, what: &'static str) -> Defect {
    Defect { error, what }
}

impl Descriptor {
    /// Reads a descriptor. `longest` is the most bytes that one may move.
    ///
    /// # Errors
    /// An operation that DMACAPABILITY does not name, reserved control bits, no bytes or too many, or bytes beyond the end
    /// of the address space.
    pub fn parse(raw: &[u8; BYTES as usize], longest: u64) -> Result<Descriptor, Defect> {
        let quad = |index: usize| {
            let at = index * 8;
            u64::from_le_bytes(raw[at..at + 8].try_into().expect("8 bytes"))
        };
        let (bytes, control) = (quad(0) as u32, (quad(0) >> 32) as u32);
        let (source, destination) = (quad(1), quad(2));
        let (operation, allowed) = match control >> 24 {
            0 if control & control::NULL != 0 => (Operation::Null, control::OF_COPY),
            0 => (Operation::Copy { source }, control::OF_COPY),
            1 => (Operation::Fill { pattern: source }, control::OF_FILL),
            _ => {
                return Err(defect(
                    error::CONTROL,
                    "its operation is not in DMACAPABILITY",
                ));
            }
        };
        if control & 0xff_ffff & !allowed != 0 {
            return Err(defect(error::CONTROL, "its control word has reserved bits"));
        }
        if bytes == 0 || u64::from(bytes) > longest {
            return Err(defect(
                error::LENGTH,
                "its size is 0, or more than XFERCAP allows",
            ));
        }
        let last = u64::from(bytes) - 1;
        let beyond = |first: u64| first.checked_add(last).is_none();
        if matches!(operation, Operation::Copy { source } if beyond(source)) {
            return Err(defect(error::SOURCE, "its source wraps around"));
        }
        if operation != Operation::Null && beyond(destination) {
            return Err(defect(error::DESTINATION, "its destination wraps around"));
        }
        Ok(Descriptor {
            operation,
            destination,
            bytes,
            next: quad(3),
            interrupt: control & control::INTERRUPT != 0,
            completion: control & control::COMPLETION != 0,
        })
    }
}
