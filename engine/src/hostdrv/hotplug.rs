//! Functions that leave and come back (`drivers/pci/{remove,probe,pci-sysfs}.c`).

use swiommu_abi::Errno;

use super::lock::Lock;
use super::{Host, damaged};

impl Host {
    /// A function leaves the bus, after the client that has it open let it go.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn remove(&self, index: usize) -> Result<(), Errno> {
        let _rescan = Lock::wait(&self.run, "rescan")?;
        let _device = self.device_lock(index)?;
        if !self.exists(index) {
            return Ok(());
        }
        self.disable_vfs(index)?;
        self.detach(index)?;
        let _host = self.lock()?;
        self.tree
            .remove_device(&self.machine, &self.functions[index])
            .map_err(damaged)
    }

    /// Functions of the machine that are not there appear.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn rescan(&self) -> Result<(), Errno> {
        let _rescan = Lock::wait(&self.run, "rescan")?;
        let devices = self.machine.devices.iter().enumerate();
        // virtual functions are their physical one's to switch on
        let mut found = devices.filter(|(_, device)| device.virtual_of().is_none());
        found.try_for_each(|(index, _)| self.add(index))
    }

    /// A function appears, if it is not there, and is offered to the drivers. The caller holds the lock `rescan`.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn add(&self, index: usize) -> Result<(), Errno> {
        let _device = self.device_lock(index)?;
        if self.exists(index) {
            return Ok(());
        }
        let host = self.lock()?;
        self.tree
            .add_device(&self.machine, &self.functions[index])
            .map_err(damaged)?;
        drop(host);
        let autoprobe = self.tree.value("sys/bus/pci/drivers_autoprobe");
        if autoprobe.is_ok_and(|value| value != "0") {
            // a driver that cannot take it leaves it without one
            let _ = self.attach(index);
        }
        Ok(())
    }
}
