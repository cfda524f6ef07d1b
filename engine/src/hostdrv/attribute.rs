//! Which attribute does what, and how the kernel reads numbers and names in them.

use std::io;

use swiommu_abi::Errno;

use super::Host;

/// What a directory of the tree stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    /// /sys/bus/pci
    Bus,
    /// A driver, by its name.
    Driver(&'a str),
    /// A function, by its place in the machine.
    Device(usize),
    /// Parameters of a module, by the module's name.
    Parameters(&'a str),
}

pub(super) fn store(host: &Host, path: &str, value: &[u8]) -> Result<(), Errno> {
    if !host.tree.exists(path.trim_start_matches('/')) {
        return Err(Errno::ENODEV);
    }
    let (directory, name) = path.rsplit_once('/').ok_or(Errno::EIO)?;
    let place = place(host, directory).ok_or(Errno::EIO)?;
    match (place, name) {
        (Place::Driver(driver), "bind") => host.bind(driver, line(value)),
        (Place::Driver(driver), "unbind") => host.unbind(driver, line(value)),
        (Place::Driver(driver), "new_id") => host.new_id(driver, value),
        (Place::Driver(driver), "remove_id") => host.remove_id(driver, value),
        (Place::Bus, "drivers_probe") => host.drivers_probe(line(value)),
        (Place::Bus, "drivers_autoprobe") => {
            let on = value.first() != Some(&b'0');
            host.set(path, if on { "1" } else { "0" })
        }
        (Place::Bus, "rescan") | (Place::Device(_), "rescan") => match number(value)? {
            0 => Ok(()),
            _ => host.rescan(),
        },
        (Place::Device(index), "driver_override") => host.set_override(index, value),
        (Place::Device(index), "sriov_numvfs") => host.set_numvfs(index, value),
        (Place::Device(_), "sriov_drivers_autoprobe") => {
            let on = boolean(value)?;
            host.set(path, if on { "1" } else { "0" })
        }
        // no driver here moves vectors between virtual functions
        (Place::Device(_), "sriov_vf_msix_count") => Err(Errno::EOPNOTSUPP),
        (Place::Device(index), "remove") => match number(value)? {
            0 => Ok(()),
            _ => host.remove(index),
        },
        (Place::Device(index), "reset") => match number(value)? {
            1 => host.reset(index),
            _ => Err(Errno::EINVAL),
        },
        (Place::Device(index), "reset_method") => host.set_reset_method(index, value),
        (Place::Device(index), "numa_node") => host.set_numa_node(index, value),
        // SET_IRQS follows msi_bus; what the others say is all that they do
        (Place::Device(_), "msi_bus" | "d3cold_allowed" | "broken_parity_status") => {
            let on = number(value)? != 0;
            host.set(path, if on { "1" } else { "0" })
        }
        (Place::Device(index), "enable") => match (number(value)?, host.driver(index)) {
            (_, Some(_)) => Err(Errno::EBUSY),
            // nobody could tell a device without a driver from one that is switched on
            (_, None) => Err(Errno::EPERM),
        },
        // configuration space is the device's: as in a kernel that is locked down
        (Place::Device(_), "config") => Err(Errno::EPERM),
        // nobody listens to events
        (_, "uevent") => event(value),
        (Place::Parameters("vfio_iommu_type1"), "dma_entry_limit") => {
            let number = u32::try_from(unsigned(value)?).map_err(|_| Errno::ERANGE)?;
            host.set(path, &number.to_string())
        }
        // interrupts are remapped, so there are no unsafe ones
        (Place::Parameters("vfio_iommu_type1"), "allow_unsafe_interrupts")
        | (Place::Parameters("vfio_pci"), "enable_sriov") => {
            let on = boolean(value)?;
            host.set(path, if on { "Y" } else { "N" })
        }
        // what nothing here follows stays as it is
        (Place::Parameters(_), _) => {
            let wanted = if boolean(value)? { "Y" } else { "N" };
            let now = host.tree.value(path.trim_start_matches('/'));
            match now.map_err(super::damaged)? == wanted {
                true => Ok(()),
                false => Err(Errno::EPERM),
            }
        }
        _ => Err(Errno::EIO),
    }
}

fn place<'a>(host: &Host, directory: &'a str) -> Option<Place<'a>> {
    if directory == "/sys/bus/pci" {
        return Some(Place::Bus);
    }
    if let Some(driver) = directory.strip_prefix("/sys/bus/pci/drivers/") {
        return Some(Place::Driver(driver));
    }
    if let Some(module) = directory.strip_prefix("/sys/module/") {
        return Some(Place::Parameters(module.strip_suffix("/parameters")?));
    }
    let at = |function: &crate::machine::tree::Function| {
        directory.strip_prefix('/') == Some(function.directory().as_str())
    };
    host.functions.iter().position(at).map(Place::Device)
}

impl Host {
    /// Where an attribute of a function is.
    pub(super) fn attribute(&self, index: usize, name: &str) -> String {
        format!("/{}/{name}", self.functions[index].directory())
    }

    /// `numa_node`: -1, or a node of the host that is online.
    fn set_numa_node(&self, index: usize, value: &[u8]) -> Result<(), Errno> {
        let node = match line(value) {
            "-1" => None,
            _ => Some(number(value)?),
        };
        let _lock = self.lock()?;
        self.tree
            .set_numa_node(&self.functions[index], node)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => Errno::EINVAL,
                _ => super::damaged(error),
            })
    }

    /// May a driver of the function ask for MSI and MSI-X?
    pub fn allows_msi(&self, index: usize) -> bool {
        let path = self.attribute(index, "msi_bus");
        let value = self.tree.value(path.trim_start_matches('/'));
        value.map_or(true, |value| value != "0")
    }

    /// Gives an attribute another line.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn set(&self, path: &str, line: &str) -> Result<(), Errno> {
        let _lock = self.lock()?;
        self.tree
            .set_value(path.trim_start_matches('/'), line)
            .map_err(super::damaged)
    }
}

/// A number, as the attributes of a bus or device take it.
fn number(value: &[u8]) -> Result<u64, Errno> {
    unsigned(value).map_err(|_| Errno::EINVAL)
}

/// An event to be told by hand: what happened, and perhaps to whom it matters (`kobject_synth_uevent`).
fn event(value: &[u8]) -> Result<(), Errno> {
    let text = line(value);
    let known = [
        "add", "remove", "change", "move", "online", "offline", "bind", "unbind",
    ];
    let action = text.split(' ').next().unwrap_or_default();
    match known.contains(&action) {
        true => Ok(()),
        false => Err(Errno::EINVAL),
    }
}

/// A value without the newline that ends it (`sysfs_streq`), `""` if it is no text.
pub fn line(value: &[u8]) -> &str {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).unwrap_or("");
    text.strip_suffix('\n').unwrap_or(text)
}

/// A number in the radix its prefix says (`kstrtoul` with base 0).
///
/// # Errors
/// EINVAL for anything else, ERANGE beyond 64 bits.
pub fn unsigned(value: &[u8]) -> Result<u64, Errno> {
    let text = line(value);
    let text = text.strip_prefix('+').unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_str() {
        "0" => ("0", 10),
        _ => match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (None, Some(digits)) => (digits, 8),
            (None, None) => (lower.as_str(), 10),
        },
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(Errno::EINVAL);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Errno::ERANGE)
}

/// Yes or no by its first letters (`kstrtobool`).
///
/// # Errors
/// EINVAL for anything else.
pub fn boolean(value: &[u8]) -> Result<bool, Errno> {
    match value {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_the_radix_of_their_prefix() {
        for (text, number) in [
            ("0", 0),
            ("1\n", 1),
            ("010", 8),
            ("0x1F\n", 31),
            ("+7", 7),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(unsigned(text.as_bytes()), Ok(number), "{text}");
        }
        for bad in ["", "\n", "x", "1 ", "-1", "08", "0x", "1\n\n"] {
            assert_eq!(unsigned(bad.as_bytes()), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(unsigned(b"18446744073709551616"), Err(Errno::ERANGE));
    }

    #[test]
    fn one_newline_ends_a_name_and_a_second_belongs_to_it() {
        assert_eq!(line(b"0000:00:04.0\n"), "0000:00:04.0");
        assert_eq!(line(b"0000:00:04.0"), "0000:00:04.0");
        assert_eq!(line(b"a\n\n"), "a\n");
        assert_eq!(line(b"a\0b"), "a");
        assert_eq!(line(b"\xff"), "");
    }

    #[test]
    fn yes_and_no_are_told_by_their_first_letters() {
        for yes in ["1", "y\n", "Yes", "true", "on"] {
            assert_eq!(boolean(yes.as_bytes()), Ok(true), "{yes}");
        }
        for no in ["0", "n", "No", "false", "off"] {
            assert_eq!(boolean(no.as_bytes()), Ok(false), "{no}");
        }
        for bad in ["", "2", "o", "maybe"] {
            assert_eq!(boolean(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
    }
}
