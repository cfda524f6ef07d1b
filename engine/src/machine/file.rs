//! Machine files (TOML): what `--config` reads and `swiommu machine --format toml` writes.
//!
//! The keys of a `[[device]]` are those of the `--device` flag and go through the same code; the namespaces of an
//! NVMe may also be written as `[[device.namespaces]]` tables with `file` or `size` and `ro`.

use super::driver::{self, DriverConfig};
use super::resolve::Layer;
use super::spec::{DeviceSpec, IommuSpec, KindSpec};
use super::{
    DeviceConfig, DeviceKind, IommuKind, Machine, MachineError, Medium, Migration, NvmeConfig,
    StubConfig, size,
};
use std::fmt::Write;
use toml::{Table, Value};

/// Reads a machine file. `name` is how errors call it.
///
/// # Errors
/// One line that names the file, the place in it and what is accepted.
pub fn parse(name: &str, text: &str) -> Result<Layer, MachineError> {
    let table = text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text[..span.start.min(text.len())].matches('\n').count()
        });
        MachineError::at(
            &format!("{name}:{line}"),
            error.message().replace('\n', ", "),
        )
    })?;
    let mut layer = Layer::default();
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("iommu", Value::Table(iommu)) => layer.iommu = Some(parse_iommu(name, iommu)?),
            ("vfio", Value::Table(vfio)) => {
                for (key, value) in vfio {
                    let origin = format!("{name}: [vfio]");
                    let value = scalar(&origin, key, value)?;
                    layer
                        .vfio
                        .set(key, Some(&value))
                        .map_err(|text| MachineError::at(&origin, text))?;
                }
            }
            ("device", Value::Array(devices)) => layer.devices = parse_devices(name, devices)?,
            ("driver", Value::Array(drivers)) => layer.drivers = parse_drivers(name, drivers)?,
            ("iommu" | "vfio" | "device" | "driver", _) => {
                return Err(MachineError::at(
                    name,
                    format!("{key} is written as [iommu], [vfio], [[device]] or [[driver]]"),
                ));
            }
            _ => {
                let text = format!(
                    "unknown table '{key}': accepted are [iommu], [vfio], [[device]], [[driver]]"
                );
                return Err(MachineError::at(name, text));
            }
        }
    }
    Ok(layer)
}

fn parse_iommu(name: &str, table: &Table) -> Result<IommuSpec, MachineError> {
    let origin = format!("{name}: [iommu]");
    let mut spec = IommuSpec {
        origin: origin.clone(),
        ..IommuSpec::default()
    };
    for (key, value) in table {
        let value = scalar(&origin, key, value)?;
        spec.set(key, Some(&value))
            .map_err(|text| MachineError::at(&origin, text))?;
    }
    Ok(spec)
}

fn parse_devices(name: &str, devices: &[Value]) -> Result<Vec<DeviceSpec>, MachineError> {
    let mut specs = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let origin = format!("{name}: device {}", index + 1);
        let Value::Table(table) = device else {
            return Err(MachineError::at(
                &origin,
                "a device is written as a [[device]] table".into(),
            ));
        };
        let Some(Value::String(kind)) = table.get("kind") else {
            let text = format!("needs kind = \"...\": accepted are {}", super::spec::KINDS);
            return Err(MachineError::at(&origin, text));
        };
        let mut spec = DeviceSpec::new(&origin, kind)?;
        for (key, value) in table.iter().filter(|(key, _)| *key != "kind") {
            set_device_key(&mut spec, key, value)?;
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn parse_drivers(name: &str, drivers: &[Value]) -> Result<Vec<DriverConfig>, MachineError> {
    let mut configs = Vec::new();
    for (index, driver) in drivers.iter().enumerate() {
        let origin = format!("{name}: driver {}", index + 1);
        let at = |text: &str| MachineError::at(&origin, text.into());
        let table = driver
            .as_table()
            .ok_or_else(|| at("a driver is written as a [[driver]] table"))?;
        let mut config = DriverConfig::default();
        for (key, value) in table {
            let values = match value {
                Value::Array(ids) if key == "id" => ids.as_slice(),
                one => std::slice::from_ref(one),
            };
            for value in values {
                let value = scalar(&origin, key, value)?;
                super::spec::set_driver(&mut config, key, Some(&value))
                    .map_err(|text| at(&text))?;
            }
        }
        if config.name.is_empty() {
            return Err(at("needs name = \"...\""));
        }
        configs.push(config);
    }
    Ok(configs)
}

fn set_device_key(spec: &mut DeviceSpec, key: &str, value: &Value) -> Result<(), MachineError> {
    let origin = spec.origin.clone();
    let at = |text| MachineError::at(&origin, text);
    match value {
        Value::Array(namespaces)
            if key == "namespaces" && matches!(spec.kind, KindSpec::Nvme(_)) =>
        {
            for (index, namespace) in namespaces.iter().enumerate() {
                let Value::Table(table) = namespace else {
                    return Err(at(
                        "namespaces are written as [[device.namespaces]] tables".into()
                    ));
                };
                for (field, value) in table {
                    let value = scalar(&origin, field, value)?;
                    spec.set(&format!("ns{}.{field}", index + 1), Some(&value))
                        .map_err(at)?;
                }
            }
            Ok(())
        }
        _ => spec
            .set(key, Some(&scalar(&origin, key, value)?))
            .map_err(at),
    }
}

/// A TOML scalar as the text a flag would have.
fn scalar(origin: &str, key: &str, value: &Value) -> Result<String, MachineError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(yes) => Ok(yes.to_string()),
        _ => Err(MachineError::at(
            origin,
            format!("{key}: accepted is a string, a whole number or a boolean"),
        )),
    }
}

/// Writes a machine so that [`parse`] and `resolve` make it again.
pub fn to_toml(machine: &Machine) -> String {
    let mut text = String::new();
    let iommu = &machine.iommu;
    let _ = writeln!(text, "[iommu]\nkind = \"{}\"", iommu.kind.name());
    if iommu.kind == IommuKind::Vtd {
        let _ = writeln!(text, "scalable = {}", iommu.scalable);
    }
    let _ = match iommu.kind {
        IommuKind::None => writeln!(text, "rawio = {}", iommu.rawio),
        _ => writeln!(
            text,
            "address_width = {}\niotlb = {}",
            iommu.address_width, iommu.iotlb
        ),
    };
    let memlock = String::from(machine.vfio.memlock);
    let _ = writeln!(
        text,
        "\n[vfio]\ndma_entry_limit = {}\nenable_sriov = {}\nmemlock = \"{memlock}\"\nmulti_device_groups = {}\n\
         groups = \"{}\"",
        machine.vfio.dma_entry_limit,
        machine.vfio.enable_sriov,
        machine.vfio.multi_device_groups,
        machine.vfio.groups.name()
    );
    let built_in = driver::built_in();
    let own = (machine.drivers.iter()).filter(|driver| !built_in.contains(driver));
    own.for_each(|driver| write_driver(&mut text, driver));
    for device in machine
        .devices
        .iter()
        .filter(|device| device.virtual_of().is_none())
    {
        write_device(&mut text, device);
    }
    text
}

fn write_driver(text: &mut String, driver: &DriverConfig) {
    let ids: Vec<String> = driver
        .ids
        .iter()
        .map(|id| format!("\"{}\"", String::from(*id)))
        .collect();
    let _ = writeln!(
        text,
        "\n[[driver]]\nname = \"{}\"\nmanaged_dma = {}\nsriov = {}\nvfio = {}\nid = [{}]",
        driver.name,
        driver.managed_dma,
        driver.sriov,
        driver.vfio,
        ids.join(", ")
    );
}

fn write_device(text: &mut String, device: &DeviceConfig) {
    let _ = writeln!(text, "\n[[device]]\nkind = \"{}\"", device.kind.name());
    let _ = writeln!(text, "bdf = \"{}\"\ngroup = {}", device.bdf, device.group);
    if let Some(requester) = &device.requester {
        let _ = writeln!(text, "requester = \"{requester}\"");
    }
    let driver = device.driver.as_deref().unwrap_or("none");
    if driver != driver::VFIO_PCI {
        let _ = writeln!(text, "driver = \"{driver}\"");
    }
    if !device.present {
        let _ = writeln!(text, "present = false");
    }
    match &device.kind {
        DeviceKind::Nvme(nvme) => write_nvme(text, nvme),
        DeviceKind::Edu(edu) => {
            let _ = writeln!(text, "dma_bits = {}", edu.dma_bits);
        }
        DeviceKind::Ioat(ioat) => {
            let _ = writeln!(
                text,
                "model = \"{}\"\nchannels = {}\ntransfer = \"{}\"",
                ioat.model.name(),
                ioat.channels,
                size::format(ioat.transfer)
            );
        }
        DeviceKind::Stub(stub) => write_stub(text, stub),
    }
}

fn write_nvme(text: &mut String, nvme: &NvmeConfig) {
    let _ = writeln!(
        text,
        "block = {}\nserial = {}",
        nvme.block,
        Value::String(nvme.serial.clone())
    );
    let cache = size::format(nvme.cache);
    let _ = writeln!(
        text,
        "queues = {}\ncache = \"{cache}\"\nseed = {}",
        nvme.queues, nvme.seed
    );
    if nvme.migration != Migration::Off {
        let _ = writeln!(text, "migration = \"{}\"", nvme.migration.name());
    }
    if nvme.vfs > 0 {
        let _ = writeln!(text, "vfs = {}", nvme.vfs);
    }
    for Medium {
        path,
        bytes,
        read_only,
    } in &nvme.namespaces
    {
        let _ = writeln!(text, "[[device.namespaces]]");
        let _ = match path.is_absolute() {
            true => writeln!(text, "file = {}", Value::String(path.display().to_string())),
            false => writeln!(text, "size = \"{}\"", size::format(*bytes)),
        };
        if *read_only {
            let _ = writeln!(text, "ro = true");
        }
    }
}

fn write_stub(text: &mut String, stub: &StubConfig) {
    let _ = writeln!(
        text,
        "vendor = {:#06x}\ndevice = {:#06x}\nclass = {:#08x}",
        stub.vendor, stub.device, stub.class
    );
    for (index, bar) in stub
        .bars
        .iter()
        .enumerate()
        .filter(|(_, bar)| !bar.is_empty())
    {
        let _ = writeln!(text, "bar{index} = \"{bar}\"");
    }
    let _ = writeln!(
        text,
        "msix = {}\nmsi = {}\nintx = {}",
        stub.msix, stub.msi, stub.intx
    );
}
