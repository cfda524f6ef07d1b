//! A bus for tests: memory is an array, blocked ranges fail, everything else is written down.

use crate::pci::{Bus, BusError, Doing, Spans, TransferError};
use std::ops::Range;
use swiommu_mem::Mapping;

/// The bus of a test.
#[derive(Debug, Default)]
pub(crate) struct FakeBus {
    /// Memory at address 0.
    pub memory: Vec<u8>,
    /// DMA that touches one of these fails.
    pub blocked: Vec<Range<u64>>,
    /// Messages, in order.
    pub messages: Vec<u16>,
    /// The INTx line.
    pub line: bool,
    /// What was last being done.
    pub doing: Doing,
    /// Reports.
    pub unmodelled: Vec<String>,
    pub misuse: Vec<String>,
    pub remarks: Vec<String>,
}

impl FakeBus {
    pub fn new(bytes: usize) -> FakeBus {
        FakeBus {
            memory: vec![0; bytes],
            ..FakeBus::default()
        }
    }

    fn range(&self, iova: u64, bytes: u64) -> Result<Range<usize>, BusError> {
        let end = iova.checked_add(bytes).ok_or(BusError)?;
        let blocked = self.blocked.iter().any(|b| iova < b.end && b.start < end);
        if blocked || end > self.memory.len() as u64 {
            Err(BusError)
        } else {
            Ok(iova as usize..end as usize)
        }
    }

    /// Shows `copy` the memory of each stretch, and which bytes of the transfer it is.
    fn each(
        &mut self,
        spans: Spans<'_>,
        mut copy: impl FnMut(&mut [u8], Range<usize>),
    ) -> Result<(), BusError> {
        let mut done = 0;
        for span in spans {
            let range = self.range(span.iova, span.bytes)?;
            let past = done + range.len();
            copy(&mut self.memory[range], done..past);
            done = past;
        }
        Ok(())
    }
}

impl Bus for FakeBus {
    fn gather(&mut self, from: Spans<'_>, to: &mut [u8]) -> Result<(), BusError> {
        self.each(from, |memory, at| to[at].copy_from_slice(memory))
    }

    fn scatter(&mut self, to: Spans<'_>, from: &[u8]) -> Result<(), BusError> {
        self.each(to, |memory, at| memory.copy_from_slice(&from[at]))
    }

    fn publish(&mut self, iova: u64, record: &[u8]) -> Result<(), BusError> {
        assert!(
            iova.is_multiple_of(4) && record.len().is_multiple_of(4),
            "a record is made of dwords"
        );
        self.write(iova, record)
    }

    fn write_from(
        &mut self,
        to: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError> {
        let mut data = vec![0; to.bytes() as usize];
        medium
            .read(offset, &mut data)
            .map_err(|_| TransferError::Medium)?;
        self.scatter(to, &data).map_err(|_| TransferError::Bus)
    }

    fn read_into(
        &mut self,
        from: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError> {
        let mut data = vec![0; from.bytes() as usize];
        self.gather(from, &mut data)
            .map_err(|_| TransferError::Bus)?;
        medium
            .write(offset, &data)
            .map_err(|_| TransferError::Medium)
    }

    fn message(&mut self, vector: u16) {
        self.messages.push(vector);
    }

    fn intx(&mut self, asserted: bool) {
        self.line = asserted;
    }

    fn doing(&mut self, what: Doing) {
        self.doing = what;
    }

    fn unmodelled(&mut self, what: std::fmt::Arguments<'_>) {
        self.unmodelled.push(what.to_string());
    }

    fn remark(&mut self, what: std::fmt::Arguments<'_>) {
        self.remarks.push(what.to_string());
    }

    fn misuse(&mut self, what: std::fmt::Arguments<'_>) {
        self.misuse.push(what.to_string());
    }
}
