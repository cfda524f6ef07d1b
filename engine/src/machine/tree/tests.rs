//! The tree of a machine with one device of each sort, read as clients read it.

use super::*;
use crate::machine::spec;
use crate::machine::{Layer, resolve};
use crate::pci::{Bar, Msix, Role};
use std::os::unix::fs::PermissionsExt;

fn nvme() -> Identity {
    let mut bars = [Bar::None; 6];
    bars[0] = Bar::Memory {
        bytes: 16 << 10,
        wide: true,
        prefetch: false,
    };
    Identity {
        vendor: 0x1b36,
        device: 0x10,
        subsystem: (0x1af4, 0x1100),
        class: 0x01_0802,
        revision: 2,
        bars,
        interrupt_pin: 1,
        msi: 0,
        msix: Some(Msix {
            vectors: 17,
            table: (0, 0x2000),
            pba: (0, 0x3000),
        }),
        express: true,
        role: Role::default(),
    }
}

fn edu() -> Identity {
    let mut bars = [Bar::None; 6];
    bars[0] = Bar::Memory {
        bytes: 1 << 20,
        wide: false,
        prefetch: false,
    };
    bars[1] = Bar::Io { bytes: 32 };
    let ids = Identity {
        vendor: 0x1234,
        device: 0x11e8,
        class: 0x00_ff00,
        revision: 0x10,
        ..nvme()
    };
    Identity {
        bars,
        msi: 1,
        msix: None,
        express: false,
        ..ids
    }
}

struct Built {
    directory: tempfile::TempDir,
}

impl Built {
    fn new(iommu: &str) -> Built {
        let flags = [
            "nvme,size=1M",
            "edu,group=12",
            "edu,bdf=0001:00:05.0,group=40",
        ];
        let layer = Layer {
            iommu: Some(spec::iommu(iommu).unwrap()),
            devices: flags
                .iter()
                .map(|flag| spec::device(flag).unwrap())
                .collect(),
            ..Layer::default()
        };
        let directory = tempfile::tempdir().unwrap();
        build(
            directory.path(),
            &resolve(&[layer]).unwrap(),
            &[nvme(), edu(), edu()],
        )
        .unwrap();
        Built { directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Where a path really leads, as the client would see it.
    fn real(&self, path: &str) -> String {
        let real = self
            .path(path)
            .canonicalize()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let root = self.directory.path().canonicalize().unwrap();
        format!("/{}", real.strip_prefix(root).unwrap().display())
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }
}

const NVME: &str = "/sys/bus/pci/devices/0000:01:00.0";
const EDU: &str = "/sys/bus/pci/devices/0000:00:04.0";

#[test]
fn identities_are_shown_as_the_kernel_shows_them() {
    let tree = Built::new("vtd");
    let table = [
        ("vendor", "0x1b36\n"),
        ("device", "0x0010\n"),
        ("subsystem_vendor", "0x1af4\n"),
        ("subsystem_device", "0x1100\n"),
        ("class", "0x010802\n"),
        ("revision", "0x02\n"),
        (
            "modalias",
            "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02\n",
        ),
        ("numa_node", "-1\n"),
        ("driver_override", "(null)\n"),
        ("reset_method", "flr\n"),
    ];
    for (name, line) in table {
        assert_eq!(tree.read(&format!("{NVME}/{name}")), line, "{name}");
    }
    let uevent = "DRIVER=vfio-pci\nPCI_CLASS=10802\nPCI_ID=1B36:0010\nPCI_SUBSYS_ID=1AF4:1100\nPCI_SLOT_NAME=0000:01:00.0\n\
                  MODALIAS=pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02\n";
    assert_eq!(tree.read(&format!("{NVME}/uevent")), uevent);
    assert!(
        !tree.path(&format!("{EDU}/reset")).exists(),
        "a conventional device has no reset"
    );
}

#[test]
fn resource_has_thirteen_lines_of_three_numbers() {
    let tree = Built::new("vtd");
    let text = tree.read(&format!("{EDU}/resource"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 13);
    assert_eq!(
        lines[0],
        "0x0000000080000000 0x00000000800fffff 0x0000000000040200"
    );
    assert_eq!(
        lines[1],
        "0x0000000000001000 0x000000000000101f 0x0000000000040101"
    );
    assert!(
        lines[2..]
            .iter()
            .all(|line| *line == "0x0000000000000000 0x0000000000000000 0x0000000000000000")
    );
}

#[test]
fn config_agrees_with_the_attributes() {
    let tree = Built::new("vtd");
    let config = fs::read(tree.path(&format!("{NVME}/config"))).unwrap();
    assert_eq!(config.len(), 4096);
    assert_eq!(config[..4], [0x36, 0x1b, 0x10, 0x00]);
    assert_eq!(config[4] & 4, 0, "no bus mastering");
    assert_eq!(config[8..12], [2, 2, 8, 1]);
    assert_eq!(config[0x10..0x18], [4, 0, 0, 0, 0x40, 0, 0, 0]);
    let mut capabilities = std::collections::BTreeSet::new();
    let mut at = usize::from(config[0x34]);
    while at != 0 {
        capabilities.insert(config[at]);
        at = usize::from(config[at + 1]);
    }
    assert!(
        [0x01, 0x10, 0x11]
            .iter()
            .all(|id| capabilities.contains(id)),
        "power management, Express, MSI-X"
    );
    let config = fs::read(tree.path(&format!("{EDU}/config"))).unwrap();
    assert_eq!(
        (config.len(), config[usize::from(config[0x34])]),
        (256, 0x05)
    );
    assert_eq!(config[0x14..0x18], [1, 0x10, 0, 0], "an I/O BAR");
}

#[test]
fn links_lead_where_the_kernel_s_lead() {
    let tree = Built::new("vtd");
    let table = [
        (NVME, "/sys/devices/pci0000:00/0000:01:00.0"),
        (
            "/sys/bus/pci/devices/0001:00:05.0",
            "/sys/devices/pci0001:00/0001:00:05.0",
        ),
        (
            "/sys/bus/pci/devices/0000:01:00.0/driver",
            "/sys/bus/pci/drivers/vfio-pci",
        ),
        (
            "/sys/bus/pci/devices/0000:01:00.0/subsystem",
            "/sys/bus/pci",
        ),
        (
            "/sys/bus/pci/devices/0000:00:04.0/iommu_group",
            "/sys/kernel/iommu_groups/12",
        ),
        (
            "/sys/bus/pci/devices/0000:00:04.0/iommu",
            "/sys/devices/virtual/iommu/dmar0",
        ),
        (
            "/sys/bus/pci/drivers/vfio-pci/0000:00:04.0",
            "/sys/devices/pci0000:00/0000:00:04.0",
        ),
        (
            "/sys/bus/pci/drivers/vfio-pci/module",
            "/sys/module/vfio_pci",
        ),
        (
            "/sys/kernel/iommu_groups/12/devices/0000:00:04.0",
            "/sys/devices/pci0000:00/0000:00:04.0",
        ),
        ("/sys/class/iommu/dmar0", "/sys/devices/virtual/iommu/dmar0"),
        (
            "/sys/class/iommu/dmar0/devices/0000:01:00.0",
            "/sys/devices/pci0000:00/0000:01:00.0",
        ),
        ("/sys/class/vfio/12", "/sys/devices/virtual/vfio/12"),
        (
            "/sys/module/vfio/holders/vfio_pci_core",
            "/sys/module/vfio_pci_core",
        ),
    ];
    for (path, target) in table {
        assert_eq!(tree.real(path), target, "{path}");
        assert!(
            is_overlaid(path.as_bytes()) && is_overlaid(target.as_bytes()),
            "{path}"
        );
    }
    let link = fs::read_link(tree.path(&format!("{NVME}/iommu_group"))).unwrap();
    assert_eq!(link.to_str(), Some("../../../kernel/iommu_groups/1"));
}

#[test]
fn groups_have_nodes_and_device_numbers() {
    let tree = Built::new("vtd");
    let mut nodes: Vec<_> = fs::read_dir(tree.path("dev/vfio"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["1", "12", "40", "devices", "vfio"]);
    assert_eq!(tree.mode("dev/vfio/12"), 0o666);
    assert_eq!(
        tree.read("/sys/class/vfio/12/dev"),
        format!("{GROUP_MAJOR}:12\n")
    );
    assert_eq!(
        tree.read("/sys/kernel/iommu_groups/12/reserved_regions"),
        "0x00000000fee00000 0x00000000feefffff msi\n"
    );
    assert_eq!(tree.read("/sys/kernel/iommu_groups/12/type"), "DMA-FQ\n");
}

#[test]
fn modes_are_the_kernel_s_whatever_the_umask() {
    let tree = Built::new("vtd");
    for (name, mode) in [
        ("vendor", 0o444),
        ("config", 0o644),
        ("driver_override", 0o644),
        ("remove", 0o220),
    ] {
        assert_eq!(tree.mode(&format!("{NVME}/{name}")), mode, "{name}");
    }
    assert_eq!(tree.mode("/sys/bus/pci/drivers/vfio-pci/bind"), 0o200);
}

#[test]
fn module_parameters_follow_the_machine() {
    let tree = Built::new("vtd");
    assert_eq!(
        tree.read("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
        "N\n"
    );
    assert_eq!(
        tree.read("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"),
        "65535\n"
    );
}

#[test]
fn each_iommu_is_shown_under_its_own_name() {
    let vtd = Built::new("vtd,address_width=39");
    let cap = u64::from_str_radix(
        vtd.read(&format!("{NVME}/iommu/intel-iommu/cap")).trim(),
        16,
    )
    .unwrap();
    assert_eq!(cap >> 16 & 0x3f, 38, "the width that SPDK and DPDK read");
    assert!(!vtd.path("/sys/class/iommu/ivhd0").exists());
    let amd = Built::new("amd");
    assert_eq!(
        amd.real("/sys/class/iommu/ivhd0"),
        "/sys/devices/virtual/iommu/ivhd0"
    );
    assert!(
        amd.path("/sys/class/iommu/ivhd0/amd-iommu/features")
            .exists()
    );
    assert!(!amd.path("/sys/devices/virtual/iommu/dmar0").exists());
    let regions = amd.read("/sys/kernel/iommu_groups/12/reserved_regions");
    assert!(regions.ends_with("\n0x000000fd00000000 0x000000ffffffffff reserved\n"));
    let narrow = Built::new("amd,address_width=32");
    let regions = narrow.read("/sys/kernel/iommu_groups/12/reserved_regions");
    assert_eq!(regions.lines().count(), 1);
}

#[test]
fn every_device_has_a_node_of_its_own_whose_number_its_attribute_says() {
    let tree = Built::new("vtd");
    let name = fs::read_dir(tree.path(&format!("{NVME}/vfio-dev")))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    let [name] = &name[..] else {
        panic!("one entry, not {name:?}")
    };
    let number = name.strip_prefix("vfio").unwrap();
    assert_eq!(
        tree.read(&format!("/sys/class/vfio-dev/{name}/dev")),
        format!("{CDEV_MAJOR}:{number}\n")
    );
    assert_eq!(
        fs::canonicalize(tree.path(&format!("/sys/class/vfio-dev/{name}/device"))).unwrap(),
        fs::canonicalize(tree.path(NVME)).unwrap()
    );
    assert!(tree.path(&format!("/dev/vfio/devices/{name}")).exists());
}

#[test]
fn paths_beside_the_overlay_are_the_host_s() {
    for path in [
        "/dev/vfio2",
        "/dev",
        "/sys/bus",
        "/sys/bus/pci_express",
        "/sys/module/vfio_mdev",
        "/sys/devices/virtual/net",
    ] {
        assert!(!is_overlaid(path.as_bytes()), "{path}");
    }
    for path in [
        "/dev/vfio",
        "/dev/vfio/12",
        "/sys/bus/pci/",
        "/sys/devices/pci0000:00/0000:00:04.0",
        "/sys/devices/pci0001:00",
    ] {
        assert!(is_overlaid(path.as_bytes()), "{path}");
    }
}
