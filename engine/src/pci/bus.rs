//! The bus as a function's model uses it: DMA through the IOMMU, messages, the interrupt line.

mod transfer;

use std::cell::Cell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use swiommu_iommu::{Access, Port};
use swiommu_mem::{Client, Mapping};

use super::config::Config;
use super::dma_log::DmaLog;
use super::function::Function;
use super::irq::{Irqs, Kind};
use super::spans::Spans;
use super::{Bus, BusError, Doing, TransferError};
use crate::door::{Call, Mmio};
use crate::iommufd::Space;
use crate::report::Cause;
use crate::run::Run;
use transfer::Local;

/// Everything of an open function but its model.
pub struct Wires {
    run: Arc<Run>,
    function: Arc<Function>,
    space: Arc<dyn Space>,
    /// Configuration space.
    pub config: Config,
    /// Interrupts.
    pub irqs: Irqs,
    port: Port,
    doing: Doing,
    thread: u32,
    site: u64,
    msix_table: Vec<u8>,
    /// What is written, if the client wants to know.
    pub log: Option<Box<DmaLog>>,
    /// Bytes that the DMA blocked last had moved.
    moved: Cell<u64>,
}

impl Wires {
    /// The wires of a function that is being opened.
    pub fn new(
        run: &Arc<Run>,
        function: &Arc<Function>,
        space: Arc<dyn Space>,
        config: Config,
        irqs: Irqs,
    ) -> Wires {
        let mut wires = Wires {
            run: run.clone(),
            function: function.clone(),
            space,
            config,
            irqs,
            port: run.iommu.port(function.stream()),
            doing: Doing::default(),
            thread: 0,
            site: 0,
            msix_table: Vec::new(),
            log: None,
            moved: Cell::new(0),
        };
        wires.reset_msix_table();
        wires
    }

    /// Remembers on whose behalf the model runs.
    #[inline]
    pub fn begin(&mut self, call: &Call<'_>) {
        self.thread = call.thread;
        self.site = call.site;
        self.doing = Doing::default();
    }

    /// Whether the function answers accesses of that kind now.
    pub fn decodes(&self, io: bool) -> bool {
        if io {
            self.config.command() & swiommu_abi::pci::COMMAND_IO != 0
        } else {
            self.config.memory()
        }
    }

    /// All vectors masked, as PCI wants after reset (PCI 3.0 section 6.8.2.9).
    pub fn reset_msix_table(&mut self) {
        let vectors = self
            .function
            .identity()
            .msix
            .map_or(0, |msix| usize::from(msix.vectors));
        self.msix_table = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0].repeat(vectors);
    }

    /// The MSI-X table, as the client wrote it.
    pub fn msix_table(&self) -> &[u8] {
        &self.msix_table
    }

    /// Another device's MSI-X table, of the same size.
    pub fn set_msix_table(&mut self, table: &[u8]) {
        self.msix_table.copy_from_slice(table);
    }

    /// Whether an offset lies in the MSI-X table, which vfio-pci keeps from pread and pwrite.
    pub fn in_msix_table(&self, bar: u8, at: u64) -> bool {
        self.function.identity().msix.is_some_and(|msix| {
            let table = u64::from(msix.table.1);
            msix.table.0 == bar && (table..table + self.msix_table.len() as u64).contains(&at)
        })
    }

    /// The process that has the device.
    pub fn client(&self) -> Client {
        self.run.client
    }

    /// Serves accesses to the MSI-X table and its pending bits, which never reach a model. The table only
    /// remembers: the vectors belong to whoever calls SET_IRQS.
    pub fn msix_access(&mut self, bar: u8, at: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let msix = self.function.identity().msix?;
        if self.in_msix_table(bar, at) {
            let offset = (at - u64::from(msix.table.1)) as usize;
            let slot = self
                .msix_table
                .get_mut(offset..offset + usize::from(bytes))?;
            let mut raw = [0u8; 8];
            match access {
                Mmio::Read => raw[..slot.len()].copy_from_slice(slot),
                Mmio::Write(value) => slot.copy_from_slice(&value.to_le_bytes()[..slot.len()]),
            }
            return Some(u64::from_le_bytes(raw));
        }
        let pba = u64::from(msix.pba.1);
        let pba_bytes = u64::from(msix.vectors).div_ceil(64) * 8;
        (msix.pba.0 == bar && (pba..pba + pba_bytes).contains(&at)).then_some(0)
    }
}

fn bus_error(error: TransferError) -> BusError {
    match error {
        TransferError::Bus => BusError,
        TransferError::Medium => unreachable!("no medium takes part in this transfer"),
    }
}

impl Bus for Wires {
    fn gather(&mut self, from: Spans<'_>, to: &mut [u8]) -> Result<(), BusError> {
        debug_assert_eq!(from.bytes(), to.len() as u64);
        self.transfer(from, Local::To(to)).map_err(bus_error)
    }

    fn scatter(&mut self, to: Spans<'_>, from: &[u8]) -> Result<(), BusError> {
        debug_assert_eq!(to.bytes(), from.len() as u64);
        let done = self.transfer(to, Local::From(from));
        self.log_write(to, done);
        done.map_err(bus_error)
    }

    fn publish(&mut self, iova: u64, record: &[u8]) -> Result<(), BusError> {
        let last = record.len() - 4;
        self.write(iova, &record[..last])?;
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        self.write(iova + last as u64, &record[last..])
    }

    fn write_from(
        &mut self,
        to: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError> {
        let done = self.transfer(to, Local::FromMedium(medium, offset));
        self.log_write(to, done);
        done
    }

    fn read_into(
        &mut self,
        from: Spans<'_>,
        medium: &Mapping,
        offset: u64,
    ) -> Result<(), TransferError> {
        self.transfer(from, Local::ToMedium(medium, offset))
    }

    fn read_to_file(
        &mut self,
        from: Spans<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, BusError> {
        self.transfer_to_file(from, file, offset).map_err(bus_error)
    }

    fn message(&mut self, vector: u16) {
        if !matches!(self.irqs.kind(), Kind::Msi | Kind::Msix) {
            return;
        }
        if self.config.bus_master() {
            self.irqs.message(vector);
        } else {
            self.doing = Doing {
                what: "sending an interrupt message",
                ..self.doing
            };
            let message = Spans::one(0xfee0_0000, 4);
            self.blocked(message, Access::Write, 0, Cause::BusMasterOff);
        }
    }

    fn intx(&mut self, asserted: bool) {
        // a function that sends messages does not drive its line (PCI 3.0 section 6.8)
        let asserted = asserted && !matches!(self.irqs.kind(), Kind::Msi | Kind::Msix);
        self.irqs.drive_intx(asserted);
        self.config.set_interrupt_status(asserted);
    }

    fn doing(&mut self, what: Doing) {
        self.doing = what;
    }

    fn unmodelled(&mut self, what: fmt::Arguments<'_>) {
        self.run.reports.unmodelled(&self.function, what);
    }

    fn remark(&mut self, what: fmt::Arguments<'_>) {
        self.run.reports.remark(&self.function, self.thread, what);
    }

    fn misuse(&mut self, what: fmt::Arguments<'_>) {
        self.run
            .reports
            .misuse(&self.function, self.thread, self.site, what);
    }
}
