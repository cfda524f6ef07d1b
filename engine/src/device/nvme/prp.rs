//! Physical region pages: where a command's data lies in client memory, section 4.3.
//!
//! PRP1 may begin anywhere (4-byte aligned) in its page. What does not fit there is in the page PRP2 names or,
//! from two pages up, in the pages of the list it points to; the last entry of a full list page points to the next one.

use super::MAX_TRANSFER_LG2;
use super::bits::{Done, Status};
use crate::pci::{Bus, Doing, Span, Spans};

/// Bytes of a PRP list read at once.
const LIST_BYTES: usize = 4096;
/// The most spans a transfer can have: all pages of the smallest size, and one more that is not whole.
const SPANS_MOST: usize = (1 << (MAX_TRANSFER_LG2 - 12)) + 1;

/// Room for a command's PRP list and what it says.
#[derive(Debug)]
pub(super) struct Room {
    list: [u8; LIST_BYTES],
    spans: Vec<Span>,
}

impl Room {
    pub fn new() -> Room {
        Room {
            list: [0; LIST_BYTES],
            spans: Vec::with_capacity(SPANS_MOST),
        }
    }

    /// Adds a span to those there are, or to the last where it continues that.
    fn add(&mut self, iova: u64, bytes: u64) {
        match self.spans.last_mut() {
            Some(last) if last.iova.wrapping_add(last.bytes) == iova => last.bytes += bytes,
            _ => self.spans.push(Span { iova, bytes }),
        }
    }
}

/// The data pointer of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prp {
    pub first: u64,
    pub second: u64,
    /// Bytes of a memory page, from CC.MPS.
    pub page: u64,
    /// What the command is, for reports of list reads.
    pub doing: Doing,
}

impl Prp {
    /// Where the first `bytes` bytes are, MDTS at most.
    pub fn spans<'a>(self, bus: &mut dyn Bus, room: &'a mut Room, bytes: u64) -> Done<Spans<'a>> {
        // 4.3: "PRP Offset Invalid" for an entry whose low two bits are not zero.
        if self.first & 3 != 0 {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let in_first = (self.page - self.first % self.page).min(bytes);
        let left = bytes - in_first;
        if left == 0 {
            return Ok(Spans::one(self.first, bytes));
        }
        room.spans.clear();
        room.add(self.first, in_first);
        if left <= self.page {
            room.add(self.check_page(self.second)?, left);
        } else {
            self.read_list(bus, room, left)?;
        }
        Ok(Spans::all(&room.spans))
    }

    /// Adds what the list names, `left` bytes.
    fn read_list(self, bus: &mut dyn Bus, room: &mut Room, mut left: u64) -> Done {
        let mut at = self.second;
        // 4.3: a list pointer may have an offset, but a qword aligned one.
        if at & 7 != 0 {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        while left > 0 {
            let slots = (self.page - at % self.page) / 8;
            let wanted = left.div_ceil(self.page);
            let chained = wanted > slots;
            // A pointer in the only slot leads on without naming data.
            let count = slots.min(wanted).min(LIST_BYTES as u64 / 8);
            bus.doing(Doing {
                what: "reading a PRP list",
                ..self.doing
            });
            let read = bus.read(at, &mut room.list[..count as usize * 8]);
            bus.doing(self.doing);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            let reaches_end = count == slots;
            for i in 0..count {
                let entry = &room.list[i as usize * 8..][..8];
                let entry = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
                let entry = self.check_page(entry)?;
                if chained && reaches_end && i + 1 == count {
                    at = entry;
                    break;
                }
                let bytes = left.min(self.page);
                room.add(entry, bytes);
                left -= bytes;
            }
            if !reaches_end {
                at += count * 8;
            }
        }
        Ok(())
    }

    fn check_page(self, address: u64) -> Done<u64> {
        if address.is_multiple_of(self.page) {
            Ok(address)
        } else {
            Err(Status::PRP_OFFSET_INVALID)
        }
    }
}
