//! Configuration space as vfio-pci shows it: made from an [`Identity`], virtualised for the client.
//!
//! The client reads and writes a copy. Of what it writes only a few bits reach the function: command bits, function
//! level reset, power state. BARs can be sized and hold whatever is written; the function stays where it is
//! (`drivers/vfio/pci/vfio_pci_config.c`).

use swiommu_abi::pci::*;

use super::{Bar, Identity, Role, Sriov};

/// The first capability.
const CAPABILITIES_AT: usize = 0x40;

/// The only extended capability there is.
pub const SRIOV_AT: usize = 0x100;
/// Virtual functions are there; they decode memory.
const VF_ENABLE: u16 = 1;
const VF_MEMORY: u16 = 1 << 3;

/// SERR# reporting, which firmware turns on.
const COMMAND_SERR: u16 = 0x0100;

/// Command bits a client can change.
const COMMAND_WRITABLE: u16 =
    COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE | COMMAND_SERR;

/// What a write to configuration space asks of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing beyond the bytes.
    None,
    /// The command register changed from this value.
    Command(u16),
    /// Function level reset.
    Reset,
}

/// A function's configuration space.
#[derive(Debug)]
pub struct Config {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    /// Where the MSI, MSI-X and PCI Express capabilities lie, and how many MSI vectors (log2) there are.
    msi: Option<(usize, u8)>,
    msix: Option<usize>,
    express: Option<usize>,
    /// A virtual function's memory decoding is its physical function's to switch.
    decodes_always: bool,
}

impl Config {
    /// Configuration space after power-on and `pci_enable_device`: decoding on, bus master off.
    ///
    /// `bases` are the bus addresses of the BARs, see [`resources`](crate::machine::resources).
    pub fn new(identity: &Identity, bases: &[u64; 6]) -> Config {
        let bytes = if identity.express {
            CFG_SPACE_EXP_SIZE
        } else {
            CFG_SPACE_SIZE
        };
        let mut config = Config {
            bytes: vec![0; bytes],
            writable: vec![0; bytes],
            msi: None,
            msix: None,
            express: None,
            decodes_always: identity.role == Role::Virtual,
        };
        config.header(identity);
        config.bars(identity, bases);
        config.capabilities(identity);
        if let Role::Physical(sriov) = identity.role {
            config.sriov(identity, sriov);
        }
        config
    }

    /// All bytes, as a sysfs `config` file shows them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    /// Whether the function may issue DMA and messages.
    pub fn bus_master(&self) -> bool {
        self.command() & COMMAND_MASTER != 0
    }

    /// Whether the function decodes memory accesses.
    pub fn memory(&self) -> bool {
        self.decodes_always || self.command() & COMMAND_MEMORY != 0
    }

    /// Shows whether INTx is asserted in the status register.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let status = self.word(STATUS) & !STATUS_INTERRUPT;
        self.set_word(
            STATUS,
            if asserted {
                status | STATUS_INTERRUPT
            } else {
                status
            },
        );
    }

    /// Shows in the capability whether SET_IRQS turned MSI-X on. The MSI capability is wholly the client's.
    pub fn set_msix(&mut self, enabled: bool) {
        if let Some(at) = self.msix {
            let value = self.word(at + 2);
            self.set_word(
                at + 2,
                if enabled {
                    value | 1 << 15
                } else {
                    value & !(1 << 15)
                },
            );
        }
    }

    /// Reads `to.len()` bytes at `at`; the caller has checked the range.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.bytes[at..at + to.len()]);
    }

    /// Writes bytes at `at`; the caller has checked the range.
    pub fn write(&mut self, at: usize, from: &[u8]) -> Effect {
        let command = self.command();
        for (index, &byte) in from.iter().enumerate() {
            let writable = self.writable[at + index];
            let slot = &mut self.bytes[at + index];
            *slot = (*slot & !writable) | (byte & writable);
        }
        let touched = at..at + from.len();
        if let Some((msi, log2)) = self.msi.filter(|(msi, _)| touched.contains(&(msi + 2))) {
            self.settle_msi(msi + 2, log2);
        }
        if let Some(control) = self
            .express
            .map(|express| express + 9)
            .filter(|control| touched.contains(control))
        {
            let initiate = from[control - at] & 0x80 != 0;
            self.bytes[control] &= 0x7f;
            if initiate {
                return Effect::Reset;
            }
        }
        if self.command() != command {
            Effect::Command(command)
        } else {
            Effect::None
        }
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_dword(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// MSI is turned on by SET_IRQS, not here, and has no more vectors than the function offers.
    fn settle_msi(&mut self, at: usize, log2: u8) {
        let control = self.bytes[at] & !1;
        let queue = (control >> 4 & 7).min(log2);
        self.bytes[at] = control & !0x70 | queue << 4;
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    fn header(&mut self, identity: &Identity) {
        self.set_word(VENDOR_ID, identity.vendor);
        self.set_word(DEVICE_ID, identity.device);
        self.set_dword(
            CLASS_REVISION,
            identity.class << 8 | u32::from(identity.revision),
        );
        self.set_word(SUBSYSTEM_VENDOR_ID, identity.subsystem.0);
        self.set_word(SUBSYSTEM_ID, identity.subsystem.1);
        self.bytes[INTERRUPT_PIN] = identity.interrupt_pin;
        self.bytes[INTERRUPT_LINE] = if identity.interrupt_pin == 0 { 0 } else { 10 };
        // a virtual function's own register is zero, and VFIO shows that its memory decodes
        let command = match self.decodes_always {
            true => COMMAND_MEMORY,
            false => COMMAND_IO | COMMAND_MEMORY | COMMAND_SERR,
        };
        self.set_word(COMMAND, command);
        self.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        self.allow(0x0c, &[0xff]); // cache line size
        self.allow(INTERRUPT_LINE, &[0xff]);
    }

    fn bars(&mut self, identity: &Identity, bases: &[u64; 6]) {
        for (index, bar) in identity.bars.iter().enumerate() {
            let at = BASE_ADDRESS_0 + index * 4;
            let base = bases[index];
            match *bar {
                Bar::None => {}
                Bar::Io { bytes } => {
                    self.set_dword(at, base as u32 | 1);
                    self.allow(at, &(!(bytes as u32 - 1) & !3).to_le_bytes());
                }
                Bar::Memory {
                    bytes,
                    wide,
                    prefetch,
                } => {
                    let flags = u64::from(wide) << 2 | u64::from(prefetch) << 3;
                    let mask = !(bytes - 1) & !0xf;
                    self.set_dword(at, (base | flags) as u32);
                    self.allow(at, &(mask as u32).to_le_bytes());
                    if wide {
                        self.set_dword(at + 4, (base >> 32) as u32);
                        self.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
                    }
                }
            }
        }
    }

    fn capabilities(&mut self, identity: &Identity) {
        let (mut link, mut next) = (CAPABILITY_LIST, CAPABILITIES_AT);
        let mut begin = |config: &mut Config, id: u8, bytes: usize| {
            let at = next;
            config.bytes[link] = at as u8;
            config.bytes[at] = id;
            (link, next) = (at + 1, at + bytes);
            at
        };
        if identity.express {
            let at = begin(self, CAP_ID_PM, 8);
            self.set_word(at + 2, 3);
            self.set_word(at + 4, 1 << 3); // no soft reset
        }
        if identity.msi > 0 {
            let at = begin(self, CAP_ID_MSI, 0x18);
            let log2 = identity.msi.ilog2() as u8;
            self.set_word(at + 2, 1 << 7 | u16::from(log2) << 1);
            self.allow(at + 2, &[0xff, 0]);
            self.allow(at + 4, &[0xff; 10]);
            self.msi = Some((at, log2));
        }
        if let Some(msix) = identity.msix {
            let at = begin(self, CAP_ID_MSIX, 12);
            self.set_word(at + 2, msix.vectors - 1);
            self.set_dword(at + 4, msix.table.1 | u32::from(msix.table.0));
            self.set_dword(at + 8, msix.pba.1 | u32::from(msix.pba.0));
            self.msix = Some(at);
        }
        if identity.express {
            let at = begin(self, CAP_ID_EXP, 0x3c);
            self.express_endpoint(at);
            self.express = Some(at);
        }
        if link != CAPABILITY_LIST {
            self.set_word(STATUS, STATUS_CAP_LIST);
        }
    }

    /// The SR-IOV capability (PCIe 5.0 section 9.3.3). vfio-pci shows it and lets nobody write it.
    fn sriov(&mut self, identity: &Identity, sriov: Sriov) {
        let at = SRIOV_AT;
        self.set_dword(at, u32::from(EXT_CAP_ID_SRIOV) | 1 << 16);
        self.set_word(at + 0x0c, sriov.total);
        self.set_word(at + 0x0e, sriov.total);
        self.set_word(at + 0x14, sriov.offset);
        self.set_word(at + 0x16, sriov.stride);
        self.set_word(at + 0x1a, sriov.device);
        self.set_dword(at + 0x1c, 0x553); // 4 KiB to 4 MiB
        self.set_dword(at + 0x20, 1);
        for (index, bar) in identity.bars.iter().enumerate() {
            if let Bar::Memory { wide, prefetch, .. } = *bar {
                let flags = u32::from(wide) << 2 | u32::from(prefetch) << 3;
                self.set_dword(at + 0x24 + index * 4, flags);
            }
        }
    }

    /// Shows in the SR-IOV capability how many virtual functions there are.
    pub fn set_virtual_functions(&mut self, number: u16) {
        let enabled = if number > 0 { VF_ENABLE | VF_MEMORY } else { 0 };
        self.set_word(SRIOV_AT + 8, enabled);
        self.set_word(SRIOV_AT + 0x10, number);
    }

    /// A PCI Express endpoint, capability version 2, 2.5 GT/s x1, with function level reset (PCIe 5.0 section 7.5.3).
    fn express_endpoint(&mut self, at: usize) {
        self.set_word(at + 2, 2);
        self.set_dword(at + 4, 1 << 15 | 1 << 28);
        self.set_word(at + 8, 0x2810);
        self.allow(at + 8, &[0xff, 0xff]);
        self.set_dword(at + 0x0c, 1 | 1 << 4);
        self.set_word(at + 0x12, 1 | 1 << 4);
        self.set_dword(at + 0x24, 0x1f);
        self.allow(at + 0x28, &[0x1f, 0x04]);
    }
}
