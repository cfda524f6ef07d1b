//! Whole virtual machines: QEMU's system emulator with the emulated NVMe assigned to it, under software emulation.
//!
//! Registers are touched by code that QEMU generates, DMA goes to the guest's memory. What the guest did is compared
//! byte for byte on the medium's file afterwards.

use crate::guest::boot_sector;
use crate::machine::*;
use crate::monitor::Monitor;
use crate::qemu::{DISK, Tool};
use crate::world::*;
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

const SECTOR: usize = 512;

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

const IOMMUFD: &[&str] = &["-object", "iommufd,id=iommufd0"];

const VIRTUAL_IOMMU: &[&str] = &[
    "-machine",
    "kernel-irqchip=split",
    "-device",
    "intel-iommu,caching-mode=on",
    "-device",
    "pcie-root-port,id=port1,chassis=1",
];

const IOMMUFD_AND_VIRTUAL_IOMMU: &[&str] = &[
    "-object",
    "iommufd,id=iommufd0",
    "-machine",
    "kernel-irqchip=split",
    "-device",
    "intel-iommu,caching-mode=on",
    "-device",
    "pcie-root-port,id=port1,chassis=1",
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

const BY_IOMMUFD: Way = Way {
    name: "through iommufd",
    version: "10.0",
    options: IOMMUFD,
    properties: ",iommufd=iommufd0",
    ..CONTAINER
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
    BY_IOMMUFD,
    Way {
        name: "through iommufd, behind an IOMMU of its own,",
        version: "10.0",
        iommu: "amd",
        options: IOMMUFD_AND_VIRTUAL_IOMMU,
        properties: ",iommufd=iommufd0,bus=port1",
        kernel: "intel_iommu=on",
        interrupts: "IR-PCI-MSI",
    },
    // The guest's driver maps and unmaps every request, and each becomes a call of the container.
    Way {
        name: "behind an IOMMU of its own",
        version: "10.0",
        options: VIRTUAL_IOMMU,
        properties: ",bus=port1",
        kernel: "intel_iommu=on",
        interrupts: "IR-PCI-MSI",
        ..CONTAINER
    },
    Way {
        name: "under the system call filter that libvirt asks for",
        iommu: "amd",
        options: &[
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ],
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
    let mut add = |name: &str, body: fn() -> Outcome| trials.push(trial(name, body));
    add("a Linux guest copies between two assigned disks", exchanges);
    add(
        "a Linux guest copies on a disk that qemu itself drives",
        driven_by_qemu,
    );
    add(
        "a program in a guest reaches the registers of edu",
        registers,
    );
    add(
        "a Linux guest finds its disk again after a restart",
        restarts,
    );
    add(
        "what a guest flushed survives the kill of its machine",
        killed,
    );
    add(
        "a guest's disk is unplugged and plugged in again",
        replugged,
    );
    add(
        "a device in a container is taken back from a running machine",
        || taken_back(&CONTAINER),
    );
    add(
        "a device on iommufd is taken back from a running machine",
        || taken_back(&BY_IOMMUFD),
    );
    trials
}

fn copies(way: &Way) -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let machine = Machine::linux(way.version, directory.path(), "copy", way.kernel)?;
    let machine = machine.with(way.options.iter().copied());
    let machine = machine.device(FIRST, way.properties);
    let ended = machine.run().iommu(way.iommu).disk(&image).success()?;
    after_copy(&mut content);
    if let Err(Stop::Fail(why)) = holds(&image, &content) {
        return fail(format!("{why}\n{}", ended.told()));
    }
    let mut interrupts = ended.stdout.lines().filter(|l| l.contains("nvme0q"));
    if interrupts.clone().count() > 0 && interrupts.all(|line| line.contains(way.interrupts)) {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn firmware(version: &str) -> Outcome {
    const LINE: &str = "this line was read from the disk";
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    content[..SECTOR].copy_from_slice(&boot_sector(directory.path())?);
    content[SECTOR..][..LINE.len()].copy_from_slice(LINE.as_bytes());
    content[SECTOR + LINE.len()] = b'\n';
    fs::write(&image, &content)?;
    let machine = Machine::new(version)?.device(FIRST, "");
    let ended = machine.run().disk(&image).success()?;
    if ended.stdout.trim() != LINE {
        return fail(ended.told());
    }
    content.copy_within(SECTOR..65 * SECTOR, 128 * SECTOR);
    holds(&image, &content)
}

fn exchanges() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "one", 64)?;
    let (other, mut other_content) = medium(directory.path(), "two", 65)?;
    let machine = Machine::linux("7.2", directory.path(), "exchange", "")?;
    let mut run = machine.device(FIRST, "").device(SECOND, "").run();
    for (image, bdf) in [(&image, FIRST), (&other, SECOND)] {
        let device = format!("nvme,file={},bdf={bdf}", image.display());
        run = run.options(["--device", &device]);
    }
    run.success()?;
    other_content[..16 * MIB].copy_from_slice(&content[..16 * MIB]);
    content[16 * MIB..32 * MIB].copy_from_slice(&other_content[16 * MIB..32 * MIB]);
    holds(&image, &content)?;
    holds(&other, &other_content)
}

/// QEMU's own userspace driver below its own emulated controller: the guest's memory is the target of our DMA.
fn driven_by_qemu() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let machine = Machine::linux("10.0", directory.path(), "copy", "")?;
    let drive = format!("driver=nvme,device={FIRST},namespace=1,if=none,id=drive");
    let machine = machine.with(["-drive", &drive, "-device", "nvme,drive=drive,serial=1"]);
    machine.run().disk(&image).success()?;
    after_copy(&mut content);
    holds(&image, &content)
}

/// A conventional function without a reset, beside the NVMe of the default machine.
fn registers() -> Outcome {
    let directory = scratch()?;
    let machine = Machine::linux("7.2", directory.path(), "edu", "")?;
    let machine = machine.device("0000:00:04.0", "").device(FIRST, "");
    let ended = machine.run().success()?;
    let said = ["identification 0x010000ED", "factorial of 10 is 3628800"];
    if said.iter().all(|line| ended.stdout.contains(line)) {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn restarts() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let machine = Machine::linux("7.2", directory.path(), "restart", "")?;
    let ended = machine.device(FIRST, "").run().disk(&image).success()?;
    if !ended.stdout.contains("guest: restarts") {
        return fail(ended.told());
    }
    after_copy(&mut content);
    content[63 * MIB..][..10].copy_from_slice(b"been here\n");
    holds(&image, &content)
}

/// The guest says what it has flushed; the machine is killed while it goes on. The same run's next program has the
/// disk, and finds what is in the file.
fn killed() -> Outcome {
    const BLOCK: usize = 64 << 10;
    let directory = scratch()?;
    let (image, content) = medium(directory.path(), "disk", 64)?;
    let [serial, pid, copy] = ["serial", "pid", "copy"].map(|name| directory.path().join(name));
    let machine = Machine::linux("7.2", directory.path(), "flush", "")?;
    let machine = machine.device(FIRST, "").serial_file(&serial);
    let machine = machine.with(["-pidfile", &pid.display().to_string()]);
    let next = Tool::find("7.2", "qemu-img")?.shell();
    let script = format!(
        "{}; {next} convert -f raw -O raw {DISK} '{}'",
        machine.shell(),
        copy.display()
    );
    let device = format!("nvme,file={},cache=1M", image.display());
    let run = Run::new(["sh", "-c", &script]).options(["--device", &device]);
    let mut child = run
        .command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let killed = appears(&serial, "guest: flushed 25").and_then(|()| {
        let pid = fs::read_to_string(&pid)?.trim().parse()?;
        let pid = Pid::from_raw(pid).expect("a process");
        Ok(kill_process(pid, Signal::KILL)?)
    });
    if killed.is_err() {
        kill(&mut child)?;
        return killed;
    }
    let status = wait(&mut child, Duration::from_secs(60))?;
    let held = fs::read(&image)?;
    let flushed = fs::read_to_string(&serial)?.matches("flushed").count();
    let bytes = flushed * BLOCK;
    if let Some(at) = difference(&content[..bytes], &held[32 * MIB..][..bytes]) {
        return fail(format!("of {flushed} flushed blocks byte {at:#x} is lost"));
    }
    if !status.is_some_and(|s| s.success()) {
        return fail(format!("the next program: {status:?}"));
    }
    holds(&copy, &held)
}

fn replugged() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let serial = directory.path().join("serial");
    let machine = Machine::linux("7.2", directory.path(), "replug", "")?;
    let machine = machine.with(["-device", "pcie-root-port,id=port1,chassis=1"]);
    let machine = machine.device(FIRST, ",id=disk,bus=port1");
    let mut monitor = Monitor::start(&machine.monitored(&serial).disk(&image))?;
    appears(&serial, "guest: disk is here")?;
    monitor.command("device_del", json!({ "id": "disk" }))?;
    monitor.event("DEVICE_DELETED")?;
    appears(&serial, "guest: disk has gone")?;
    let device = json!({ "driver": "vfio-pci", "host": FIRST, "id": "disk", "bus": "port1" });
    monitor.command("device_add", device)?;
    monitor.event("SHUTDOWN")?;
    monitor.end()?;
    after_copy(&mut content);
    holds(&image, &content)
}

/// The host takes the device back with an ordinary write: QEMU is asked for it and unplugs it, the write ends when its
/// files are closed, and the driver can have the device again.
fn taken_back(way: &Way) -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let [serial, back] = ["serial", "back"].map(|name| directory.path().join(name));
    let machine = Machine::linux(way.version, directory.path(), "replug", "")?;
    let machine = machine.with(way.options.iter().copied());
    let machine = machine.with(["-device", "pcie-root-port,id=port1,chassis=1"]);
    let properties = format!("{},id=disk,bus=port1", way.properties);
    let machine = machine.device(FIRST, &properties).serial_file(&serial);
    let script = format!(
        "exec 3<&0; {machine} <&3 &
         until grep -q 'disk is here' '{serial}' 2>/dev/null; do sleep 0.1; done
         device=/sys/bus/pci/devices/{FIRST} driver=/sys/bus/pci/drivers/vfio-pci
         echo vfio-pci > $device/driver_override && echo {FIRST} > $driver/unbind &&
             echo {FIRST} > $driver/bind && echo bound > '{back}'
         wait $!",
        machine = machine.with(["-qmp", "stdio"]).shell(),
        serial = serial.display(),
        back = back.display(),
    );
    let mut monitor = Monitor::start(&Run::new(["sh", "-c", &script]).disk(&image))?;
    monitor.event("DEVICE_DELETED")?;
    appears(&serial, "guest: disk has gone")?;
    appears(&back, "bound")?;
    let arguments = "driver=vfio-pci,id=disk,bus=port1";
    let properties = format!("{arguments},host={FIRST}{}", way.properties);
    let pairs = properties
        .split(',')
        .filter_map(|pair| pair.split_once('='));
    monitor.command("device_add", pairs.collect())?;
    monitor.event("SHUTDOWN")?;
    monitor.end()?;
    after_copy(&mut content);
    holds(&image, &content)
}
