//! What a virtual machine runs: a boot sector, or Debian's kernel with one script (`clients/guest`).

use crate::world::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel of the guest set and the initial file system for it.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Guest {
    /// Makes the initial file system in `directory`, or says why there is no guest.
    pub fn make(directory: &Path) -> Result<Guest, Stop> {
        let root = set("guest")?;
        let boot = fs::read_dir(root.join("boot"))?;
        let kernel = boot
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains("vmlinuz-"));
        let Some(kernel) = kernel else {
            return fail("the guest set has no kernel");
        };
        let busybox = ["bin/busybox", "usr/bin/busybox"].map(|p| root.join(p));
        let busybox = fs::read(if busybox[0].exists() {
            &busybox[0]
        } else {
            &busybox[1]
        })?;
        let mut archive = Archive::default();
        for name in ["bin", "dev", "proc", "sys"] {
            archive.add(name, DIRECTORY | 0o755, (0, 0), &[]);
        }
        archive.add("dev/console", CHARACTER | 0o600, (5, 1), &[]);
        archive.add("bin/busybox", FILE | 0o755, (0, 0), &busybox);
        let script = fs::read(project("clients/guest/init"))?;
        archive.add("init", FILE | 0o755, (0, 0), &script);
        let initrd = directory.join("initrd");
        fs::write(&initrd, archive.end())?;
        Ok(Guest { kernel, initrd })
    }
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const FILE: u32 = 0o100_000;

/// A cpio archive of the kind that Linux unpacks into its first file system ("newc",
/// Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, node: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let bytes = content.len() as u32;
        let name_bytes = name.len() as u32 + 1;
        let (major, minor) = node;
        // Number, mode, owner, group, links, time, size, device (2), node (2), length of the name, check sum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            bytes,
            0,
            0,
            major,
            minor,
            name_bytes,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// The 512 bytes of `clients/guest/boot.S`.
pub fn boot_sector(directory: &Path) -> Result<Vec<u8>, Stop> {
    let out = directory.join("boot");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args([
        "-nostdlib",
        "-static",
        "-Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none",
        "-o",
    ])
    .arg(&out)
    .arg(project("clients/guest/boot.S"));
    match cc.output() {
        Err(error) => return Err(Stop::Skip(format!("no C compiler: {error}"))),
        Ok(o) if !o.status.success() => return fail(String::from_utf8_lossy(&o.stderr)),
        Ok(_) => {}
    }
    let sector = fs::read(out)?;
    if sector.len() == 512 {
        Ok(sector)
    } else {
        fail(format!("{} bytes", sector.len()))
    }
}
