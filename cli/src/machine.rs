//! From the command line to the machine, and the machine printed.

use crate::Failure;
use crate::args::{Format, MachineArgs, MachinePrintArgs};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use swiommu_engine::machine::{
    DeviceKind, IommuKind, Layer, Machine, MachineError, file, resolve, size, spec,
};

/// Where standing machine files lie, lowest first; the user's own comes after them.
const STANDING: [&str; 2] = [
    "/usr/share/swiommu/machine.toml",
    "/etc/swiommu/machine.toml",
];

/// The machine that the options ask for: built-in, then standing files, then `--config`, then flags.
pub fn from_args(args: &MachineArgs) -> Result<Machine, Failure> {
    let mut layers = vec![Layer::built_in()];
    let user = user_config();
    for path in STANDING.iter().map(Path::new).chain(user.as_deref()) {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                layers.push(file::parse(&path.display().to_string(), &text).map_err(Failure::ours)?)
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Failure::ours(format!("{}: {error}", path.display()))),
        }
    }
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::ours(format!(
                "--config {}: {error}; accepted is a readable TOML file",
                path.display()
            ))
        })?;
        layers.push(
            file::parse(&format!("--config {}", path.display()), &text).map_err(Failure::ours)?,
        );
    }
    let mut flags = flags(args).map_err(Failure::ours)?;
    // Flags add to the devices of --config, but replace those that stand there for every run.
    flags.adds_devices =
        args.config.is_some() && layers.last().is_some_and(|layer| !layer.devices.is_empty());
    layers.push(flags);
    resolve(&layers).map_err(Failure::ours)
}

/// A standing file that is not there, or lies where this user cannot look (HOME of someone else, as in containers).
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

fn user_config() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("swiommu/machine.toml"))
}

fn flags(args: &MachineArgs) -> Result<Layer, MachineError> {
    let mut layer = Layer {
        devices: args
            .device
            .iter()
            .map(|flag| spec::device(flag))
            .collect::<Result<_, _>>()?,
        iommu: args.iommu.as_deref().map(spec::iommu).transpose()?,
        drivers: args
            .driver
            .iter()
            .map(|flag| spec::driver(flag))
            .collect::<Result<_, _>>()?,
        ..Layer::default()
    };
    if let Some(flag) = &args.vfio {
        spec::vfio(flag, &mut layer.vfio)?;
    }
    for (flag, key, value) in [
        ("--memlock", "memlock", &args.memlock),
        (
            "--dma-entry-limit",
            "dma_entry_limit",
            &args.dma_entry_limit,
        ),
    ] {
        if let Some(value) = value {
            let at = |text: String| MachineError::at(&format!("{flag} {value}"), text);
            layer.vfio.set(key, Some(value)).map_err(at)?;
        }
    }
    Ok(layer)
}

/// `swiommu machine`
pub fn print(args: &MachinePrintArgs) -> Result<u8, Failure> {
    let machine = from_args(&args.machine)?;
    let text = match args.format {
        Format::Table => table(&machine),
        Format::Toml => file::to_toml(&machine),
        Format::Json => serde_json::to_string_pretty(&machine).map_err(Failure::ours)? + "\n",
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::ours)?;
    Ok(0)
}

fn table(machine: &Machine) -> String {
    let iommu = &machine.iommu;
    let mode = match (iommu.kind, iommu.scalable) {
        (IommuKind::None, _) => "none: VFIO in no-IOMMU mode",
        (IommuKind::Amd, _) => "AMD-Vi, v1 tables",
        (IommuKind::Vtd, true) => "VT-d, scalable mode",
        (IommuKind::Vtd, false) => "VT-d, legacy mode",
    };
    let tlb = if iommu.iotlb { "IOTLB" } else { "no IOTLB" };
    let mut text = match iommu.kind {
        IommuKind::None => format!("IOMMU  {mode}\n"),
        _ => format!(
            "IOMMU  {mode}, {}-bit addresses, {tlb}\n",
            iommu.address_width
        ),
    };
    let memlock = String::from(machine.vfio.memlock);
    let _ = writeln!(
        text,
        "VFIO   {} mappings per container, memlock {memlock}\n",
        machine.vfio.dma_entry_limit
    );
    let _ = writeln!(text, "{:<14}{:<7}{:<6}DETAILS", "ADDRESS", "GROUP", "KIND");
    for device in &machine.devices {
        let details = details(&device.kind);
        let _ = writeln!(
            text,
            "{:<14}{:<7}{:<6}{}",
            device.bdf,
            device.group,
            device.kind.name(),
            details[0]
        );
        for line in &details[1..] {
            let _ = writeln!(text, "{:<27}{line}", "");
        }
    }
    text
}

/// Lines about a device; at least one.
fn details(kind: &DeviceKind) -> Vec<String> {
    match kind {
        DeviceKind::Nvme(nvme) => {
            let cache = if nvme.cache == 0 {
                "no cache".into()
            } else {
                format!("cache {}", size::format(nvme.cache))
            };
            if let Some(part) = &nvme.part {
                let text = format!("virtual function {} of {}", part.number, part.of);
                return vec![text];
            }
            let mut lines = vec![format!(
                "serial {}, {} queues, blocks of {}, {cache}",
                nvme.serial, nvme.queues, nvme.block
            )];
            if nvme.vfs > 0 {
                lines.push(format!("up to {} virtual functions", nvme.vfs));
            }
            for (index, medium) in nvme.namespaces.iter().enumerate() {
                let read_only = if medium.read_only { ", read-only" } else { "" };
                let place = if medium.path.is_absolute() {
                    medium.path.display().to_string()
                } else {
                    "in memory".into()
                };
                lines.push(format!(
                    "namespace {}: {}, {place}{read_only}",
                    index + 1,
                    size::format(medium.bytes)
                ));
            }
            lines
        }
        DeviceKind::Edu(edu) => vec![format!("{}-bit DMA", edu.dma_bits)],
        DeviceKind::Ioat(ioat) => vec![format!(
            "{}, {} channel{} of {} a descriptor",
            ioat.model.name(),
            ioat.channels,
            if ioat.channels == 1 { "" } else { "s" },
            size::format(ioat.transfer)
        )],
        DeviceKind::Stub(stub) => {
            let mut line = format!(
                "{:04x}:{:04x} class {:06x}",
                stub.vendor, stub.device, stub.class
            );
            for (index, bar) in stub
                .bars
                .iter()
                .enumerate()
                .filter(|(_, bar)| !bar.is_empty())
            {
                let _ = write!(line, ", bar{index} {bar}");
            }
            for (name, number) in [
                ("MSI-X", stub.msix),
                ("MSI", stub.msi.into()),
                ("INTx", stub.intx.into()),
            ] {
                if number != 0 {
                    let _ = write!(line, ", {name} {number}");
                }
            }
            vec![line]
        }
    }
}
