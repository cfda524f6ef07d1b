//! AMD device table (AMD I/O Virtualization Technology specification, 2.2.2.1).
//!
//! 65536 entries of 256 bits. Software must not leave V = 0 (the device would pass untranslated), so a
//! fresh entry has V = TV = 1, Mode 0 and no permission: blocked. The pages of the table are made when
//! first needed; a page that is not there counts as 128 fresh entries. Bits of the first word:
//!
//! ```text
//! 63 reserved | 62 IW | 61 IR | 60..54 guest | 53 GPRP | 52 PPR | 51..12 root | 11..9 Mode | 8..7 HAD
//! 6..2 reserved | 1 TV | 0 V          second word: 15..0 DomainID
//! ```

use super::{Found, Outcome, bits};
use crate::addr::StreamId;
use crate::fault::Reason;
use crate::radix::fmt::ADDRESS;
use crate::radix::page::{self, Pool, Table};

const V: u64 = 1 << 0;
const TV: u64 = 1 << 1;
/// Host access and dirty bits are written.
const HAD: u64 = 3 << 7;
const MODE_SHIFT: u32 = 9;
const IR_IW: u64 = 3 << 61;
/// First word: 6:2 and 63, and the guest translation fields, which are not offered.
const RESERVED: u64 = 1 << 63 | 0x7c | 0x7f << 54;
const BLOCKED: u64 = V | TV;

/// Words of an entry, and entries of a page.
const WORDS: usize = 4;
const ENTRIES: usize = page::ENTRIES / WORDS;
const PAGES: usize = (1 << 16) / ENTRIES;

/// The device table of an AMD unit.
pub(crate) struct AmdTables {
    /// Addresses of the table's pages; 0 where none was needed yet.
    pages: Box<[u64; PAGES]>,
}

fn place(stream: StreamId) -> (usize, usize) {
    let stream = usize::from(stream.0);
    (stream / ENTRIES, stream % ENTRIES * WORDS)
}

impl AmdTables {
    pub(crate) fn new() -> Self {
        AmdTables {
            pages: Box::new([0; PAGES]),
        }
    }

    fn page(&self, stream: StreamId) -> Option<&Table> {
        let address = self.pages[place(stream).0];
        (address != 0).then(|| page::at(address))
    }

    /// Writes the entry that leads `stream` to the page table at `found.root`.
    pub(crate) fn attach(&mut self, pool: &Pool, stream: StreamId, found: Found) {
        let (number, low) = place(stream);
        if self.pages[number] == 0 {
            let table = pool.take_upper();
            for entry in 0..ENTRIES {
                table.store(entry * WORDS, BLOCKED);
            }
            self.pages[number] = table.address();
        }
        let table = page::at(self.pages[number]);
        table.store(low + 1, u64::from(found.domain));
        let mode = u64::from(found.top) + 1;
        table.store(low, found.root | IR_IW | mode << MODE_SHIFT | HAD | TV | V);
    }

    /// Blocks `stream`.
    pub(crate) fn detach(&mut self, stream: StreamId) {
        if let Some(table) = self.page(stream) {
            let (_, low) = place(stream);
            table.store(low, BLOCKED);
            table.store(low + 1, 0);
        }
    }

    /// Reads the entry of `stream`.
    pub(crate) fn resolve(&self, stream: StreamId) -> Outcome {
        let (_, low) = place(stream);
        let word = |word| {
            self.page(stream)
                .map_or(if word == 0 { BLOCKED } else { 0 }, |page| {
                    page.load(low + word)
                })
        };
        let entry = word(0);
        if entry & RESERVED != 0 {
            return Err(Reason::DeviceEntryReserved);
        }
        // V = 0 would let the device pass untranslated; this unit has nothing to pass it to.
        if entry & (V | TV) != V | TV {
            return Err(Reason::DeviceEntryInvalid);
        }
        if entry & IR_IW != IR_IW {
            return Err(Reason::DeviceBlocked);
        }
        let top = match bits(entry, 11, 9) {
            mode @ 1..=6 => mode as u32 - 1,
            _ => return Err(Reason::DeviceEntryInvalid),
        };
        let domain = bits(word(1), 15, 0) as u16;
        Ok(Found {
            root: entry & ADDRESS,
            top,
            domain,
            dirty: entry & HAD == HAD,
        })
    }
}

#[cfg(test)]
#[path = "amd_tests.rs"]
mod tests;
