//! A function of the machine as a client has it open: model, configuration space, interrupts and bus in one place.

pub mod export;
pub mod ioeventfd;
mod log;
mod migrate;
mod power;
mod reset;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError, Weak};

use swiommu_abi::{Errno, vfio};
use swiommu_iommu::StreamId;
use swiommu_mem::fd::{self, Hidden};
use swiommu_mem::{EventWatch, UserAddr};

use export::Exports;
use ioeventfd::Ioeventfds;
use migrate::Migration;
use power::Power;
use reset::BySysfs;

use super::bus::Wires;
use super::config::{Config, Effect};
use super::irq::{Action, Data, Irqs, Kind};
use super::virqfd::Watcher;
use super::{Bar, Bus, Device, Identity};
use crate::door::{Call, Mmio};
use crate::iommufd::Space;
use crate::machine::{Bdf, DeviceConfig};
use crate::run::Run;
use swiommu_abi::pci::{COMMAND_INTX_DISABLE, COMMAND_MEMORY};

/// One device of the machine.
pub struct Function {
    index: usize,
    bdf: Bdf,
    config: DeviceConfig,
    identity: OnceLock<Identity>,
    bases: OnceLock<[u64; 6]>,
    live: Mutex<Live>,
    /// Index + 1 of the function whose registers this one's DMA wants to reach, 0 = none.
    wants: AtomicUsize,
    /// In low power, to be left with the next call.
    wakes: AtomicBool,
}

/// What exists while a client has the function open.
#[derive(Default)]
struct Live {
    files: usize,
    object: Option<Hidden>,
    open: Option<Open>,
}

struct Open {
    model: Box<dyn Device>,
    wires: Wires,
    power: Power,
    exports: Exports,
    migration: Migration,
    ioeventfds: Ioeventfds,
    by_sysfs: Option<BySysfs>,
}

impl Function {
    /// A function nobody has open. `index` is its place in the machine.
    pub fn new(index: usize, bdf: Bdf, config: DeviceConfig) -> Function {
        Function {
            index,
            bdf,
            config,
            identity: OnceLock::new(),
            bases: OnceLock::new(),
            live: Mutex::default(),
            wants: AtomicUsize::new(0),
            wakes: AtomicBool::new(false),
        }
    }

    /// Its place in the machine.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its address.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// Its configuration.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// Its requester id on the IOMMU. Other functions may have the same.
    pub fn stream(&self) -> StreamId {
        StreamId(self.config.requester().requester_id())
    }

    /// What it is. Known once it was opened.
    pub fn identity(&self) -> &Identity {
        self.identity
            .get()
            .expect("a device file exists only after its function was opened")
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        let mut live = self.live.lock().unwrap();
        live.catch_up(self.index);
        live
    }

    /// A client opens the function; the first one powers it on. Returns a descriptor of its kernel object.
    ///
    /// # Errors
    /// EIO when the model cannot be built (a report says why), or what the kernel said.
    pub fn open(
        self: &Arc<Self>,
        run: &Arc<Run>,
        space: Arc<dyn Space>,
        call: &Call<'_>,
    ) -> Result<OwnedFd, Errno> {
        let mut live = self.live();
        if live.open.is_none() {
            let model = crate::device::build(&self.config.kind).map_err(|error| {
                run.reports.broken(
                    call,
                    self,
                    format_args!("the device cannot be built (is its medium there?): {error}"),
                );
                Errno::EIO
            })?;
            let identity = self.identity.get_or_init(|| model.identity());
            let bases = self
                .bases
                .get_or_init(|| run.bar_bases(self.index, identity));
            let config = Config::new(identity, bases);
            let line: Weak<dyn Watcher> = Arc::<Function>::downgrade(self);
            let irqs = Irqs::new(identity, line);
            let wires = Wires::new(run, self, space, config, irqs);
            let mut open = Open {
                model,
                wires,
                power: Power::default(),
                exports: Exports::default(),
                migration: Migration::default(),
                ioeventfds: Ioeventfds::default(),
                by_sysfs: self.resets(run)?,
            };
            open.model.reset(&mut open.wires);
            let bytes = u64::from(vfio::PCI_NUM_REGIONS) << vfio::PCI_OFFSET_SHIFT;
            live.object = Some(Hidden::new(fd::object(bytes)?)?);
            live.open = Some(open);
        }
        let object = live.object.as_ref().expect("set with the open state");
        let object = fd::reopen(object)?;
        live.files += 1;
        Ok(object)
    }

    /// Whether a client has it open.
    pub fn is_open(&self) -> bool {
        self.live().files > 0
    }

    /// A device file closed; the last one powers the function off.
    pub fn close(&self) {
        let mut live = self.live();
        live.files -= 1;
        if live.files == 0 {
            live.power_off();
        }
    }

    /// The process exits in good order: what the device holds reaches its medium, as when the kernel closes the files.
    pub fn power_off(&self) {
        self.live().power_off();
    }

    /// Bytes of configuration space.
    pub fn config_bytes(&self) -> u64 {
        if self.identity().express { 4096 } else { 256 }
    }

    /// Bytes of a BAR, 0 if it does not exist.
    pub fn bar_bytes(&self, bar: u8) -> u64 {
        match self.identity().bars[usize::from(bar)] {
            Bar::None => 0,
            Bar::Io { bytes } | Bar::Memory { bytes, .. } => bytes,
        }
    }

    /// Vectors of an interrupt index.
    pub fn irq_count(&self, index: u32) -> u32 {
        self.live()
            .open
            .as_ref()
            .map_or(0, |open| open.wires.irqs.count(index))
    }

    /// Does the client have neither INTx nor MSI nor MSI-X vectors?
    pub fn has_no_vectors(&self) -> bool {
        let live = self.live();
        live.open
            .as_ref()
            .is_some_and(|open| open.wires.irqs.kind() == Kind::None)
    }

    /// SET_IRQS behind its size checks.
    ///
    /// # Errors
    /// As the kernel.
    pub fn set_irqs(
        &self,
        index: u32,
        action: Action,
        start: u32,
        data: Data,
        count: u32,
    ) -> Result<(), Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let result = open.wires.irqs.set(index, action, start, data, count);
        let msix = open.wires.irqs.kind() == Kind::Msix;
        open.wires.config.set_msix(msix);
        result
    }

    /// Somebody wants the device back: the client is told, if it asked to be.
    pub fn request(&self) {
        if let Some(open) = &self.live().open {
            open.wires.irqs.request();
        }
    }

    /// Shows in configuration space how many virtual functions there are.
    pub fn show_virtual_functions(&self, number: u16) {
        if let Some(open) = &mut self.live().open {
            open.wires.config.set_virtual_functions(number);
        }
    }

    /// One access to a mapped register. There is none while memory decoding is off or the function sleeps
    /// (`vfio_pci_mmap_huge_fault`).
    pub fn mmio(&self, call: &Call<'_>, bar: u8, at: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let mut live = self.live();
        let open = live.open.as_mut()?;
        (bar < 6 && open.wires.decodes(false) && !open.power.is_low())
            .then(|| open.access(self, call, bar, at, bytes, access))
    }

    /// DMA of this function, which is busy with it, reaches a BAR of `all[target]`. `None` when the target does not
    /// take it: it is not there, it decodes no memory, or it waits, itself or over others, for this very function.
    pub fn peer(
        &self,
        all: &[Arc<Function>],
        target: usize,
        call: &Call<'_>,
        at: (u8, u64),
        bytes: u8,
        access: Mmio,
    ) -> Option<u64> {
        let peer = all.get(target)?;
        self.wants.store(target + 1, Ordering::SeqCst);
        let answer = self.lock_peer(all, target).and_then(|mut live| {
            let open = live.open.as_mut()?;
            open.wires
                .config
                .memory()
                .then(|| open.access(peer, call, at.0, at.1, bytes, access))
        });
        self.wants.store(0, Ordering::SeqCst);
        answer
    }

    /// Waits until the target is idle; `None` when that would be for ever. Of those who wait in a circle the last
    /// sees it whole, because each says first whom it wants.
    fn lock_peer<'a>(
        &self,
        all: &'a [Arc<Function>],
        target: usize,
    ) -> Option<MutexGuard<'a, Live>> {
        loop {
            match all[target].live.try_lock() {
                Ok(mut live) => {
                    live.catch_up(target);
                    return Some(live);
                }
                Err(TryLockError::Poisoned(_)) => return None,
                Err(TryLockError::WouldBlock) => {}
            }
            let mut at = target;
            for _ in 0..all.len() {
                if at == self.index {
                    return None;
                }
                match all[at].wants.load(Ordering::SeqCst) {
                    0 => break,
                    next => at = next - 1,
                }
            }
            std::thread::yield_now();
        }
    }

    /// pread of a region.
    ///
    /// # Errors
    /// EINVAL outside the region or without one, EIO with memory decoding off, EFAULT.
    pub fn region_read(
        &self,
        call: &Call<'_>,
        region: u32,
        at: u64,
        to: UserAddr,
        bytes: u64,
    ) -> Result<u64, Errno> {
        if bytes == 0 {
            return Ok(0);
        }
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        if region == vfio::PCI_CONFIG_REGION_INDEX {
            let range = open.config_range(at, bytes)?;
            let mut copy = vec![0; range.len()];
            open.wires.config.read(range.start, &mut copy);
            call.client.write(to, &copy).map_err(|_| Errno::EFAULT)?;
            return Ok(bytes);
        }
        self.bar_pieces(open, region, at, bytes, |open, bar, offset, done, size| {
            let value = if open.wires.in_msix_table(bar, offset) {
                u64::MAX
            } else {
                open.access(self, call, bar, offset, size, Mmio::Read)
            };
            let raw = value.to_le_bytes();
            call.client
                .write(UserAddr(to.0 + done), &raw[..usize::from(size)])
                .map_err(|_| Errno::EFAULT)
        })
    }

    /// pwrite of a region.
    ///
    /// # Errors
    /// As [`Function::region_read`].
    pub fn region_write(
        &self,
        call: &Call<'_>,
        region: u32,
        at: u64,
        from: UserAddr,
        bytes: u64,
    ) -> Result<u64, Errno> {
        if bytes == 0 {
            return Ok(0);
        }
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        if region == vfio::PCI_CONFIG_REGION_INDEX {
            let range = open.config_range(at, bytes)?;
            let mut copy = vec![0; range.len()];
            call.client
                .read(from, &mut copy)
                .map_err(|_| Errno::EFAULT)?;
            match open.wires.config.write(range.start, &copy) {
                Effect::None => {}
                Effect::Reset => open.reset(),
                Effect::Command(before) => open.command_changed(before),
            }
            return Ok(bytes);
        }
        self.bar_pieces(open, region, at, bytes, |open, bar, offset, done, size| {
            let mut raw = [0u8; 8];
            call.client
                .read(UserAddr(from.0 + done), &mut raw[..usize::from(size)])
                .map_err(|_| Errno::EFAULT)?;
            if !open.wires.in_msix_table(bar, offset) {
                open.access(
                    self,
                    call,
                    bar,
                    offset,
                    size,
                    Mmio::Write(u64::from_le_bytes(raw)),
                );
            }
            Ok(())
        })
    }

    /// Cuts a BAR access into naturally aligned pieces, as vfio-pci does. Bytes beyond the BAR are not accessed.
    fn bar_pieces(
        &self,
        open: &mut Open,
        region: u32,
        at: u64,
        bytes: u64,
        mut piece: impl FnMut(&mut Open, u8, u64, u64, u8) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        if region > vfio::PCI_BAR5_REGION_INDEX {
            return Err(Errno::EINVAL);
        }
        let bar = region as u8;
        let size = self.bar_bytes(bar);
        if at >= size {
            return Err(Errno::EINVAL);
        }
        let io = matches!(self.identity().bars[usize::from(bar)], Bar::Io { .. });
        if !open.wires.decodes(io) {
            return Err(Errno::EIO);
        }
        let bytes = bytes.min(size - at);
        let mut done = 0;
        while done < bytes {
            let offset = at + done;
            let widest = if io { 4 } else { 8 };
            let step = [8u64, 4, 2, 1]
                .into_iter()
                .find(|step| {
                    *step <= widest && offset.is_multiple_of(*step) && *step <= bytes - done
                })
                .expect("1 always fits");
            piece(open, bar, offset, done, step as u8)?;
            done += step;
        }
        Ok(bytes)
    }
}

impl Watcher for Function {
    fn written(&self, watch: &Arc<EventWatch>) {
        if let Some(open) = &mut self.live().open
            && !open.wires.irqs.unmask_written(watch)
        {
            open.ioeventfd_written(self, watch);
        }
    }
}

impl Live {
    fn power_off(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.exports.revoke();
            open.wires.irqs.close();
            open.model.close();
        }
        self.object = None;
    }
}

impl Open {
    fn config_range(&self, at: u64, bytes: u64) -> Result<std::ops::Range<usize>, Errno> {
        let size = self.wires.config.bytes().len() as u64;
        let past = at
            .checked_add(bytes)
            .filter(|past| *past <= size)
            .ok_or(Errno::EFAULT)?;
        Ok(at as usize..past as usize)
    }

    /// DisINTx in the command register holds the line back, like SET_IRQS' mask.
    fn command_changed(&mut self, before: u16) {
        let now = self.wires.config.command();
        if (now ^ before) & COMMAND_INTX_DISABLE != 0 {
            self.wires
                .irqs
                .set_intx_disabled(now & COMMAND_INTX_DISABLE != 0);
        }
        if (now ^ before) & COMMAND_MEMORY != 0 {
            self.settle_exports();
        }
    }

    fn access(
        &mut self,
        function: &Function,
        call: &Call<'_>,
        bar: u8,
        at: u64,
        bytes: u8,
        access: Mmio,
    ) -> u64 {
        if at.saturating_add(u64::from(bytes)) > function.bar_bytes(bar) {
            return u64::MAX;
        }
        if let Some(answer) = self.wires.msix_access(bar, at, bytes, access) {
            return answer;
        }
        self.wires.begin(call);
        if self.migration.is_stopped() && matches!(access, Mmio::Write(_)) {
            self.wires.misuse(format_args!(
                "BAR{bar} + {at:#x} was written while the device is stopped for migration: ignored"
            ));
            return 0;
        }
        match access {
            Mmio::Read => self.model.read(&mut self.wires, bar, at, bytes),
            Mmio::Write(value) => {
                self.model.write(&mut self.wires, bar, at, bytes, value);
                self.model.tick(&mut self.wires);
                0
            }
        }
    }
}
