//! Whole virtual machines: QEMU's system emulator with the emulated NVMe assigned to it, under software emulation.
//!
//! Registers are touched by code that QEMU generates, DMA goes to the guest's memory. What the guest did is compared
//! byte for byte on the medium's file afterwards.

use crate::guest::{Guest, boot_sector};
use crate::monitor::Monitor;
use crate::qemu::{DISK, Tool};
use crate::world::*;
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";

/// One way to give the device to a machine.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    version: &'static str,
    iommu: &'static str,
    /// Options of QEMU besides the device.
    options: &'static [&'static str],
    /// Properties of the device, each with its comma.
    properties: &'static str,
    /// Words for the guest's kernel.
    kernel: &'static str,
    /// What the guest's list of interrupts says.
    interrupts: &'static str,
}

const MEMFD: &[&str] = &[
    "-object",
    "memory-backend-memfd,id=memory,size=256M,share=on",
    "-machine",
    "memory-backend=memory",
];

const CONTAINER: Way = Way {
    name: "by message interrupts",
    version: "7.2",
    iommu: "vtd",
    options: &[],
    properties: "",
    kernel: "",
    interrupts: "PCI-MSI",
};

const WAYS: &[Way] = &[
    CONTAINER,
    Way {
        name: "by the interrupt line",
        iommu: "amd",
        kernel: "pci=nomsi",
        interrupts: "IO-APIC",
        ..CONTAINER
    },
    Way {
        name: "in shared memory",
        version: "10.0",
        options: MEMFD,
        ..CONTAINER
    },
    Way {
        name: "with two processors and unmapped registers",
        version: "10.0",
        iommu: "amd",
        options: &["-smp", "2"],
        properties: ",x-no-mmap=on",
        ..CONTAINER
    },
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for way in WAYS {
        let Way {
            name,
            version,
            iommu,
            ..
        } = way;
        trials.push(trial(
            format!("a Linux guest of qemu {version} copies on its disk {name} on {iommu}"),
            move || copies(way),
        ));
    }
    for version in ["7.2", "10.0"] {
        trials.push(trial(
            format!("the firmware of qemu {version} boots from the disk and writes to it"),
            move || firmware(version),
        ));
    }
    trials.push(trial(
        "a Linux guest copies between two assigned disks",
        exchanges,
    ));
    trials.push(trial(
        "a Linux guest finds its disk again after a restart",
        restarts,
    ));
    trials.push(trial(
        "what a guest flushed survives the kill of its machine",
        killed,
    ));
    trials.push(trial(
        "a guest's disk is unplugged and plugged in again",
        replugged,
    ));
    trials
}

/// The words that start a machine without devices.
fn machine(version: &str) -> Result<Vec<String>, Stop> {
    let packages = format!("qemu-system-{version}");
    let tool = Tool::of(&packages, "qemu-system-x86_64")?;
    let data = set(&packages)?.join("usr/share");
    let mut words = tool.words();
    for folder in ["seabios", "qemu"] {
        words.extend(["-L".to_owned(), data.join(folder).display().to_string()]);
    }
    let rest = "-machine q35 -accel tcg -cpu max -m 256 -nodefaults -display none";
    words.extend(rest.split(' ').map(str::to_owned));
    Ok(words)
}

/// The words for a Linux guest with a job.
fn linux(directory: &Path, version: &str, job: &str, kernel: &str) -> Result<Vec<String>, Stop> {
    let (guest, mut words) = (Guest::make(directory)?, machine(version)?);
    let line = format!("console=ttyS0 quiet panic=-1 job={job} {kernel}");
    let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
    let rest = [
        "-kernel",
        &kernel.to_string(),
        "-initrd",
        &initrd.to_string(),
        "-append",
        &line,
    ];
    words.extend(rest.map(str::to_owned));
    Ok(words)
}

/// The words for an assigned device.
fn assigned(bdf: &str, properties: &str) -> [String; 2] {
    ["-device".into(), format!("vfio-pci,host={bdf}{properties}")]
}

/// A disk of `mib` MiB that begins with random bytes, and its content.
fn disk(
    directory: &Path,
    name: &str,
    mib: usize,
    random_mib: usize,
) -> Result<(PathBuf, Vec<u8>), Stop> {
    let mut content = random(random_mib * MIB, mib as u64);
    content.resize(mib * MIB, 0);
    let path = directory.join(name);
    fs::write(&path, &content)?;
    Ok((path, content))
}

fn is(image: &Path, expected: &[u8]) -> Outcome {
    match difference(expected, &fs::read(image)?) {
        None => Ok(()),
        Some(at) => fail(format!("{} differs at byte {at:#x}", image.display())),
    }
}

/// What the guest's job `copy` makes of a medium.
fn after_copy(content: &mut [u8]) {
    content.copy_within(..16 * MIB, 32 * MIB);
}

fn copies(way: &Way) -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = disk(directory.path(), "disk", 64, 24)?;
    let mut words = linux(directory.path(), way.version, "copy", way.kernel)?;
    words.extend(way.options.iter().map(|o| (*o).to_owned()));
    words.extend(assigned(FIRST, way.properties));
    words.extend(["-serial".into(), "stdio".into()]);
    let ended = Run::new(words).iommu(way.iommu).disk(&image).success()?;
    after_copy(&mut content);
    if let Err(Stop::Fail(why)) = is(&image, &content) {
        return fail(format!("{why}\n{}", ended.told()));
    }
    let mut interrupts = ended.stdout.lines().filter(|line| line.contains("nvme0q"));
    if interrupts.clone().count() > 0 && interrupts.all(|line| line.contains(way.interrupts)) {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn firmware(version: &str) -> Outcome {
    const LINE: &str = "this line was read from the disk";
    let directory = scratch()?;
    let (image, mut content) = disk(directory.path(), "disk", 16, 1)?;
    content[..SECTOR].copy_from_slice(&boot_sector(directory.path())?);
    content[SECTOR..][..LINE.len()].copy_from_slice(LINE.as_bytes());
    content[SECTOR + LINE.len()] = b'\n';
    fs::write(&image, &content)?;
    let mut words = machine(version)?;
    words.extend(assigned(FIRST, ""));
    words.extend(["-serial".into(), "stdio".into()]);
    let ended = Run::new(words).disk(&image).success()?;
    if ended.stdout.trim() != LINE {
        return fail(ended.told());
    }
    content.copy_within(SECTOR..65 * SECTOR, 128 * SECTOR);
    is(&image, &content)
}

fn exchanges() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = disk(directory.path(), "one", 64, 24)?;
    let (other, mut other_content) = disk(directory.path(), "two", 65, 48)?;
    let mut words = linux(directory.path(), "7.2", "exchange", "")?;
    words.extend(assigned(FIRST, ""));
    words.extend(assigned(SECOND, ""));
    words.extend(["-serial".into(), "stdio".into()]);
    let mut run = Run::new(words);
    for (image, bdf) in [(&image, FIRST), (&other, SECOND)] {
        run = run.options([
            "--device",
            &format!("nvme,file={},bdf={bdf}", image.display()),
        ]);
    }
    run.success()?;
    other_content[..16 * MIB].copy_from_slice(&content[..16 * MIB]);
    content[16 * MIB..32 * MIB].copy_from_slice(&other_content[16 * MIB..32 * MIB]);
    is(&image, &content)?;
    is(&other, &other_content)
}

fn restarts() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = disk(directory.path(), "disk", 64, 24)?;
    let mut words = linux(directory.path(), "7.2", "restart", "")?;
    words.extend(assigned(FIRST, ""));
    words.extend(["-serial".into(), "stdio".into()]);
    let ended = Run::new(words).disk(&image).success()?;
    if !ended.stdout.contains("guest: restarts") {
        return fail(ended.told());
    }
    after_copy(&mut content);
    content[63 * MIB..][..10].copy_from_slice(b"been here\n");
    is(&image, &content)
}

/// The guest says what it has flushed; the machine is killed while it goes on. The same run's next program has the
/// disk, and finds what is in the file.
fn killed() -> Outcome {
    const BLOCK: usize = 64 << 10;
    let directory = scratch()?;
    let (image, content) = disk(directory.path(), "disk", 64, 32)?;
    let [serial, pid, copy] = ["serial", "pid", "copy"].map(|name| directory.path().join(name));
    let mut words = linux(directory.path(), "7.2", "flush", "")?;
    words.extend(assigned(FIRST, ""));
    words.extend(["-serial".into(), format!("file:{}", serial.display())]);
    words.extend(["-pidfile".into(), pid.display().to_string()]);
    let quoted: Vec<_> = words.iter().map(|w| format!("'{w}'")).collect();
    let script = format!(
        "{}; {} convert -f raw -O raw {DISK} '{}'",
        quoted.join(" "),
        Tool::find("7.2", "qemu-img")?.shell(),
        copy.display()
    );
    let device = format!("nvme,file={},cache=1M", image.display());
    let run = Run::new(["sh", "-c", &script]).options(["--device", &device]);
    let mut child = run
        .command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let said = appears(&serial, "guest: flushed 25").and_then(|()| {
        let pid = fs::read_to_string(&pid)?.trim().parse()?;
        Ok(kill_process(
            Pid::from_raw(pid).expect("a process"),
            Signal::KILL,
        )?)
    });
    if said.is_err() {
        kill(&mut child)?;
        return said;
    }
    let status = wait(&mut child, Duration::from_secs(60))?;
    let medium = fs::read(&image)?;
    let flushed = fs::read_to_string(&serial)?.matches("flushed").count();
    let copied = difference(
        &content[..flushed * BLOCK],
        &medium[32 * MIB..][..flushed * BLOCK],
    );
    if let Some(at) = copied {
        return fail(format!("of {flushed} flushed blocks byte {at:#x} is lost"));
    }
    if !status.is_some_and(|s| s.success()) {
        return fail(format!("the next program: {status:?}"));
    }
    is(&copy, &medium)
}

/// Waits until a file has a text.
fn appears(path: &Path, text: &str) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        if fs::read(path).is_ok_and(|b| String::from_utf8_lossy(&b).contains(text)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = fs::read(path).unwrap_or_default();
    fail(format!(
        "{text:?} was not said:\n{}",
        String::from_utf8_lossy(&said)
    ))
}

fn replugged() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = disk(directory.path(), "disk", 64, 24)?;
    let serial = directory.path().join("serial");
    let mut words = linux(directory.path(), "7.2", "replug", "")?;
    words.extend(["-device".into(), "pcie-root-port,id=root1,chassis=1".into()]);
    words.extend(assigned(FIRST, ",id=disk,bus=root1"));
    words.extend(["-serial".into(), format!("file:{}", serial.display())]);
    words.extend(["-qmp".into(), "stdio".into()]);
    let mut monitor = Monitor::start(&Run::new(words).disk(&image))?;
    appears(&serial, "guest: disk is here")?;
    let device = json!({ "id": "disk" });
    monitor.command("device_del", device)?;
    monitor.event("DEVICE_DELETED")?;
    appears(&serial, "guest: disk has gone")?;
    let device = json!({ "driver": "vfio-pci", "host": FIRST, "id": "disk", "bus": "root1" });
    monitor.command("device_add", device)?;
    monitor.event("SHUTDOWN")?;
    monitor.end()?;
    after_copy(&mut content);
    is(&image, &content)
}
