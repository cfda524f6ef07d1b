//! The controller's state on its way to another controller.
//!
//! Before a controller stands still it writes its cache back: source and target may share a medium, and what the source
//! still held would overwrite later what the target wrote. So the media are no part of the state. Commands that were
//! submitted and not executed are: they are in the submission queues, which the state says how far were fetched.

use super::bits::{Cc, MAX_PAGE_LG2, csts};
use super::event::{Event, LIMIT};
use super::log::{ERRORS, ErrorEntry};
use super::queue::{CompletionQueue, SubmissionQueue};
use super::{Events, Features, Logs, Nvme, Registers};
use crate::pci::Bus;
use crate::pci::codec::{BadState, Reader, Writer, check};
use crate::pci::migration::{Migrate, Pace};

/// The largest queue: 65536 entries.
const ENTRIES_MOST: u32 = 1 << 16;

impl Migrate for Nvme {
    fn features(&self) -> u64 {
        self.migration
    }

    fn set_pace(&mut self, bus: &mut dyn Bus, pace: Pace) -> Result<(), BadState> {
        if pace == Pace::Stopped {
            self.flush_all().map_err(|_| BadState)?;
        }
        self.quiet = pace != Pace::Running;
        if !self.quiet {
            self.features.kick_keep_alive();
            self.run_all(bus);
        }
        Ok(())
    }

    fn changes(&self) -> u64 {
        self.changes
    }

    fn save(&self, to: &mut Writer) {
        to.u16(self.queues);
        to.bool(self.has_cache);
        to.u32(self.namespaces.len() as u32);
        for namespace in &self.namespaces {
            to.u32(namespace.block_lg2);
            to.u64(namespace.blocks);
            to.bool(namespace.is_read_only());
        }
        to.bytes(&self.serial);
        save_registers(&self.registers, to);
        for (sq, cq) in self.sqs.iter().zip(&self.cqs) {
            optional(to, sq.as_ref(), save_sq);
            optional(to, cq.as_ref(), save_cq);
        }
        self.features.save(to);
        self.events.save(to);
        self.logs.save(to);
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        check(from.u16()? == self.queues && from.bool()? == self.has_cache)?;
        check(from.u32()? as usize == self.namespaces.len())?;
        for namespace in &self.namespaces {
            check(from.u32()? == namespace.block_lg2)?;
            from.same(namespace.blocks)?;
            check(from.bool()? == namespace.is_read_only())?;
        }
        let serial: [u8; 20] = from.bytes(20)?.try_into().map_err(|_| BadState)?;
        check(serial.iter().all(|c| (0x20..0x7f).contains(c)))?;
        let registers = load_registers(from)?;
        let (mut sqs, mut cqs) = (Vec::new(), Vec::new());
        for _ in 0..self.sqs.len() {
            sqs.push(from.bool()?.then(|| load_sq(from)).transpose()?);
            cqs.push(from.bool()?.then(|| load_cq(from)).transpose()?);
        }
        check_queues(&sqs, &cqs, self.queues)?;
        let features = Features::load(from, self.has_cache)?;
        let events = Events::load(from)?;
        let logs = Logs::load(from)?;
        from.end()?;
        self.serial = serial;
        self.registers = registers;
        (self.sqs, self.cqs) = (sqs, cqs);
        (self.features, self.events, self.logs) = (features, events, logs);
        self.changes += 1;
        Ok(())
    }
}

fn optional<T>(to: &mut Writer, value: Option<&T>, save: impl Fn(&T, &mut Writer)) {
    to.bool(value.is_some());
    if let Some(value) = value {
        save(value, to);
    }
}

fn save_registers(r: &Registers, to: &mut Writer) {
    for dword in [r.masked, r.cc.0, r.csts, r.aqa] {
        to.u32(dword);
    }
    to.u64(r.asq);
    to.u64(r.acq);
}

fn load_registers(from: &mut Reader<'_>) -> Result<Registers, BadState> {
    let r = Registers {
        masked: from.u32()?,
        cc: Cc(from.u32()?),
        csts: from.u32()?,
        aqa: from.u32()?,
        asq: from.u64()?,
        acq: from.u64()?,
    };
    let bits = csts::RDY | csts::CFS | csts::SHST | csts::NSSRO;
    check(r.cc.0 & !Cc::DEFINED == 0 && r.csts & !bits == 0 && r.aqa & !0x0fff_0fff == 0)?;
    let offered =
        r.cc.command_set() == 0 && r.cc.page_lg2() <= MAX_PAGE_LG2 && r.cc.arbitration() == 0;
    check(r.csts & csts::RDY == 0 || r.cc.enabled() && offered)?;
    Ok(r)
}

fn save_sq(sq: &SubmissionQueue, to: &mut Writer) {
    to.u64(sq.base);
    for dword in [sq.entries, sq.head, sq.tail] {
        to.u32(dword);
    }
    to.u16(sq.cq);
}

fn load_sq(from: &mut Reader<'_>) -> Result<SubmissionQueue, BadState> {
    let sq = SubmissionQueue {
        base: from.u64()?,
        entries: from.u32()?,
        head: from.u32()?,
        tail: from.u32()?,
        cq: from.u16()?,
    };
    check_ring(sq.base, sq.entries, sq.head, sq.tail)?;
    Ok(sq)
}

fn save_cq(cq: &CompletionQueue, to: &mut Writer) {
    to.u64(cq.base);
    for dword in [cq.entries, cq.head, cq.tail] {
        to.u32(dword);
    }
    to.bool(cq.phase);
    to.bool(cq.vector.is_some());
    to.u16(cq.vector.unwrap_or(0));
    to.u16(cq.users);
    to.bool(cq.stalled);
}

fn load_cq(from: &mut Reader<'_>) -> Result<CompletionQueue, BadState> {
    let (base, entries, head, tail) = (from.u64()?, from.u32()?, from.u32()?, from.u32()?);
    check_ring(base, entries, head, tail)?;
    let phase = from.bool()?;
    let (interrupts, vector) = (from.bool()?, from.u16()?);
    Ok(CompletionQueue {
        base,
        entries,
        head,
        tail,
        phase,
        vector: interrupts.then_some(vector),
        users: from.u16()?,
        stalled: from.bool()?,
    })
}

fn check_ring(base: u64, entries: u32, head: u32, tail: u32) -> Result<(), BadState> {
    let aligned = base.is_multiple_of(4096);
    check(aligned && (2..=ENTRIES_MOST).contains(&entries) && head < entries && tail < entries)
}

/// Every submission queue completes to a queue that exists and counts it; the admin queues are a pair.
fn check_queues(
    sqs: &[Option<SubmissionQueue>],
    cqs: &[Option<CompletionQueue>],
    queues: u16,
) -> Result<(), BadState> {
    check(sqs[0].is_some() == cqs[0].is_some())?;
    let admin = |(id, sq): (usize, &SubmissionQueue)| (id == 0) == (sq.cq == 0);
    let pairs = || {
        sqs.iter()
            .enumerate()
            .filter_map(|(id, sq)| Some((id, sq.as_ref()?)))
    };
    check(pairs().all(admin))?;
    check(pairs().all(|(_, sq)| cqs.get(usize::from(sq.cq)).is_some_and(Option::is_some)))?;
    for (id, cq) in cqs.iter().enumerate() {
        let Some(cq) = cq else { continue };
        let users = pairs().filter(|(_, sq)| usize::from(sq.cq) == id).count();
        check(users == usize::from(cq.users) && cq.vector.is_none_or(|vector| vector <= queues))?;
    }
    Ok(())
}

impl Features {
    fn save(&self, to: &mut Writer) {
        for dword in [
            self.arbitration,
            self.error_recovery,
            self.events,
            self.keep_alive_ms(),
        ] {
            to.u32(dword);
        }
        to.u16(self.over_temperature);
        to.u16(self.under_temperature);
        to.bool(self.write_cache);
    }

    fn load(from: &mut Reader<'_>, has_cache: bool) -> Result<Features, BadState> {
        let mut features = Features::new(has_cache);
        features.arbitration = from.u32()?;
        features.error_recovery = from.u32()?;
        features.events = from.u32()?;
        features.set_keep_alive(from.u32()?);
        features.over_temperature = from.u16()?;
        features.under_temperature = from.u16()?;
        features.write_cache = from.bool()?;
        check(has_cache || !features.write_cache)?;
        Ok(features)
    }
}

/// Events by their number in a state.
const EVENTS: [Event; 3] = [
    Event::InvalidDoorbell,
    Event::InvalidDoorbellValue,
    Event::Temperature,
];

impl Events {
    fn save(&self, to: &mut Writer) {
        to.u8(self.count as u8);
        for cid in self.waiting {
            to.u16(cid);
        }
        for pending in self.pending {
            let number = EVENTS.iter().position(|event| Some(*event) == pending);
            to.u8(number.map_or(0, |number| number as u8 + 1));
        }
        for reported in self.reported {
            to.bool(reported);
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Events, BadState> {
        let mut events = Events {
            count: usize::from(from.u8()?),
            ..Events::default()
        };
        check(events.count <= LIMIT)?;
        for cid in &mut events.waiting {
            *cid = from.u16()?;
        }
        for (class, pending) in events.pending.iter_mut().enumerate() {
            let number = usize::from(from.u8()?);
            *pending = match number.checked_sub(1) {
                Some(number) => Some(*EVENTS.get(number).ok_or(BadState)?),
                None => None,
            };
            check(pending.is_none_or(|event| event.class() == class))?;
        }
        for reported in &mut events.reported {
            *reported = from.bool()?;
        }
        Ok(events)
    }
}

impl Logs {
    fn save(&self, to: &mut Writer) {
        for counter in [
            self.error_count,
            self.media_errors,
            self.read_commands,
            self.write_commands,
            self.read_bytes,
            self.written_bytes,
        ] {
            to.u64(counter);
        }
        for entry in self.errors.iter() {
            to.u64(entry.count);
            to.u16(entry.queue);
            to.u16(entry.cid);
            to.u16(entry.status.0);
            to.u64(entry.lba);
            to.u32(entry.nsid);
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Logs, BadState> {
        let mut logs = Logs {
            error_count: from.u64()?,
            media_errors: from.u64()?,
            read_commands: from.u64()?,
            write_commands: from.u64()?,
            read_bytes: from.u64()?,
            written_bytes: from.u64()?,
            ..Logs::default()
        };
        for at in 0..ERRORS {
            logs.errors[at] = ErrorEntry {
                count: from.u64()?,
                queue: from.u16()?,
                cid: from.u16()?,
                status: super::bits::Status(from.u16()?),
                lba: from.u64()?,
                nsid: from.u32()?,
            };
        }
        // A count that is near its end would overflow with the next command.
        let counters = [
            logs.error_count,
            logs.media_errors,
            logs.read_commands,
            logs.write_commands,
            logs.read_bytes,
            logs.written_bytes,
        ];
        check(counters.iter().all(|counter| counter >> 63 == 0))?;
        Ok(logs)
    }
}
