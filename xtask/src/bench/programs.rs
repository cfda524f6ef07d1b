//! Whole programs: start-up, qemu-img on an emulated NVMe beside qemu-img without, a checked VFIO test beside the
//! same on a real kernel in an emulated machine.

use super::table::{Required, Row, nanoseconds};
use super::timing::{compare, median, wall};
use super::tools::{Figures, NVME, Tools};
use crate::clients::{self, Linking, Programs};
use crate::record;
use crate::run::{captured, quiet};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The disk of qemu-img bench, and the size of null-co beside it: what is read is in memory for both.
const BENCH_DISK: &str = "64M";

/// `swiommu run -- true` beside `true`.
pub fn start_up(tools: &Tools) -> Result<Row> {
    let pair = compare(
        tools.rounds(61, 11),
        || {
            let mut run = tools.run(&[]);
            run.arg("true");
            wall(run)
        },
        || wall(Command::new("true")),
    )?;
    Ok(Row {
        what: "`swiommu run -- true`: what it adds".into(),
        ours: nanoseconds(pair.ours * 1e9),
        beside: format!("`true` {}", nanoseconds(pair.beside * 1e9)),
        ratio: (pair.ours - pair.beside) * 1e3,
        unit: " ms",
        required: Required::AtMost(15.0),
    })
}

/// The kernel's whole iommufd selftest, 246 cases, in seconds. `None` when it cannot be built here.
pub fn selftest(tools: &Tools) -> Result<Option<Row>> {
    let Ok(directory) = clients::selftests(Linking::Dynamic) else {
        return Ok(None);
    };
    let mut times = Vec::new();
    for _ in 0..tools.rounds(5, 1) {
        let mut run = tools.run(&["--mock"]);
        run.arg(directory.join("iommufd"));
        // That every case passes is for the client suite to say.
        let start = Instant::now();
        captured(&mut run)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let seconds = median(times);
    Ok(Some(Row {
        what: "the kernel's iommufd selftest, 246 cases".into(),
        ours: nanoseconds(seconds * 1e9),
        beside: "10 s".into(),
        ratio: seconds,
        unit: " s",
        required: Required::AtMost(10.0),
    }))
}

/// How a convert's target is before each run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A new file of the full length without blocks, as `truncate` makes it.
    Fresh,
    /// The file of the run before: its blocks are allocated and its pages cached.
    Allocated,
}

/// `qemu-img convert` of a random image to the emulated NVMe beside the same to a plain file, with one of qemu-img's
/// cache modes for the target.
///
/// `mib` is the size of the image.
pub fn convert(
    tools: &Tools,
    mib: usize,
    (target, cache): (Target, &str),
    required: Required,
) -> Result<Row> {
    let (source, plain, disk) = (
        tools.file(&format!("random-{mib}.img")),
        tools.file("plain.img"),
        tools.file("disk.img"),
    );
    random_image(&source, mib)?;
    for image in [&plain, &disk] {
        fresh(image, mib)?;
    }
    let device = format!(
        "nvme,file={}",
        disk.to_str().context("a path of plain text")?
    );
    let once = |mut command: Command, file: &Path, to: &str| -> Result<f64> {
        if target == Target::Fresh {
            fresh(file, mib)?;
        }
        command.args(["convert", "-n", "-t", cache, "-f", "raw", "-O", "raw"]);
        let took = wall({
            command.arg(&source).arg(to);
            command
        })?;
        // What this run left to write back shall not weigh on the next.
        File::open(file)?.sync_all()?;
        Ok(took)
    };
    let (nvme, plain_name) = (format!("nvme://{NVME}/1"), plain.to_string_lossy());
    let pair = compare(
        tools.rounds(if mib > 256 { 9 } else { 15 }, 3),
        || once(tools.qemu_img_run(&["--device", &device]), &disk, &nvme),
        || once(tools.qemu_img(), &plain, &plain_name),
    )?;
    let how = match target {
        Target::Fresh => "to a fresh file",
        Target::Allocated => "over an allocated file",
    };
    Ok(Row {
        ratio: 1.0 / pair.ratio,
        ..Row::speed(
            format!("qemu-img convert -t {cache} of {mib} MiB, nvme:// {how}"),
            pair.ours * 1e9,
            ("plain file", pair.beside * 1e9),
            required,
        )
    })
}

fn fresh(image: &Path, mib: usize) -> Result<()> {
    let _ = fs::remove_file(image);
    Ok(File::create(image)?.set_len((mib << 20) as u64)?)
}

/// An image that does not compress and is the same every time.
fn random_image(path: &Path, mib: usize) -> Result<()> {
    if fs::metadata(path).is_ok_and(|m| m.len() == (mib << 20) as u64) {
        // It is to be in the page cache.
        fs::read(path)?;
        return Ok(());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    Ok(fs::write(path, bytes)?)
}

/// `qemu-img bench`, 4 KiB reads at one queue depth.
fn bench_command(mut command: Command, depth: u32, count: u32, place: &str) -> Command {
    command.args(["bench", "-s", "4096"]);
    command.args(["-c", &count.to_string(), "-d", &depth.to_string()]);
    command.args(["--image-opts", place]);
    command
}

/// Seconds that `qemu-img bench` says it took.
fn bench_seconds(mut command: Command) -> Result<f64> {
    let text = quiet(&mut command)?;
    let took = text
        .lines()
        .find_map(|l| l.strip_prefix("Run completed in "));
    let took = took
        .and_then(|t| t.split(' ').next())
        .context("qemu-img bench changed its words")?;
    Ok(took.parse()?)
}

/// 4 KiB reads beside the driver that does nothing: the row, and nanoseconds of a request on both sides.
pub fn reads(tools: &Tools, depth: u32, required: Required) -> Result<(Row, f64, f64)> {
    let count = if tools.quick { 20_000 } else { 100_000 };
    let pair = compare(
        tools.rounds(9, 3),
        || bench_seconds(nvme_reads(tools, depth, count)),
        || {
            let place = format!("driver=null-co,size={BENCH_DISK}");
            bench_seconds(bench_command(tools.qemu_img(), depth, count, &place))
        },
    )?;
    let each = |seconds: f64| seconds * 1e9 / f64::from(count);
    let (ours, beside) = (each(pair.ours), each(pair.beside));
    let row = Row {
        ratio: pair.ratio,
        ..Row::times(
            format!("qemu-img bench, 4 KiB reads at depth {depth}"),
            ours,
            ("null-co", beside),
            required,
        )
    };
    Ok((row, ours, beside))
}

fn nvme_reads(tools: &Tools, depth: u32, count: u32) -> Command {
    let device = format!("nvme,size={BENCH_DISK}");
    let place = format!("driver=nvme,device={NVME},namespace=1");
    bench_command(
        tools.qemu_img_run(&["--device", &device]),
        depth,
        count,
        &place,
    )
}

/// Traps of one request, counted by strace; `None` where it is not to be had.
fn traps(tools: &Tools, depth: u32) -> Option<f64> {
    let log = tools.file("traps.strace");
    let count = |requests: u32| -> Option<f64> {
        let reads = nvme_reads(tools, depth, requests);
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            "trace=none",
            "-e",
            "signal=SIGSEGV",
            "-o",
        ]);
        strace
            .arg(&log)
            .arg(reads.get_program())
            .args(reads.get_args());
        strace.envs(reads.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let output = captured(&mut strace).ok()?;
        let text = fs::read_to_string(&log).ok()?;
        output
            .status
            .success()
            .then(|| text.lines().filter(|l| l.contains("SIGSEGV")).count() as f64)
    };
    let (few, many) = (1000, 3000);
    Some((count(many)? - count(few)?) / f64::from(many - few))
}

/// Where the time of a request goes, as a line of text.
pub fn breakdown(tools: &Tools, depth: u32, each: (f64, f64), costs: &Figures) -> Result<String> {
    let (request, null) = each;
    let (trap, command) = (costs.get("register-read")?, costs.get("read-4k")?);
    let Some(traps) = traps(tools, depth) else {
        return Ok(format!(
            "depth {depth}: {}; its traps were not counted (no strace)",
            nanoseconds(request)
        ));
    };
    let spent = traps * trap;
    let model = (command - 2.0 * trap).max(0.0);
    Ok(format!(
        "depth {depth}: {} a request = {traps:.2} traps of {} ({}) + command, copy and completion {} + eventfd {} + \
         qemu's own as with null-co {} + the rest of qemu's NVMe driver and event loop {}",
        nanoseconds(request),
        nanoseconds(trap),
        nanoseconds(spent),
        nanoseconds(model),
        nanoseconds(costs.get("eventfd-write")?),
        nanoseconds(null),
        nanoseconds((request - spent - model - costs.get("eventfd-write")? - null).max(0.0)),
    ))
}

/// A checked VFIO test from command to result, here and on a real kernel in an emulated machine.
pub fn checked_test(tools: &Tools) -> Result<(Option<Row>, String)> {
    let name = "edu_dma";
    let here = clients::compile(name, Linking::Dynamic)?;
    let golden = crate::project::file("clients/golden/intel").join(format!("{name}.txt"));
    let golden = fs::read_to_string(golden)?;
    let all = Programs::read()?;
    let edu = all
        .devices
        .get("EDU")
        .context("clients/programs.toml names no EDU")?
        .clone();
    let device = format!("edu,bdf={edu}");
    let mut times = Vec::new();
    for _ in 0..tools.rounds(15, 5) {
        let mut run = tools.run(&["--device", &device]);
        run.env("DEVICE_EDU", &edu).arg(&here);
        let start = std::time::Instant::now();
        let answers = quiet(&mut run)?;
        times.push(start.elapsed().as_secs_f64());
        ensure!(
            answers == golden,
            "{name} answers otherwise than the real kernel"
        );
    }
    let ours = median(times) * 1e9;
    let what = format!("checked VFIO test ({name}), command to result");
    let Some(oracle) = std::env::var_os("SWIOMMU_ORACLE") else {
        let text = format!(
            "{what}: {}; a real kernel in an emulated machine was not measured (SWIOMMU_ORACLE is not set)",
            nanoseconds(ours)
        );
        return Ok((None, text));
    };
    let program = all
        .programs
        .iter()
        .find(|p| p.name == name)
        .context("clients/programs.toml has no edu_dma")?;
    let there = clients::compile(name, Linking::Static)?;
    let start = std::time::Instant::now();
    record::ask(
        Path::new(&oracle),
        program,
        &there,
        "intel",
        all.devices.keys(),
    )?;
    let beside = start.elapsed().as_secs_f64() * 1e9;
    let row = Row {
        unit: "x faster",
        ..Row::speed(
            &what,
            ours,
            ("real kernel, emulated machine", beside),
            Required::Nothing,
        )
    };
    Ok((
        Some(row),
        format!(
            "{what}: {} beside {}",
            nanoseconds(ours),
            nanoseconds(beside)
        ),
    ))
}
