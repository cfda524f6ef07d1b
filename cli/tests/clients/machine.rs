//! A virtual machine of QEMU's system emulator, put together word by word.

use crate::guest::Guest;
use crate::qemu::Tool;
use crate::world::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const MIB: usize = 1 << 20;
pub const FIRST: &str = "0000:01:00.0";
pub const SECOND: &str = "0000:02:00.0";

/// The words that start a machine.
pub struct Machine {
    words: Vec<String>,
}

impl Machine {
    /// A machine without devices, or why there is none.
    pub fn new(version: &str) -> Result<Machine, Stop> {
        let packages = format!("qemu-system-{version}");
        let tool = Tool::of(&packages, "qemu-system-x86_64")?;
        let data = set(&packages)?.join("usr/share");
        let mut machine = Machine {
            words: tool.words(),
        };
        for folder in ["seabios", "qemu"] {
            machine = machine.with(["-L", &data.join(folder).display().to_string()]);
        }
        let rest = "-machine q35 -accel tcg -cpu max -m 256 -nodefaults -display none";
        Ok(machine.with(rest.split(' ')))
    }

    /// A machine that starts Linux with a job of `clients/guest/init` and more words for its kernel.
    pub fn linux(
        version: &str,
        directory: &Path,
        job: &str,
        kernel: &str,
    ) -> Result<Machine, Stop> {
        let guest = Guest::make(directory)?;
        let line = format!("console=ttyS0 quiet panic=-1 job={job} {kernel}");
        let [kernel, initrd] = [guest.kernel, guest.initrd].map(|p| p.display().to_string());
        let machine = Machine::new(version)?;
        Ok(machine.with(["-kernel", &kernel, "-initrd", &initrd, "-append", &line]))
    }

    /// Adds words.
    pub fn with<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Machine {
        self.words.extend(words.into_iter().map(str::to_owned));
        self
    }

    /// Adds an assigned device; each property begins with a comma.
    pub fn device(self, bdf: &str, properties: &str) -> Machine {
        self.with(["-device", &format!("vfio-pci,host={bdf}{properties}")])
    }

    /// Adds an assigned device that a launcher opens: its node as descriptor 3, /dev/iommu as 4.
    pub fn device_by_descriptor(self, properties: &str) -> Machine {
        let device = format!("vfio-pci,iommufd=iommufd0,fd=3{properties}");
        self.with(["-object", "iommufd,id=iommufd0,fd=4", "-device", &device])
    }

    /// A run whose standard output is the machine's serial port.
    pub fn run(self) -> Run {
        Run::new(self.with(["-serial", "stdio"]).words)
    }

    /// A run whose standard streams are the machine's monitor; the serial port goes to a file.
    pub fn monitored(self, serial: &Path) -> Run {
        Run::new(self.serial_file(serial).with(["-qmp", "stdio"]).words)
    }

    /// Sends the serial port to a file.
    pub fn serial_file(self, serial: &Path) -> Machine {
        self.with(["-serial", &format!("file:{}", serial.display())])
    }

    /// The words, for a shell.
    pub fn shell(&self) -> String {
        let quoted: Vec<_> = self.words.iter().map(|w| format!("'{w}'")).collect();
        quoted.join(" ")
    }
}

/// A medium of `mib` MiB that begins with random bytes, and its content.
pub fn medium(directory: &Path, name: &str, mib: usize) -> Result<(PathBuf, Vec<u8>), Stop> {
    let mut content = random(40 * MIB, mib as u64);
    content.resize(mib * MIB, 0);
    let path = directory.join(name);
    fs::write(&path, &content)?;
    Ok((path, content))
}

/// Whether a medium holds exactly this.
pub fn holds(image: &Path, expected: &[u8]) -> Outcome {
    match difference(expected, &fs::read(image)?) {
        None => Ok(()),
        Some(at) => fail(format!("{} differs at byte {at:#x}", image.display())),
    }
}

/// What the guest's job `copy` makes of a medium.
pub fn after_copy(content: &mut [u8]) {
    content.copy_within(..16 * MIB, 32 * MIB);
}

/// Waits until a file has a text.
pub fn appears(path: &Path, text: &str) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        if fs::read(path).is_ok_and(|b| String::from_utf8_lossy(&b).contains(text)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = fs::read(path).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    fail(format!("{text:?} was not said:\n{said}"))
}
