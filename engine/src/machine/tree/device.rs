//! The directory of one function: /sys/devices/pciSSSS:00/BDF.

use super::{Function, Tree};
use crate::machine::resources::Resource;
use crate::machine::{IommuConfig, Machine};
use crate::pci::config::Config;
use std::fmt::Write;
use std::{fs, io};

/// The host's processors: every device is near all of them.
struct Cpus {
    list: String,
    mask: String,
}

impl Cpus {
    /// Reads the host's list of online processors.
    fn of_host() -> Cpus {
        let list =
            fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_else(|_| "0".into());
        Cpus::of_list(list.trim())
    }

    /// The processors of a node of the host's memory.
    ///
    /// # Errors
    /// InvalidInput: there is no such node.
    fn of_node(node: u64) -> io::Result<Cpus> {
        let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
        let list = list.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Cpus::of_list(list.trim()))
    }

    fn of_list(list: &str) -> Cpus {
        let mut words = vec![0u32];
        for range in list.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
                continue;
            };
            for cpu in first..=last.min(0xffff) {
                words.resize(words.len().max(cpu / 32 + 1), 0);
                words[cpu / 32] |= 1 << (cpu % 32);
            }
        }
        let mut mask = format!("{:x}", words[words.len() - 1]);
        for word in words.iter().rev().skip(1) {
            let _ = write!(mask, ",{word:08x}");
        }
        Cpus {
            list: list.into(),
            mask,
        }
    }
}

impl Tree {
    /// A function appears: its directory, and the links to it from the bus, the IOMMU and its group.
    ///
    /// # Errors
    /// What making files gave.
    pub fn add_device(&self, machine: &Machine, device: &Function) -> io::Result<()> {
        function(self, device, &machine.iommu, &Cpus::of_host())?;
        let group = format!("sys/kernel/iommu_groups/{}", device.group);
        if !self.exists(&group) {
            let reserved = super::iommu::reserved_regions(&machine.iommu);
            let (domain_type, name) = match machine.without_iommu() {
                true => ("unknown", Some(("name", 0o444, "vfio-noiommu"))),
                false => ("DMA-FQ", None),
            };
            let attributes = [
                ("reserved_regions", 0o444, reserved),
                ("type", 0o644, domain_type),
            ];
            self.attributes(&group, &attributes)?;
            self.attributes(&group, name.as_slice())?;
            self.directory(&format!("{group}/devices"))?;
        }
        for link in links(machine, device) {
            self.link(&link, &device.directory())?;
        }
        Ok(())
    }

    /// A function is near a node of the host's memory, or `None` of them.
    ///
    /// # Errors
    /// InvalidInput: the host has no such node. What writing the files gave.
    pub fn set_numa_node(&self, device: &Function, node: Option<u64>) -> io::Result<()> {
        let cpus = node.map_or_else(|| Ok(Cpus::of_host()), Cpus::of_node)?;
        let node = node.map_or("-1".into(), |node| node.to_string());
        let values = [
            ("local_cpulist", cpus.list),
            ("local_cpus", cpus.mask),
            ("numa_node", node),
        ];
        let directory = device.directory();
        let mut values = values.iter();
        values.try_for_each(|(name, value)| self.set_value(&format!("{directory}/{name}"), value))
    }

    /// A function disappears; it is bound to no driver any more. Its group goes with its last member.
    ///
    /// # Errors
    /// What removing files gave.
    pub fn remove_device(&self, machine: &Machine, device: &Function) -> io::Result<()> {
        for link in links(machine, device) {
            self.remove(&link)?;
        }
        self.remove(&device.directory())?;
        let group = format!("sys/kernel/iommu_groups/{}", device.group);
        if self.is_empty(&format!("{group}/devices")) {
            self.remove(&group)?;
        }
        Ok(())
    }
}

/// The links that lead to a function.
fn links(machine: &Machine, device: &Function) -> Vec<String> {
    let Function { bdf, group, .. } = device;
    let unit = super::iommu::name(machine.iommu.kind);
    let of_unit = unit.map(|unit| format!("sys/devices/virtual/iommu/{unit}/devices/{bdf}"));
    let mut links = vec![
        format!("sys/bus/pci/devices/{bdf}"),
        format!("sys/kernel/iommu_groups/{group}/devices/{bdf}"),
    ];
    links.extend(of_unit);
    links
}

/// Makes the directory.
fn function(tree: &Tree, function: &Function, iommu: &IommuConfig, cpus: &Cpus) -> io::Result<()> {
    let identity = &function.identity;
    let directory = function.directory();
    let modalias = modalias(function);
    let id16 = |id: u16| format!("{id:#06x}");
    tree.attributes(
        &directory,
        &[
            ("ari_enabled", 0o444, "0"),
            ("broken_parity_status", 0o644, "0"),
            ("class", 0o444, &format!("{:#08x}", identity.class)),
            ("consistent_dma_mask_bits", 0o444, "32"),
            ("d3cold_allowed", 0o644, "1"),
            ("device", 0o444, &id16(identity.device)),
            ("dma_mask_bits", 0o444, "32"),
            ("driver_override", 0o644, "(null)"),
            ("enable", 0o644, "0"),
            ("irq", 0o444, "0"),
            ("local_cpulist", 0o444, &cpus.list),
            ("local_cpus", 0o444, &cpus.mask),
            ("modalias", 0o444, &modalias),
            ("msi_bus", 0o644, "1"),
            ("numa_node", 0o644, "-1"),
            ("power_state", 0o444, "D0"),
            ("remove", 0o220, ""),
            ("rescan", 0o220, ""),
            ("resource", 0o444, resource(&function.resources).trim_end()),
            ("revision", 0o444, &format!("{:#04x}", identity.revision)),
            ("subsystem_device", 0o444, &id16(identity.subsystem.1)),
            ("subsystem_vendor", 0o444, &id16(identity.subsystem.0)),
            ("uevent", 0o644, &uevent(function, None)),
            ("vendor", 0o444, &id16(identity.vendor)),
        ],
    )?;
    if identity.express {
        tree.attributes(
            &directory,
            &[("reset", 0o200, ""), ("reset_method", 0o644, "flr")],
        )?;
    }
    super::sriov::attributes(tree, function)?;
    let bases = function.resources.map(|resource| resource.first);
    let config = Config::new(identity, &bases);
    tree.file(&format!("{directory}/config"), 0o644, config.bytes())?;
    tree.link(&format!("{directory}/subsystem"), "sys/bus/pci")?;
    tree.link(
        &format!("{directory}/iommu_group"),
        &format!("sys/kernel/iommu_groups/{}", function.group),
    )?;
    match super::iommu::name(iommu.kind) {
        Some(unit) => tree.link(
            &format!("{directory}/iommu"),
            &format!("sys/devices/virtual/iommu/{unit}"),
        ),
        None => Ok(()),
    }
}

/// Six BARs, the ROM and six SR-IOV BARs: "first last flags".
fn resource(resources: &[Resource; 6]) -> String {
    let absent = [Resource::default(); 7];
    let mut text = String::new();
    for Resource { first, last, flags } in resources.iter().chain(&absent) {
        let _ = writeln!(text, "{first:#018x} {last:#018x} {flags:#018x}");
    }
    text
}

fn modalias(function: &Function) -> String {
    let identity = &function.identity;
    let (class, subclass, interface) = (
        identity.class >> 16 & 0xff,
        identity.class >> 8 & 0xff,
        identity.class & 0xff,
    );
    format!(
        "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{class:02X}sc{subclass:02X}i{interface:02X}",
        identity.vendor, identity.device, identity.subsystem.0, identity.subsystem.1
    )
}

/// What `uevent` says while the function is bound to this driver.
pub(super) fn uevent(function: &Function, driver: Option<&str>) -> String {
    let identity = &function.identity;
    let modalias = modalias(function);
    let driver = driver.map_or(String::new(), |name| format!("DRIVER={name}\n"));
    format!(
        "{driver}PCI_CLASS={:X}\nPCI_ID={:04X}:{:04X}\nPCI_SUBSYS_ID={:04X}:{:04X}\nPCI_SLOT_NAME={}\nMODALIAS={modalias}",
        identity.class,
        identity.vendor,
        identity.device,
        identity.subsystem.0,
        identity.subsystem.1,
        function.bdf
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_shown_as_the_kernel_shows_them() {
        for (list, mask) in [
            ("0", "1"),
            ("0-1", "3"),
            ("0-3,8", "10f"),
            ("0-63", "ffffffff,ffffffff"),
            ("32", "1,00000000"),
        ] {
            assert_eq!(Cpus::of_list(list).mask, mask, "{list}");
        }
    }
}
