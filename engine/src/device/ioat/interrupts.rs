//! INTRCTRL and ATTNSTATUS: how a channel's interrupt leaves the function.

use crate::pci::Bus;

/// INTRCTRL.
mod intrctrl {
    pub const MASTER: u8 = 1 << 0;
    pub const STATUS: u8 = 1 << 1;
    pub const ASSERTED: u8 = 1 << 2;
    pub const VECTORS: u8 = 1 << 3;
}

/// The function's interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interrupts {
    /// Interrupts leave as long as this is set; a read of INTRCTRL clears it.
    master: bool,
    /// Each channel has a vector of its own, and needs no `master`.
    vectors: bool,
    /// Channels that interrupted since ATTNSTATUS was read.
    attention: u32,
    /// Whether INTx is asserted.
    asserted: bool,
}

impl Interrupts {
    /// A channel interrupts.
    pub fn raise(&mut self, bus: &mut dyn Bus, channel: u16) {
        if self.vectors {
            bus.message(channel);
        } else {
            self.attention |= 1 << channel;
            self.settle(bus);
        }
    }

    /// Reads INTRCTRL, which clears the master enable.
    pub fn read_control(&mut self, bus: &mut dyn Bus) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let value = bit(self.master, intrctrl::MASTER)
            | bit(self.attention != 0, intrctrl::STATUS)
            | bit(self.asserted, intrctrl::ASSERTED)
            | bit(self.vectors, intrctrl::VECTORS);
        self.master = false;
        self.settle(bus);
        value
    }

    /// Writes INTRCTRL.
    pub fn write_control(&mut self, bus: &mut dyn Bus, value: u8) {
        self.master = value & intrctrl::MASTER != 0;
        self.vectors = value & intrctrl::VECTORS != 0;
        self.settle(bus);
    }

    /// Reads ATTNSTATUS, which clears it.
    pub fn read_attention(&mut self, bus: &mut dyn Bus) -> u32 {
        let attention = std::mem::take(&mut self.attention);
        self.settle(bus);
        attention
    }

    /// Drives the line, and sends vector 0 when it rises.
    fn settle(&mut self, bus: &mut dyn Bus) {
        let asserted = self.master && self.attention != 0;
        if asserted && !self.asserted {
            bus.message(0);
        }
        if asserted != self.asserted {
            bus.intx(asserted);
        }
        self.asserted = asserted;
    }
}
