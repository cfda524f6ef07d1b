//! Physical region pages: where a command's data lies in client memory, section 4.3.
//!
//! PRP1 may begin anywhere (4-byte aligned) in its page. What does not fit there is in the page PRP2 names or,
//! from two pages up, in the pages of the list it points to; the last entry of a full list page points to the next one.

use super::bits::{Done, Status};
use crate::pci::{Bus, Doing};

/// Bytes of a PRP list read at once.
pub(super) const LIST_BYTES: usize = 4096;

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
    /// Calls `each(bus, address, bytes)` for every contiguous span of the first `bytes` bytes, in order. `list` is
    /// scratch space.
    pub fn spans(
        self,
        bus: &mut dyn Bus,
        list: &mut [u8; LIST_BYTES],
        bytes: u64,
        mut each: impl FnMut(&mut dyn Bus, u64, u64) -> Done,
    ) -> Done {
        // 4.3: "PRP Offset Invalid" for an entry whose low two bits are not zero.
        if self.first & 3 != 0 {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let in_first = (self.page - self.first % self.page).min(bytes);
        let left = bytes - in_first;
        if left == 0 {
            return each(bus, self.first, in_first);
        }
        if left <= self.page {
            self.check_page(self.second)?;
            if self.first.wrapping_add(in_first) == self.second {
                return each(bus, self.first, bytes);
            }
            each(bus, self.first, in_first)?;
            return each(bus, self.second, left);
        }
        self.list_spans(bus, list, (self.first, in_first), left, each)
    }

    fn list_spans(
        self,
        bus: &mut dyn Bus,
        list: &mut [u8; LIST_BYTES],
        mut span: (u64, u64),
        mut left: u64,
        mut each: impl FnMut(&mut dyn Bus, u64, u64) -> Done,
    ) -> Done {
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
            let entries = &mut list[..count as usize * 8];
            bus.doing(Doing {
                what: "reading a PRP list",
                ..self.doing
            });
            let read = bus.read(at, entries);
            bus.doing(self.doing);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            let reaches_end = count == slots;
            for (i, entry) in entries.chunks_exact(8).enumerate() {
                let entry = u64::from_le_bytes(entry.try_into().expect("chunks of 8"));
                if chained && reaches_end && i as u64 + 1 == count {
                    self.check_page(entry)?;
                    at = entry;
                    break;
                }
                self.check_page(entry)?;
                let bytes = left.min(self.page);
                if span.0.wrapping_add(span.1) == entry {
                    span.1 += bytes;
                } else {
                    each(bus, span.0, span.1)?;
                    span = (entry, bytes);
                }
                left -= bytes;
            }
            if !reaches_end {
                at += count * 8;
            }
        }
        each(bus, span.0, span.1)
    }

    fn check_page(self, address: u64) -> Done {
        if address.is_multiple_of(self.page) {
            Ok(())
        } else {
            Err(Status::PRP_OFFSET_INVALID)
        }
    }
}
