//! Controller registers, section 3.1, and what they start: enable, reset and shutdown, section 7.6.

use super::bits::{self, Cc, csts, reg};
use super::queue::{CompletionQueue, SubmissionQueue};
use super::{Nvme, feature::Features};
use crate::pci::Bus;

/// What is kept in registers. CAP and VS are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    /// INTMS / INTMC: vectors that do not drive the INTx line.
    pub masked: u32,
    pub cc: Cc,
    pub csts: u32,
    pub aqa: u32,
    pub asq: u64,
    pub acq: u64,
}

impl Nvme {
    /// Enabled, ready, not failed and not shut down: doorbells work.
    pub(super) fn is_running(&self) -> bool {
        let csts = self.registers.csts;
        csts & (csts::RDY | csts::CFS | csts::SHST) == csts::RDY
    }

    /// 9.5: the controller can go on no more; the client sees CSTS.CFS and resets it.
    pub(super) fn fail(&mut self) {
        self.registers.csts |= csts::CFS;
    }

    pub(super) fn read_register(&mut self, bus: &mut dyn Bus, offset: u64, bytes: u8) -> u64 {
        let dword = offset & !3;
        if offset >= reg::MSIX_TABLE {
            return 0;
        }
        if offset >= reg::DOORBELLS {
            bus.misuse(format_args!(
                "NVMe: read of a doorbell at BAR0 + {offset:#x} (3.1.16: undefined)"
            ));
            return 0;
        }
        if dword == reg::CSTS {
            self.check_keep_alive(bus);
        }
        let wide = u64::from(self.dword(dword)) | u64::from(self.dword(dword + 4)) << 32;
        let value = wide >> (8 * (offset - dword));
        if bytes >= 8 {
            value
        } else {
            value & ((1 << (8 * bytes)) - 1)
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        let r = &self.registers;
        match offset {
            reg::CAP => bits::CAP as u32,
            0x04 => (bits::CAP >> 32) as u32,
            reg::VS => bits::VERSION,
            reg::INTMS | reg::INTMC => r.masked,
            reg::CC => r.cc.0,
            reg::CSTS => r.csts,
            reg::AQA => r.aqa,
            reg::ASQ => r.asq as u32,
            0x2c => (r.asq >> 32) as u32,
            reg::ACQ => r.acq as u32,
            0x34 => (r.acq >> 32) as u32,
            _ => 0,
        }
    }

    pub(super) fn write_register(&mut self, bus: &mut dyn Bus, offset: u64, bytes: u8, value: u64) {
        // 3.1: 32-bit accesses, or aligned 64-bit ones to 64-bit registers; others are not defined.
        if bytes < 4 || !offset.is_multiple_of(4) || bytes == 8 && !offset.is_multiple_of(8) {
            bus.misuse(format_args!(
                "NVMe: write of {bytes} bytes to BAR0 + {offset:#x} (3.1: dwords only)"
            ));
            return;
        }
        if offset >= reg::MSIX_TABLE {
            bus.misuse(format_args!(
                "NVMe: write to BAR0 + {offset:#x}, where there is no register"
            ));
            return;
        }
        if offset >= reg::DOORBELLS {
            if bytes == 8 {
                bus.misuse(format_args!(
                    "NVMe: write of 8 bytes to a doorbell at BAR0 + {offset:#x}"
                ));
                return;
            }
            return self.ring(bus, offset, value as u32);
        }
        self.write_dword(bus, offset, value as u32);
        if bytes == 8 {
            self.write_dword(bus, offset + 4, (value >> 32) as u32);
        }
    }

    fn write_dword(&mut self, bus: &mut dyn Bus, offset: u64, value: u32) {
        match offset {
            reg::INTMS => {
                self.registers.masked |= value;
                self.drive_line(bus);
            }
            reg::INTMC => {
                self.registers.masked &= !value;
                self.drive_line(bus);
            }
            reg::CC => self.configure(bus, Cc(value)),
            reg::CSTS => {
                // 3.1.6: only NSSRO can be written, to clear it.
                self.registers.csts &= !(value & csts::NSSRO);
            }
            reg::NSSR => {
                if value == bits::NSSR_RESET {
                    self.stop();
                    self.registers = super::Registers {
                        csts: csts::NSSRO,
                        ..Default::default()
                    };
                    self.drive_line(bus);
                }
            }
            reg::AQA..reg::OPTIONAL => self.write_admin_queue(bus, offset, value),
            // The reserved dword that a 64-bit write to the pair with CSTS covers.
            0x18 if value == 0 => {}
            reg::CAP..reg::OPTIONAL => {
                bus.misuse(format_args!(
                    "NVMe: write of {value:#x} to the read-only register at BAR0 + {offset:#x}"
                ));
            }
            _ => bus.unmodelled(format_args!(
                "NVMe: write to the optional register at BAR0 + {offset:#x}"
            )),
        }
    }

    /// AQA, ASQ and ACQ (3.1.10 to 3.1.12) are taken at the first ring of an admin doorbell.
    fn write_admin_queue(&mut self, bus: &mut dyn Bus, offset: u64, value: u32) {
        if self.registers.cc.enabled() {
            let name = match offset {
                reg::AQA => "AQA",
                reg::ASQ | 0x2c => "ASQ",
                _ => "ACQ",
            };
            if self.cqs[0].is_some() {
                bus.misuse(format_args!(
                    "NVMe: {name} written while the admin queue is in use: ignored until the next enable"
                ));
            } else {
                // QEMU's driver does this: harmless, and worth knowing when a controller refuses it.
                bus.remark(format_args!(
                    "NVMe: {name} written after CC.EN was set (7.6.1: before)"
                ));
            }
        }
        let r = &mut self.registers;
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            reg::AQA => r.aqa = value & 0x0fff_0fff,
            reg::ASQ => r.asq = low(r.asq),
            0x2c => r.asq = high(r.asq),
            reg::ACQ => r.acq = low(r.acq),
            _ => r.acq = high(r.acq),
        }
    }

    fn configure(&mut self, bus: &mut dyn Bus, cc: Cc) {
        if cc.0 & !Cc::DEFINED != 0 {
            bus.misuse(format_args!(
                "NVMe: reserved bits {:#x} set in CC",
                cc.0 & !Cc::DEFINED
            ));
        }
        let was = self.registers.cc;
        self.registers.cc = Cc(cc.0 & Cc::DEFINED);
        if cc.shutdown() != 0 && was.shutdown() == 0 {
            self.shut_down();
        }
        match (was.enabled(), cc.enabled()) {
            (false, true) => self.enable(bus),
            (true, false) => {
                // 7.3.2: a controller reset keeps AQA, ASQ and ACQ.
                self.stop();
                self.registers.csts &= csts::NSSRO;
                self.drive_line(bus);
            }
            (true, true) => {
                let fixed = |cc: Cc| (cc.command_set(), cc.page_lg2(), cc.arbitration());
                if fixed(was) != fixed(cc) {
                    bus.misuse(format_args!(
                        "NVMe: CC.CSS, CC.MPS or CC.AMS changed while enabled (3.1.5): ignored"
                    ));
                    let mask = 0x0000_3ff0;
                    self.registers.cc = Cc(self.registers.cc.0 & !mask | was.0 & mask);
                }
            }
            (false, false) => {}
        }
    }

    fn enable(&mut self, bus: &mut dyn Bus) {
        let cc = self.registers.cc;
        if cc.command_set() != 0 || cc.page_lg2() > bits::MAX_PAGE_LG2 || cc.arbitration() != 0 {
            bus.misuse(format_args!(
                "NVMe: CC = {:#x} selects what CAP does not offer",
                cc.0
            ));
            return self.fail();
        }
        let r = &mut self.registers;
        if cc.shutdown() == 0 {
            r.csts &= !csts::SHST;
        }
        r.csts |= csts::RDY;
    }

    /// The admin queue pair comes into being, with what AQA, ASQ and ACQ hold at its first use. A client may have
    /// stored them after CC.EN (QEMU 11.1 does); a controller need not look earlier.
    pub(super) fn take_admin_queue(&mut self, bus: &mut dyn Bus) -> bool {
        let r = self.registers;
        let (sq_entries, cq_entries) = ((r.aqa & 0xfff) + 1, (r.aqa >> 16 & 0xfff) + 1);
        let page = (1u64 << r.cc.page_lg2()) - 1;
        // 3.1.10: 2 entries at least. 3.1.11, 3.1.12: memory page aligned.
        if sq_entries < 2
            || cq_entries < 2
            || r.asq & page != 0
            || r.acq & page != 0
            || r.asq == r.acq
        {
            bus.misuse(format_args!(
                "NVMe: admin queue used with AQA = {:#x}, ASQ = {:#x}, ACQ = {:#x}: not set up",
                r.aqa, r.asq, r.acq
            ));
            self.fail();
            return false;
        }
        self.sqs[0] = Some(SubmissionQueue::new(r.asq, sq_entries, 0));
        let mut cq = CompletionQueue::new(r.acq, cq_entries, Some(0));
        cq.users = 1;
        self.cqs[0] = Some(cq);
        true
    }

    /// 7.6.2: normal and abrupt shutdown alike write the cache back, at once.
    fn shut_down(&mut self) {
        if self.flush_all().is_err() {
            self.fail();
        }
        self.registers.csts = self.registers.csts & !csts::SHST | csts::SHST_COMPLETE;
    }

    /// 7.3.2: all queues, features and outstanding requests go. The cache does not: the power stays on.
    pub(super) fn stop(&mut self) {
        self.sqs.fill(None);
        self.cqs.fill(None);
        self.events = Default::default();
        self.features = Features::new(self.has_cache);
    }

    /// Drives INTx: asserted while an unmasked completion queue has entries to consume.
    pub(super) fn drive_line(&mut self, bus: &mut dyn Bus) {
        let masked = self.registers.masked;
        let wants = |cq: &CompletionQueue| {
            !cq.is_empty() && cq.vector.is_some_and(|v| v >= 32 || masked >> v & 1 == 0)
        };
        let line = self.cqs.iter().flatten().any(wants);
        if line != self.line {
            self.line = line;
            bus.intx(line);
        }
    }
}
