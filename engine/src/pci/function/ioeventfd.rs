//! `VFIO_DEVICE_IOEVENTFD`: a write to an eventfd is a write of one value to one register (`vfio_pci_ioeventfd`).

use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::EventWatch;

use super::{Function, Open};
use crate::door::{Call, Mmio};
use crate::iommufd::inject;
use crate::pci::Bar;
use crate::pci::virqfd::Virqfd;

/// How many a device may have (`VFIO_PCI_IOEVENTFD_MAX`).
const MOST: usize = 1000;

/// What is written where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterWrite {
    /// Region index.
    pub region: u32,
    /// Offset in the region.
    pub at: u64,
    /// 1, 2, 4 or 8.
    pub bytes: u8,
    /// The value; two with other high bits are two values.
    pub value: u64,
}

/// A device's ioeventfds.
#[derive(Debug, Default)]
pub(super) struct Ioeventfds(Vec<(RegisterWrite, Virqfd)>);

impl Function {
    /// Lets writes to the eventfd `fd` make this write, or no longer with -1. Writes from before count as one.
    ///
    /// # Errors
    /// EINVAL: not in a BAR, in the MSI-X table, of 8 bytes, or `fd` is no eventfd. EEXIST: the same write has an
    /// eventfd. ENODEV: it has none to take away, or nobody has the function open. ENOSPC: it has 1000. EBADF, ENOMEM.
    pub fn set_ioeventfd(self: &Arc<Self>, write: RegisterWrite, fd: i32) -> Result<(), Errno> {
        if write.region > vfio::PCI_BAR5_REGION_INDEX {
            return Err(Errno::EINVAL);
        }
        let (bar, bytes) = (write.region as u8, u64::from(write.bytes));
        let end = write.at.saturating_add(bytes);
        if end > self.bar_bytes(bar) || self.reaches_msix_table(bar, write.at, end) || bytes == 8 {
            return Err(Errno::EINVAL);
        }
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let all = &mut open.ioeventfds.0;
        match (all.iter().position(|(other, _)| *other == write), fd) {
            (Some(at), -1) => {
                all.remove(at);
                return Ok(());
            }
            (Some(_), _) => return Err(Errno::EEXIST),
            (None, -1) => return Err(Errno::ENODEV),
            (None, _) if all.len() >= MOST => return Err(Errno::ENOSPC),
            (None, _) => {}
        }
        inject::point()?;
        let (watch, written) = EventWatch::of_client(fd)?;
        let watcher = Arc::downgrade(self);
        all.push((write, Virqfd::start(watch, watcher)?));
        if written {
            open.write_register(self, write);
        }
        Ok(())
    }

    /// Whether `at..end` of a BAR meets the MSI-X table.
    fn reaches_msix_table(&self, bar: u8, at: u64, end: u64) -> bool {
        self.identity().msix.is_some_and(|msix| {
            let (table, entries) = (u64::from(msix.table.1), u64::from(msix.vectors));
            msix.table.0 == bar && at < table + 16 * entries && table < end
        })
    }
}

impl Open {
    /// The client wrote to an eventfd: the write that it stands for, if it still does.
    pub(super) fn ioeventfd_written(&mut self, function: &Function, watch: &Arc<EventWatch>) {
        let mut all = self.ioeventfds.0.iter();
        if let Some(&(write, _)) = all.find(|(_, virqfd)| virqfd.is(watch)) {
            watch.drain();
            self.write_register(function, write);
        }
    }

    /// Memory that is not decoded is not written, as in the kernel.
    fn write_register(&mut self, function: &Function, write: RegisterWrite) {
        let bar = write.region as u8;
        let memory = matches!(
            function.identity().bars[usize::from(bar)],
            Bar::Memory { .. }
        );
        if memory && !self.wires.decodes(false) {
            return;
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let call = Call::of_engine(self.wires.client(), thread, 0);
        let access = Mmio::Write(write.value);
        self.access(function, &call, bar, write.at, write.bytes, access);
    }
}
