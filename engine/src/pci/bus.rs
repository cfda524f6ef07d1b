//! The bus as a function's model uses it: DMA through the IOMMU, messages, the interrupt line.
//!
//! A DMA translates and copies inside one session of the function's port, run by run. When a copy faults, the page
//! may have been moved at that moment: the session is given back (an unmap or a move may be waiting for it) and the
//! rest is translated once more. A page that stays away is a fault, reported and recorded.

use std::cell::Cell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use swiommu_iommu::{Access, Fault, Iova, Port};
use swiommu_mem::{Client, Mapping, MemFault, PAGE, STRETCHES_MOST, Stretch, UserAddr};

use super::config::Config;
use super::dma_log::DmaLog;
use super::function::Function;
use super::irq::{Irqs, Kind};
use super::{Bus, BusError, Doing, TransferError};
use crate::door::{Call, File, Files, Mmio};
use crate::iommufd::Space;
use crate::iommufd::place::{Place, place};
use crate::report::{Blocked, Cause};
use crate::run::Run;

/// How often a translation is tried again when a copy faulted, before the page's protection is ignored.
const RETRIES: u32 = 3;

/// The longest system call inside a session: an unmap of another thread waits no longer than this takes to copy.
const SPAN_MOST: u64 = 1 << 20;

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

/// The device's side of a DMA.
enum Local<'a> {
    To(&'a mut [u8]),
    From(&'a [u8]),
    ToMedium(&'a Mapping, u64),
    FromMedium(&'a Mapping, u64),
}

/// A copy stopped.
enum Stop {
    Memory(MemFault),
    Medium,
}

impl Local<'_> {
    fn access(&self) -> Access {
        match self {
            Local::To(_) | Local::ToMedium(..) => Access::Read,
            Local::From(_) | Local::FromMedium(..) => Access::Write,
        }
    }

    /// Moves `bytes` bytes between client memory and the device's side, `done` bytes into the transfer.
    #[inline]
    fn copy(
        &mut self,
        client: &Client,
        memory: UserAddr,
        done: u64,
        bytes: u64,
    ) -> Result<(), Stop> {
        let range = done as usize..(done + bytes) as usize;
        match self {
            Local::To(to) => client.read(memory, &mut to[range]).map_err(Stop::Memory),
            Local::From(from) => client.write(memory, &from[range]).map_err(Stop::Memory),
            Local::ToMedium(medium, at) => {
                let to = UserAddr(medium.base().0 + *at + done);
                client
                    .copy(to, memory, bytes)
                    .map_err(|fault| side(medium, fault))
            }
            Local::FromMedium(medium, at) => {
                let from = UserAddr(medium.base().0 + *at + done);
                client
                    .copy(memory, from, bytes)
                    .map_err(|fault| side(medium, fault))
            }
        }
    }
}

impl Local<'_> {
    /// [`Local::copy`] of up to a page that ignores the client's protection: the page was pinned before it was protected.
    #[cold]
    fn force(
        &mut self,
        client: &Client,
        memory: UserAddr,
        done: u64,
        bytes: u64,
    ) -> Result<u64, Stop> {
        let range = done as usize..(done + bytes) as usize;
        let mut page = [0; PAGE as usize];
        let page = &mut page[..bytes as usize];
        match self {
            Local::To(to) => client
                .read_forced(memory, &mut to[range])
                .map_err(Stop::Memory)?,
            Local::From(from) => client
                .write_forced(memory, &from[range])
                .map_err(Stop::Memory)?,
            Local::ToMedium(medium, at) => {
                client.read_forced(memory, page).map_err(Stop::Memory)?;
                medium.write(*at + done, page).map_err(|_| Stop::Medium)?;
            }
            Local::FromMedium(medium, at) => {
                medium.read(*at + done, page).map_err(|_| Stop::Medium)?;
                client.write_forced(memory, page).map_err(Stop::Memory)?;
            }
        }
        Ok(bytes)
    }
}

fn side(medium: &Mapping, fault: MemFault) -> Stop {
    let base = medium.base().0;
    if (base..base + medium.bytes()).contains(&fault.at.0) {
        Stop::Medium
    } else {
        Stop::Memory(fault)
    }
}

/// A call that is not the client's: a device reached another.
struct NoFiles;

impl Files for NoFiles {
    fn get(&self, _: i32) -> Option<Arc<dyn File>> {
        None
    }
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

    /// One DMA.
    fn transfer(
        &mut self,
        iova: u64,
        bytes: u64,
        mut local: Local<'_>,
    ) -> Result<(), TransferError> {
        if !self.config.bus_master() {
            return Err(self.blocked(iova, bytes, local.access(), 0, Cause::BusMasterOff));
        }
        let client = self.run.client;
        let (mut done, mut retries) = (0, 0);
        'session: while done < bytes {
            let mut session = self.port.begin();
            // The run after the one that is copied: its memory is on its way meanwhile.
            let mut ahead = None;
            loop {
                let found = ahead.take().unwrap_or_else(|| {
                    let at = Iova(iova.wrapping_add(done));
                    session.translate(at, bytes - done, local.access())
                });
                let run = match found {
                    Ok(run) => run,
                    Err(fault) => {
                        drop(session);
                        return Err(self.blocked(
                            iova,
                            bytes,
                            local.access(),
                            done,
                            Cause::Fault(fault),
                        ));
                    }
                };
                match place(run.pa) {
                    Place::Client(memory) => {
                        let after = done + run.bytes;
                        if after < bytes {
                            let at = Iova(iova.wrapping_add(after));
                            let next = session.translate(at, bytes - after, local.access());
                            if let Ok(next) = &next
                                && let Place::Client(memory) = place(next.pa)
                            {
                                client.prefetch(memory);
                            }
                            ahead = Some(next);
                        }
                        match local.copy(&client, memory, done, run.bytes) {
                            Ok(()) => done = after,
                            Err(Stop::Medium) => return Err(TransferError::Medium),
                            Err(Stop::Memory(fault)) => {
                                drop(session);
                                done += fault.done;
                                retries += 1;
                                if retries > RETRIES {
                                    let rest =
                                        (run.bytes - fault.done).min(PAGE - fault.at.0 % PAGE);
                                    done += local.force(&client, fault.at, done, rest).map_err(
                                        |stop| match stop {
                                            Stop::Medium => TransferError::Medium,
                                            Stop::Memory(fault) => {
                                                let done = done + fault.done;
                                                self.blocked(
                                                    iova,
                                                    bytes,
                                                    local.access(),
                                                    done,
                                                    Cause::Vanished(fault.at),
                                                )
                                            }
                                        },
                                    )?;
                                    retries = 0;
                                }
                                std::thread::yield_now();
                                continue 'session;
                            }
                        }
                    }
                    Place::Moving => {
                        drop(session);
                        std::thread::yield_now();
                        continue 'session;
                    }
                    Place::Region {
                        function,
                        bar,
                        offset,
                    } => {
                        drop(session);
                        self.peer(function, bar, offset, run.bytes, done, &mut local)
                            .map_err(|cause| {
                                self.blocked(iova, bytes, local.access(), done, cause)
                            })?;
                        done += run.bytes;
                        continue 'session;
                    }
                }
                if done == bytes {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One system call's worth of a DMA read to a file: the stretches of client memory behind `bytes` bytes at `iova`, as
    /// many as one call takes, written while the translations hold. Returns how many bytes arrived.
    fn write_out(
        &mut self,
        iova: u64,
        bytes: u64,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, Fault> {
        let mut list = [Stretch {
            first: UserAddr(0),
            bytes: 0,
        }; STRETCHES_MOST];
        let (mut used, mut found) = (0, 0);
        let mut session = self.port.begin();
        while found < bytes {
            let run = match session.translate(
                Iova(iova.wrapping_add(found)),
                bytes - found,
                Access::Read,
            ) {
                Ok(run) => run,
                // what lies before is written; the caller meets the fault at its head
                Err(fault) if found == 0 => return Err(fault),
                Err(_) => break,
            };
            let Place::Client(first) = place(run.pa) else {
                break;
            };
            match list[..used].last_mut() {
                Some(last) if last.first.0 + last.bytes == first.0 => last.bytes += run.bytes,
                _ if used == STRETCHES_MOST => break,
                _ => {
                    list[used] = Stretch {
                        first,
                        bytes: run.bytes,
                    };
                    used += 1;
                }
            }
            found += run.bytes;
        }
        if used == 0 {
            return Ok(0);
        }
        Ok(self
            .run
            .client
            .write_to_file(file, offset, &list[..used])
            .unwrap_or(0))
    }

    /// DMA to or from another function's BAR, in register-sized pieces.
    fn peer(
        &self,
        target: usize,
        bar: u8,
        offset: u64,
        bytes: u64,
        done: u64,
        local: &mut Local<'_>,
    ) -> Result<(), Cause> {
        let call = Call {
            client: self.run.client.into(),
            thread: self.thread,
            site: self.site,
            files: &NoFiles,
        };
        let reach = |at, step: u64, access| {
            let answer = self.function.peer(
                &self.run.functions,
                target,
                &call,
                (bar, at),
                step as u8,
                access,
            );
            answer.ok_or(Cause::PeerRefused)
        };
        let mut moved = 0;
        while moved < bytes {
            let at = offset + moved;
            let step = [8u64, 4, 2, 1]
                .into_iter()
                .find(|step| at.is_multiple_of(*step) && *step <= bytes - moved)
                .expect("1 always fits");
            let at_local = (done + moved) as usize;
            match local {
                Local::To(to) => {
                    let value = reach(at, step, Mmio::Read)?;
                    to[at_local..at_local + step as usize]
                        .copy_from_slice(&value.to_le_bytes()[..step as usize]);
                }
                Local::From(from) => {
                    let mut raw = [0u8; 8];
                    raw[..step as usize].copy_from_slice(&from[at_local..at_local + step as usize]);
                    let write = Mmio::Write(u64::from_le_bytes(raw));
                    reach(at, step, write)?;
                }
                Local::FromMedium(medium, base) => {
                    let mut raw = [0u8; 8];
                    medium
                        .read(*base + done + moved, &mut raw[..step as usize])
                        .map_err(|_| Cause::PeerRefused)?;
                    let write = Mmio::Write(u64::from_le_bytes(raw));
                    reach(at, step, write)?;
                }
                Local::ToMedium(medium, base) => {
                    let value = reach(at, step, Mmio::Read)?;
                    medium
                        .write(*base + done + moved, &value.to_le_bytes()[..step as usize])
                        .map_err(|_| Cause::PeerRefused)?;
                }
            }
            moved += step;
        }
        Ok(())
    }

    /// Notes what a DMA write wrote, if the client wants to know.
    #[inline]
    fn log_write(&mut self, iova: u64, bytes: u64, done: Result<(), TransferError>) {
        if let Some(log) = &mut self.log {
            let moved = match done {
                Err(TransferError::Bus) => self.moved.get(),
                // how far it came is not known
                Ok(()) | Err(TransferError::Medium) => bytes,
            };
            log.mark(iova, moved);
        }
    }

    /// Reports a DMA that did not happen.
    #[cold]
    fn blocked(
        &self,
        iova: u64,
        bytes: u64,
        access: Access,
        done: u64,
        cause: Cause,
    ) -> TransferError {
        self.moved.set(done);
        let cause = match cause {
            Cause::Fault(_) | Cause::Vanished(_) if self.run.machine.without_iommu() => {
                Cause::NoMemory
            }
            cause => cause,
        };
        let blocked = Blocked {
            function: &self.function,
            iova,
            bytes,
            done,
            access,
            cause,
            doing: self.doing,
            thread: self.thread,
            site: self.site,
        };
        self.run.reports.blocked(&blocked, &*self.space);
        TransferError::Bus
    }
}

fn bus_error(error: TransferError) -> BusError {
    match error {
        TransferError::Bus => BusError,
        TransferError::Medium => unreachable!("no medium takes part in this transfer"),
    }
}

impl Bus for Wires {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> Result<(), BusError> {
        self.transfer(iova, to.len() as u64, Local::To(to))
            .map_err(bus_error)
    }

    fn write(&mut self, iova: u64, from: &[u8]) -> Result<(), BusError> {
        let done = self.transfer(iova, from.len() as u64, Local::From(from));
        self.log_write(iova, from.len() as u64, done);
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
        iova: u64,
        medium: &Mapping,
        offset: u64,
        bytes: u64,
    ) -> Result<(), TransferError> {
        let done = self.transfer(iova, bytes, Local::FromMedium(medium, offset));
        self.log_write(iova, bytes, done);
        done
    }

    fn read_into(
        &mut self,
        iova: u64,
        medium: &Mapping,
        offset: u64,
        bytes: u64,
    ) -> Result<(), TransferError> {
        self.transfer(iova, bytes, Local::ToMedium(medium, offset))
    }

    fn read_to_file(
        &mut self,
        iova: u64,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, BusError> {
        if !self.config.bus_master() {
            return Err(bus_error(self.blocked(
                iova,
                bytes,
                Access::Read,
                0,
                Cause::BusMasterOff,
            )));
        }
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(SPAN_MOST);
            match self.write_out(iova.wrapping_add(done), piece, file, offset + done) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(fault) => {
                    return Err(bus_error(self.blocked(
                        iova,
                        bytes,
                        Access::Read,
                        done,
                        Cause::Fault(fault),
                    )));
                }
            }
        }
        Ok(done)
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
            self.blocked(0xfee0_0000, 4, Access::Write, 0, Cause::BusMasterOff);
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
