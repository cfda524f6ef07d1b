//! An NVMe 1.4 controller with the NVM command set.
//!
//! Files follow the specification: `bits` is its tables, `registers` section 3.1 and 7.6, `doorbell` the way of a
//! command from its submission queue to its completion, `admin` and what it dispatches to section 5, `io` section 6,
//! `prp` section 4.3. `namespace`, `cache` and `medium` are what lies behind: what was written is first in a
//! volatile write cache, then in the file.
//!
//! Commands run to completion in the thread that rang the doorbell; an asynchronous event request alone stays
//! outstanding. Data reach memory before the completion entry, the entry before the interrupt.

mod admin;
mod bits;
mod cache;
mod doorbell;
mod event;
mod feature;
mod identify;
mod io;
mod log;
mod manage;
mod medium;
mod migrate;
mod namespace;
mod prp;
mod queue;
mod registers;
#[cfg(test)]
mod tests;

use bits::{Done, Sqe, Status, reg};
use event::Events;
use feature::Features;
use log::Logs;
use medium::Medium;
use namespace::Namespace;
use prp::{Prp, Room};
use queue::{CompletionQueue, SubmissionQueue};
use registers::Registers;
use swiommu_abi::Errno;

use crate::machine::NvmeConfig;
use crate::pci::migration::Migrate;
use crate::pci::{Bar, Bus, Device, Doing, Identity, Msix, Role};

/// The largest transfer of a command: MDTS = 9 in pages of 4 KiB.
const MAX_TRANSFER_LG2: u32 = 21;

/// The controller.
#[derive(Debug)]
pub struct Nvme {
    identity: Identity,
    /// Which controller of its subsystem it is, if it is one of several.
    place: Option<Place>,
    /// I/O queue pairs that can exist.
    queues: u16,
    serial: [u8; 20],
    /// A volatile write cache is present.
    has_cache: bool,
    namespaces: Vec<Namespace>,
    registers: Registers,
    /// By queue id; 0 is the admin queue.
    sqs: Vec<Option<SubmissionQueue>>,
    cqs: Vec<Option<CompletionQueue>>,
    /// The INTx line as last driven.
    line: bool,
    features: Features,
    events: Events,
    logs: Logs,
    scratch: Box<Scratch>,
    /// What is being done, for reports.
    doing: Doing,
    /// What migration there is, `MIGRATION_*`.
    migration: u64,
    /// Nothing is fetched and nothing posted: a migration is under way.
    quiet: bool,
    /// Register writes so far.
    changes: u64,
}

/// A controller among those of a subsystem with virtual functions, which all share its namespaces.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// CNTLID: 0 is the physical function's.
    controller: u16,
}

impl Place {
    fn of(config: &NvmeConfig) -> Option<Place> {
        let controller = match &config.part {
            Some(part) => part.number + 1,
            None if config.vfs > 0 => 0,
            None => return None,
        };
        Some(Place { controller })
    }
}

/// Buffers of one command.
#[derive(Debug)]
struct Scratch {
    prp: Room,
    data: [u8; 4096],
    other: [u8; 4096],
}

impl Nvme {
    /// Opens the media and makes the controller, powered on.
    ///
    /// # Errors
    /// EINVAL for a configuration outside its bounds, else what opening or mapping a medium gave.
    pub fn new(config: &NvmeConfig) -> Result<Nvme, Errno> {
        let block_lg2 = match config.block {
            512 => 9,
            4096 => 12,
            _ => return Err(Errno::EINVAL),
        };
        let serial_fits =
            config.serial.len() <= 20 && config.serial.bytes().all(|c| (0x20..0x7f).contains(&c));
        let count = config.namespaces.len();
        if !(1..=64).contains(&config.queues) || !serial_fits || !(1..=1024).contains(&count) {
            return Err(Errno::EINVAL);
        }
        let mut serial = [b' '; 20];
        serial[..config.serial.len()].copy_from_slice(config.serial.as_bytes());
        let share = if config.cache == 0 {
            0
        } else {
            (config.cache / count as u64).max(1)
        };
        let open = |(i, medium): (usize, &crate::machine::Medium)| {
            let bytes = medium.bytes >> block_lg2 << block_lg2;
            if bytes == 0 {
                return Err(Errno::EINVAL);
            }
            let seed = config.seed ^ (i as u64 + 1) << 48;
            let mapped = Medium::open(&medium.path, bytes, medium.read_only)?;
            Ok(Namespace::new(mapped, bytes, block_lg2, share, seed))
        };
        let namespaces = config
            .namespaces
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, Errno>>()?;
        let slots = usize::from(config.queues) + 1;
        Ok(Nvme {
            identity: identity(config),
            place: Place::of(config),
            queues: config.queues,
            serial,
            has_cache: config.cache > 0,
            namespaces,
            registers: Registers::default(),
            sqs: vec![None; slots],
            cqs: vec![None; slots],
            line: false,
            features: Features::new(config.cache > 0),
            events: Events::default(),
            logs: Logs::default(),
            scratch: Box::new(Scratch {
                prp: Room::new(),
                data: [0; 4096],
                other: [0; 4096],
            }),
            doing: Doing::default(),
            migration: config.migration.features(),
            quiet: false,
            changes: 0,
        })
    }

    /// The namespace of a command that needs one (6.1.4: "Invalid Namespace or Format").
    fn namespace_index(&self, nsid: u32) -> Done<usize> {
        match nsid {
            1.. if nsid as usize <= self.namespaces.len() => Ok(nsid as usize - 1),
            _ => Err(Status::INVALID_NAMESPACE),
        }
    }

    /// The command's data pointer. 4.2: PRPs for admin commands, and SGLs are not supported (SGLS = 0).
    fn prp(&self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<Prp> {
        if sqe.psdt() != 0 {
            bus.unmodelled(format_args!(
                "NVMe: scatter gather lists (SGL) in {}",
                self.doing.what
            ));
            return Err(Status::INVALID_FIELD);
        }
        let page = 1 << self.registers.cc.page_lg2();
        Ok(Prp {
            first: sqe.prp1,
            second: sqe.prp2,
            page,
            doing: self.doing,
        })
    }

    /// Sends `bytes` bytes of the scratch buffer to the command's data pointer.
    fn send(&mut self, bus: &mut dyn Bus, sqe: &Sqe, bytes: usize) -> Done {
        let prp = self.prp(bus, sqe)?;
        let Scratch {
            prp: room, data, ..
        } = &mut *self.scratch;
        let to = prp.spans(bus, room, bytes as u64)?;
        bus.scatter(to, &data[..bytes])
            .map_err(|_| Status::DATA_TRANSFER_ERROR)
    }

    /// Fetches `bytes` bytes from the command's data pointer into the scratch buffer.
    fn receive(&mut self, bus: &mut dyn Bus, sqe: &Sqe, bytes: usize) -> Done {
        let prp = self.prp(bus, sqe)?;
        let Scratch {
            prp: room, data, ..
        } = &mut *self.scratch;
        let from = prp.spans(bus, room, bytes as u64)?;
        bus.gather(from, &mut data[..bytes])
            .map_err(|_| Status::DATA_TRANSFER_ERROR)
    }

    /// Writes all caches back and asks the host to keep the media.
    fn flush_all(&mut self) -> Done {
        let mut worst = Ok(());
        for namespace in &mut self.namespaces {
            worst = worst.and(namespace.write_back().and_then(|()| namespace.sync()));
        }
        worst
    }
}

/// What the function is.
pub fn identity(config: &NvmeConfig) -> Identity {
    const DEVICE: u16 = 0x0010;
    let role = match (&config.part, config.sriov(DEVICE)) {
        (Some(_), _) => Role::Virtual,
        (None, Some(sriov)) => Role::Physical(sriov),
        (None, None) => Role::Ordinary,
    };
    let mut bars = [Bar::None; 6];
    bars[0] = Bar::Memory {
        bytes: reg::BYTES,
        wide: true,
        prefetch: false,
    };
    Identity {
        vendor: identify::PCI_VENDOR,
        device: DEVICE,
        subsystem: (identify::PCI_SUBSYSTEM_VENDOR, 0x1100),
        class: 0x01_08_02,
        revision: 2,
        bars,
        interrupt_pin: u8::from(role != Role::Virtual),
        msi: 0,
        msix: Some(Msix {
            vectors: config.queues + 1,
            table: (0, reg::MSIX_TABLE as u32),
            pba: (0, reg::MSIX_PBA as u32),
        }),
        express: true,
        role,
    }
}

impl Device for Nvme {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&mut self, bus: &mut dyn Bus, bar: u8, offset: u64, bytes: u8) -> u64 {
        debug_assert_eq!(bar, 0);
        self.read_register(bus, offset, bytes)
    }

    fn write(&mut self, bus: &mut dyn Bus, bar: u8, offset: u64, bytes: u8, value: u64) {
        debug_assert_eq!(bar, 0);
        self.changes += 1;
        self.write_register(bus, offset, bytes, value);
    }

    fn reset(&mut self, bus: &mut dyn Bus) {
        self.quiet = false;
        self.changes += 1;
        self.stop();
        self.registers = Registers::default();
        self.drive_line(bus);
    }

    fn close(&mut self) {
        // What reached the file outlives this process; making it durable beyond that was the client's to ask for.
        for namespace in &mut self.namespaces {
            // Nobody is left to be told of a medium that fails now.
            let _ = namespace.write_back();
        }
    }

    fn tick(&mut self, bus: &mut dyn Bus) -> bool {
        self.check_keep_alive(bus);
        self.features.keep_alive_ms() != 0
    }

    fn migrate(&mut self) -> Option<&mut dyn Migrate> {
        (self.migration != 0).then_some(self)
    }
}
