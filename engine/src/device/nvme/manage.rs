//! CREATE and DELETE of I/O queues, sections 5.3 to 5.6.

use super::Nvme;
use super::bits::{self, Done, Sqe, Status};
use super::queue::{CompletionQueue, SubmissionQueue};
use crate::pci::Bus;

impl Nvme {
    /// The queue id in a command, if it can be an I/O queue's.
    fn io_queue_id(&self, sqe: &Sqe) -> Done<usize> {
        match sqe.dw(10) as u16 {
            id if (1..=self.queues).contains(&id) => Ok(usize::from(id)),
            _ => Err(Status::INVALID_QUEUE_ID),
        }
    }

    /// What CREATE of either kind checks: size and base. `entry_lg2` is CC.IOSQES or CC.IOCQES.
    fn new_queue(
        &self,
        bus: &mut dyn Bus,
        sqe: &Sqe,
        entry_lg2: u32,
        must_be: u32,
    ) -> Done<(u64, u32)> {
        let entries = (sqe.dw(10) >> 16) + 1;
        if !(2..=bits::MAX_ENTRIES).contains(&entries) {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        if entry_lg2 != must_be {
            bus.misuse(format_args!(
                "NVMe: I/O queue created with an entry size of 2^{entry_lg2} in CC, not 2^{must_be}"
            ));
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // CAP.CQR = 1: physically contiguous only.
        if sqe.dw(11) & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        let base = self.prp(bus, sqe)?.first;
        if base & ((1 << self.registers.cc.page_lg2()) - 1) != 0 {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        Ok((base, entries))
    }

    pub(super) fn create_cq(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = self.io_queue_id(sqe)?;
        if self.cqs[id].is_some() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let (base, entries) =
            self.new_queue(bus, sqe, self.registers.cc.cq_entry_lg2(), bits::CQE_LG2)?;
        let vector = (sqe.dw(11) >> 16) as u16;
        if vector > self.queues {
            return Err(Status::INVALID_VECTOR);
        }
        let interrupts = sqe.dw(11) & 2 != 0;
        self.cqs[id] = Some(CompletionQueue::new(
            base,
            entries,
            interrupts.then_some(vector),
        ));
        Ok(0)
    }

    pub(super) fn create_sq(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = self.io_queue_id(sqe)?;
        if self.sqs[id].is_some() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let cq = (sqe.dw(11) >> 16) as u16;
        // 5.4: the admin completion queue is an invalid identifier, another that was not created an invalid queue.
        if cq == 0 {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self.cqs.get(usize::from(cq)).is_none_or(Option::is_none) {
            return Err(Status::CQ_INVALID);
        }
        let (base, entries) =
            self.new_queue(bus, sqe, self.registers.cc.sq_entry_lg2(), bits::SQE_LG2)?;
        self.sqs[id] = Some(SubmissionQueue::new(base, entries, cq));
        self.cqs[usize::from(cq)]
            .as_mut()
            .expect("looked up above")
            .users += 1;
        Ok(0)
    }

    pub(super) fn delete_sq(&mut self, _bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = self.io_queue_id(sqe)?;
        let sq = self.sqs[id].take().ok_or(Status::INVALID_QUEUE_ID)?;
        self.cqs[usize::from(sq.cq)]
            .as_mut()
            .expect("a submission queue's completion queue exists")
            .users -= 1;
        Ok(0)
    }

    pub(super) fn delete_cq(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = self.io_queue_id(sqe)?;
        let cq = self.cqs[id].ok_or(Status::INVALID_QUEUE_ID)?;
        // 5.5: its submission queues go first.
        if cq.users > 0 {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.cqs[id] = None;
        self.drive_line(bus);
        Ok(0)
    }
}
