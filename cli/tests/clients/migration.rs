//! A controller's state on the way to another process: by a program of our own, and as QEMU moves a whole machine.
//!
//! No device of the recorded kernels migrates, so the program's answers are held here against what the interface says.

use crate::machine::*;
use crate::monitor::Monitor;
use crate::world::*;
use libtest_mimic::Trial;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `clients/migration.c` says when it saves.
const SAVED: &str = "\
of-one-that-stays: ENOTTY
features: 0
flags: 0x7
features-short: EINVAL
features-set: EINVAL
features-probe: 0
size: 0
size-is-known: 1
state: 2
wrong-state: EINVAL
wrong-state: EINVAL
wrong-state: EINVAL
get-and-set: EINVAL
short: EINVAL
still: 2
stop-copy: 3
stop-copy-to-pre-copy: EINVAL
write-what-is-read: EBADF
seek: ESPIPE
precopy-info-of-stop-copy: EINVAL
back: 0
read-after: ENODEV
after-wrong-ways: 1
report-before: EINVAL
stop-before: 0
start-nothing: EINVAL
start: 0
page-size: 4096
start-again: EINVAL
read: 0
read: 0
write: 0
report: 0
pages: 0x230
report-again: 0
pages-again: 0
stop: 0
report-after: EINVAL
precopy-info: 0
initial: 1
nothing-more-yet: ENOMSG
as-much-as-was-said: 1
works-on: 0
precopy-info-again: 0
dirty: 1
quiet: 0
waits: 1
stop-copy: 0
end: 0
precopy-info-at-the-end: EINVAL
stopped: 1
stop: 0
";

/// The same when it goes on.
const RESTORED: &str = "\
without-its-end: EINVAL
error: 0
from-error: EINVAL
reset: 0
running: 2
read-what-is-written: EBADF
quiet: 0
ready: 1
still-waits: 1
runs: 0
first: 0
second: 0
in-flight-data: 1
medium: 1
admin-queue: 0
";

/// One way for a machine to know what the device writes.
struct Way {
    name: &'static str,
    iommu: &'static str,
    options: &'static [&'static str],
    properties: &'static str,
}

// QEMU asks the IOMMU for the dirty bits of mapped registers too, by their size in bytes, which is EINVAL if that is no
// whole page: so they are not mapped there.
const WAYS: &[Way] = &[
    Way {
        name: "by the log of its disk",
        iommu: "vtd",
        options: &[],
        properties: "",
    },
    Way {
        name: "by its container's dirty pages",
        iommu: "amd",
        options: &[],
        properties: ",x-device-dirty-page-tracking=off,x-no-mmap=on",
    },
    Way {
        name: "by the dirty bits of its iommufd",
        iommu: "vtd",
        options: &["-object", "iommufd,id=iommufd0"],
        properties: ",x-device-dirty-page-tracking=off,x-no-mmap=on,iommufd=iommufd0",
    },
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a controller's state moves to another machine", two_runs),
        trial("a controller's state moves within a machine", one_run),
        trial("a guest with a disk that stays is not moved", stays),
    ];
    for way in WAYS {
        trials.push(trial(
            format!(
                "a Linux guest is moved while it copies, {} on {}",
                way.name, way.iommu
            ),
            move || moves(way),
        ));
    }
    trials
}

/// A controller on a file that can migrate.
fn controller(image: &Path, bdf: &str) -> String {
    format!(
        "nvme,file={},migration=all,cache=1M,bdf={bdf}",
        image.display()
    )
}

fn two_runs() -> Outcome {
    let (program, directory) = (compiled("migration", &[])?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let state = directory.path().join("state");
    for (job, bdf, expected) in [("save", FIRST, SAVED), ("restore", SECOND, RESTORED)] {
        let program = [program.as_os_str(), job.as_ref(), state.as_os_str()];
        let run = Run::new(program)
            .options(["--device", &controller(&image, bdf)])
            .options(["--device", "edu,bdf=0000:00:04.0"])
            .variable("DEVICE_NVME", bdf)
            .variable("DEVICE_EDU", "0000:00:04.0");
        let ended = run.success()?;
        if ended.stdout != expected {
            return fail(ended.told());
        }
    }
    Ok(())
}

fn one_run() -> Outcome {
    let (program, directory) = (compiled("migration", &[])?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let other = blank(directory.path(), "other", 16 << 20)?;
    let script = format!(
        "'{0}' save '{1}' && cat '{2}' >'{3}' && DEVICE_NVME={SECOND} '{0}' restore '{1}'",
        program.display(),
        directory.path().join("state").display(),
        image.display(),
        other.display()
    );
    let mut run = Run::new(["sh", "-c", &script]).options(["--iommu", "amd"]);
    for device in [
        controller(&image, FIRST),
        controller(&other, SECOND),
        "edu,bdf=0000:00:04.0".into(),
    ] {
        run = run.options(["--device", &device]);
    }
    let run = run
        .variable("DEVICE_NVME", FIRST)
        .variable("DEVICE_EDU", "0000:00:04.0");
    let ended = run.success()?;
    if ended.stdout == [SAVED, RESTORED].concat() {
        Ok(())
    } else {
        fail(ended.told())
    }
}

/// The machine is moved into a file while its guest copies block after block, and goes on from there in another run.
fn moves(way: &Way) -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let file = format!("file:{}", directory.path().join("state").display());
    let [before, after] = ["before", "after"].map(|name| directory.path().join(name));
    let device = format!("nvme,file={},migration=all", image.display());
    let start = |serial: &Path, more: &[&str]| -> Result<Monitor, Stop> {
        let machine = Machine::linux("10.0", directory.path(), "flush", "")?
            .with(["-cpu", "qemu64"])
            .with(way.options.iter().copied())
            .with(more.iter().copied())
            .device(FIRST, &format!(",enable-migration=on{}", way.properties));
        let run = machine.monitored(serial).iommu(way.iommu);
        Monitor::start(&run.options(["--device", &device]))
    };
    let mut source = start(&before, &[])?;
    appears(&before, "guest: flushed 20")?;
    let limits = json!({ "max-bandwidth": 1u64 << 33, "downtime-limit": 2000 });
    source.command("migrate-set-parameters", limits)?;
    source.command("migrate", json!({ "uri": file }))?;
    moved(&mut source)?;
    source.command("quit", json!({}))?;
    source.end()?;
    let target = start(&after, &["-incoming", &file])?;
    target.end()?;
    let told = [before, after].map(fs::read_to_string);
    let [before, after] = [told[0].as_ref()?, told[1].as_ref()?];
    if before.contains("flushed 512\n") || !after.contains("flushed 512") {
        return fail(format!("{before}\n-- then --\n{after}"));
    }
    content.copy_within(..32 * MIB, 32 * MIB);
    holds(&image, &content)
}

/// Waits until a machine has been moved.
fn moved(source: &mut Monitor) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        let answer = source.command("query-migrate", json!({}))?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => return fail(answer.to_string()),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    fail("the machine was not moved")
}

fn stays() -> Outcome {
    let directory = scratch()?;
    let (image, _) = medium(directory.path(), "disk", 64)?;
    let serial = directory.path().join("serial");
    let machine = Machine::new("10.0")?.device(FIRST, "");
    let mut monitor = Monitor::start(&machine.monitored(&serial).disk(&image))?;
    let answer = monitor.try_command("migrate", json!({ "uri": "exec:cat >/dev/null" }))?;
    match answer {
        Err(why) if why.contains("VFIO migration is not supported") => Ok(()),
        other => fail(format!("{other:?}")),
    }
}
