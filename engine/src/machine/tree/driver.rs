//! /sys/bus/pci: drivers, and which device is bound to which.

use super::{Function, Tree, device};
use crate::machine::DriverConfig;
use std::io;

/// The bus with its drivers, no device yet.
pub(super) fn bus(tree: &Tree, drivers: &[DriverConfig]) -> io::Result<()> {
    tree.attributes(
        "sys/bus/pci",
        &[
            ("drivers_autoprobe", 0o644, "1"),
            ("drivers_probe", 0o200, ""),
            ("rescan", 0o200, ""),
            ("resource_alignment", 0o644, ""),
            ("uevent", 0o200, ""),
        ],
    )?;
    tree.directory("sys/bus/pci/devices")?;
    tree.directory("sys/bus/pci/slots")?;
    let attributes = ["bind", "new_id", "remove_id", "uevent", "unbind"];
    for driver in drivers {
        let directory = directory(&driver.name);
        tree.attributes(&directory, &attributes.map(|name| (name, 0o200, "")))?;
        // the others are part of the kernel
        if driver.vfio {
            tree.link(&format!("{directory}/module"), "sys/module/vfio_pci")?;
            let user = format!("sys/module/vfio_pci/drivers/pci:{}", driver.name);
            tree.link(&user, &directory)?;
        }
    }
    Ok(())
}

impl Tree {
    /// A function is bound to a driver.
    ///
    /// # Errors
    /// What making files gave.
    pub fn bind(&self, function: &Function, driver: &str) -> io::Result<()> {
        let device = function.directory();
        let uevent = device::uevent(function, Some(driver));
        self.set_value(&format!("{device}/uevent"), &uevent)?;
        let directory = directory(driver);
        self.link(&format!("{directory}/{}", function.bdf), &device)?;
        self.link(&format!("{device}/driver"), &directory)
    }

    /// It is not any more.
    ///
    /// # Errors
    /// What removing files gave.
    pub fn unbind(&self, function: &Function, driver: &str) -> io::Result<()> {
        let device = function.directory();
        self.remove(&format!("{device}/driver"))?;
        self.remove(&format!("{}/{}", directory(driver), function.bdf))?;
        let uevent = device::uevent(function, None);
        self.set_value(&format!("{device}/uevent"), &uevent)
    }

    /// The name of the driver a function is bound to.
    pub fn driver_of(&self, function: &Function) -> Option<String> {
        self.link_name(&format!("{}/driver", function.directory()))
    }
}

fn directory(driver: &str) -> String {
    format!("sys/bus/pci/drivers/{driver}")
}
