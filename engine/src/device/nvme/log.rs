//! GET LOG PAGE, section 5.14: errors, SMART / health, firmware slots, commands supported and effects.

use super::Nvme;
use super::bits::{ALL_NAMESPACES, Done, MORE, Sqe, Status, admin_op, io_op};
use super::identify::{FIRMWARE, TEMPERATURE};
use crate::pci::Bus;

/// ELPE + 1: entries of the error log.
pub(super) const ERRORS: usize = 64;

/// Log page identifiers, figure 191.
const ERROR: u8 = 0x01;
const SMART: u8 = 0x02;
const FIRMWARE_SLOTS: u8 = 0x03;
const EFFECTS: u8 = 0x05;

/// One entry of the error log, figure 192.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrorEntry {
    pub count: u64,
    pub queue: u16,
    pub cid: u16,
    pub status: Status,
    pub lba: u64,
    pub nsid: u32,
}

/// What the log pages are made from. Kept over resets.
#[derive(Debug)]
pub(super) struct Logs {
    pub errors: Box<[ErrorEntry; ERRORS]>,
    pub error_count: u64,
    pub media_errors: u64,
    pub read_commands: u64,
    pub write_commands: u64,
    /// In bytes.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Default for Logs {
    fn default() -> Logs {
        Logs {
            errors: Box::new([ErrorEntry::default(); ERRORS]),
            error_count: 0,
            media_errors: 0,
            read_commands: 0,
            write_commands: 0,
            read_bytes: 0,
            written_bytes: 0,
        }
    }
}

impl Logs {
    /// Notes a failed command: its status, which now says that there is more to read.
    pub fn record_error(&mut self, queue: u16, sqe: &Sqe, status: Status, lba: u64) -> Status {
        let status = Status(status.0 | MORE);
        self.error_count += 1;
        self.media_errors += u64::from(Status(status.0 & !MORE).is_media_error());
        let at = (self.error_count - 1) as usize % ERRORS;
        self.errors[at] = ErrorEntry {
            count: self.error_count,
            queue,
            cid: sqe.cid,
            status,
            lba,
            nsid: sqe.nsid,
        };
        status
    }

    /// Figure 192: the latest first.
    fn error_page(&self, page: &mut [u8; 4096]) {
        let newest = self.error_count;
        let entries =
            (0..ERRORS as u64).map_while(|back| newest.checked_sub(back).filter(|&n| n > 0));
        for (slot, count) in page.chunks_exact_mut(64).zip(entries) {
            let e = &self.errors[(count - 1) as usize % ERRORS];
            slot[0..8].copy_from_slice(&e.count.to_le_bytes());
            slot[8..10].copy_from_slice(&e.queue.to_le_bytes());
            slot[10..12].copy_from_slice(&e.cid.to_le_bytes());
            slot[12..14].copy_from_slice(&(e.status.0 << 1).to_le_bytes());
            // Parameter error location: not given.
            slot[14..16].copy_from_slice(&0xffff_u16.to_le_bytes());
            slot[16..24].copy_from_slice(&e.lba.to_le_bytes());
            slot[24..28].copy_from_slice(&e.nsid.to_le_bytes());
        }
    }

    /// Figure 194.
    fn smart_page(&self, page: &mut [u8; 4096], too_hot: bool) {
        page[0] = u8::from(too_hot) << 1;
        page[1..3].copy_from_slice(&TEMPERATURE.to_le_bytes());
        page[3] = 100;
        page[4] = 10;
        let mut counter =
            |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        // In thousands of 512 bytes, rounded up.
        counter(32, self.read_bytes.div_ceil(512_000));
        counter(48, self.written_bytes.div_ceil(512_000));
        counter(64, self.read_commands);
        counter(80, self.write_commands);
        counter(112, 1);
        counter(160, self.media_errors);
        counter(176, self.error_count);
    }
}

/// Figure 197: slot 1 is active and the only one.
fn firmware_page(page: &mut [u8; 4096]) {
    page[0] = 1;
    page[8..16].copy_from_slice(&FIRMWARE);
}

/// Figure 206: bit 0 supported, bit 1 changes logical block content.
fn effects_page(page: &mut [u8; 4096]) {
    let mut command =
        |at: usize, opcode: u8, effects: u8| page[at + usize::from(opcode) * 4] = effects;
    for opcode in [
        admin_op::DELETE_SQ,
        admin_op::CREATE_SQ,
        admin_op::GET_LOG_PAGE,
        admin_op::DELETE_CQ,
        admin_op::CREATE_CQ,
        admin_op::IDENTIFY,
        admin_op::ABORT,
        admin_op::SET_FEATURES,
        admin_op::GET_FEATURES,
        admin_op::ASYNC_EVENT_REQUEST,
        admin_op::KEEP_ALIVE,
    ] {
        command(0, opcode, 1);
    }
    for opcode in [io_op::FLUSH, io_op::READ, io_op::COMPARE] {
        command(1024, opcode, 1);
    }
    for opcode in [io_op::WRITE, io_op::WRITE_ZEROES, io_op::DATASET_MANAGEMENT] {
        command(1024, opcode, 3);
    }
}

impl Nvme {
    pub(super) fn get_log_page(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = sqe.dw(10) as u8;
        let bytes = (u64::from(sqe.dw(10) >> 16 | sqe.dw(11) << 16) + 1) * 4;
        let offset = u64::from(sqe.dw(12)) | u64::from(sqe.dw(13)) << 32;
        let page = &mut self.scratch.data;
        page.fill(0);
        let length = match id {
            ERROR => {
                self.logs.error_page(page);
                64 * ERRORS as u64
            }
            // 5.14.1.2: LPA bit 0 = 0, the whole controller only.
            SMART if sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES => {
                return Err(Status::INVALID_FIELD);
            }
            SMART => {
                self.logs.smart_page(page, self.features.is_too_hot());
                512
            }
            FIRMWARE_SLOTS => {
                firmware_page(page);
                512
            }
            EFFECTS => {
                effects_page(page);
                4096
            }
            _ => {
                bus.unmodelled(format_args!("NVMe: log page {id:#04x}"));
                return Err(Status::INVALID_LOG_PAGE);
            }
        };
        // 5.14: an offset is in dwords and not beyond the page; MDTS holds for admin commands too.
        if offset > length || offset % 4 != 0 || bytes > 1 << super::MAX_TRANSFER_LG2 {
            return Err(Status::INVALID_FIELD);
        }
        self.send_page(bus, sqe, offset as usize, bytes)?;
        let retain = sqe.dw(10) & 1 << 15 != 0;
        if !retain && (id == ERROR || id == SMART) {
            self.events.acknowledge(usize::from(id) - 1);
        }
        Ok(0)
    }

    /// Sends the scratch page from `from` on, and zeroes beyond its end.
    fn send_page(&mut self, bus: &mut dyn Bus, sqe: &Sqe, from: usize, bytes: u64) -> Done {
        let prp = self.prp(bus, sqe)?;
        let super::Scratch {
            prp: room,
            data,
            other,
        } = &mut *self.scratch;
        let to = prp.spans(bus, room, bytes)?;
        other.fill(0);
        let mut done = 0;
        while done < bytes {
            let source = data.get(from + done as usize..).unwrap_or_default();
            let source = if source.is_empty() {
                &other[..]
            } else {
                source
            };
            let piece = (bytes - done).min(source.len() as u64);
            bus.scatter(to.part(done, piece), &source[..piece as usize])
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            done += piece;
        }
        Ok(())
    }
}
