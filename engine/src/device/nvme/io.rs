//! NVM command set commands, section 6.

use super::bits::{ALL_NAMESPACES, Done, Sqe, Status, io_op};
use super::namespace::Namespace;
use super::{MAX_TRANSFER_LG2, Nvme, Scratch};
use crate::pci::{Bus, Doing};

/// Command dword 12 of READ, WRITE and WRITE ZEROES.
const FUA: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;
/// Directive type: a WRITE's bits 23:20.
const DIRECTIVE: u32 = 0xf << 20;

/// Blocks a command names.
struct Extent {
    namespace: usize,
    /// Bytes.
    offset: u64,
    bytes: u64,
}

impl Nvme {
    pub(super) fn execute_io(&mut self, bus: &mut dyn Bus, queue: u16, sqe: &Sqe) -> Done {
        let name = io_op::name(sqe.opcode);
        self.doing = Doing {
            what: name,
            queue: Some(queue),
            command: Some(sqe.cid),
        };
        bus.doing(self.doing);
        // 6.2: fused operations are not supported (FUSES = 0).
        if sqe.fused() {
            bus.unmodelled(format_args!("NVMe: fused operation {name}"));
            return Err(Status::INVALID_FIELD);
        }
        match sqe.opcode {
            io_op::READ => self.read_blocks(bus, sqe),
            io_op::WRITE => self.write_blocks(bus, sqe),
            io_op::FLUSH => self.flush(sqe),
            io_op::COMPARE => self.compare(bus, sqe),
            io_op::WRITE_ZEROES => self.write_zeroes(sqe),
            io_op::DATASET_MANAGEMENT => self.dataset_management(bus, sqe),
            opcode => {
                bus.unmodelled(format_args!("NVMe: I/O command {opcode:#04x} ({name})"));
                Err(Status::INVALID_OPCODE)
            }
        }
    }

    /// The blocks in dwords 10 to 12, not checked against MDTS.
    fn extent(&self, sqe: &Sqe) -> Done<Extent> {
        let namespace = self.namespace_index(sqe.nsid)?;
        let first = u64::from(sqe.dw(10)) | u64::from(sqe.dw(11)) << 32;
        let (offset, bytes) =
            self.namespaces[namespace].range(first, u64::from(sqe.dw(12) & 0xffff) + 1)?;
        Ok(Extent {
            namespace,
            offset,
            bytes,
        })
    }

    /// The blocks of a command that moves data: figure 247, MDTS.
    fn transfer(&self, sqe: &Sqe) -> Done<Extent> {
        let extent = self.extent(sqe)?;
        if extent.bytes > 1 << MAX_TRANSFER_LG2 {
            Err(Status::INVALID_FIELD)
        } else {
            Ok(extent)
        }
    }

    fn writable(&mut self, namespace: usize) -> Done<&mut Namespace> {
        let namespace = &mut self.namespaces[namespace];
        if namespace.is_read_only() {
            Err(Status::WRITE_PROTECTED)
        } else {
            Ok(namespace)
        }
    }

    /// 6.9. A forced unit access read returns what is on the medium, so the cache goes there first.
    fn read_blocks(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done {
        let extent = self.transfer(sqe)?;
        let prp = self.prp(bus, sqe)?;
        if sqe.dw(12) & FUA != 0 {
            self.namespaces[extent.namespace].write_back()?;
        }
        let to = prp.spans(bus, &mut self.scratch.prp, extent.bytes)?;
        self.namespaces[extent.namespace].read(bus, to, extent.offset)?;
        self.logs.read_commands += 1;
        self.logs.read_bytes += extent.bytes;
        Ok(())
    }

    /// 6.15.
    fn write_blocks(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done {
        let extent = self.transfer(sqe)?;
        // 9.1: directives are not supported.
        if sqe.dw(12) & DIRECTIVE != 0 {
            bus.unmodelled(format_args!("NVMe: WRITE with a directive"));
            return Err(Status::INVALID_FIELD);
        }
        let prp = self.prp(bus, sqe)?;
        let fua = sqe.dw(12) & FUA != 0;
        let through = fua || !self.features.write_cache;
        self.writable(extent.namespace)?;
        let from = prp.spans(bus, &mut self.scratch.prp, extent.bytes)?;
        let namespace = &mut self.namespaces[extent.namespace];
        namespace.write(bus, from, extent.offset, through)?;
        if fua {
            namespace.sync()?;
        }
        self.logs.write_commands += 1;
        self.logs.written_bytes += extent.bytes;
        Ok(())
    }

    /// 6.8.
    fn flush(&mut self, sqe: &Sqe) -> Done {
        if sqe.nsid == ALL_NAMESPACES {
            return self.flush_all();
        }
        let index = self.namespace_index(sqe.nsid)?;
        let namespace = &mut self.namespaces[index];
        namespace.write_back()?;
        namespace.sync()
    }

    /// 6.6. The latest data count, cached or not.
    fn compare(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done {
        let extent = self.transfer(sqe)?;
        let prp = self.prp(bus, sqe)?;
        let namespace = &self.namespaces[extent.namespace];
        let Scratch {
            prp: room,
            data,
            other,
        } = &mut *self.scratch;
        let from = prp.spans(bus, room, extent.bytes)?;
        let mut done = 0;
        while done < extent.bytes {
            let piece = (extent.bytes - done).min(data.len() as u64);
            let (theirs, ours) = (&mut data[..piece as usize], &mut other[..piece as usize]);
            bus.gather(from.part(done, piece), theirs)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            namespace.peek(extent.offset + done, ours)?;
            if theirs != ours {
                return Err(Status::COMPARE_FAILURE);
            }
            done += piece;
        }
        self.logs.read_commands += 1;
        Ok(())
    }

    /// 6.17.
    fn write_zeroes(&mut self, sqe: &Sqe) -> Done {
        let extent = self.extent(sqe)?;
        let fua = sqe.dw(12) & FUA != 0;
        let namespace = self.writable(extent.namespace)?;
        namespace.zero(extent.offset, extent.bytes, sqe.dw(12) & DEALLOCATE != 0)?;
        if fua {
            namespace.sync()?;
        }
        self.logs.write_commands += 1;
        Ok(())
    }

    /// 6.7. Ranges are checked before any is deallocated; without the deallocate attribute they are hints.
    fn dataset_management(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done {
        const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
        let index = self.namespace_index(sqe.nsid)?;
        let count = (sqe.dw(10) as usize & 0xff) + 1;
        self.receive(bus, sqe, count * 16)?;
        let ranges = self.scratch.data[..count * 16]
            .chunks_exact(16)
            .map(|range| {
                let blocks = u32::from_le_bytes(range[4..8].try_into().expect("4 bytes"));
                let first = u64::from_le_bytes(range[8..16].try_into().expect("8 bytes"));
                (first, u64::from(blocks))
            });
        for (first, blocks) in ranges.clone() {
            self.namespaces[index].range(first, blocks)?;
        }
        if sqe.dw(11) & ATTRIBUTE_DEALLOCATE == 0 {
            return Ok(());
        }
        let namespace = &mut self.namespaces[index];
        if namespace.is_read_only() {
            return Err(Status::WRITE_PROTECTED);
        }
        for (first, blocks) in ranges {
            let (offset, bytes) = namespace.range(first, blocks)?;
            namespace.zero(offset, bytes, true)?;
        }
        Ok(())
    }
}
