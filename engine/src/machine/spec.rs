//! What flags say: `--device KIND,key=value,...` and `--iommu KIND,key=value,...`.
//!
//! A spec is a wish with gaps: addresses, groups and media are filled in by [`resolve`](super::resolve). Machine files
//! ([`file`](super::file)) are read through the same keys, so flags and files accept the same and complain alike.
//!
//! In a flag a comma ends a value; `,,` is a comma within it (as in QEMU's options).

use super::driver::{DriverConfig, ID_ACCEPTED};
use super::{
    Bdf, EduConfig, GroupRules, IoatConfig, IoatModel, IommuKind, MachineError, Memlock, Migration,
    NvmeConfig, StubConfig, VfioConfig, size, sriov,
};
use crate::device::ioat::{CHANNELS_MOST, TRANSFER};
use crate::device::stub::parse_bar;
use crate::pci::Bar;

/// The device kinds, for error messages.
pub const KINDS: &str = "nvme, edu, ioat, stub";

/// A wished-for device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSpec {
    /// Where it was asked for, as errors name it: `--device nvme,file=a` or `machine.toml: device 2`.
    pub origin: String,
    /// Its address, if given.
    pub bdf: Option<Bdf>,
    /// Its group, if given.
    pub group: Option<u32>,
    /// The address that its requests bear, if given.
    pub requester: Option<Bdf>,
    /// The driver it begins with, if given: a name, or `none`.
    pub driver: Option<String>,
    /// Whether it is there from the beginning.
    pub present: bool,
    /// What it is.
    pub kind: KindSpec,
}

/// What a wished-for device is.
#[derive(Clone, Debug, PartialEq)]
pub enum KindSpec {
    /// `nvme`
    Nvme(NvmeSpec),
    /// `edu`
    Edu(EduConfig),
    /// `ioat`
    Ioat(IoatConfig),
    /// `stub`
    Stub(StubConfig),
}

/// A wished-for NVMe controller.
#[derive(Clone, Debug, PartialEq)]
pub struct NvmeSpec {
    /// Namespaces 1, 2, ...
    pub namespaces: Vec<NamespaceSpec>,
    /// `ro` without a namespace: all are read-only.
    pub read_only: bool,
    /// Serial number, if given.
    pub serial: Option<String>,
    /// Bytes of volatile write cache, if given.
    pub cache: Option<u64>,
    /// Everything else (its namespaces, serial and cache are not used).
    pub config: NvmeConfig,
}

/// A wished-for namespace.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NamespaceSpec {
    /// Its medium, if given.
    pub source: Option<Source>,
    /// Refuse writes.
    pub read_only: bool,
}

/// Where a namespace's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `file=`: a raw file or block device.
    File(String),
    /// `size=`: so many zeroed bytes that last as long as the run.
    Size(u64),
}

/// A wished-for IOMMU; what is `None` is left as it was.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct IommuSpec {
    /// Where it was asked for.
    pub origin: String,
    /// The model.
    pub kind: Option<IommuKind>,
    /// `scalable=` (VT-d only).
    pub scalable: Option<bool>,
    /// `address_width=`
    pub address_width: Option<u8>,
    /// `iotlb=`
    pub iotlb: Option<bool>,
    /// `rawio=` (none only).
    pub rawio: Option<bool>,
}

/// Wished-for VFIO settings.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct VfioSpec {
    /// `dma_entry_limit=`
    pub dma_entry_limit: Option<u32>,
    /// `enable_sriov=`
    pub enable_sriov: Option<bool>,
    /// `memlock=`
    pub memlock: Option<Memlock>,
    /// `multi_device_groups=`
    pub multi_device_groups: Option<u8>,
    /// `groups=`
    pub groups: Option<GroupRules>,
}

impl VfioSpec {
    /// Writes the given settings over `config`.
    pub fn apply(&self, config: &mut VfioConfig) {
        config.dma_entry_limit = self.dma_entry_limit.unwrap_or(config.dma_entry_limit);
        config.enable_sriov = self.enable_sriov.unwrap_or(config.enable_sriov);
        config.memlock = self.memlock.unwrap_or(config.memlock);
        config.multi_device_groups = self
            .multi_device_groups
            .unwrap_or(config.multi_device_groups);
        config.groups = self.groups.unwrap_or(config.groups);
    }
}

impl DeviceSpec {
    /// A device of `kind` with nothing said about it.
    ///
    /// # Errors
    /// The kind is none of [`KINDS`].
    pub fn new(origin: &str, kind: &str) -> Result<DeviceSpec, MachineError> {
        let kind = match kind {
            "nvme" => KindSpec::Nvme(NvmeSpec {
                namespaces: Vec::new(),
                read_only: false,
                serial: None,
                cache: None,
                config: NvmeConfig::default(),
            }),
            "edu" => KindSpec::Edu(EduConfig { dma_bits: 28 }),
            "ioat" => KindSpec::Ioat(IoatConfig::default()),
            "stub" => KindSpec::Stub(StubConfig {
                vendor: 0x1234,
                device: 1,
                class: 0xff_0000,
                ..StubConfig::default()
            }),
            other => {
                return Err(MachineError::at(
                    origin,
                    format!("unknown kind '{other}': accepted are {KINDS}"),
                ));
            }
        };
        Ok(DeviceSpec {
            origin: origin.into(),
            bdf: None,
            group: None,
            requester: None,
            driver: None,
            present: true,
            kind,
        })
    }

    /// Sets one key. `value` is `None` when only the key was written.
    ///
    /// # Errors
    /// Unknown key or a value it does not take: the text says what is accepted.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "bdf" => self.bdf = Some(address(key, value)?),
            "requester" => self.requester = Some(address(key, value)?),
            "group" => self.group = Some(number(key, value, 0, MAX_GROUP.into())?),
            "driver" => self.driver = Some(parsed(key, value, DRIVER_NAME, driver_name)?),
            "present" => self.present = boolean(key, value)?,
            _ => match &mut self.kind {
                KindSpec::Nvme(nvme) => nvme.set(key, value)?,
                KindSpec::Edu(edu) => set_edu(edu, key, value)?,
                KindSpec::Ioat(ioat) => set_ioat(ioat, key, value)?,
                KindSpec::Stub(stub) => set_stub(stub, key, value)?,
            },
        }
        Ok(())
    }
}

fn address(key: &str, value: Option<&str>) -> Result<Bdf, String> {
    parsed(key, value, super::bdf::ACCEPTED, |text| text.parse().ok())
}

/// What a driver is called, for error messages.
const DRIVER_NAME: &str = "a driver's name (letters, digits, - and _)";

fn driver_name(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (!text.is_empty() && text.bytes().all(good)).then(|| text.to_owned())
}

/// Reads the value of a `--driver` flag.
///
/// # Errors
/// One line that names the flag and what is accepted.
pub fn driver(flag: &str) -> Result<DriverConfig, MachineError> {
    let origin = format!("--driver {flag}");
    let items = split(flag);
    let mut driver = DriverConfig::default();
    let named = set_driver(&mut driver, "name", Some(&items[0]));
    named.map_err(|text| MachineError::at(&origin, text))?;
    for item in &items[1..] {
        let (key, value) = key_value(item);
        set_driver(&mut driver, key, value).map_err(|text| MachineError::at(&origin, text))?;
    }
    Ok(driver)
}

/// Sets one key of a driver.
///
/// # Errors
/// Unknown key or a value it does not take.
pub fn set_driver(driver: &mut DriverConfig, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "name" => {
            let name = |text: &str| driver_name(text).filter(|name| name != "none");
            driver.name = parsed(key, value, DRIVER_NAME, name)?;
        }
        "managed_dma" => driver.managed_dma = boolean(key, value)?,
        "sriov" => driver.sriov = boolean(key, value)?,
        "vfio" => driver.vfio = boolean(key, value)?,
        "id" => driver.ids.push(parsed(key, value, ID_ACCEPTED, |text| {
            text.to_owned().try_into().ok()
        })?),
        _ => {
            return Err(format!(
                "unknown key '{key}': a driver accepts id=, managed_dma, sriov, vfio"
            ));
        }
    }
    Ok(())
}

/// Reads the value of a `--vfio` flag.
///
/// # Errors
/// One line that names the flag and what is accepted.
pub fn vfio(flag: &str, spec: &mut VfioSpec) -> Result<(), MachineError> {
    for item in split(flag) {
        let (key, value) = key_value(&item);
        spec.set(key, value)
            .map_err(|text| MachineError::at(&format!("--vfio {flag}"), text))?;
    }
    Ok(())
}

/// The largest group number: the kernel's minor numbers end there.
pub const MAX_GROUP: u32 = 0xf_ffff;

/// Reads the value of a `--device` flag.
///
/// # Errors
/// One line that names the flag and what is accepted.
pub fn device(flag: &str) -> Result<DeviceSpec, MachineError> {
    let origin = format!("--device {flag}");
    let items = split(flag);
    let mut spec = DeviceSpec::new(&origin, &items[0])?;
    for item in &items[1..] {
        let (key, value) = key_value(item);
        spec.set(key, value)
            .map_err(|text| MachineError::at(&origin, text))?;
    }
    Ok(spec)
}

/// Reads the value of an `--iommu` flag.
///
/// # Errors
/// One line that names the flag and what is accepted.
pub fn iommu(flag: &str) -> Result<IommuSpec, MachineError> {
    let origin = format!("--iommu {flag}");
    let items = split(flag);
    let mut spec = IommuSpec {
        origin: origin.clone(),
        ..IommuSpec::default()
    };
    let mut set = |key: &str, value: Option<&str>| {
        spec.set(key, value)
            .map_err(|text| MachineError::at(&origin, text))
    };
    set("kind", Some(&items[0]))?;
    for item in &items[1..] {
        let (key, value) = key_value(item);
        set(key, value)?;
    }
    Ok(spec)
}

impl IommuSpec {
    /// Sets one key (`kind` among them).
    ///
    /// # Errors
    /// Unknown key or a value it does not take.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "kind" => {
                self.kind = Some(parsed(key, value, "vtd, amd or none", |text| match text {
                    "vtd" => Some(IommuKind::Vtd),
                    "amd" => Some(IommuKind::Amd),
                    "none" => Some(IommuKind::None),
                    _ => None,
                })?);
            }
            "scalable" => self.scalable = Some(boolean(key, value)?),
            "address_width" => self.address_width = Some(number(key, value, 32, 64)?),
            "iotlb" => self.iotlb = Some(boolean(key, value)?),
            "rawio" => self.rawio = Some(boolean(key, value)?),
            _ => {
                return Err(format!(
                    "unknown key '{key}': accepted are address_width=, iotlb=, rawio= (none), scalable= (vtd)"
                ));
            }
        }
        Ok(())
    }
}

impl VfioSpec {
    /// Sets one key of `[vfio]`.
    ///
    /// # Errors
    /// Unknown key or a value it does not take.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "dma_entry_limit" => {
                self.dma_entry_limit = Some(number(key, value, 1, u32::MAX.into())?)
            }
            "memlock" => {
                let accepted = format!("inherit, unlimited or {}", size::ACCEPTED);
                self.memlock = Some(parsed(key, value, &accepted, |text| {
                    text.to_string().try_into().ok()
                })?);
            }
            "enable_sriov" => self.enable_sriov = Some(boolean(key, value)?),
            "multi_device_groups" => self.multi_device_groups = Some(number(key, value, 1, 3)?),
            "groups" => {
                self.groups = Some(parsed(key, value, "landed or rfc", |text| match text {
                    "landed" => Some(GroupRules::Landed),
                    "rfc" => Some(GroupRules::Rfc),
                    _ => None,
                })?)
            }
            _ => {
                return Err(format!(
                    "unknown key '{key}': accepted are dma_entry_limit=, enable_sriov=, groups=, memlock=, \
                     multi_device_groups="
                ));
            }
        }
        Ok(())
    }
}

impl NvmeSpec {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "file" | "size" => {
                let source = Some(source(key, key, value)?);
                self.namespaces.push(NamespaceSpec {
                    source,
                    read_only: false,
                });
            }
            "ro" => self.read_only = boolean(key, value)?,
            "block" => {
                self.config.block = parsed(key, value, "512 or 4096", |text| match text {
                    "512" => Some(512),
                    "4096" | "4K" | "4k" => Some(4096),
                    _ => None,
                })?
            }
            "serial" => {
                self.serial = Some(parsed(
                    key,
                    value,
                    "1 to 20 printable ASCII characters",
                    |text| {
                        let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                        (printable && (1..=20).contains(&text.len())).then(|| text.to_string())
                    },
                )?)
            }
            "queues" => self.config.queues = number(key, value, 1, 64)?,
            "cache" => self.cache = Some(bytes(key, value)?),
            "seed" => self.config.seed = number(key, value, 0, i64::MAX as u64)?,
            "migration" => {
                self.config.migration =
                    parsed(key, value, "off, stop-copy, p2p, pre-copy or all", |text| {
                        let mut names = Migration::NAMES.iter();
                        names.find(|(name, _)| *name == text).map(|named| named.1)
                    })?
            }
            "vfs" => self.config.vfs = number(key, value, 0, sriov::MOST.into())?,
            _ => match key.strip_prefix("ns").and_then(|rest| rest.split_once('.')) {
                Some((index, field)) => self.set_namespace(key, index, field, value)?,
                None => return Err(unknown_nvme_key(key)),
            },
        }
        Ok(())
    }

    /// `nsN.file=`, `nsN.size=`, `nsN.ro`: the namespaces up to N come into being with it.
    fn set_namespace(
        &mut self,
        key: &str,
        index: &str,
        field: &str,
        value: Option<&str>,
    ) -> Result<(), String> {
        let index: usize = number("ns", Some(index), 1, 32)?;
        if !matches!(field, "file" | "size" | "ro") {
            return Err(unknown_nvme_key(key));
        }
        let read_only = if field == "ro" {
            Some(boolean(key, value)?)
        } else {
            None
        };
        let source = if field == "ro" {
            None
        } else {
            Some(source(key, field, value)?)
        };
        if self.namespaces.len() < index {
            self.namespaces.resize(index, NamespaceSpec::default());
        }
        let namespace = &mut self.namespaces[index - 1];
        if source.is_some() && namespace.source.is_some() {
            return Err(format!(
                "{key}: namespace {index} already has a medium; accepted is one file= or size= each"
            ));
        }
        namespace.source = source.or(namespace.source.take());
        namespace.read_only = read_only.unwrap_or(namespace.read_only);
        Ok(())
    }
}

fn unknown_nvme_key(key: &str) -> String {
    format!(
        "unknown key '{key}': nvme accepts bdf=, block=, cache=, driver=, file=, group=, migration=, nsN.file=, nsN.ro, \
         nsN.size=, present=, queues=, requester=, ro, seed=, serial=, size=, vfs="
    )
}

fn source(key: &str, field: &str, value: Option<&str>) -> Result<Source, String> {
    if field == "size" {
        return bytes(key, value).map(Source::Size);
    }
    parsed(key, value, "a raw file or a block device", |text| {
        (!text.is_empty() && !text.contains('\0')).then(|| Source::File(text.into()))
    })
}

fn set_edu(edu: &mut EduConfig, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "dma_bits" => edu.dma_bits = number(key, value, 1, 64)?,
        _ => {
            return Err(format!(
                "unknown key '{key}': edu accepts bdf=, dma_bits=, driver=, group=, present=, requester="
            ));
        }
    }
    Ok(())
}

fn set_ioat(ioat: &mut IoatConfig, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "model" => {
            ioat.model = parsed(key, value, "skylake or icelake", |text| {
                let models = [IoatModel::Skylake, IoatModel::Icelake];
                models.into_iter().find(|model| model.name() == text)
            })?
        }
        "channels" => ioat.channels = number(key, value, 1, CHANNELS_MOST.into())?,
        "transfer" => {
            ioat.transfer = parsed(key, value, "a power of two from 4K to 1M", |text| {
                size::parse(text)
                    .filter(|bytes| bytes.is_power_of_two() && TRANSFER.contains(bytes))
            })?
        }
        _ => {
            return Err(format!(
                "unknown key '{key}': ioat accepts bdf=, channels=, driver=, group=, model=, present=, requester=, \
                 transfer="
            ));
        }
    }
    Ok(())
}

fn set_stub(stub: &mut StubConfig, key: &str, value: Option<&str>) -> Result<(), String> {
    match key {
        "vendor" => stub.vendor = id(key, value, 1, 0xfffe)?,
        "device" => stub.device = id(key, value, 0, 0xffff)?,
        "class" => stub.class = id(key, value, 0, 0xff_ffff)?,
        "msix" => stub.msix = number(key, value, 0, 2048)?,
        "msi" => {
            stub.msi = parsed(key, value, "0, 1, 2, 4, 8, 16 or 32", |text| {
                text.parse().ok().filter(|vectors: &u8| {
                    *vectors == 0 || (vectors.is_power_of_two() && *vectors <= 32)
                })
            })?
        }
        "intx" => stub.intx = boolean(key, value)?,
        _ => match key
            .strip_prefix("bar")
            .and_then(|index| index.parse::<usize>().ok())
            .filter(|index| *index < 6)
        {
            Some(index) if key.len() == 4 => {
                stub.bars[index] = parsed(key, value, BAR_ACCEPTED, canonical_bar)?
            }
            _ => {
                return Err(format!(
                    "unknown key '{key}': stub accepts bar0= to bar5=, bdf=, class=, device=, driver=, group=, \
                     intx=, msi=, msix=, present=, requester=, vendor="
                ));
            }
        },
    }
    Ok(())
}

/// What a stub's BAR can be, for error messages.
const BAR_ACCEPTED: &str =
    "a power of two from 16 to 1G for memory (128K), io:4 to io:256 for I/O (io:32)";

/// One spelling per BAR, so that equal machines compare equal.
fn canonical_bar(text: &str) -> Option<String> {
    Some(match parse_bar(text).ok()? {
        Bar::Memory { bytes, .. } => size::format(bytes),
        Bar::Io { bytes } => format!("io:{bytes}"),
        Bar::None => return None,
    })
}

/// Splits at commas; `,,` is a comma. Never empty.
fn split(flag: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = flag.chars().peekable();
    while let Some(char) = chars.next() {
        if char != ',' || chars.next_if_eq(&',').is_some() {
            items.last_mut().expect("never empty").push(char);
        } else {
            items.push(String::new());
        }
    }
    items
}

fn key_value(item: &str) -> (&str, Option<&str>) {
    match item.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (item, None),
    }
}

fn parsed<T>(
    key: &str,
    value: Option<&str>,
    accepted: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    let Some(text) = value else {
        return Err(format!("{key} needs a value: accepted is {accepted}"));
    };
    parse(text).ok_or_else(|| format!("{key}={text}: accepted is {accepted}"))
}

fn bytes(key: &str, value: Option<&str>) -> Result<u64, String> {
    parsed(key, value, size::ACCEPTED, size::parse)
}

/// A key alone means yes.
fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    parsed(
        key,
        value.or(Some("1")),
        "1, 0, true, false, on, off, yes or no",
        |text| match text {
            "1" | "true" | "on" | "yes" => Some(true),
            "0" | "false" | "off" | "no" => Some(false),
            _ => None,
        },
    )
}

/// A number of `first..=last`, decimal or 0x hexadecimal.
fn number<T: TryFrom<u64>>(
    key: &str,
    value: Option<&str>,
    first: u64,
    last: u64,
) -> Result<T, String> {
    let accepted = format!("a number from {first} to {last}");
    parsed(key, value, &accepted, |text| {
        let (digits, radix) = text
            .strip_prefix("0x")
            .map_or((text, 10), |digits| (digits, 16));
        let unsigned = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = if unsigned {
            u64::from_str_radix(digits, radix).ok()?
        } else {
            return None;
        };
        if (first..=last).contains(&number) {
            number.try_into().ok()
        } else {
            None
        }
    })
}

/// An identifier of `first..=last`, as [`number`], but shown in hexadecimal.
fn id<T: TryFrom<u64>>(key: &str, value: Option<&str>, first: u64, last: u64) -> Result<T, String> {
    let accepted = format!("an id from {first:#x} to {last:#x}");
    parsed(key, value, &accepted, |text| {
        number(key, Some(text), first, last).ok()
    })
}
