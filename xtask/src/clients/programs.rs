//! `clients/programs.toml`: the client programs whose answers are recorded, and the machine they see.

use crate::project;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;

/// The whole file. The client suite reads the same file and uses what is about swiommu.
#[derive(Deserialize)]
pub struct Programs {
    /// PCI addresses by role; the oracle has its own.
    pub devices: BTreeMap<String, String>,
    #[serde(rename = "program")]
    pub programs: Vec<Program>,
}

/// One program.
#[derive(Deserialize)]
pub struct Program {
    /// clients/NAME.c, or a kernel selftest.
    pub name: String,
    /// Arguments; `$ROLE` is that device's address.
    #[serde(default)]
    pub args: Vec<String>,
    /// Shell lines that set the real kernel up.
    #[serde(default)]
    pub record: Vec<String>,
    /// The IOMMUs it runs on.
    #[serde(default = "translating")]
    pub iommus: Vec<String>,
    /// The kernel that is asked, by the oracle's name for it.
    #[serde(default = "stock")]
    pub kernel: String,
    /// More options for the oracle.
    #[serde(default)]
    pub oracle: Vec<String>,
    /// A kernel selftest: its test lines are what is compared.
    #[serde(default)]
    pub selftest: bool,
}

fn translating() -> Vec<String> {
    vec!["intel".into(), "amd".into()]
}

fn stock() -> String {
    "stock".into()
}

impl Programs {
    /// Reads the committed file.
    pub fn read() -> Result<Programs> {
        let path = "clients/programs.toml";
        toml::from_str(&fs::read_to_string(project::file(path))?).context(path)
    }
}
