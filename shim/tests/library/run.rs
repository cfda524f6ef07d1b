//! A hand-made run tree, the library with the toy engine, and C programs compiled for the occasion.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const DEVICE: &str = "sys/devices/pci0000:00/0000:01:00.0";

/// The library with the toy engine, which cargo builds beside the tests.
pub fn library() -> PathBuf {
    let mut place = std::env::current_exe().expect("own path");
    place.pop();
    place.pop();
    let library = place.join("examples/libfake_engine.so");
    assert!(
        library.exists(),
        "{} is missing: cargo build -p swiommu-shim --examples",
        library.display()
    );
    library
}

/// A run's directory; gone when dropped.
pub struct Run {
    dir: tempfile::TempDir,
}

impl Run {
    pub fn new() -> Run {
        let dir = tempfile::Builder::new()
            .prefix("swiommu-test")
            .tempdir()
            .expect("temporary directory");
        let root = dir.path().join("root");
        let device = root.join(DEVICE);
        for made in [
            "dev/vfio",
            "sys/bus/pci/devices",
            "sys/kernel/iommu_groups/1",
        ] {
            fs::create_dir_all(root.join(made)).expect("directory");
        }
        fs::create_dir_all(device.join("sub")).expect("directory");
        fs::create_dir_all(dir.path().join("reports")).expect("directory");
        fs::write(device.join("vendor"), "0x8086\n").expect("file");
        fs::write(device.join("sub/inner"), "inner\n").expect("file");
        symlink("vendor", device.join("link")).expect("link");
        symlink("../../../kernel/iommu_groups/1", device.join("iommu_group")).expect("link");
        symlink(
            "../../../devices/pci0000:00/0000:01:00.0",
            root.join("sys/bus/pci/devices/0000:01:00.0"),
        )
        .expect("link");
        for node in ["dev/vfio/vfio", "dev/vfio/1"] {
            fs::write(root.join(node), "").expect("node");
        }
        Run { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// A command with the library in front of it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", library())
            .env("SWIOMMU_RUN", self.path());
        command
    }
}

/// Compiles `tests/c/NAME.c`.
pub fn program(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/c")
        .join(format!("{name}.c"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{name}-{}-{}",
        std::process::id(),
        unique()
    ));
    let status = Command::new("cc")
        .args(["-O1", "-w", "-pthread", "-o"])
        .arg(&out)
        .arg(&source)
        .arg("-ldl")
        .status()
        .expect("cc is needed for these tests");
    assert!(status.success(), "{} does not compile", source.display());
    out
}

fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Standard output as text, after checking that the program ended well.
pub fn text(output: Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{out}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    out
}
