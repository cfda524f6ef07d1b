//! Admin commands, section 5: the way to each.

use super::Nvme;
use super::bits::{Done, Sqe, Status, admin_op};
use super::doorbell::Outcome;
use crate::pci::{Bus, Doing};

impl Nvme {
    pub(super) fn execute_admin(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Outcome {
        let name = admin_op::name(sqe.opcode);
        self.doing = Doing {
            what: name,
            queue: Some(0),
            command: Some(sqe.cid),
        };
        bus.doing(self.doing);
        if self.events.waits(sqe.cid) {
            bus.misuse(format_args!(
                "NVMe: command {} submitted while an event request has that identifier",
                sqe.cid
            ));
            return Outcome::Now(Status::CID_CONFLICT, 0);
        }
        // 4.11: fused operations are not supported (FUSES = 0).
        if sqe.fused() {
            bus.unmodelled(format_args!("NVMe: fused operation {name}"));
            return Outcome::Now(Status::INVALID_FIELD, 0);
        }
        let done: Done<u32> = match sqe.opcode {
            admin_op::ASYNC_EVENT_REQUEST => return self.async_event_request(sqe),
            admin_op::ABORT => return self.abort(bus, sqe),
            admin_op::DELETE_SQ => self.delete_sq(bus, sqe),
            admin_op::CREATE_SQ => self.create_sq(bus, sqe),
            admin_op::DELETE_CQ => self.delete_cq(bus, sqe),
            admin_op::CREATE_CQ => self.create_cq(bus, sqe),
            admin_op::GET_LOG_PAGE => self.get_log_page(bus, sqe),
            admin_op::IDENTIFY => self.identify(bus, sqe),
            admin_op::SET_FEATURES => self.set_features(bus, sqe),
            admin_op::GET_FEATURES => self.get_features(bus, sqe),
            admin_op::KEEP_ALIVE => {
                self.features.kick_keep_alive();
                Ok(0)
            }
            opcode => {
                bus.unmodelled(format_args!("NVMe: admin command {opcode:#04x} ({name})"));
                Err(Status::INVALID_OPCODE)
            }
        };
        match done {
            Ok(result) => Outcome::Now(Status::SUCCESS, result),
            Err(status) => Outcome::Now(status, 0),
        }
    }

    /// 5.19: the timer ran out, the client is taken for dead.
    pub(super) fn check_keep_alive(&mut self, bus: &mut dyn Bus) {
        if self.is_running() && !self.quiet && self.features.keep_alive_expired() {
            bus.misuse(format_args!(
                "NVMe: no KEEP ALIVE within {} ms",
                self.features.keep_alive_ms()
            ));
            self.fail();
        }
    }
}
