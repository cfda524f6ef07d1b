//! Which driver takes which function: tables, identities added at run time, and the override
//! (`drivers/pci/pci-driver.c`).

use std::fs;
use std::path::PathBuf;

use swiommu_abi::Errno;

use super::{Host, damaged};
use crate::machine::driver::{DeviceId, DriverConfig};

/// The fields of a line of `new_id` or `remove_id`, as many as there were.
struct Fields {
    given: usize,
    id: DeviceId,
    driver_data: u64,
}

/// Vendor, device, subvendor, subdevice, class, class mask, driver data, in hexadecimal (`sscanf` of `%x`).
fn fields(value: &[u8]) -> Result<Fields, Errno> {
    let text = String::from_utf8_lossy(value);
    let text = text.split('\0').next().unwrap_or("");
    let mut numbers: Vec<u64> = Vec::new();
    for word in text.split_ascii_whitespace().take(7) {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let end = digits
            .find(|digit: char| !digit.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        match u64::from_str_radix(&digits[..end], 16) {
            Ok(number) => numbers.push(number),
            Err(_) => break,
        }
        if end < digits.len() {
            break;
        }
    }
    if numbers.len() < 2 {
        return Err(Errno::EINVAL);
    }
    let field = |at: usize| {
        let number = numbers.get(at).map(|number| *number as u32);
        number.filter(|number| *number != u32::MAX)
    };
    Ok(Fields {
        given: numbers.len(),
        id: DeviceId {
            vendor: field(0),
            device: field(1),
            subvendor: field(2),
            subdevice: field(3),
            class: (field(4).unwrap_or(0), field(5).unwrap_or(0)),
        },
        driver_data: numbers.get(6).copied().unwrap_or(0),
    })
}

impl Host {
    /// Does a driver want a function (`pci_match_device`)? An override decides alone.
    pub(super) fn matches(&self, driver: &DriverConfig, index: usize) -> bool {
        match self.driver_override(index) {
            Some(name) => name == driver.name,
            None => {
                let device = self.id_of(index);
                let added = self.added_ids(driver);
                let mut ids = driver.ids.iter().chain(&added);
                ids.any(|id| id.matches(&device))
            }
        }
    }

    fn id_of(&self, index: usize) -> DeviceId {
        let identity = &self.functions[index].identity;
        DeviceId {
            vendor: Some(identity.vendor.into()),
            device: Some(identity.device.into()),
            subvendor: Some(identity.subsystem.0.into()),
            subdevice: Some(identity.subsystem.1.into()),
            class: (identity.class, 0),
        }
    }

    fn ids_path(&self, driver: &DriverConfig) -> PathBuf {
        self.run.join("drivers").join(&driver.name)
    }

    /// The identities added to a driver.
    fn added_ids(&self, driver: &DriverConfig) -> Vec<DeviceId> {
        let text = fs::read_to_string(self.ids_path(driver)).unwrap_or_default();
        text.lines()
            .filter_map(|line| fields(line.as_bytes()).ok())
            .map(|fields| fields.id)
            .collect()
    }

    fn set_added_ids(&self, driver: &DriverConfig, ids: &[DeviceId]) -> Result<(), Errno> {
        let word = |field: Option<u32>| field.unwrap_or(u32::MAX);
        let line = |id: &DeviceId| {
            format!(
                "{:x} {:x} {:x} {:x} {:x} {:x}\n",
                word(id.vendor),
                word(id.device),
                word(id.subvendor),
                word(id.subdevice),
                id.class.0,
                id.class.1
            )
        };
        let text: String = ids.iter().map(line).collect();
        let path = self.ids_path(driver);
        fs::create_dir_all(self.run.join("drivers")).map_err(damaged)?;
        let new = path.with_extension("new");
        fs::write(&new, text).map_err(damaged)?;
        fs::rename(&new, &path).map_err(damaged)
    }

    /// `new_id`: the driver is offered all functions once more.
    pub(super) fn new_id(&self, driver: &str, value: &[u8]) -> Result<(), Errno> {
        let driver = self.machine.driver(driver).ok_or(Errno::ENODEV)?;
        let Fields {
            given,
            id,
            driver_data,
        } = fields(value)?;
        if given != 7 && driver.ids.iter().any(|known| known.matches(&id)) {
            return Err(Errno::EEXIST);
        }
        let has_table = driver.vfio || !driver.ids.is_empty();
        if has_table && driver_data != 0 {
            return Err(Errno::EINVAL);
        }
        let host = self.lock()?;
        let mut ids = self.added_ids(driver);
        if given != 7 && ids.iter().any(|known| known.matches(&id)) {
            return Err(Errno::EEXIST);
        }
        ids.push(id);
        self.set_added_ids(driver, &ids)?;
        drop(host);
        for index in 0..self.functions.len() {
            if self.exists(index) && self.matches(driver, index) {
                let _device = self.device_lock(index)?;
                // as in the kernel: one that cannot be bound does not hinder the others
                let _ = self.probe(driver, index);
            }
        }
        Ok(())
    }

    /// `remove_id`: what is bound stays bound.
    pub(super) fn remove_id(&self, driver: &str, value: &[u8]) -> Result<(), Errno> {
        let driver = self.machine.driver(driver).ok_or(Errno::ENODEV)?;
        let Fields { id: wanted, .. } = fields(value)?;
        let _host = self.lock()?;
        let mut ids = self.added_ids(driver);
        let same = |id: &DeviceId| {
            id.vendor == wanted.vendor
                && id.device == wanted.device
                && (wanted.subvendor.is_none() || id.subvendor == wanted.subvendor)
                && (wanted.subdevice.is_none() || id.subdevice == wanted.subdevice)
                && (id.class.0 ^ wanted.class.0) & wanted.class.1 == 0
        };
        let at = ids.iter().position(same).ok_or(Errno::ENODEV)?;
        ids.remove(at);
        self.set_added_ids(driver, &ids)
    }
}
