//! Asynchronous events, section 5.2: the requests that wait, and what happened.

use super::Nvme;
use super::bits::{Cqe, Sqe, Status};
use super::doorbell::Outcome;
use crate::pci::Bus;

/// AERL: requests that can wait at once.
pub(super) const LIMIT: usize = 4;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Error status 0: a doorbell of no queue was written.
    InvalidDoorbell,
    /// Error status 1: a doorbell was written with an invalid value.
    InvalidDoorbellValue,
    /// SMART / health 1: the temperature is beyond its threshold.
    Temperature,
}

impl Event {
    /// Dword 0 of the completion: log page to read, information, type.
    fn result(self) -> u32 {
        match self {
            Event::InvalidDoorbell => 0x01_00_00,
            Event::InvalidDoorbellValue => 0x01_01_00,
            Event::Temperature => 0x02_01_01,
        }
    }

    /// The event's type, as an index.
    pub fn class(self) -> usize {
        (self.result() & 7) as usize
    }
}

/// Requests and events. At most one event of a type is pending or reported and not yet acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    pub waiting: [u16; LIMIT],
    pub count: usize,
    /// By type: what happened and was not reported.
    pub pending: [Option<Event>; 2],
    /// By type: reported, and masked until its log page is read (5.2).
    pub reported: [bool; 2],
}

impl Events {
    pub fn raise(&mut self, event: Event) {
        let class = event.class();
        if !self.reported[class] && self.pending[class].is_none() {
            self.pending[class] = Some(event);
        }
    }

    /// The log page of this type was read without RAE.
    pub fn acknowledge(&mut self, class: usize) {
        self.reported[class] = false;
    }

    /// Whether a request with this command identifier waits.
    pub fn waits(&self, cid: u16) -> bool {
        self.waiting[..self.count].contains(&cid)
    }

    fn take_waiting(&mut self, at: usize) -> u16 {
        let cid = self.waiting[at];
        self.waiting.copy_within(at + 1..self.count, at);
        self.count -= 1;
        cid
    }
}

impl Nvme {
    pub(super) fn async_event_request(&mut self, sqe: &Sqe) -> Outcome {
        if self.events.count == LIMIT {
            return Outcome::Now(Status::AER_LIMIT_EXCEEDED, 0);
        }
        self.events.waiting[self.events.count] = sqe.cid;
        self.events.count += 1;
        Outcome::Later
    }

    /// Completes waiting requests with what is pending, as far as the admin completion queue has room.
    pub(super) fn deliver_events(&mut self, bus: &mut dyn Bus) {
        let mut posted = false;
        for class in 0..self.events.pending.len() {
            let Some(event) = self.events.pending[class] else {
                continue;
            };
            let room = self.cqs[0].is_some_and(|cq| !cq.is_full());
            if self.quiet || self.events.count == 0 || !room || !self.is_running() {
                break;
            }
            self.events.pending[class] = None;
            self.events.reported[class] = true;
            let cid = self.events.take_waiting(0);
            self.complete_request(bus, cid, Status::SUCCESS, event.result());
            posted = true;
        }
        if posted {
            self.interrupt(bus, 0);
        }
    }

    fn complete_request(&mut self, bus: &mut dyn Bus, cid: u16, status: Status, result: u32) {
        let sq_head = self.sqs[0].map_or(0, |sq| sq.head as u16);
        self.post(
            bus,
            0,
            Cqe {
                result,
                sq_head,
                sq: 0,
                cid,
                status,
            },
        );
    }

    /// 5.1 ABORT: every command but an event request is complete by the time another one runs.
    pub(super) fn abort(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Outcome {
        const NOT_ABORTED: u32 = 1;
        let (queue, cid) = (sqe.dw(10) as u16, (sqe.dw(10) >> 16) as u16);
        let events = &mut self.events;
        let found = events.waiting[..events.count]
            .iter()
            .position(|&waiting| waiting == cid);
        // Two entries are posted: the aborted request's and this command's.
        let room =
            self.cqs[0].is_some_and(|cq| (cq.head + cq.entries - cq.tail - 1) % cq.entries >= 2);
        match found {
            Some(at) if queue == 0 && room => {
                let cid = events.take_waiting(at);
                self.complete_request(bus, cid, Status::ABORT_REQUESTED, 0);
                Outcome::Now(Status::SUCCESS, 0)
            }
            _ => Outcome::Now(Status::SUCCESS, NOT_ABORTED),
        }
    }
}
