//! Binding and unbinding (`drivers/base/{bus,dd}.c`).

use swiommu_abi::Errno;

use super::lock::Lock;
use super::{Host, damaged, make_available, owner_lock};
use crate::machine::DriverConfig;

/// The longest value of an attribute: a page without its NUL.
const LONGEST: usize = 4095;

impl Host {
    /// `drivers/NAME/bind`
    pub(super) fn bind(&self, driver: &str, bdf: &str) -> Result<(), Errno> {
        let index = self.named(bdf).ok_or(Errno::ENODEV)?;
        let driver = self.machine.driver(driver).ok_or(Errno::ENODEV)?;
        if !self.matches(driver, index) {
            return Err(Errno::ENODEV);
        }
        let _device = self.device_lock(index)?;
        self.probe(driver, index)
    }

    /// `drivers/NAME/unbind`
    pub(super) fn unbind(&self, driver: &str, bdf: &str) -> Result<(), Errno> {
        let index = self.named(bdf).ok_or(Errno::ENODEV)?;
        let is_bound = || self.driver(index).is_some_and(|bound| bound.name == driver);
        if !is_bound() {
            return Err(Errno::ENODEV);
        }
        let _device = self.device_lock(index)?;
        // another writer may have been first
        if is_bound() {
            self.detach(index)
        } else {
            Ok(())
        }
    }

    /// `drivers_probe`
    pub(super) fn drivers_probe(&self, bdf: &str) -> Result<(), Errno> {
        let index = self.named(bdf).ok_or(Errno::ENODEV)?;
        let _device = self.device_lock(index)?;
        self.attach(index).map_err(|_| Errno::EINVAL)
    }

    /// `driver_override`: up to the first newline; an empty name takes it away.
    pub(super) fn set_override(&self, index: usize, value: &[u8]) -> Result<(), Errno> {
        if value.len() >= LONGEST {
            return Err(Errno::EINVAL);
        }
        let end = |byte: &u8| matches!(byte, b'\n' | 0);
        let name = value.split(end).next().unwrap_or_default();
        let name = match std::str::from_utf8(name).map_err(|_| Errno::EINVAL)? {
            "" => "(null)",
            name => name,
        };
        let path = format!("{}/driver_override", self.functions[index].directory());
        self.set(&path, name)
    }

    /// The name that `driver_override` holds.
    pub(super) fn driver_override(&self, index: usize) -> Option<String> {
        let path = format!("{}/driver_override", self.functions[index].directory());
        let name = self.tree.value(&path).ok()?;
        Some(name).filter(|name| name != "(null)")
    }

    /// Binds a function to the first driver that takes it (`device_attach`). The caller holds its lock.
    ///
    /// # Errors
    /// What the first driver that matches answered. No driver at all is no error.
    pub fn attach(&self, index: usize) -> Result<(), Errno> {
        if self.driver(index).is_some() {
            return Ok(());
        }
        let mut drivers = self.machine.drivers.iter();
        match drivers.find(|driver| self.matches(driver, index)) {
            Some(driver) => self.probe(driver, index),
            None => Ok(()),
        }
    }

    /// Binds a function to a driver (`really_probe`). The caller holds the function's lock.
    ///
    /// # Errors
    /// EBUSY when it is bound already, when the driver would do DMA of its own in a group whose DMA belongs to a client, or
    /// when VFIO would get a physical function that has virtual ones: the function stays without a driver.
    pub(super) fn probe(&self, driver: &DriverConfig, index: usize) -> Result<(), Errno> {
        let function = &self.functions[index];
        if !self.exists(index) {
            return Err(Errno::ENODEV);
        }
        if self.driver(index).is_some() {
            return Err(Errno::EBUSY);
        }
        let _host = self.lock()?;
        let _default_domain = match driver.managed_dma {
            true => None,
            // whoever claims the group takes `host` first, so it stays free until the link is made
            false => Some(Lock::try_now(&self.run, &owner_lock(function.group))?),
        };
        if driver.vfio && self.numvfs(index) > 0 {
            return Err(Errno::EBUSY);
        }
        self.tree.bind(function, &driver.name).map_err(damaged)?;
        if driver.vfio {
            make_available(&self.run, function.bdf, function.group)?;
            self.tree
                .register(&self.machine, function)
                .map_err(damaged)?;
        }
        Ok(())
    }

    /// Unbinds a function from its driver, waiting for the client that has it open. The caller holds the function's
    /// lock.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn detach(&self, index: usize) -> Result<(), Errno> {
        let Some(driver) = self.driver(index) else {
            return Ok(());
        };
        if driver.vfio {
            self.physical_leaves_vfio(index)?;
        }
        let function = &self.functions[index];
        let host = self.lock()?;
        self.tree.unbind(function, &driver.name).map_err(damaged)?;
        drop(host);
        if driver.vfio {
            self.unregister(index)?;
        }
        Ok(())
    }
}
