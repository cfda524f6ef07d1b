//! The machine of a run: which IOMMU, which devices, in which groups, under which limits.
//!
//! One [`Machine`] is made by the command line, written into the run's directory, and read back by the engine of
//! every process of the run. It is made in two steps: flags ([`spec`]) and files ([`file`]) are read into layers of
//! wishes, and [`resolve`] turns the layers into a machine in which nothing is left open, or says in one line what
//! cannot be. [`run_dir`] makes the run's directory with the [`tree`] that clients see in place of /sys and /dev.

mod bdf;
pub mod driver;
pub mod file;
pub mod options;
mod requester;
pub mod resolve;
pub mod resources;
pub mod run_dir;
pub mod size;
pub mod spec;
pub mod sriov;
pub mod tree;

pub use bdf::Bdf;
pub use driver::DriverConfig;
pub use resolve::{Layer, MachineError, resolve};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The whole machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// The IOMMU.
    pub iommu: IommuConfig,
    /// What VFIO itself is set to.
    pub vfio: VfioConfig,
    /// It has the mock IOMMU of the kernel's selftests ([`crate::mock`]).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mock: bool,
    /// The devices.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceConfig>,
    /// The kernel's PCI drivers, in the order in which they are asked to take a device.
    #[serde(rename = "driver")]
    pub drivers: Vec<DriverConfig>,
}

impl Default for Machine {
    /// One NVMe of 1 GiB in memory and one edu, behind VT-d.
    fn default() -> Machine {
        resolve(&[Layer::built_in()]).expect("the built-in machine is possible")
    }
}

impl Machine {
    /// Reads the machine of a run from its directory. Only raw system calls: this runs in the client's process.
    ///
    /// # Errors
    /// What opening or reading `machine.json` gave; `EINVAL` if it is not a machine.
    pub fn load(run: &Path) -> Result<Machine, Errno> {
        let file = rustix::fs::open(
            run.join("machine.json"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = Vec::with_capacity(4096);
        loop {
            let mut chunk = [0; 4096];
            match rustix::io::read(&file, &mut chunk) {
                Ok(0) => break,
                Ok(bytes) => text.extend_from_slice(&chunk[..bytes]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        serde_json::from_slice(&text).map_err(|_| Errno::INVAL)
    }

    /// A driver by its name.
    pub fn driver(&self, name: &str) -> Option<&DriverConfig> {
        self.drivers.iter().find(|driver| driver.name == name)
    }

    /// The groups of the machine, ascending.
    pub fn groups(&self) -> Vec<u32> {
        let mut groups: Vec<u32> = self.devices.iter().map(|device| device.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Is VFIO in no-IOMMU mode, for want of an IOMMU?
    pub fn without_iommu(&self) -> bool {
        self.iommu.kind == IommuKind::None
    }

    /// Whether devices of a group come to an iommufd: with `multi_device_groups=1` only one that is alone in its group, be
    /// the others there or not.
    pub fn takes_iommufd(&self, group: u32) -> bool {
        let members = self.devices.iter().filter(|device| device.group == group);
        self.vfio.multi_device_groups != 1 || members.count() == 1
    }

    /// Whether devices of a group have nodes of their own. None has without an IOMMU.
    pub fn has_own_nodes(&self, group: u32) -> bool {
        !self.without_iommu() && self.takes_iommufd(group)
    }

    /// What the node of a group is called in /dev/vfio.
    pub fn group_node(&self, group: u32) -> String {
        if self.without_iommu() {
            format!("noiommu-{group}")
        } else {
            group.to_string()
        }
    }

    /// The device number of `/dev/vfio/N` as (major, minor), `None` if the machine has no such group.
    pub fn group_device(&self, group: u32) -> Option<(u32, u32)> {
        let exists = self.devices.iter().any(|device| device.group == group);
        exists.then_some((tree::GROUP_MAJOR, group))
    }
}

/// `[iommu]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IommuConfig {
    /// Which model.
    pub kind: IommuKind,
    /// VT-d: scalable mode (PASID tables) rather than legacy mode. Default true; false for AMD, which has no modes.
    pub scalable: bool,
    /// Guest address width in bits: 39, 48 (default) or 57 for VT-d; 32..=64 for AMD (default 48).
    pub address_width: u8,
    /// A modelled IOTLB (default true).
    pub iotlb: bool,
    /// Without an IOMMU: the client counts as having CAP_SYS_RAWIO, which no-IOMMU mode asks for (default true).
    pub rawio: bool,
}

impl Default for IommuConfig {
    fn default() -> IommuConfig {
        IommuConfig {
            kind: IommuKind::Vtd,
            scalable: true,
            address_width: 48,
            iotlb: true,
            rawio: true,
        }
    }
}

/// The IOMMU models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IommuKind {
    /// Intel VT-d, second-stage tables.
    Vtd,
    /// AMD-Vi, version 1 tables.
    Amd,
    /// None, with VFIO's no-IOMMU mode on: a device reaches all memory of the client.
    None,
}

impl IommuKind {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            IommuKind::Vtd => "vtd",
            IommuKind::Amd => "amd",
            IommuKind::None => "none",
        }
    }
}

/// `[vfio]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VfioConfig {
    /// `vfio_iommu_type1.dma_entry_limit` (65535).
    pub dma_entry_limit: u32,
    /// `vfio_pci.enable_sriov` at the start: vfio-pci may switch virtual functions on (false).
    pub enable_sriov: bool,
    /// Locked-memory limit of MAP_DMA.
    pub memlock: Memlock,
    /// What devices of a group with several devices may do through iommufd: 1..=3 (default 2). 1: nothing, they have
    /// no node of their own. 2: share one address space, as Linux does. 3: have different ones, those that share a
    /// requester id excepted.
    pub multi_device_groups: u8,
    /// Whose errnos answer a broken group rule.
    pub groups: GroupRules,
}

/// `groups = "landed" | "rfc"`: the same rules with the errnos that Linux answers, or that were proposed for /dev/iommu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupRules {
    /// Linux: EPERM for a group that is not viable or belongs to another owner.
    #[default]
    Landed,
    /// The proposal of 2021: EINVAL for a group that is not viable, EBUSY for one that belongs to another owner.
    Rfc,
}

impl GroupRules {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            GroupRules::Landed => "landed",
            GroupRules::Rfc => "rfc",
        }
    }
}

impl Default for VfioConfig {
    fn default() -> VfioConfig {
        VfioConfig {
            dma_entry_limit: 65535,
            enable_sriov: false,
            memlock: Memlock::Unlimited,
            multi_device_groups: 2,
            groups: GroupRules::Landed,
        }
    }
}

/// `memlock = "inherit" | "unlimited" | SIZE`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Memlock {
    /// The client's RLIMIT_MEMLOCK (ignored with CAP_IPC_LOCK, as in the kernel).
    Inherit,
    /// No limit.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

impl From<Memlock> for String {
    fn from(memlock: Memlock) -> String {
        match memlock {
            Memlock::Inherit => "inherit".into(),
            Memlock::Unlimited => "unlimited".into(),
            Memlock::Bytes(bytes) => size::format(bytes),
        }
    }
}

impl TryFrom<String> for Memlock {
    type Error = String;

    fn try_from(text: String) -> Result<Memlock, String> {
        match text.as_str() {
            "inherit" => Ok(Memlock::Inherit),
            "unlimited" => Ok(Memlock::Unlimited),
            other => size::parse(other).map(Memlock::Bytes).ok_or_else(|| {
                format!("'{other}' is not inherit, unlimited or {}", size::ACCEPTED)
            }),
        }
    }
}

/// `[[device]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Its address.
    pub bdf: String,
    /// Its IOMMU group.
    pub group: u32,
    /// The address that its requests bear, if it is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// The driver it is bound to when the run begins, if any.
    #[serde(default = "vfio_pci")]
    pub driver: Option<String>,
    /// There when the run begins. Otherwise it appears when the bus is rescanned.
    #[serde(default = "yes")]
    pub present: bool,
    /// What it is.
    #[serde(flatten)]
    pub kind: DeviceKind,
}

fn vfio_pci() -> Option<String> {
    Some(driver::VFIO_PCI.into())
}

fn yes() -> bool {
    true
}

impl DeviceConfig {
    /// A device that is there and bound to vfio-pci when the run begins.
    pub fn new(bdf: String, group: u32, kind: DeviceKind) -> DeviceConfig {
        DeviceConfig {
            bdf,
            group,
            requester: None,
            driver: vfio_pci(),
            present: true,
            kind,
        }
    }

    /// Its address, parsed.
    ///
    /// # Panics
    /// If the machine was not made by [`resolve`]: that checks every address.
    pub fn address(&self) -> Bdf {
        checked(&self.bdf)
    }

    /// The address that its requests bear.
    ///
    /// # Panics
    /// As [`DeviceConfig::address`].
    pub fn requester(&self) -> Bdf {
        checked(self.requester.as_ref().unwrap_or(&self.bdf))
    }
}

fn checked(address: &str) -> Bdf {
    address
        .parse()
        .expect("addresses were checked when the machine was resolved")
}

/// What a device is, by `kind =`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DeviceKind {
    /// An NVMe 1.4 controller.
    Nvme(NvmeConfig),
    /// QEMU's educational device.
    Edu(EduConfig),
    /// Intel's I/O Acceleration Technology.
    Ioat(IoatConfig),
    /// A device that only fills a place in a group.
    Stub(StubConfig),
}

impl DeviceKind {
    /// Its name in flags and files.
    pub fn name(&self) -> &'static str {
        match self {
            DeviceKind::Nvme(_) => "nvme",
            DeviceKind::Edu(_) => "edu",
            DeviceKind::Ioat(_) => "ioat",
            DeviceKind::Stub(_) => "stub",
        }
    }
}

/// `migration =`: what a device's driver can do of it. Off is vfio-pci itself; the others are a variant driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Migration {
    /// Nothing.
    #[default]
    Off,
    /// Stop, and copy.
    StopCopy,
    /// And be quiet towards other devices before.
    P2p,
    /// And be copied while it runs.
    PreCopy,
    /// All of it.
    All,
}

impl Migration {
    /// All, by name.
    pub const NAMES: [(&str, Migration); 5] = [
        ("off", Migration::Off),
        ("stop-copy", Migration::StopCopy),
        ("p2p", Migration::P2p),
        ("pre-copy", Migration::PreCopy),
        ("all", Migration::All),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let mut names = Migration::NAMES.iter();
        names
            .find(|(_, migration)| *migration == self)
            .map_or("", |(name, _)| name)
    }

    /// `MIGRATION_*` of the interface.
    pub fn features(self) -> u64 {
        use swiommu_abi::vfio::{MIGRATION_P2P, MIGRATION_PRE_COPY, MIGRATION_STOP_COPY};
        match self {
            Migration::Off => 0,
            Migration::StopCopy => MIGRATION_STOP_COPY,
            Migration::P2p => MIGRATION_STOP_COPY | MIGRATION_P2P,
            Migration::PreCopy => MIGRATION_STOP_COPY | MIGRATION_PRE_COPY,
            Migration::All => MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY,
        }
    }
}

/// `kind = "nvme"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NvmeConfig {
    /// One medium per namespace, in order: namespace 1, 2, ... In a run: absolute paths to raw files or block devices
    /// (a `size=` namespace is a file of the run's directory).
    pub namespaces: Vec<Medium>,
    /// Logical block size in bytes: 512 (default) or 4096.
    pub block: u32,
    /// Serial number, up to 20 ASCII characters.
    pub serial: String,
    /// I/O queue pairs, 1..=64 (default 16).
    pub queues: u16,
    /// Volatile write cache in bytes; 0 = none (default 8 MiB).
    pub cache: u64,
    /// Seed of what the cache evicts (default 0).
    pub seed: u64,
    /// What its driver can do of migration (default off).
    pub migration: Migration,
    /// Virtual functions it can have, 0..=127 (default 0).
    pub vfs: u16,
    /// Which virtual function of which controller it is itself, if it is one.
    pub part: Option<sriov::Virtual>,
}

impl Default for NvmeConfig {
    fn default() -> NvmeConfig {
        let serial = "swiommu-nvme".into();
        NvmeConfig {
            namespaces: Vec::new(),
            block: 512,
            serial,
            queues: 16,
            cache: 8 << 20,
            seed: 0,
            migration: Migration::Off,
            vfs: 0,
            part: None,
        }
    }
}

/// A namespace's medium.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Medium {
    /// A raw file or block device. Before a run has its directory, a relative path is a file still to be made there.
    pub path: PathBuf,
    /// Its size in bytes; the part beyond the last whole block is not used.
    pub bytes: u64,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}

/// `kind = "edu"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct EduConfig {
    /// Bits of DMA address the device can drive; QEMU's `dma_mask` (default 28 bits there: 0 means that).
    pub dma_bits: u8,
}

/// `kind = "ioat"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IoatConfig {
    /// Which processor's it is (default Sky Lake's).
    pub model: IoatModel,
    /// Channels, 1..=8 (default 1, as both models have).
    pub channels: u8,
    /// Most bytes that a descriptor may move: a power of two, 4 KiB..=1 MiB (default 1 MiB).
    pub transfer: u64,
}

impl Default for IoatConfig {
    fn default() -> IoatConfig {
        IoatConfig {
            model: IoatModel::default(),
            channels: 1,
            transfer: *crate::device::ioat::TRANSFER.end(),
        }
    }
}

/// `model =` of an ioat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoatModel {
    /// 8086:2021, version 3.3.
    #[default]
    Skylake,
    /// 8086:0b00, version 3.4.
    Icelake,
}

impl IoatModel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            IoatModel::Skylake => "skylake",
            IoatModel::Icelake => "icelake",
        }
    }
}

/// `kind = "stub"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct StubConfig {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// BARs: `"128K"` for memory, `"io:32"` for I/O, empty for none.
    pub bars: [String; 6],
    /// MSI-X vectors.
    pub msix: u16,
    /// MSI vectors.
    pub msi: u8,
    /// Has INTA.
    pub intx: bool,
}

#[cfg(test)]
mod tests;
