//! The device's side: a port per device, queue or thread, and its sessions.
//!
//! The way of a translation: context cache (tagged with the unit's generation) or else the upper tables;
//! then the IOTLB, if there is one; then the page tables. Nothing shared is written, no lock is taken
//! but by the walk of the upper tables, which happens once after an attach or detach.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::Iommu;
use crate::addr::{Access, Iova, Pa, Prot, Run, StreamId};
use crate::config::{INTERRUPT_WINDOW, Kind};
use crate::domain::Domain;
use crate::drain::Seat;
use crate::fault::{Fault, Reason};
use crate::radix::fmt::{ADDRESS, Format, amdv1::AmdV1, index, mask, shift, vtdss::VtdSs};
use crate::radix::walk::{self, Miss};
use crate::tlb::{self, Tlb, TlbStats};
use crate::unit::Unit;

/// What the upper tables said about the stream.
struct Context {
    /// The unit's generation when it was read; 0 if nothing is known.
    generation: u64,
    root: u64,
    top: u32,
    /// Last address of the aperture.
    last: u64,
    /// Writes are recorded.
    dirty: bool,
    /// The plain walk, that of [`Session::translate`] itself, applies: VT-d, four levels, no IOTLB.
    plain: bool,
    domain: Option<Arc<Domain>>,
}

/// Where one requester (a device, one of its queues, a thread that works for it) does its DMA.
///
/// It has its own context cache, its own IOTLB and its own place to announce sessions; using one port
/// needs `&mut`, so parallel work takes parallel ports. Several ports may have the same stream.
pub struct Port {
    unit: Arc<Unit>,
    requester: Requester,
}

/// The port without the unit, so that a session can borrow both.
struct Requester {
    iommu: Arc<Iommu>,
    seat: Seat,
    stream: StreamId,
    context: Context,
    tlb: Option<Tlb>,
}

impl Port {
    pub(crate) fn new(iommu: &Arc<Iommu>, stream: StreamId) -> Self {
        let unit = Arc::clone(iommu.unit());
        let requester = Requester {
            iommu: Arc::clone(iommu),
            seat: unit.drain.seat(),
            stream,
            context: Context {
                generation: 0,
                root: 0,
                top: 0,
                last: unit.config.last(),
                dirty: false,
                plain: false,
                domain: None,
            },
            tlb: unit.config.iotlb.then(Tlb::new),
        };
        Port { unit, requester }
    }

    /// The requester id of this port.
    pub fn stream(&self) -> StreamId {
        self.requester.stream
    }

    /// Begins a session: one announcement, then any number of translations. While it stands, an unmap of
    /// another thread does not return; so it should last for a command or a span, not longer.
    #[inline]
    pub fn begin(&mut self) -> Session<'_> {
        self.requester.seat.announce();
        Session {
            root: self.requester.plain_root(&self.unit),
            requester: &mut self.requester,
            unit: &self.unit,
            thread: PhantomData,
        }
    }

    /// What the IOTLB did so far; `None` if the unit has none.
    pub fn tlb_stats(&self) -> Option<TlbStats> {
        self.requester.tlb.as_ref().map(|tlb| tlb.stats)
    }
}

impl Requester {
    fn unit(&self) -> &Arc<Unit> {
        self.iommu.unit()
    }

    /// Where the plain walk begins: the context's page table while that holds and the plain walk applies, else a
    /// table in which nothing is found.
    #[inline(always)]
    fn plain_root(&self, unit: &Unit) -> u64 {
        if self.context.plain && self.context.generation == unit.generation() {
            self.context.root
        } else {
            unit.nothing
        }
    }

    /// Everything but the plain walk.
    #[inline(never)]
    fn translate(&mut self, iova: Iova, bytes: u64, access: Access) -> Result<Run, Fault> {
        if self.context.generation != self.unit().generation() {
            self.refresh()
                .map_err(|reason| self.fault(iova, access, reason))?;
        }
        if iova.0 > self.context.last {
            return Err(self.fault(iova, access, Reason::BeyondWidth));
        }
        match self.unit().config.kind {
            Kind::Vtd { .. } => self.find::<VtdSs>(iova, bytes, access),
            Kind::Amd => self.find::<AmdV1>(iova, bytes, access),
        }
    }

    fn find<F: Format>(&mut self, iova: Iova, bytes: u64, access: Access) -> Result<Run, Fault> {
        if self.tlb.is_some() {
            return self.find_cached::<F>(iova, bytes, access);
        }
        let context = &self.context;
        let run = match context.top {
            2 => context.walk::<F, 2>(iova, bytes, access),
            3 => context.walk::<F, 3>(iova, bytes, access),
            4 => context.walk::<F, 4>(iova, bytes, access),
            _ => None,
        };
        match run {
            Some(run) => Ok(run),
            None => self
                .walk_fully::<F>(iova, access)
                .map(|found| found.run(bytes)),
        }
    }

    fn find_cached<F: Format>(
        &mut self,
        iova: Iova,
        bytes: u64,
        access: Access,
    ) -> Result<Run, Fault> {
        let (Some(tlb), Some(domain)) = (&mut self.tlb, &self.context.domain) else {
            unreachable!("there is an IOTLB, and the context was read")
        };
        // Read before the walk: a walk that a later unmap overtakes is cached under the old generation.
        let tag = tlb::tag(domain.id(), domain.generation());
        let wanted = prot_of(access);
        if let Some(cached) = tlb.find(iova.0, tag)
            && cached.prot().contains(wanted)
            && (access == Access::Read || !self.context.dirty || cached.is_written())
        {
            let offset = iova.0 & 0xfff;
            let run = Run {
                pa: Pa(cached.pa() | offset),
                bytes: bytes.min(cached.run() - offset),
            };
            tlb.stats.hits += 1;
            return Ok(run);
        }
        tlb.stats.misses += 1;
        let found = self.walk_fully::<F>(iova, access)?;
        if let Some(tlb) = &mut self.tlb {
            tlb.insert(iova.0, tag, found.pa, found.left, found.prot, found.written);
        }
        Ok(found.run(bytes))
    }

    /// The walk with every form of entry and reasons, which records writes.
    #[cold]
    fn walk_fully<F: Format>(&mut self, iova: Iova, access: Access) -> Result<Translation, Fault> {
        loop {
            let context = &self.context;
            let hit = match walk::full::<F>(context.root, context.top, iova.0, prot_of(access)) {
                Ok(hit) => hit,
                Err(miss) => return Err(self.fault(iova, access, reason_of(miss, iova, access))),
            };
            let mut written = context.dirty && hit.is_written();
            if access == Access::Write && context.dirty && !written {
                if !hit.mark(iova.0) {
                    continue;
                }
                written = true;
            }
            let left = mask(hit.lg2) - (iova.0 & mask(hit.lg2)) + 1;
            return Ok(Translation {
                pa: hit.pa,
                left,
                prot: hit.prot,
                written,
            });
        }
    }

    /// Reads the upper tables again.
    #[cold]
    fn refresh(&mut self) -> Result<(), Reason> {
        let generation = self.unit().generation();
        self.context.generation = 0;
        self.context.plain = false;
        if let Some(tlb) = &mut self.tlb {
            // Domain ids are used again; entries of an earlier domain must not match.
            tlb.clear();
        }
        let resolved = self.iommu.resolve(self.stream);
        let (found, domain) = match resolved {
            Ok(resolved) => resolved,
            Err(reason) => {
                self.context.domain = None;
                return Err(reason);
            }
        };
        self.context = Context {
            generation,
            root: found.root,
            top: found.top,
            last: self.unit().config.last(),
            dirty: found.dirty && domain.is_tracking(),
            plain: matches!(self.unit().config.kind, Kind::Vtd { .. })
                && found.top == 3
                && self.tlb.is_none(),
            domain: Some(domain),
        };
        Ok(())
    }

    #[cold]
    fn fault(&self, iova: Iova, access: Access, reason: Reason) -> Fault {
        let fault = Fault {
            stream: self.stream,
            iova,
            access,
            reason,
            domain: self.context.domain.as_ref().map(|domain| domain.id()),
            kind: self.unit().config.kind,
        };
        self.unit().record(fault);
        fault
    }
}

fn prot_of(access: Access) -> Prot {
    Prot::from_bits_truncate(access as u8)
}

fn reason_of(miss: Miss, iova: Iova, access: Access) -> Reason {
    match (miss, access) {
        (Miss::NotPresent | Miss::Skipped, _)
            if (INTERRUPT_WINDOW.0..=INTERRUPT_WINDOW.1).contains(&iova.0) =>
        {
            Reason::InterruptWindow
        }
        (Miss::NotPresent | Miss::Skipped, _) => Reason::NotPresent,
        (Miss::Reserved, _) => Reason::PageReserved,
        (Miss::Denied, Access::Read) => Reason::ReadDenied,
        (Miss::Denied, Access::Write) => Reason::WriteDenied,
    }
}

/// What a full walk found.
struct Translation {
    pa: u64,
    /// Bytes from there to the end of the page.
    left: u64,
    prot: Prot,
    /// It is recorded that the page was written.
    written: bool,
}

impl Translation {
    fn run(&self, bytes: u64) -> Run {
        Run {
            pa: Pa(self.pa),
            bytes: bytes.min(self.left),
        }
    }
}

impl Context {
    /// The fast walk, and pages of an entry's own span; `None` for whatever needs a closer look.
    #[inline(always)]
    fn walk<F: Format, const TOP: u32>(
        &self,
        iova: Iova,
        bytes: u64,
        access: Access,
    ) -> Option<Run> {
        let need = need_of::<F>(access);
        let (entry, level, table) = match walk::fast::<F, TOP>(self.root, iova.0, need) {
            Ok((entry, table)) => (entry, 0, table),
            Err(found @ (entry, level, _)) if F::ends(entry, level, need) => found,
            Err(_) => return None,
        };
        let slot = index(iova.0, level);
        if self.dirty && access == Access::Write && !table.written().has(slot) {
            if level > 0 {
                return None;
            }
            // A page of 4 KiB is never parted, so its bit stays where it is.
            table.written().mark(slot..=slot);
        }
        let lg2 = shift(level);
        let offset = iova.0 & mask(lg2);
        Some(Run {
            pa: Pa(entry & ADDRESS | offset),
            bytes: bytes.min(mask(lg2) + 1 - offset),
        })
    }
}

#[inline(always)]
fn need_of<F: Format>(access: Access) -> u64 {
    F::need(Prot::from_bits_retain(access as u8))
}

/// A stretch of DMA by one thread. It ends when dropped.
///
/// What [`Session::translate`] returned may be used until the session ends, or until this thread
/// itself calls an unmap, detach or another draining function. Where the stream is attached is asked once: a
/// detach by another thread waits for this session, and one by this thread meets its next session.
pub struct Session<'port> {
    unit: &'port Unit,
    requester: &'port mut Requester,
    /// Where the plain walk begins. Kept here, by value, so that a loop over translations has it in a register.
    root: u64,
    /// The announcement names the thread, so the session stays on it.
    thread: PhantomData<*const ()>,
}

/// Bits of an address that the plain walk (four levels) covers.
const PLAIN_WIDTH: u32 = 48;

impl Session<'_> {
    /// Translates the beginning of `iova..iova + bytes` for `access`.
    ///
    /// # Errors
    ///
    /// The fault of the first byte; it is also recorded in the unit ([`Iommu::faults`]).
    #[inline(always)]
    pub fn translate(&mut self, iova: Iova, bytes: u64, access: Access) -> Result<Run, Fault> {
        if iova.0 >> PLAIN_WIDTH == 0
            && let Ok((entry, table)) =
                walk::fast::<VtdSs, 3>(self.root, iova.0, need_of::<VtdSs>(access))
            && (access == Access::Read
                || !self.requester.context.dirty
                || table.written().has(index(iova.0, 0)))
        {
            let offset = iova.0 & 0xfff;
            return Ok(Run {
                pa: Pa(entry & ADDRESS | offset),
                bytes: bytes.min(0x1000 - offset),
            });
        }
        self.otherwise(iova, bytes, access)
    }

    /// Not on the plain walk. (Cold for the caller's sake: its registers are for the walk.)
    #[cold]
    #[inline(never)]
    fn otherwise(&mut self, iova: Iova, bytes: u64, access: Access) -> Result<Run, Fault> {
        let answer = self.requester.translate(iova, bytes, access);
        self.root = self.requester.plain_root(self.unit);
        answer
    }

    /// The requester id of the port.
    pub fn stream(&self) -> StreamId {
        self.requester.stream
    }
}

impl Drop for Session<'_> {
    #[inline]
    fn drop(&mut self) {
        self.requester.seat.take_back();
    }
}
