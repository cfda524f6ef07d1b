//! One DMA: translation, copies, peers, and what is told of one that did not happen.
//!
//! It translates and copies inside one session of the function's port, run by run, over all stretches of its scatter list.
//! When a copy faults, the page may have been moved at that moment: the session is given back (an unmap or a move may be
//! waiting for it) and the rest is translated once more. A page that stays away is a fault, reported and recorded.

use std::os::fd::BorrowedFd;

use swiommu_iommu::{Access, Fault, Iova, Run, Session};
use swiommu_mem::{Client, Mapping, MemFault, PAGE, STRETCHES_MOST, Stretch, UserAddr};

use super::Wires;
use crate::door::{Call, Mmio};
use crate::iommufd::place::{Place, place};
use crate::pci::TransferError;
use crate::pci::spans::{Span, Spans};
use crate::report::{Blocked, Cause};

/// How often a translation is tried again when a copy faulted, before the page's protection is ignored.
const RETRIES: u32 = 3;

/// The longest system call inside a session: an unmap of another thread waits no longer than this takes to copy.
const CALL_MOST: u64 = 1 << 20;

/// The device's side of a DMA.
pub(super) enum Local<'a> {
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
    ) -> Result<(), Stop> {
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
        Ok(())
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

/// Translates the beginning of a stretch.
#[inline(always)]
fn translate(session: &mut Session<'_>, span: Span, access: Access) -> Result<Run, Fault> {
    session.translate(Iova(span.iova), span.bytes, access)
}

impl Wires {
    /// One DMA.
    pub(super) fn transfer(
        &mut self,
        spans: Spans<'_>,
        mut local: Local<'_>,
    ) -> Result<(), TransferError> {
        let access = local.access();
        if !self.config.bus_master() {
            return Err(self.blocked(spans, access, 0, Cause::BusMasterOff));
        }
        let client = self.run.client;
        let (mut rest, mut retries) = (spans, 0);
        'session: while let Some(span) = rest.first() {
            let mut session = self.port.begin();
            let mut found = translate(&mut session, span, access);
            loop {
                let done = spans.bytes() - rest.bytes();
                let run = match found {
                    Ok(run) => run,
                    Err(fault) => {
                        drop(session);
                        return Err(self.blocked(spans, access, done, Cause::Fault(fault)));
                    }
                };
                let mut after = rest;
                after.advance(run.bytes);
                match place(run.pa) {
                    Place::Client(memory) => {
                        // The run after the one that is copied: its memory is on its way meanwhile.
                        let next = after.first().map(|span| {
                            let next = translate(&mut session, span, access);
                            if let Ok(next) = &next
                                && let Place::Client(memory) = place(next.pa)
                            {
                                client.prefetch(memory);
                            }
                            next
                        });
                        match local.copy(&client, memory, done, run.bytes) {
                            Ok(()) => rest = after,
                            Err(Stop::Medium) => return Err(TransferError::Medium),
                            Err(Stop::Memory(fault)) => {
                                drop(session);
                                rest.advance(fault.done);
                                retries += 1;
                                if retries > RETRIES {
                                    let left = run.bytes - fault.done;
                                    let moved =
                                        self.force(spans, rest, fault.at, left, &mut local)?;
                                    rest.advance(moved);
                                    retries = 0;
                                }
                                std::thread::yield_now();
                                continue 'session;
                            }
                        }
                        let Some(next) = next else {
                            return Ok(());
                        };
                        found = next;
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
                            .map_err(|cause| self.blocked(spans, access, done, cause))?;
                        rest = after;
                        continue 'session;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves what is left of a page at `memory`, `left` bytes at most, against the client's protection: the page was pinned
    /// before it was protected. Returns how many bytes.
    #[cold]
    fn force(
        &self,
        spans: Spans<'_>,
        rest: Spans<'_>,
        memory: UserAddr,
        left: u64,
        local: &mut Local<'_>,
    ) -> Result<u64, TransferError> {
        let done = spans.bytes() - rest.bytes();
        let bytes = left.min(PAGE - memory.0 % PAGE);
        match local.force(&self.run.client, memory, done, bytes) {
            Ok(()) => Ok(bytes),
            Err(Stop::Medium) => Err(TransferError::Medium),
            Err(Stop::Memory(fault)) => {
                let done = done + fault.done;
                Err(self.blocked(spans, local.access(), done, Cause::Vanished(fault.at)))
            }
        }
    }

    /// A DMA read to a file. Returns how many bytes arrived.
    pub(super) fn transfer_to_file(
        &mut self,
        from: Spans<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, TransferError> {
        if !self.config.bus_master() {
            return Err(self.blocked(from, Access::Read, 0, Cause::BusMasterOff));
        }
        let mut done = 0;
        while done < from.bytes() {
            let piece = from.part(done, (from.bytes() - done).min(CALL_MOST));
            match self.write_out(piece, file, offset + done) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(fault) => {
                    return Err(self.blocked(from, Access::Read, done, Cause::Fault(fault)));
                }
            }
        }
        Ok(done)
    }

    /// One system call's worth of a DMA read to a file: the stretches of client memory behind `from`, as many as one call
    /// takes, written while the translations hold. Returns how many bytes arrived.
    fn write_out(
        &mut self,
        mut from: Spans<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, Fault> {
        let mut list = [Stretch {
            first: UserAddr(0),
            bytes: 0,
        }; STRETCHES_MOST];
        let mut used = 0;
        let mut session = self.port.begin();
        while let Some(span) = from.first() {
            let run = match translate(&mut session, span, Access::Read) {
                Ok(run) => run,
                // what lies before is written; the caller meets the fault at its head
                Err(fault) if used == 0 => return Err(fault),
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
            from.advance(run.bytes);
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
        let call = Call::of_engine(self.run.client, self.thread, self.site);
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
    pub(super) fn log_write(&mut self, to: Spans<'_>, done: Result<(), TransferError>) {
        if let Some(log) = &mut self.log {
            let moved = match done {
                Err(TransferError::Bus) => self.moved.get(),
                // how far it came is not known
                Ok(()) | Err(TransferError::Medium) => to.bytes(),
            };
            for span in to.part(0, moved) {
                log.mark(span.iova, span.bytes);
            }
        }
    }

    /// Reports a DMA that stopped after `done` bytes.
    #[cold]
    pub(super) fn blocked(
        &self,
        spans: Spans<'_>,
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
        let (span, done) = spans.find(done);
        let blocked = Blocked {
            function: &self.function,
            iova: span.iova,
            bytes: span.bytes,
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
