//! The run's directory: made by `swiommu run` before the program starts, gone when it has ended.
//!
//! ```text
//! RUN/owner         locked by `swiommu run` for as long as it lives
//! RUN/machine.json  the machine, for the engine of every process of the run
//! RUN/root/         the tree that clients see in place of parts of /sys and /dev
//! RUN/locks/        who has what open, who changes the tree: see `hostdrv`
//! RUN/drivers/      identities added to drivers by new_id
//! RUN/engines/      PID.sock: the socket of an engine that others have something to ask: see `service`
//! RUN/media/        the bytes of namespaces given by size=, sparse
//! RUN/reports/      PID.alive: the library works in process PID; PID.jsonl: what it found, one JSON object a line;
//!                   PID.selftest: what it found of this computer, when `swiommu doctor` asked
//! RUN/kept          there if the directory is to stay (`--keep`)
//! ```
//!
//! A directory whose owner was killed is removed by a later run, unless a process of that run still holds a group.
//! That is decided by file locks, not by process ids, so runs in different PID namespaces do not harm each other.

use super::{DeviceKind, Machine, resolve::medium_path, tree};
use crate::hostdrv;
use crate::pci::Identity;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the names of our directories begin with.
const PREFIX: &str = "swiommu-run-";
/// What they end with until they are complete.
const UNFINISHED: &str = ".new";
/// Room for the tree itself and reports.
const TREE_ROOM: u64 = 4 << 20;

/// A run's directory. Dropping it removes it, unless [`RunDir::keep`] was called.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Holds the lock on `owner`.
    _owner: File,
    keep: bool,
}

impl RunDir {
    /// Makes the directory of a run under `base` and puts the machine's `size=` media into it: their paths in
    /// `machine` become absolute. `identities` are those of the machine's devices, in order.
    ///
    /// # Errors
    /// What making files gave; what was made is removed again.
    pub fn create(
        base: &Path,
        machine: &mut Machine,
        identities: &[Identity],
    ) -> io::Result<RunDir> {
        let pid = std::process::id();
        let nonce = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |age| age.subsec_nanos());
        let path = base.join(format!("{PREFIX}{pid}-{nonce:08x}"));
        let unfinished = base.join(format!("{PREFIX}{pid}-{nonce:08x}{UNFINISHED}"));
        fs::DirBuilder::new().mode(0o700).create(&unfinished)?;
        let owner = File::create(unfinished.join("owner"))
            .and_then(|owner| {
                Ok(
                    rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive)
                        .map(|()| owner)?,
                )
            })
            .and_then(|owner| fs::rename(&unfinished, &path).map(|()| owner));
        let owner = owner.inspect_err(|_| drop(fs::remove_dir_all(&unfinished)))?;
        let run = RunDir {
            path,
            _owner: owner,
            keep: false,
        };
        run.fill(machine, identities)?;
        Ok(run)
    }

    fn fill(&self, machine: &mut Machine, identities: &[Identity]) -> io::Result<()> {
        for name in ["engines", "locks", "media", "reports", "root"] {
            fs::create_dir(self.path.join(name))?;
        }
        for device in &mut machine.devices {
            let DeviceKind::Nvme(nvme) = &mut device.kind else {
                continue;
            };
            for medium in nvme
                .namespaces
                .iter_mut()
                .filter(|medium| medium.path.is_relative())
            {
                medium.path = medium_path(&self.path, medium);
                // a virtual function's media are those of its physical one, which came first
                if nvme.part.is_none() {
                    File::create_new(&medium.path)?.set_len(medium.bytes)?;
                }
            }
        }
        fs::write(self.path.join("machine.json"), serde_json::to_vec(machine)?)?;
        hostdrv::reset::create(&self.path, machine.devices.len())?;
        tree::build(&self.path.join("root"), machine, identities)?;
        for device in machine.devices.iter().filter(|device| device.present) {
            let driver = device
                .driver
                .as_deref()
                .and_then(|name| machine.driver(name));
            if driver.is_some_and(|driver| driver.vfio) {
                hostdrv::make_available(&self.path, device.address(), device.group)
                    .map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
            }
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does process `pid` have the preloaded library at work?
    pub fn is_alive(&self, pid: u32) -> bool {
        self.path.join(format!("reports/{pid}.alive")).exists()
    }

    /// The findings of all processes of the run, in the order of their process ids, as JSON lines.
    pub fn findings(&self) -> Vec<String> {
        let reports = fs::read_dir(self.path.join("reports"))
            .into_iter()
            .flatten()
            .flatten();
        let mut files: Vec<PathBuf> = reports.map(|entry| entry.path()).collect();
        files.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        });
        files.sort_by_key(|path| {
            path.file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u32>().ok())
        });
        let text = files.iter().filter_map(|path| fs::read(path).ok());
        text.flat_map(|text| {
            String::from_utf8_lossy(&text)
                .lines()
                .map(String::from)
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// The answers of process `pid` to `selftest=1`, as JSON lines.
    pub fn selftest(&self, pid: u32) -> Vec<String> {
        let text = fs::read_to_string(self.path.join(format!("reports/{pid}.selftest")))
            .unwrap_or_default();
        text.lines().map(String::from).collect()
    }

    /// Leaves the directory where it is, for a look inside; sweeps spare it.
    ///
    /// # Errors
    /// What marking it gave.
    pub fn keep(&mut self) -> io::Result<()> {
        File::create(self.path.join("kept"))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            // Nobody is left to tell; a later sweep tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Where runs of `machine` go: the first of `$XDG_RUNTIME_DIR`, `/dev/shm`, `$TMPDIR` and `/tmp` that is a writable
/// directory with room for the machine's media; if none has the room, the writable one with the most (the media are
/// sparse and may never fill).
///
/// # Errors
/// No such directory is writable: the text lists them.
pub fn choose_base(machine: &Machine) -> io::Result<PathBuf> {
    let wanted = TREE_ROOM + media_bytes(machine);
    let environment = |name| {
        std::env::var_os(name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let candidates = [
        environment("XDG_RUNTIME_DIR"),
        Some("/dev/shm".into()),
        environment("TMPDIR"),
        Some("/tmp".into()),
    ];
    let mut best: Option<(u64, PathBuf)> = None;
    for path in candidates
        .iter()
        .flatten()
        .filter(|path| path.is_absolute())
    {
        let Some(room) = writable_room(path) else {
            continue;
        };
        if room >= wanted {
            return Ok(path.clone());
        }
        if best.as_ref().is_none_or(|(most, _)| room > *most) {
            best = Some((room, path.clone()));
        }
    }
    best.map(|(_, path)| path).ok_or_else(|| {
        let names: Vec<String> = candidates
            .iter()
            .flatten()
            .map(|path| path.display().to_string())
            .collect();
        io::Error::other(format!(
            "no writable directory for the run among {}",
            names.join(", ")
        ))
    })
}

/// Bytes of the media that live in the run's directory.
pub fn media_bytes(machine: &Machine) -> u64 {
    let nvmes = machine
        .devices
        .iter()
        .filter_map(|device| match &device.kind {
            DeviceKind::Nvme(nvme) => Some(nvme),
            _ => None,
        });
    let media = nvmes
        .flat_map(|nvme| &nvme.namespaces)
        .filter(|medium| medium.path.is_relative());
    media.fold(0, |sum, medium| sum.saturating_add(medium.bytes))
}

/// Bytes free in a directory, `None` if it cannot be written.
pub fn writable_room(path: &Path) -> Option<u64> {
    rustix::fs::access(
        path,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .ok()?;
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes the directories of runs under `base` whose owner is gone and whose groups nobody holds.
pub fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let me = rustix::process::geteuid().as_raw();
        let mine = entry.metadata().is_ok_and(|metadata| metadata.uid() == me);
        if mine && abandoned(&entry.path(), name.ends_with(UNFINISHED)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn abandoned(run: &Path, unfinished: bool) -> bool {
    if unfinished {
        let age = fs::symlink_metadata(run)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        return age.is_some_and(|age| age > Duration::from_secs(60));
    }
    if run.join("kept").exists() {
        return false;
    }
    let groups = fs::read_dir(run.join("locks"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    [run.join("owner")]
        .into_iter()
        .chain(groups)
        .all(|path| is_unlocked(&path))
}

/// Could the lock be taken? It is dropped again at once. A file that cannot be opened counts as locked: it is not ours.
fn is_unlocked(path: &Path) -> bool {
    let file = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    );
    file.is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

#[cfg(test)]
mod tests;
