//! The way of a command: doorbell, fetch, execution, completion, interrupt. Sections 3.1.16 to 3.1.17 and 4.1.

use super::Nvme;
use super::bits::{Cqe, Sqe, Status, reg};
use super::event::Event;
use crate::pci::{Bus, Doing};

/// What a command came to.
pub(super) enum Outcome {
    /// Complete: status, and dword 0 of the completion.
    Now(Status, u32),
    /// It stays outstanding (an asynchronous event request).
    Later,
}

impl Nvme {
    /// A write to the doorbell at `offset` of BAR0.
    pub(super) fn ring(&mut self, bus: &mut dyn Bus, offset: u64, value: u32) {
        let index = ((offset - reg::DOORBELLS) / 4) as usize;
        let (queue, completion) = (index / 2, index % 2 == 1);
        self.check_keep_alive(bus);
        if !self.is_running() {
            bus.misuse(format_args!(
                "NVMe: doorbell of queue {queue} rung while the controller is not ready (CSTS = {:#x})",
                self.registers.csts
            ));
            return;
        }
        if queue == 0 && self.cqs[0].is_none() && !self.take_admin_queue(bus) {
            return;
        }
        // 3.1.16: the upper half is reserved.
        if value > 0xffff {
            bus.misuse(format_args!(
                "NVMe: reserved bits set in {value:#x} written to the doorbell of queue {queue}"
            ));
        }
        let value = value & 0xffff;
        if completion {
            self.ring_completion(bus, queue, value)
        } else {
            self.ring_submission(bus, queue, value)
        }
        self.deliver_events(bus);
    }

    fn ring_submission(&mut self, bus: &mut dyn Bus, queue: usize, tail: u32) {
        let Some(sq) = self.sqs.get_mut(queue).and_then(Option::as_mut) else {
            bus.misuse(format_args!(
                "NVMe: doorbell of submission queue {queue}, which does not exist"
            ));
            return self.events.raise(Event::InvalidDoorbell);
        };
        // 5.2: out of range, the same value again, or more commands than there is room for.
        let free = |sq: &super::SubmissionQueue| (sq.head + sq.entries - sq.tail - 1) % sq.entries;
        let added = (tail + sq.entries - sq.tail) % sq.entries;
        if tail >= sq.entries || added == 0 || added > free(sq) {
            let (entries, old) = (sq.entries, sq.tail);
            bus.misuse(format_args!(
                "NVMe: tail {tail} written to the doorbell of submission queue {queue} of {entries} entries, tail {old}"
            ));
            return self.events.raise(Event::InvalidDoorbellValue);
        }
        sq.tail = tail;
        self.run(bus, queue);
    }

    fn ring_completion(&mut self, bus: &mut dyn Bus, queue: usize, head: u32) {
        let Some(cq) = self.cqs.get_mut(queue).and_then(Option::as_mut) else {
            bus.misuse(format_args!(
                "NVMe: doorbell of completion queue {queue}, which does not exist"
            ));
            return self.events.raise(Event::InvalidDoorbell);
        };
        if head >= cq.entries || head == cq.head || !cq.may_consume_to(head) {
            let (entries, old, tail) = (cq.entries, cq.head, cq.tail);
            bus.misuse(format_args!(
                "NVMe: head {head} written to the doorbell of completion queue {queue} of {entries} entries, \
                 head {old}, posted up to {tail}"
            ));
            return self.events.raise(Event::InvalidDoorbellValue);
        }
        cq.head = head;
        let stalled = std::mem::take(&mut cq.stalled);
        if cq.is_empty() {
            self.drive_line(bus);
        }
        if stalled {
            for sq in 0..self.sqs.len() {
                if self.sqs[sq].is_some_and(|s| usize::from(s.cq) == queue && !s.is_empty()) {
                    self.run(bus, sq);
                }
            }
        }
    }

    /// Executes what waits in all queues: the controller was quiet.
    pub(super) fn run_all(&mut self, bus: &mut dyn Bus) {
        for queue in 0..self.sqs.len() {
            if self.sqs[queue].is_some_and(|sq| !sq.is_empty()) {
                self.run(bus, queue);
            }
        }
        self.deliver_events(bus);
        self.drive_line(bus);
    }

    /// Executes what is in submission queue `queue`, until it is empty or its completion queue is full.
    fn run(&mut self, bus: &mut dyn Bus, queue: usize) {
        let mut posted = None;
        while self.is_running() && !self.quiet {
            let Some(sq) = &mut self.sqs[queue] else {
                break;
            };
            if sq.is_empty() {
                break;
            }
            let cq = self.cqs[usize::from(sq.cq)]
                .as_mut()
                .expect("a submission queue's completion queue exists");
            if cq.is_full() {
                cq.stalled = true;
                break;
            }
            let (at, cq) = (sq.take(), sq.cq);
            let head = sq.head as u16;
            self.doing = Doing {
                what: "fetching a command",
                queue: Some(queue as u16),
                command: None,
            };
            bus.doing(self.doing);
            let mut entry = [0; 64];
            if bus.read(at, &mut entry).is_err() {
                self.fail();
                break;
            }
            let sqe = Sqe::parse(&entry);
            if let Outcome::Now(status, result) = self.execute(bus, queue as u16, &sqe) {
                let cqe = Cqe {
                    result,
                    sq_head: head,
                    sq: queue as u16,
                    cid: sqe.cid,
                    status,
                };
                self.post(bus, cq, cqe);
                posted = Some(cq);
            }
        }
        if let Some(cq) = posted {
            self.interrupt(bus, cq);
        }
    }

    fn execute(&mut self, bus: &mut dyn Bus, queue: u16, sqe: &Sqe) -> Outcome {
        if sqe.flags & 0x3c != 0 {
            bus.misuse(format_args!(
                "NVMe: reserved bits set in the flags {:#x} of a command",
                sqe.flags
            ));
        }
        let (outcome, location) = if queue == 0 {
            (self.execute_admin(bus, sqe), 0)
        } else {
            (
                Outcome::Now(
                    self.execute_io(bus, queue, sqe).err().unwrap_or_default(),
                    0,
                ),
                sqe.first_block(),
            )
        };
        match outcome {
            Outcome::Now(status, result) if status != Status::SUCCESS => {
                Outcome::Now(self.logs.record_error(queue, sqe, status, location), result)
            }
            other => other,
        }
    }

    /// Writes a completion. There is room: the caller looked.
    pub(super) fn post(&mut self, bus: &mut dyn Bus, cq: u16, cqe: Cqe) {
        let queue = self.cqs[usize::from(cq)]
            .as_mut()
            .expect("completions go to a queue that exists");
        let (at, phase) = queue.take();
        bus.doing(Doing {
            what: "posting a completion",
            queue: Some(cqe.sq),
            command: Some(cqe.cid),
        });
        if bus.publish(at, &cqe.bytes(phase)).is_err() {
            self.fail();
        }
    }

    /// Tells the client that completions were posted to `cq`.
    pub(super) fn interrupt(&mut self, bus: &mut dyn Bus, cq: u16) {
        if let Some(vector) = self.cqs[usize::from(cq)].and_then(|cq| cq.vector) {
            bus.message(vector);
            self.drive_line(bus);
        }
    }
}

impl Sqe {
    /// The first block an I/O command names, for the error log.
    fn first_block(&self) -> u64 {
        u64::from(self.dw(10)) | u64::from(self.dw(11)) << 32
    }
}
