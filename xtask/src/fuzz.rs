//! `cargo xtask fuzz`: the fuzz bodies, which are plain functions that tests call with random input, and the random
//! sequences that are compared with a model, for longer and with other seeds than `cargo xtask test`.

use crate::run::{cargo, loud, progress};
use anyhow::Result;

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// Random cases of each property and fuzz body
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
    /// Only tests whose name contains one of these
    #[arg(default_values = ["fuzz", "like_the_model"])]
    filters: Vec<String>,
}

/// The command.
pub fn fuzz(options: &Options) -> Result<()> {
    progress(&format!(
        "running {} with {} cases each",
        options.filters.join(", "),
        options.cases
    ));
    let mut tests = cargo([
        "test",
        "--quiet",
        "--release",
        "--workspace",
        "--exclude",
        "swiommu",
        "--lib",
        "--tests",
        "--",
    ]);
    tests.env("PROPTEST_CASES", options.cases.to_string());
    loud(tests.args(&options.filters))
}
