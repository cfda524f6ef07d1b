//! A bus for tests: memory is an array, blocked ranges fail, everything else is written down.

use crate::pci::{Bus, BusError, Doing, TransferError};
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
}

impl Bus for FakeBus {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> Result<(), BusError> {
        let range = self.range(iova, to.len() as u64)?;
        to.copy_from_slice(&self.memory[range]);
        Ok(())
    }

    fn write(&mut self, iova: u64, from: &[u8]) -> Result<(), BusError> {
        let range = self.range(iova, from.len() as u64)?;
        self.memory[range].copy_from_slice(from);
        Ok(())
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
        iova: u64,
        medium: &Mapping,
        offset: u64,
        bytes: u64,
    ) -> Result<(), TransferError> {
        let range = self.range(iova, bytes).map_err(|_| TransferError::Bus)?;
        medium
            .read(offset, &mut self.memory[range])
            .map_err(|_| TransferError::Medium)
    }

    fn read_into(
        &mut self,
        iova: u64,
        medium: &Mapping,
        offset: u64,
        bytes: u64,
    ) -> Result<(), TransferError> {
        let range = self.range(iova, bytes).map_err(|_| TransferError::Bus)?;
        medium
            .write(offset, &self.memory[range])
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
