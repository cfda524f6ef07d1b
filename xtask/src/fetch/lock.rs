//! `xtask/clients.lock.toml`: which package files the tests run on.

use crate::project;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::Path;

const PATH: &str = "xtask/clients.lock.toml";
const HEADER: &str = "# Debian packages that the client tests run on, pinned. `cargo xtask fetch --update` renews them.\n\n";

/// The whole file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    #[serde(default, rename = "set")]
    sets: Vec<Set>,
}

/// Packages that are unpacked together.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    pub name: String,
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One package file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub arch: String,
    /// Below the mirror's root.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl Lock {
    /// Reads the committed file; an absent one is empty.
    pub fn read() -> Result<Lock> {
        let path = project::file(PATH);
        if !path.exists() {
            return Ok(Lock::default());
        }
        toml::from_str(&fs::read_to_string(&path)?).context(PATH)
    }

    /// Writes it back.
    pub fn write(&self) -> Result<()> {
        Ok(fs::write(
            project::file(PATH),
            format!("{HEADER}{}", toml::to_string(self)?),
        )?)
    }

    /// One set.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| s.name == name)
    }

    /// Puts a set in the place of the one of its name.
    pub fn replace(&mut self, set: Set) {
        self.sets.retain(|s| s.name != set.name);
        self.sets.push(set);
        self.sets.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

impl Set {
    /// What identifies the set's packages.
    pub fn stamp(&self) -> String {
        self.packages
            .iter()
            .map(|p| p.sha256.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Package {
    /// The file's own name.
    pub fn file(&self) -> &str {
        self.path
            .rsplit('/')
            .next()
            .expect("split gives at least one part")
    }

    /// Whether the very file is there.
    pub fn is_in(&self, directory: &Path) -> bool {
        let path = directory.join(self.file());
        fs::metadata(&path).is_ok_and(|m| m.len() == self.size)
            && sha256(&path).is_ok_and(|s| s == self.sha256)
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let (mut file, mut hash, mut buffer) = (fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    Ok(hash
        .finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
}
