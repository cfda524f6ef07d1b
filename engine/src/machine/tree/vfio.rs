//! VFIO's own places: modules and device nodes.

use super::{CONTAINER_DEVICE, Function, GROUP_MAJOR, IOMMU_DEVICE, LISTED, Tree, cdev};
use crate::machine::Machine;
use std::{fs, io};

/// The parameters of vfio-pci.
pub const VFIO_PCI_PARAMETERS: &str = "sys/module/vfio_pci/parameters";
/// How many mappings a container may hold.
pub const DMA_ENTRY_LIMIT: &str = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

/// /sys/module/vfio*.
pub(super) fn modules(tree: &Tree, machine: &Machine) -> io::Result<()> {
    for (module, users) in [
        ("vfio", "3"),
        ("vfio_pci", "0"),
        ("vfio_pci_core", "1"),
        ("vfio_iommu_type1", "0"),
    ] {
        let directory = format!("sys/module/{module}");
        let attributes = [
            ("initstate", 0o444, "live"),
            ("refcnt", 0o444, users),
            ("taint", 0o444, ""),
        ];
        tree.attributes(&directory, &attributes)?;
        tree.directory(&format!("{directory}/holders"))?;
    }
    let limit = machine.vfio.dma_entry_limit.to_string();
    let boolean = |on| if on { "Y" } else { "N" };
    let noiommu = boolean(machine.without_iommu());
    let sriov = boolean(machine.vfio.enable_sriov);
    tree.attributes(
        "sys/module/vfio/parameters",
        &[("enable_unsafe_noiommu_mode", 0o644, noiommu)],
    )?;
    tree.attributes(
        "sys/module/vfio_iommu_type1/parameters",
        &[
            ("allow_unsafe_interrupts", 0o644, "N"),
            ("disable_hugepages", 0o644, "N"),
            ("dma_entry_limit", 0o644, &limit),
        ],
    )?;
    tree.attributes(
        VFIO_PCI_PARAMETERS,
        &[
            ("disable_denylist", 0o444, "N"),
            ("disable_idle_d3", 0o644, "N"),
            ("disable_vga", 0o444, "N"),
            ("enable_sriov", 0o644, sriov),
            ("nointxmask", 0o644, "N"),
        ],
    )?;
    tree.directory("sys/module/vfio_pci/drivers")?;
    // the host's are listed beside them; a host that shows none has none
    for entry in fs::read_dir(LISTED).into_iter().flatten().flatten() {
        if let Ok(name) = entry.file_name().into_string() {
            tree.directory(&format!("sys/module/{name}"))?;
        }
    }
    for (module, user) in [
        ("vfio", "vfio_pci_core"),
        ("vfio", "vfio_iommu_type1"),
        ("vfio_pci_core", "vfio_pci"),
    ] {
        tree.link(
            &format!("sys/module/{module}/holders/{user}"),
            &format!("sys/module/{user}"),
        )?;
    }
    Ok(())
}

/// /dev/vfio/vfio and /sys/class/vfio. Nodes are plain files that stand for devices.
pub(super) fn container(tree: &Tree) -> io::Result<()> {
    tree.attributes("dev/vfio", &[("vfio", 0o666, "")])?;
    let (major, minor) = CONTAINER_DEVICE;
    tree.attributes(
        "sys/devices/virtual/misc/vfio",
        &[
            ("dev", 0o444, &format!("{major}:{minor}")),
            (
                "uevent",
                0o644,
                &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME=vfio/vfio\nDEVMODE=0666"),
            ),
        ],
    )?;
    tree.file("dev/iommu", 0o660, b"")?;
    let (major, minor) = IOMMU_DEVICE;
    tree.attributes(
        "sys/devices/virtual/misc/iommu",
        &[
            ("dev", 0o444, &format!("{major}:{minor}")),
            (
                "uevent",
                0o644,
                &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME=iommu"),
            ),
        ],
    )?;
    tree.directory("sys/class/vfio")
}

impl Tree {
    /// A function is VFIO's: it may have a node of its own, and its group has one.
    ///
    /// # Errors
    /// What making files gave.
    pub fn register(&self, machine: &Machine, function: &Function) -> io::Result<()> {
        if let Some(number) = cdev_number(machine, function) {
            let node = machine.has_own_nodes(function.group);
            cdev::add(self, &function.directory(), number, node)?;
        }
        let (major, minor) = (GROUP_MAJOR, function.group);
        let name = machine.group_node(minor);
        let (directory, node) = places(&name);
        if self.exists(&node) {
            return Ok(());
        }
        let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME=vfio/{name}");
        self.attributes(
            &directory,
            &[
                ("dev", 0o444, &format!("{major}:{minor}")),
                ("uevent", 0o644, &uevent),
            ],
        )?;
        self.link(&format!("{directory}/subsystem"), "sys/class/vfio")?;
        self.link(&format!("sys/class/vfio/{name}"), &directory)?;
        self.file(&node, 0o666, b"")
    }

    /// A function is VFIO's no longer: it has no node of its own.
    ///
    /// # Errors
    /// What removing files gave.
    pub fn remove_device_node(&self, machine: &Machine, function: &Function) -> io::Result<()> {
        match cdev_number(machine, function) {
            Some(number) => cdev::remove(self, &function.directory(), number),
            None => Ok(()),
        }
    }

    /// The last function of a group is VFIO's no longer: the group has no node.
    ///
    /// # Errors
    /// What removing files gave.
    pub fn remove_group_node(&self, machine: &Machine, group: u32) -> io::Result<()> {
        let name = machine.group_node(group);
        let (directory, node) = places(&name);
        self.remove(&node)?;
        self.remove(&format!("sys/class/vfio/{name}"))?;
        self.remove(&directory)
    }
}

/// The directory in sysfs and the node of a group whose node is called `name`.
fn places(name: &str) -> (String, String) {
    (
        format!("sys/devices/virtual/vfio/{name}"),
        format!("dev/vfio/{name}"),
    )
}

/// The number of a function in the class of VFIO's devices, if it is there.
fn cdev_number(machine: &Machine, function: &Function) -> Option<usize> {
    let mut devices = machine.devices.iter();
    let number = devices.position(|device| device.address() == function.bdf);
    number.filter(|_| machine.takes_iommufd(function.group))
}
