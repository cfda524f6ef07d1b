//! `cargo xtask fetch`: the clients of the tests, as Debian ships them, unpacked under target/clients and never
//! installed.
//!
//! Packages come from the mirror that this machine's own apt sources name, through apt's ordinary tools with private
//! state, so no right beyond writing to target/ is needed. Each file is pinned by its SHA-256 in
//! `xtask/clients.lock.toml`; `--update` renews the pins. A pinned file that the mirror no longer has, or no network,
//! leaves that client absent: its tests are skipped and say why.

mod apt;
mod lock;
mod unpack;

use crate::project;
use crate::run::progress;
use anyhow::{Result, bail};
use lock::{Lock, Set};
use std::fs;
use std::path::{Path, PathBuf};

/// Options of `fetch`.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Take the newest versions the mirror has and renew the pins
    #[arg(long)]
    update: bool,
    /// Only these sets (default: all)
    sets: Vec<String>,
}

/// One group of packages that are unpacked together.
struct Wanted {
    /// Its name, and its directory's.
    name: &'static str,
    /// The release the packages come from; the mirror's path decides, this is for `--update`.
    suite: &'static str,
    /// The releases apt may resolve dependencies from.
    also: &'static [&'static str],
    packages: &'static [&'static str],
    /// With everything the packages depend on.
    dependencies: bool,
    /// Dependencies that the machine's own copy serves (its C library and what the loader brings).
    without: &'static [&'static str],
    /// Beginnings of the names to keep, when not all that is depended on is of use; empty keeps all.
    only: &'static [&'static str],
}

impl Wanted {
    /// Whether a package that apt would install belongs into the set.
    fn keeps(&self, package: &str) -> bool {
        let wanted =
            self.only.is_empty() || self.only.iter().any(|start| package.starts_with(start));
        wanted && !self.without.contains(&package)
    }
}

const HOSTS_OWN: &[&str] = &["libc6", "gcc-12-base", "libcrypt1"];
/// The same, and packages that only an installation needs.
const NO_PROGRAMS: &[&str] = &[
    "libc6",
    "gcc-12-base",
    "libcrypt1",
    "adduser",
    "debconf",
    "iso-codes",
    "libasound2-data",
    "libcap2-bin",
    "libpam-modules",
    "libpam-modules-bin",
    "passwd",
];

const SETS: &[Wanted] = &[
    Wanted {
        name: "qemu-7.2",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["qemu-utils"],
        dependencies: true,
        without: HOSTS_OWN,
        only: &[],
    },
    Wanted {
        name: "qemu-10.0",
        suite: "bookworm-backports",
        also: &["bookworm", "bookworm-updates"],
        packages: &["qemu-utils"],
        dependencies: true,
        without: HOSTS_OWN,
        only: &[],
    },
    Wanted {
        name: "qemu-11.1",
        suite: "sid",
        also: &[],
        packages: &["qemu-utils"],
        dependencies: true,
        without: &[],
        only: &[],
    },
    Wanted {
        name: "qemu-system-7.2",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["qemu-system-x86"],
        dependencies: true,
        without: NO_PROGRAMS,
        only: &[],
    },
    Wanted {
        name: "qemu-system-10.0",
        suite: "bookworm-backports",
        also: &["bookworm", "bookworm-updates"],
        packages: &["qemu-system-x86"],
        dependencies: true,
        without: NO_PROGRAMS,
        only: &[],
    },
    // What a virtual machine runs: the names of kernel packages change with each update, the metapackage's does not.
    Wanted {
        name: "guest",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["linux-image-cloud-amd64", "busybox-static"],
        dependencies: true,
        without: &[],
        only: &["linux-image-6", "busybox-static"],
    },
    Wanted {
        name: "uuid",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["uuid-dev", "libuuid1"],
        dependencies: false,
        without: &[],
        only: &[],
    },
    Wanted {
        name: "libcap",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["libcap-dev", "libcap2"],
        dependencies: false,
        without: &[],
        only: &[],
    },
    // dpdk-devbind, and the lspci that it calls.
    Wanted {
        name: "dpdk",
        suite: "bookworm",
        also: &["bookworm-updates"],
        packages: &["dpdk", "pciutils", "libpci3", "libkmod2"],
        dependencies: false,
        without: &[],
        only: &[],
    },
    Wanted {
        name: "linux",
        suite: "sid",
        also: &[],
        packages: &["linux-source-7.2", "linux-libc-dev"],
        dependencies: false,
        without: &[],
        only: &[],
    },
];

/// A client set: where it is, or why it is not there.
pub type Found = std::result::Result<PathBuf, String>;

/// Where a set is unpacked.
pub fn directory(name: &str) -> PathBuf {
    project::clients().join(name)
}

/// The file that says why a set is absent; the client suite reads it.
fn absence(name: &str) -> PathBuf {
    project::clients().join(format!("{name}.absent"))
}

/// The command.
pub fn fetch(options: &Options) -> Result<()> {
    if let Some(unknown) = options
        .sets
        .iter()
        .find(|s| !SETS.iter().any(|w| w.name == **s))
    {
        let names: Vec<_> = SETS.iter().map(|s| s.name).collect();
        bail!("there is no set {unknown}; accepted: {}", names.join(", "));
    }
    let chosen = |w: &&Wanted| options.sets.is_empty() || options.sets.iter().any(|s| s == w.name);
    if options.update {
        let mut lock = Lock::read()?;
        for wanted in SETS.iter().filter(chosen) {
            progress(&format!(
                "resolving {} from {}",
                wanted.packages.join(" "),
                wanted.suite
            ));
            lock.replace(apt::resolve(wanted)?);
        }
        lock.write()?;
    }
    let mut absent = Vec::new();
    for wanted in SETS.iter().filter(chosen) {
        if let Err(why) = ensure(wanted.name)? {
            absent.push(format!("{}: {why}", wanted.name));
        }
    }
    if !absent.is_empty() {
        bail!("{}", absent.join("\n"));
    }
    crate::clients::own_loaders()
}

/// Makes sure that a set is unpacked, downloading what is not cached.
///
/// `Ok(Err(reason))` when it cannot be had here; an error only when our own files are broken.
pub fn ensure(name: &str) -> Result<Found> {
    let lock = Lock::read()?;
    let Some(set) = lock.set(name) else {
        bail!("xtask/clients.lock.toml has no set {name}")
    };
    let into = directory(name);
    let stamp = unpack::stamp(set);
    let complete = into.join(".complete");
    if fs::read_to_string(&complete).is_ok_and(|s| s == stamp) {
        return Ok(Ok(into));
    }
    match unpacked(set, &into) {
        Ok(()) => {
            fs::write(complete, stamp)?;
            let _ = fs::remove_file(absence(name));
            Ok(Ok(into))
        }
        Err(why) => {
            let why = format!("{why:#}").replace('\n', " ");
            fs::create_dir_all(project::clients())?;
            fs::write(absence(name), &why)?;
            Ok(Err(why))
        }
    }
}

/// Downloads and unpacks a set.
fn unpacked(set: &Set, into: &Path) -> Result<()> {
    let cache = project::clients().join("packages");
    fs::create_dir_all(&cache)?;
    let missing: Vec<_> = set.packages.iter().filter(|p| !p.is_in(&cache)).collect();
    if !missing.is_empty() {
        let bytes: u64 = missing.iter().map(|p| p.size).sum();
        progress(&format!(
            "downloading {} ({} packages, {} MiB)",
            set.name,
            missing.len(),
            bytes >> 20
        ));
        let mirror = apt::mirror()?;
        for package in missing {
            apt::download(&mirror, package, &cache)?;
        }
    }
    progress(&format!("unpacking {}", set.name));
    unpack::unpack(set, &cache, into)
}
