//! Virtual functions that a physical function's driver switches on and off (`drivers/pci/iov.c`).

use std::fs;

use swiommu_abi::Errno;

use super::lock::Lock;
use super::{Host, damaged, unsigned};
use crate::machine::tree::VFIO_PCI_PARAMETERS;
use crate::vfio::vf_token::TOKENS;

impl Host {
    /// `sriov_numvfs`
    pub(super) fn set_numvfs(&self, index: usize, value: &[u8]) -> Result<(), Errno> {
        let number = unsigned(value)
            .ok()
            .and_then(|number| u16::try_from(number).ok());
        let number = number.ok_or(Errno::EINVAL)?;
        if number > self.machine.devices[index].total_vfs() {
            return Err(Errno::ERANGE);
        }
        let _rescan = Lock::wait(&self.run, "rescan")?;
        let _device = self.device_lock(index)?;
        let now = self.numvfs(index);
        if number == now {
            return Ok(());
        }
        let driver = self.driver(index).filter(|driver| driver.sriov);
        let driver = driver.ok_or(Errno::ENOENT)?;
        if number > 0 && now > 0 {
            return Err(Errno::EBUSY);
        }
        if driver.vfio && !self.vfio_enables_sriov() {
            return Err(Errno::ENOENT);
        }
        match number {
            0 => self.disable_vfs(index),
            _ => self.enable_vfs(index, number, driver.vfio.then_some(&driver.name)),
        }
    }

    /// How many virtual functions there are of this physical one.
    pub fn numvfs(&self, index: usize) -> u16 {
        let path = format!("{}/sriov_numvfs", self.functions[index].directory());
        let value = self.tree.value(&path).ok();
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    fn vfio_enables_sriov(&self) -> bool {
        let path = format!("{VFIO_PCI_PARAMETERS}/enable_sriov");
        self.tree.value(&path).is_ok_and(|value| value == "Y")
    }

    /// The first virtual functions appear. A physical function that is VFIO's has them go to its own driver.
    fn enable_vfs(&self, index: usize, number: u16, driver: Option<&String>) -> Result<(), Errno> {
        let physical = self.functions[index].directory();
        for (number, part) in self.virtual_functions(index).take(number.into()) {
            let _device = self.device_lock(part)?;
            let host = self.lock()?;
            let function = &self.functions[part];
            let directory = function.directory();
            self.tree
                .add_device(&self.machine, function)
                .and_then(|()| self.tree.link_part(&physical, &directory, number))
                .map_err(damaged)?;
            if let Some(driver) = driver {
                self.tree
                    .set_value(&format!("{directory}/driver_override"), driver)
                    .map_err(damaged)?;
            }
            drop(host);
            if driver.is_some() || self.autoprobes(index) {
                // a driver that cannot take it leaves it without one
                let _ = self.attach(part);
            }
        }
        self.set(&format!("/{physical}/sriov_numvfs"), &number.to_string())
    }

    /// Are virtual functions offered to the drivers?
    fn autoprobes(&self, index: usize) -> bool {
        let directory = self.functions[index].directory();
        let value = self
            .tree
            .value(&format!("{directory}/sriov_drivers_autoprobe"));
        value.is_ok_and(|value| value != "0")
    }

    /// All virtual functions disappear, each after the client that has it open let it go.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub(super) fn disable_vfs(&self, index: usize) -> Result<(), Errno> {
        if self.numvfs(index) == 0 {
            return Ok(());
        }
        let physical = self.functions[index].directory();
        for (number, part) in self.virtual_functions(index) {
            let _device = self.device_lock(part)?;
            if !self.exists(part) {
                continue;
            }
            self.detach(part)?;
            let _host = self.lock()?;
            self.tree
                .unlink_part(&physical, number)
                .and_then(|()| {
                    self.tree
                        .remove_device(&self.machine, &self.functions[part])
                })
                .map_err(damaged)?;
        }
        self.set(&format!("/{physical}/sriov_numvfs"), "0")
    }

    /// A physical function stops being VFIO's: its virtual functions and its token go.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub(super) fn physical_leaves_vfio(&self, index: usize) -> Result<(), Errno> {
        if self.machine.devices[index].total_vfs() == 0 {
            return Ok(());
        }
        self.disable_vfs(index)?;
        let token = self
            .run
            .join(TOKENS)
            .join(self.functions[index].bdf.to_string());
        // there is none if nobody gave one
        let _ = fs::remove_file(token);
        Ok(())
    }

    /// The virtual functions there can be of a physical one: their numbers and places in the machine.
    fn virtual_functions(&self, index: usize) -> impl Iterator<Item = (u16, usize)> {
        let physical = self.functions[index].bdf;
        let devices = self.machine.devices.iter().enumerate();
        devices.filter_map(move |(part, device)| {
            let (of, number) = device.virtual_of()?;
            (of == physical).then_some((number, part))
        })
    }
}
