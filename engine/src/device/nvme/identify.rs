//! IDENTIFY, section 5.15: what the controller and its namespaces say of themselves.

use super::bits::{self, ALL_NAMESPACES, Done, Sqe, Status};
use super::{MAX_TRANSFER_LG2, Nvme, event, feature, log};
use crate::pci::Bus;

/// The vendor and subsystem vendor of the PCI function: those QEMU's emulated controllers carry, which say "emulated" to
/// every program that looks.
pub(super) const PCI_VENDOR: u16 = 0x1b36;
pub(super) const PCI_SUBSYSTEM_VENDOR: u16 = 0x1af4;
/// Firmware revision: this crate's version.
pub(super) const FIRMWARE: [u8; 8] = padded(env!("CARGO_PKG_VERSION"));
const MODEL: [u8; 40] = padded("swiommu NVMe controller");

/// Composite temperature, in kelvin: it does not change.
pub(super) const TEMPERATURE: u16 = 313;
/// WCTEMP and CCTEMP.
pub(super) const WARNING_TEMPERATURE: u16 = 343;
const CRITICAL_TEMPERATURE: u16 = 353;

/// ASCII padded with spaces, as the specification's strings are (2.1).
const fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    let mut i = 0;
    while i < text.len() && i < N {
        out[i] = text.as_bytes()[i];
        i += 1;
    }
    out
}

/// Writes fields into a data structure.
struct Fields<'a>(&'a mut [u8; 4096]);

impl Fields<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn u8(&mut self, at: usize, value: u8) {
        self.put(at, &[value]);
    }
    fn u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
    fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
    fn u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

impl Nvme {
    pub(super) fn identify(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let count = self.namespaces.len() as u32;
        self.scratch.data.fill(0);
        match sqe.dw(10) as u8 {
            0x00 => self.identify_namespace(sqe.nsid)?,
            0x01 => self.identify_controller(),
            // 5.15.2.3: the active namespaces beyond the one named; the two highest values name none.
            0x02 if sqe.nsid >= ALL_NAMESPACES - 1 => return Err(Status::INVALID_NAMESPACE),
            0x02 => {
                let mut fields = Fields(&mut self.scratch.data);
                for (i, nsid) in (sqe.nsid + 1..=count).take(1024).enumerate() {
                    fields.u32(i * 4, nsid);
                }
            }
            0x03 => self.identify_descriptors(sqe.nsid)?,
            // NVMe 2.0, I/O command set specific controller data. CSI 0, the NVM command set: no limits beyond MDTS.
            0x06 if sqe.dw(11) >> 24 == 0 => {}
            cns => {
                bus.unmodelled(format_args!("NVMe: IDENTIFY CNS {cns:#04x}"));
                return Err(Status::INVALID_FIELD);
            }
        }
        self.send(bus, sqe, 4096)?;
        Ok(0)
    }

    /// Figure 247.
    fn identify_controller(&mut self) {
        let mut f = Fields(&mut self.scratch.data);
        f.u16(0, PCI_VENDOR);
        f.u16(2, PCI_SUBSYSTEM_VENDOR);
        f.put(4, &self.serial);
        f.put(24, &MODEL);
        f.put(64, &FIRMWARE);
        // RAB: as the arbitration feature's default.
        f.u8(72, 7);
        if let Some(place) = self.place {
            // CMIC: several controllers; this one is a virtual function's.
            f.u8(76, 0b010 | u8::from(place.controller > 0) << 2);
            f.u16(78, place.controller);
        }
        f.u8(77, (MAX_TRANSFER_LG2 - 12) as u8);
        f.u32(80, bits::VERSION);
        // CNTRLTYPE: I/O controller.
        f.u8(111, 1);
        // ACL: 4 aborts; AERL.
        f.u8(258, 3);
        f.u8(259, event::LIMIT as u8 - 1);
        // FRMW: one slot, read only. LPA: effects log, extended data.
        f.u8(260, 0b0011);
        f.u8(261, 0b0110);
        f.u8(262, log::ERRORS as u8 - 1);
        f.u16(266, WARNING_TEMPERATURE);
        f.u16(268, CRITICAL_TEMPERATURE);
        f.u16(320, (feature::KEEP_ALIVE_UNIT_MS / 100) as u16);
        f.u8(512, (bits::SQE_LG2 * 0x11) as u8);
        f.u8(513, (bits::CQE_LG2 * 0x11) as u8);
        f.u32(516, self.namespaces.len() as u32);
        // ONCS: compare, dataset management, write zeroes, select in GET FEATURES.
        f.u16(520, 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4);
        // VWC: a FLUSH of all namespaces is supported.
        f.u8(525, 0b110 | u8::from(self.has_cache));
        // NWPC stays 0: a read-only medium is, for good.
        let mut name = [0; 256];
        let nqn = b"nqn.2014-08.org.nvmexpress:swiommu:";
        name[..nqn.len()].copy_from_slice(nqn);
        let serial = self.serial.trim_ascii_end();
        name[nqn.len()..nqn.len() + serial.len()].copy_from_slice(serial);
        f.put(768, &name);
        // Power state 0: 25 W in hundredths.
        f.u16(2048, 2500);
    }

    /// Figure 245. Namespaces cannot be created, so what holds for all (0xffffffff) is not asked (5.15.2.1).
    fn identify_namespace(&mut self, nsid: u32) -> Done {
        let namespace = &self.namespaces[self.namespace_index(nsid)?];
        let mut f = Fields(&mut self.scratch.data);
        f.u64(0, namespace.blocks);
        f.u64(8, namespace.blocks);
        f.u64(16, namespace.blocks);
        // NMIC: other controllers have it too.
        f.u8(30, u8::from(self.place.is_some()));
        // DLFEAT: deallocated blocks read zeroes; WRITE ZEROES can deallocate.
        f.u8(33, 0b1001);
        // NVMCAP in bytes.
        f.u64(48, namespace.blocks << namespace.block_lg2);
        // NSATTR: write protected.
        f.u8(99, u8::from(namespace.is_read_only()));
        f.u32(128, namespace.block_lg2 << 16);
        Ok(())
    }

    /// Figure 249: one UUID made from the serial number and the namespace id.
    fn identify_descriptors(&mut self, nsid: u32) -> Done {
        self.namespace_index(nsid)?;
        let mut uuid = [0; 16];
        for (half, part) in uuid.chunks_exact_mut(8).enumerate() {
            let text = self
                .serial
                .iter()
                .copied()
                .chain(nsid.to_le_bytes())
                .chain([half as u8]);
            // FNV-1a.
            let hash = text.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
            part.copy_from_slice(&hash.to_be_bytes());
        }
        // RFC 9562: version 8 (custom), variant 10.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let mut f = Fields(&mut self.scratch.data);
        f.put(0, &[3, 16, 0, 0]);
        f.put(4, &uuid);
        Ok(())
    }
}
