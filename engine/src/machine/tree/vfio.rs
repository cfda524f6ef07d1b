//! VFIO's own places: modules, the PCI bus and its driver, IOMMU groups, device nodes.

use super::{CONTAINER_DEVICE, Function, IOMMU_DEVICE, Tree};
use crate::machine::Machine;
use std::io;

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
    let noiommu = if machine.without_iommu() { "Y" } else { "N" };
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
        "sys/module/vfio_pci/parameters",
        &[
            ("disable_denylist", 0o444, "N"),
            ("disable_idle_d3", 0o644, "N"),
            ("disable_vga", 0o444, "N"),
            ("enable_sriov", 0o644, "N"),
            ("nointxmask", 0o644, "N"),
        ],
    )?;
    tree.directory("sys/module/vfio_pci/drivers")?;
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

/// /sys/bus/pci with the one driver there is.
pub(super) fn bus(tree: &Tree, functions: &[Function<'_>]) -> io::Result<()> {
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
    let driver = "sys/bus/pci/drivers/vfio-pci";
    let commands = ["bind", "new_id", "remove_id", "uevent", "unbind"];
    tree.attributes(driver, &commands.map(|name| (name, 0o200, "")))?;
    tree.link(&format!("{driver}/module"), "sys/module/vfio_pci")?;
    tree.link("sys/module/vfio_pci/drivers/pci:vfio-pci", driver)?;
    for function in functions {
        let target = format!("sys/devices/{}", function.directory());
        tree.link(&format!("sys/bus/pci/devices/{}", function.bdf), &target)?;
        tree.link(&format!("{driver}/{}", function.bdf), &target)?;
    }
    Ok(())
}

/// /sys/kernel/iommu_groups, /sys/class/vfio and /dev/vfio. The nodes are plain files that stand for devices.
pub(super) fn groups(tree: &Tree, machine: &Machine, functions: &[Function<'_>]) -> io::Result<()> {
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
    let reserved = super::iommu::reserved_regions(&machine.iommu);
    let domain_type = if machine.without_iommu() {
        "unknown"
    } else {
        "DMA-FQ"
    };
    tree.directory("sys/class/vfio")?;
    for group in machine.groups() {
        let (major, minor) = machine
            .group_device(group)
            .expect("it is one of the machine's groups");
        let name = machine.group_node(group);
        let node = format!("sys/devices/virtual/vfio/{name}");
        tree.attributes(
            &node,
            &[
                ("dev", 0o444, &format!("{major}:{minor}")),
                (
                    "uevent",
                    0o644,
                    &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME=vfio/{name}"),
                ),
            ],
        )?;
        tree.link(&format!("{node}/subsystem"), "sys/class/vfio")?;
        tree.link(&format!("sys/class/vfio/{name}"), &node)?;
        tree.file(&format!("dev/vfio/{name}"), 0o666, b"")?;
        tree.attributes(
            &format!("sys/kernel/iommu_groups/{group}"),
            &[
                ("reserved_regions", 0o444, reserved),
                ("type", 0o644, domain_type),
            ],
        )?;
        if machine.without_iommu() {
            let directory = format!("sys/kernel/iommu_groups/{group}");
            tree.attributes(&directory, &[("name", 0o444, "vfio-noiommu")])?;
        }
        tree.directory(&format!("sys/kernel/iommu_groups/{group}/devices"))?;
    }
    for function in functions {
        let path = format!(
            "sys/kernel/iommu_groups/{}/devices/{}",
            function.group, function.bdf
        );
        tree.link(&path, &format!("sys/devices/{}", function.directory()))?;
    }
    Ok(())
}
