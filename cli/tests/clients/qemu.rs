//! QEMU's own tools, as Debian ships them: patterns, odd requests, whole images.

use crate::world::*;
use libtest_mimic::Trial;
use std::fs;
use std::path::{Path, PathBuf};

/// The versions, and the IOMMUs each runs on.
const VERSIONS: [&str; 3] = ["7.2", "10.0", "11.1"];
const IOMMUS: [&str; 2] = ["vtd", "amd"];

pub const DISK: &str = "nvme://0000:01:00.0/1";

/// A tool of one version with the libraries it was built for.
pub struct Tool {
    program: PathBuf,
    libraries: String,
}

impl Tool {
    /// `qemu-io` or `qemu-img` of a version, or why it is not here.
    pub fn find(version: &str, name: &str) -> Result<Tool, Stop> {
        Tool::of(&format!("qemu-{version}"), name)
    }

    /// A program of a set.
    pub fn of(packages: &str, name: &str) -> Result<Tool, Stop> {
        let root = set(packages)?;
        // The newest comes with its own loader and C library.
        let own = root.join("run").join(name);
        let program = if own.exists() {
            own
        } else {
            root.join("usr/bin").join(name)
        };
        let libraries = format!(
            "{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu",
            root.display()
        );
        Ok(Tool { program, libraries })
    }

    /// The words that start it.
    pub fn words(&self) -> Vec<String> {
        vec![
            "env".into(),
            format!("LD_LIBRARY_PATH={}", self.libraries),
            self.program.display().to_string(),
        ]
    }

    /// The same, for a shell.
    pub fn shell(&self) -> String {
        self.words()
            .iter()
            .map(|w| format!("'{w}'"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A run with some arguments.
    pub fn run<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        let mut words = self.words();
        words.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        Run::new(words)
    }
}

/// qemu-io with one `-c` for each command.
pub fn io(commands: &[&str]) -> Vec<String> {
    let mut words = vec!["-f".to_owned(), "raw".to_owned()];
    for command in commands {
        words.extend(["-c".to_owned(), (*command).to_owned()]);
    }
    words.push(DISK.into());
    words
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in VERSIONS {
        for iommu in IOMMUS {
            let mut add = |what: &str, body: fn(&str, &str) -> Outcome| {
                trials.push(trial(
                    format!("qemu {version} {what} on {iommu}"),
                    move || body(version, iommu),
                ));
            };
            add("writes patterns and reads them back", patterns);
            add("reads and writes across block borders", unaligned);
            add("discards and writes zeroes", discard);
            add("finds a wrong pattern", wrong_pattern);
            add("converts a random image and finds it equal", convert);
        }
        trials.push(trial(
            format!("qemu {version} converts and compares within one run"),
            move || one_run(version),
        ));
    }
    trials.push(trial(
        "qemu with no cache turns the write cache on and off",
        no_cache,
    ));
    trials.push(trial("qemu reads many requests at once", queue_depth));
    trials.push(trial("qemu works on blocks of 4096 bytes", large_blocks));
    trials
}

/// Every byte of `range` of the medium is `value`.
fn holds(image: &Path, range: std::ops::Range<usize>, value: u8) -> Outcome {
    let bytes = fs::read(image)?;
    match bytes[range.clone()].iter().position(|b| *b != value) {
        None => Ok(()),
        Some(at) => fail(format!(
            "byte {:#x} of the medium is {:#x}, not {value:#x}",
            range.start + at,
            bytes[range.start + at]
        )),
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn patterns(version: &str, iommu: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 64 << 20)?;
    let commands = [
        "write -P 0x5a 1M 256k",
        "read -P 0x5a 1M 256k",
        "write -P 0xa5 4k 4k",
        "read -P 0xa5 4k 512",
        "flush",
        "discard 8M 1M",
        "write -z 16M 64k",
        "read -P 0 16M 64k",
    ];
    tool.run(io(&commands))
        .iommu(iommu)
        .disk(&image)
        .success()?;
    holds(&image, MIB..MIB + 256 * KIB, 0x5a)?;
    holds(&image, 4 * KIB..8 * KIB, 0xa5)?;
    holds(&image, 0..4 * KIB, 0)?;
    holds(&image, MIB + 256 * KIB..64 * MIB, 0)?;
    tool.run(io(&["read -P 0x5a 1M 256k"]))
        .iommu(iommu)
        .disk(&image)
        .success()?;
    Ok(())
}

fn unaligned(version: &str, iommu: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let commands = [
        "write -P 1 0 64k",
        "write -P 2 513 1000",
        "read -P 1 0 513",
        "read -P 2 513 1000",
        "read -P 1 1513 4000",
        "write -P 3 4095 2",
        "read -P 3 4095 2",
        "write -P 4 1M 3M",
        "read -P 4 2000000 1000001",
        "writev -P 5 5M 4k 1k 512 2560",
        "readv -P 5 5M 512 4k 3k 512",
        "aio_write -P 6 6M 64k",
        "aio_flush",
        "read -P 6 6M 64k",
    ];
    tool.run(io(&commands))
        .iommu(iommu)
        .disk(&image)
        .success()?;
    holds(&image, 513..1513, 2)?;
    holds(&image, 0..513, 1)?;
    holds(&image, MIB..4 * MIB, 4)
}

fn discard(version: &str, iommu: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let commands = [
        "write -P 7 0 4M",
        "discard 1M 1M",
        "read 1M 1M",
        "read -P 7 0 1M",
        "read -P 7 2M 2M",
        "write -z 0 64k",
        "read -P 0 0 64k",
        "write -z -u 3M 512k",
        "read -P 0 3M 512k",
        "write -P 8 1M 1M",
        "read -P 8 1M 1M",
    ];
    tool.run(io(&commands))
        .iommu(iommu)
        .disk(&image)
        .success()?;
    holds(&image, MIB..2 * MIB, 8)?;
    holds(&image, 2 * MIB..3 * MIB, 7)
}

fn wrong_pattern(version: &str, iommu: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let ended = tool
        .run(io(&["write -P 1 0 4k", "read -P 2 0 4k"]))
        .iommu(iommu)
        .disk(&image)
        .end()?;
    if ended.status.code() == Some(1) && ended.stdout.contains("Pattern verification failed") {
        return Ok(());
    }
    fail(ended.told())
}

fn convert(version: &str, iommu: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-img")?, scratch()?);
    let bytes = if quick() { 16 } else { 256 } << 20;
    let source = directory.path().join("source");
    let content = random(bytes, 1);
    fs::write(&source, &content)?;
    let image = blank(directory.path(), "disk", bytes as u64)?;
    let source = source.display().to_string();
    tool.run(["convert", "-n", "-f", "raw", "-O", "raw", &source, DISK])
        .iommu(iommu)
        .disk(&image)
        .success()?;
    tool.run(["compare", "-f", "raw", "-F", "raw", &source, DISK])
        .iommu(iommu)
        .disk(&image)
        .success()?;
    match difference(&content, &fs::read(&image)?) {
        None => Ok(()),
        Some(at) => fail(format!(
            "the medium differs from the source at byte {at:#x}"
        )),
    }
}

fn one_run(version: &str) -> Outcome {
    let (tool, directory) = (Tool::find(version, "qemu-img")?, scratch()?);
    let source = directory.path().join("source");
    fs::write(&source, random(32 << 20, 2))?;
    let (tool, source) = (tool.shell(), source.display());
    let script = format!(
        "{tool} convert -n -f raw -O raw '{source}' {DISK} && {tool} compare -f raw -F raw '{source}' {DISK}"
    );
    let ended = Run::new(["sh", "-c", &script])
        .options(["--device", "nvme,size=32M"])
        .success()?;
    if ended.stdout.contains("Images are identical") {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn no_cache() -> Outcome {
    let (tool, directory) = (Tool::find("7.2", "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    for mode in ["none", "writethrough", "writeback", "directsync"] {
        let mut words = vec!["-t".to_owned(), mode.to_owned()];
        words.extend(io(&[
            "write -P 9 0 1M",
            "read -P 9 0 1M",
            "write -f -P 10 1M 4k",
            "read -P 10 1M 4k",
        ]));
        tool.run(words).disk(&image).success()?;
    }
    holds(&image, 0..MIB, 9)
}

fn queue_depth() -> Outcome {
    let tool = Tool::find("7.2", "qemu-img")?;
    for depth in ["1", "8", "64"] {
        let place = "driver=nvme,device=0000:01:00.0,namespace=1";
        let words = [
            "bench",
            "-c",
            "2000",
            "-d",
            depth,
            "-s",
            "4096",
            "--image-opts",
            place,
        ];
        tool.run(words)
            .options(["--device", "nvme,size=64M"])
            .success()?;
    }
    Ok(())
}

fn large_blocks() -> Outcome {
    let (tool, directory) = (Tool::find("7.2", "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let device = format!("nvme,file={},block=4096", image.display());
    let commands = [
        "write -P 1 0 64k",
        "write -P 2 4096 512",
        "read -P 2 4096 512",
        "read -P 1 4608 8k",
    ];
    tool.run(io(&commands))
        .options(["--device", &device])
        .success()?;
    holds(&image, 4096..4608, 2)
}
