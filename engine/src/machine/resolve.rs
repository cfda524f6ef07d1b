//! From wishes to a machine: layers merged, gaps filled, impossibilities refused.
//!
//! Rules, in the order they are applied:
//!
//! * A later layer's IOMMU and VFIO keys replace an earlier one's, key by key; another IOMMU kind starts from that kind's defaults.
//! * A later layer's devices replace an earlier one's, unless it adds ([`Layer::adds_devices`]).
//! * A device without an address gets one: an NVMe 00.0 of the first bus from 1 that has no device, others the first
//!   free slot of bus 0 from 4.
//! * A device without a group joins the other functions of its slot (no ACS between functions), or those whose requests
//!   bear the same requester id, else it gets the smallest free number from 1 (where real machines have their host
//!   bridge in group 0).
//! * Without an IOMMU there is nothing to group by: VFIO gives each device a group of its own, numbered from 0 in the
//!   devices' order, whatever `group=` says.
//! * The virtual functions of a device (`vfs=`) follow all other devices, each in a group of its own.
//! * A group does not span PCI segments: no bridge connects them.
//! * Devices whose requests bear one requester id are in one group. There is one IOMMU, which does not see segments.
//! * A driver replaces one of its name, or joins the others; a device without one begins with vfio-pci.

use crate::device::stub::parse_bar;
use crate::pci::Bar;

use super::driver::{self, DriverConfig};
use super::requester::tell_apart;
use super::spec::{DeviceSpec, IommuSpec, KindSpec, NamespaceSpec, NvmeSpec, Source, VfioSpec};
use super::{
    Bdf, DeviceConfig, DeviceKind, IommuConfig, IommuKind, Machine, Medium, NvmeConfig, StubConfig,
    VfioConfig, sriov,
};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Why a machine cannot be: one line that names the flag or file and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineError(String);

impl MachineError {
    /// At a place (a flag, a file), what is wrong. Control characters are shown escaped: an error is one line.
    pub fn at(origin: &str, text: String) -> MachineError {
        let mut line = String::new();
        for char in format!("{origin}: {text}").chars() {
            if char.is_control() {
                line.extend(char.escape_default())
            } else {
                line.push(char)
            }
        }
        MachineError(line)
    }
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MachineError {}

/// One source of wishes: the built-in machine, a file, the flags.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Layer {
    /// The IOMMU.
    pub iommu: Option<IommuSpec>,
    /// VFIO settings.
    pub vfio: VfioSpec,
    /// The devices.
    pub devices: Vec<DeviceSpec>,
    /// The devices join those of earlier layers instead of replacing them.
    pub adds_devices: bool,
    /// PCI drivers, beside the built-in ones.
    pub drivers: Vec<DriverConfig>,
}

impl Layer {
    /// What there is when nobody asks for anything: an NVMe of 1 GiB in memory and an edu.
    pub fn built_in() -> Layer {
        let device = |flag| super::spec::device(flag).expect("the built-in flags are well-formed");
        Layer {
            devices: vec![device("nvme,size=1G"), device("edu")],
            ..Layer::default()
        }
    }
}

/// Makes a machine of layers, lowest first. Media given as files are looked at, not changed.
///
/// # Errors
/// One line that names the flag or file and what is accepted.
pub fn resolve(layers: &[Layer]) -> Result<Machine, MachineError> {
    let mut iommu = IommuConfig::default();
    let mut vfio = VfioConfig::default();
    let mut specs: Vec<&DeviceSpec> = Vec::new();
    let mut drivers = driver::built_in();
    for layer in layers {
        if let Some(spec) = &layer.iommu {
            apply_iommu(&mut iommu, spec)?;
        }
        layer.vfio.apply(&mut vfio);
        if !layer.devices.is_empty() && !layer.adds_devices {
            specs.clear();
        }
        specs.extend(&layer.devices);
        for driver in &layer.drivers {
            match drivers.iter_mut().find(|other| other.name == driver.name) {
                Some(other) => *other = driver.clone(),
                None => drivers.push(driver.clone()),
            }
        }
    }
    let addresses = place(&specs)?;
    let groups = match iommu.kind {
        IommuKind::None => (0..).take(specs.len()).collect(),
        _ => group(&specs, &addresses)?,
    };
    let mut devices = Vec::new();
    let mut media = Vec::new();
    for ((spec, bdf), group) in specs.iter().zip(addresses).zip(groups) {
        let kind = configure(spec, bdf, &mut media)?;
        let driver = initial_driver(spec, &drivers)?;
        devices.push(DeviceConfig {
            driver,
            requester: spec.requester.map(|bdf| bdf.to_string()),
            present: spec.present,
            ..DeviceConfig::new(bdf.to_string(), group, kind)
        });
    }
    sriov::add(&mut devices, &iommu)
        .and_then(|()| match iommu.kind {
            IommuKind::None => Ok(()),
            _ => tell_apart(&devices),
        })
        .map_err(|(index, text)| MachineError::at(&specs[index].origin, text))?;
    Ok(Machine {
        mock: false,
        iommu,
        vfio,
        devices,
        drivers,
    })
}

/// The driver a device begins with: one of the machine's.
fn initial_driver(
    spec: &DeviceSpec,
    drivers: &[DriverConfig],
) -> Result<Option<String>, MachineError> {
    let Some(name) = &spec.driver else {
        return Ok(Some(driver::VFIO_PCI.into()));
    };
    if name == "none" || drivers.iter().any(|driver| driver.name == *name) {
        return Ok(Some(name.clone()).filter(|name| name != "none"));
    }
    let names: Vec<&str> = drivers.iter().map(|driver| driver.name.as_str()).collect();
    let text = format!(
        "driver={name}: the machine has no such driver: accepted are none, {}",
        names.join(", ")
    );
    Err(MachineError::at(&spec.origin, text))
}

fn apply_iommu(config: &mut IommuConfig, spec: &IommuSpec) -> Result<(), MachineError> {
    let at = |text| Err(MachineError::at(&spec.origin, text));
    if let Some(kind) = spec.kind.filter(|kind| *kind != config.kind) {
        *config = IommuConfig {
            kind,
            scalable: kind == IommuKind::Vtd,
            ..IommuConfig::default()
        };
    }
    if config.kind == IommuKind::None {
        if (spec.scalable, spec.address_width, spec.iotlb) != (None, None, None) {
            return at("none has no tables: it accepts rawio=".into());
        }
        config.rawio = spec.rawio.unwrap_or(config.rawio);
        return Ok(());
    }
    if spec.rawio.is_some() {
        return at("rawio is a key of none".into());
    }
    if let Some(scalable) = spec.scalable {
        if config.kind == IommuKind::Amd {
            return at("scalable is a key of vtd: amd accepts address_width=, iotlb=".into());
        }
        config.scalable = scalable;
    }
    if let Some(width) = spec.address_width {
        if config.kind == IommuKind::Vtd && ![39, 48, 57].contains(&width) {
            return at(format!("address_width={width}: vtd accepts 39, 48 or 57"));
        }
        config.address_width = width;
    }
    config.iotlb = spec.iotlb.unwrap_or(config.iotlb);
    Ok(())
}

/// An address for every device.
fn place(specs: &[&DeviceSpec]) -> Result<Vec<Bdf>, MachineError> {
    let mut taken: Vec<Bdf> = specs.iter().filter_map(|spec| spec.bdf).collect();
    let mut addresses: Vec<Bdf> = Vec::new();
    for spec in specs {
        let bdf = match spec.bdf {
            Some(bdf) => bdf,
            None => free_address(&spec.kind, &taken).ok_or_else(|| {
                MachineError::at(
                    &spec.origin,
                    "no address is left for it: give bdf=SSSS:BB:DD.F".into(),
                )
            })?,
        };
        if let Some(other) = addresses.iter().position(|address| *address == bdf) {
            let text = format!(
                "{bdf} is taken by {}: two devices cannot have one bdf=",
                specs[other].origin
            );
            return Err(MachineError::at(&spec.origin, text));
        }
        taken.push(bdf);
        addresses.push(bdf);
    }
    Ok(addresses)
}

fn free_address(kind: &KindSpec, taken: &[Bdf]) -> Option<Bdf> {
    let bdf = |bus, slot| Bdf {
        segment: 0,
        bus,
        slot,
        function: 0,
    };
    match kind {
        KindSpec::Nvme(_) => (1..=255)
            .find(|bus| taken.iter().all(|other| other.bus != *bus))
            .map(|bus| bdf(bus, 0)),
        KindSpec::Edu(_) | KindSpec::Ioat(_) | KindSpec::Stub(_) => {
            (4..=31).map(|slot| bdf(0, slot)).find(|bdf| {
                let mut taken = taken.iter();
                taken.all(|other| (other.bus, other.slot) != (bdf.bus, bdf.slot))
            })
        }
    }
}

/// A group for every device.
fn group(specs: &[&DeviceSpec], addresses: &[Bdf]) -> Result<Vec<u32>, MachineError> {
    let mut groups: Vec<Option<u32>> = specs.iter().map(|spec| spec.group).collect();
    let mut used: Vec<u32> = groups.iter().flatten().copied().collect();
    let requester = |index: usize| specs[index].requester.unwrap_or(addresses[index]);
    for index in 0..groups.len() {
        if groups[index].is_none() {
            let sibling = (0..groups.len()).find(|&other| {
                let joined = addresses[other].same_slot(addresses[index])
                    || requester(other) == requester(index);
                joined && groups[other].is_some()
            });
            let number = sibling
                .and_then(|other| groups[other])
                .or_else(|| (1..).find(|number| !used.contains(number)));
            used.extend(number);
            groups[index] = number;
        }
    }
    let groups: Vec<u32> = groups.into_iter().flatten().collect();
    for (index, number) in groups.iter().enumerate() {
        let first = groups
            .iter()
            .position(|other| other == number)
            .expect("the group itself is among them");
        if addresses[first].segment != addresses[index].segment {
            let text = format!(
                "group={number} has {}, which is in another PCI segment than {}: a group stays within one segment",
                addresses[first], addresses[index]
            );
            return Err(MachineError::at(&specs[index].origin, text));
        }
    }
    Ok(groups)
}

/// A file in use as a medium: where, by which namespace, for writing?
struct Used {
    path: PathBuf,
    by: String,
    write: bool,
}

fn configure(
    spec: &DeviceSpec,
    bdf: Bdf,
    media: &mut Vec<Used>,
) -> Result<DeviceKind, MachineError> {
    let at = |text| MachineError::at(&spec.origin, text);
    match &spec.kind {
        KindSpec::Nvme(nvme) => configure_nvme(nvme, bdf, media)
            .map(DeviceKind::Nvme)
            .map_err(at),
        KindSpec::Edu(edu) => Ok(DeviceKind::Edu(edu.clone())),
        KindSpec::Ioat(ioat) => Ok(DeviceKind::Ioat(ioat.clone())),
        KindSpec::Stub(stub) => check_stub(stub)
            .map(|()| DeviceKind::Stub(stub.clone()))
            .map_err(at),
    }
}

fn configure_nvme(spec: &NvmeSpec, bdf: Bdf, media: &mut Vec<Used>) -> Result<NvmeConfig, String> {
    if spec.namespaces.is_empty() {
        return Err("needs a medium: file=PATH or size=SIZE".into());
    }
    let mut namespaces = Vec::new();
    for (index, namespace) in spec.namespaces.iter().enumerate() {
        let number = index + 1;
        let NamespaceSpec {
            source: Some(source),
            read_only,
        } = namespace
        else {
            return Err(format!(
                "namespace {number} has no medium: give ns{number}.file= or ns{number}.size="
            ));
        };
        let read_only = *read_only || spec.read_only;
        let medium = match source {
            Source::File(path) => {
                let medium = open_medium(path, read_only)?;
                claim(&medium, format!("namespace {number} of {bdf}"), media)?;
                medium
            }
            Source::Size(bytes) => Medium {
                path: format!("media/{bdf}-ns{number}.raw").into(),
                bytes: *bytes,
                read_only,
            },
        };
        if medium.bytes < u64::from(spec.config.block) {
            return Err(format!(
                "namespace {number} has {} bytes: accepted is at least one block of {}",
                medium.bytes, spec.config.block
            ));
        }
        namespaces.push(medium);
    }
    let serial = spec
        .serial
        .clone()
        .unwrap_or_else(|| format!("swiommu-{bdf}"));
    let cache = match (spec.cache, spec.config.vfs) {
        (given, 0) => given.unwrap_or(spec.config.cache),
        (None | Some(0), _) => 0,
        (Some(_), _) => {
            return Err(
                "vfs= shares the namespaces between controllers, and a cache= is one controller's alone: accepted is \
                 cache=0"
                    .into(),
            );
        }
    };
    Ok(NvmeConfig {
        namespaces,
        serial,
        cache,
        ..spec.config.clone()
    })
}

/// Looks at a medium: is it there, of the right kind, and may it be read and (unless read-only) written?
fn open_medium(path: &str, read_only: bool) -> Result<Medium, String> {
    let accepted = "accepted is a raw file or a block device";
    let cannot = |verb: &str, error: std::io::Error| {
        format!("file={path}: cannot {verb}: {}; {accepted}", reason(&error))
    };
    let absolute = fs::canonicalize(path).map_err(|error| cannot("find it", error))?;
    let kind = fs::metadata(&absolute)
        .map_err(|error| cannot("look at it", error))?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what = if kind.is_dir() {
            "a directory"
        } else {
            "neither"
        };
        return Err(format!("file={path} is {what}: {accepted}"));
    }
    if absolute.to_str().is_none() {
        return Err(format!(
            "file={path}: its full path is not UTF-8; {accepted} with a UTF-8 path"
        ));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .open(&absolute)
        .map_err(|error| cannot("read it", error))?;
    if !read_only {
        let write = OpenOptions::new().read(true).write(true).open(&absolute);
        write.map_err(|error| {
            format!(
                "file={path}: cannot write it: {}; give ro to only read it",
                reason(&error)
            )
        })?;
    }
    let bytes = file
        .seek(SeekFrom::End(0))
        .map_err(|error| cannot("measure it", error))?;
    Ok(Medium {
        path: absolute,
        bytes,
        read_only,
    })
}

/// The error without Rust's number behind it.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

/// Two namespaces may share a file only if neither writes it.
fn claim(medium: &Medium, by: String, media: &mut Vec<Used>) -> Result<(), String> {
    let clash = |used: &&Used| used.path == medium.path && (used.write || !medium.read_only);
    if let Some(used) = media.iter().find(clash) {
        let path = medium.path.display();
        return Err(format!(
            "{path} is already {}: accepted is one writer, or ro on all",
            used.by
        ));
    }
    media.push(Used {
        path: medium.path.clone(),
        by,
        write: !medium.read_only,
    });
    Ok(())
}

/// MSI-X lives in memory: 16 bytes a vector and one pending bit a vector, in one memory BAR.
fn check_stub(stub: &StubConfig) -> Result<(), String> {
    if stub.msix == 0 {
        return Ok(());
    }
    let needed = u64::from(stub.msix) * 16 + u64::from(stub.msix).div_ceil(64) * 8;
    let largest = stub.bars.iter().filter_map(|bar| match parse_bar(bar) {
        Ok(Bar::Memory { bytes, .. }) => Some(bytes),
        _ => None,
    });
    if largest.max().unwrap_or(0) < needed {
        let bar = super::size::format(needed.next_power_of_two().max(4096));
        return Err(format!(
            "msix={} needs a memory BAR that holds its table: give, say, bar0={bar}",
            stub.msix
        ));
    }
    Ok(())
}

/// The absolute form of a medium's path in a run whose directory is `run`.
pub fn medium_path(run: &Path, medium: &Medium) -> PathBuf {
    run.join(&medium.path)
}
