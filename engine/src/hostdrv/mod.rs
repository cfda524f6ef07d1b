//! The host's side of the machine: drivers that devices are bound to, devices that come and go.
//!
//! An unmodified tool drives it by writing attributes of the run's tree: [`store`] is what such a write does, in the
//! process that wrote. No engine is needed there. All state is in the run's directory, so every process of the run
//! sees it:
//!
//! ```text
//! root/sys/...            the tree: a device exists while its directory does; its `driver` link is what it is bound to
//! drivers/NAME            identities that were added to a driver by new_id, one a line
//! locks/host              held for the time of one change of the tree
//! locks/rescan            held over a remove or rescan (the kernel's pci_rescan_remove_lock)
//! locks/device-BDF        held over a bind, unbind or remove of one device (the kernel's device_lock)
//! locks/vfio-BDF          there while a device is VFIO's; locked by the process that has it open
//! locks/group-N           there while a group has a device of VFIO's; locked by the process that has its node open
//! locks/token-BDF     held for the time of a look at the token of a physical function
//! locks/vfs-BDF       shared by the processes that have a virtual function of it open
//! tokens/BDF          the token of a physical function, once one was given
//! locks/owner-N           locked by the process that owns a group's DMA
//! resets                  how often each device was reset by `reset`
//! ```
//!
//! Order of the locks: rescan -> device -> host. `host` is never held while somebody waits for a client.
//!
//! The rules are those of `drivers/base/{bus,dd}.c`, `drivers/pci/{pci-driver,pci-sysfs}.c` and
//! `drivers/iommu/iommu.c`.

mod attribute;
mod bind;
mod hotplug;
mod ids;
pub mod lock;
mod release;
pub mod reset;
mod sriov;

use std::io;
use std::path::{Path, PathBuf};

use swiommu_abi::Errno;

use crate::device;
use crate::machine::tree::{Function, Tree, functions};
use crate::machine::{Bdf, DriverConfig, Machine};
use lock::Lock;

pub use attribute::{boolean, line, unsigned};

/// The host's side of a run, as one call sees it.
pub struct Host {
    /// The run's directory.
    pub run: PathBuf,
    /// The machine.
    pub machine: Machine,
    /// Its functions, there or not, in the machine's order.
    pub functions: Vec<Function>,
    /// The tree.
    pub tree: Tree,
}

/// Writes `value` to an attribute of the run's tree: `path` is its real path as the client sees it, such as
/// `/sys/bus/pci/drivers/vfio-pci/bind`.
///
/// # Errors
/// What the kernel's store function answers; EIO for a file that takes no writes, ENODEV when it is gone.
pub fn store(run: &Path, path: &str, value: &[u8]) -> Result<(), Errno> {
    attribute::store(&Host::of(run)?, path, value)
}

impl Host {
    /// The host of the run in this directory.
    ///
    /// # Errors
    /// EIO when the directory is no run's.
    pub fn of(run: &Path) -> Result<Host, Errno> {
        Host::with(run, Machine::load(run).map_err(|_| Errno::EIO)?)
    }

    /// The same with the machine at hand.
    ///
    /// # Errors
    /// EINVAL when a device is outside its bounds.
    pub fn with(run: &Path, machine: Machine) -> Result<Host, Errno> {
        let identities: Vec<_> = machine
            .devices
            .iter()
            .map(|device| device::identity(&device.kind))
            .collect::<Result<_, _>>()?;
        Ok(Host {
            run: run.to_owned(),
            functions: functions(&machine, &identities),
            tree: Tree::new(&run.join("root")),
            machine,
        })
    }

    /// The function with this address, if it is there.
    pub fn named(&self, bdf: &str) -> Option<usize> {
        let index = self
            .functions
            .iter()
            .position(|function| function.bdf.to_string() == bdf)?;
        self.exists(index).then_some(index)
    }

    /// Is the function there?
    pub fn exists(&self, index: usize) -> bool {
        self.tree.exists(&self.functions[index].directory())
    }

    /// The driver a function is bound to.
    pub fn driver(&self, index: usize) -> Option<&DriverConfig> {
        let name = self.tree.driver_of(&self.functions[index])?;
        self.machine.driver(&name)
    }

    /// Do the drivers of a group's devices leave DMA to user space?
    pub fn viable(&self, group: u32) -> bool {
        (0..self.functions.len())
            .filter(|&index| self.functions[index].group == group)
            .all(|index| self.driver(index).is_none_or(|driver| driver.managed_dma))
    }

    /// Takes the lock over changes of the tree.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn lock(&self) -> Result<Lock, Errno> {
        Lock::wait(&self.run, "host")
    }

    /// Takes the lock of one device.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn device_lock(&self, index: usize) -> Result<Lock, Errno> {
        Lock::wait(&self.run, &format!("device-{}", self.functions[index].bdf))
    }
}

/// A function becomes VFIO's: its group and itself can be opened.
///
/// # Errors
/// EIO when the run's directory is gone.
pub fn make_available(run: &Path, bdf: Bdf, group: u32) -> Result<(), Errno> {
    lock::create(run, &group_lock(group))?;
    lock::create(run, &vfio_lock(bdf))
}

/// The lock of whoever has a function open.
pub fn vfio_lock(bdf: Bdf) -> String {
    format!("vfio-{bdf}")
}

/// The lock of whoever has a group's node open.
pub fn group_lock(group: u32) -> String {
    format!("group-{group}")
}

/// The lock of whoever owns a group's DMA.
pub fn owner_lock(group: u32) -> String {
    format!("owner-{group}")
}

/// The tree could not be changed: the run's directory is damaged.
fn damaged(_: io::Error) -> Errno {
    Errno::EIO
}
