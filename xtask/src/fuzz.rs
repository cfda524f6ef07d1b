//! `cargo xtask fuzz`: the fuzz bodies, which are plain functions that tests call with random input, for longer.

use crate::run::{cargo, loud, progress};
use anyhow::Result;

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// Random cases of each property and fuzz body
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
    /// Only tests whose name contains this (default: fuzz)
    filter: Option<String>,
}

/// The command.
pub fn fuzz(options: &Options) -> Result<()> {
    progress(&format!(
        "running the fuzz bodies with {} cases each",
        options.cases
    ));
    let mut tests = cargo([
        "test",
        "--quiet",
        "--release",
        "--workspace",
        "--lib",
        "--test",
        "fuzz",
    ]);
    tests.env("PROPTEST_CASES", options.cases.to_string());
    loud(tests.arg(options.filter.as_deref().unwrap_or("fuzz")))
}
