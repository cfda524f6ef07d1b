//! `cargo xtask test`: everything, with one line at the end that sums it up.

use crate::clients;
use crate::mutate;
use crate::project;
use crate::run::{cargo, loud, progress};
use crate::tidy;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Options of `test`.
#[derive(clap::Args)]
pub struct Options {
    /// Leave out what takes long: the models, the mutations, the large images, the random kills
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this; the models and tidy are left out then
    filter: Option<String>,
}

/// The seed of property tests. Here it is always the same, so that a failure comes from a change; `fuzz` takes random ones.
const SEED: &str = "PROPTEST_RNG_SEED";

/// What became of tests.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    /// Names and output of what failed.
    trouble: Vec<String>,
}

impl Tally {
    /// Counts the tests of one cargo invocation by what it prints; a failing test program shows all it printed.
    fn cargo(&mut self, command: &mut Command) -> Result<()> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cargo")?;
        let (mut section, before) = (String::new(), self.failed);
        for line in BufReader::new(child.stdout.take().expect("it was piped")).lines() {
            let line = line?;
            section += &line;
            section.push('\n');
            if let Some((name, rest)) = line
                .strip_prefix("test ")
                .and_then(|l| l.split_once(" ... ignored"))
            {
                self.skipped
                    .push(format!("{name}{}", rest.replacen(", ", ": ", 1)));
            }
            if let Some(counts) = line.strip_prefix("test result: ") {
                let failed = number(counts, "failed");
                self.passed += number(counts, "passed");
                self.failed += failed;
                if failed > 0 {
                    println!("{section}");
                }
                section.clear();
            }
        }
        if !child.wait()?.success() && self.failed == before {
            // A test program that did not build, or died on the way.
            print!("{section}");
            self.failed += 1;
            self.trouble.push(format!(
                "{:?} failed outside its tests",
                command.get_args().collect::<Vec<_>>()
            ));
        }
        Ok(())
    }

    /// Counts what a check of our own says: how much held, and a line for each that did not.
    fn checked(&mut self, result: Result<(u64, Vec<String>)>) {
        let (passed, failures) = result.unwrap_or_else(|error| (0, vec![format!("{error:#}")]));
        self.passed += passed;
        self.failed += failures.len() as u64;
        self.trouble.extend(failures);
    }
}

/// The number before `word` in `5 passed; 0 failed; ...`.
fn number(counts: &str, word: &str) -> u64 {
    counts
        .split(&[';', '.'][..])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|n| n.trim().parse().ok())
        .unwrap_or(0)
}

/// The command.
pub fn test(options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    clients::prepare()?;
    progress("building");
    loud(&mut cargo([
        "build",
        "--quiet",
        "-p",
        "swiommu",
        "-p",
        "swiommu-shim",
    ]))?;
    progress("running the workspace's tests and the client suite");
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"]);
    if std::env::var_os(SEED).is_none() {
        tests.env(SEED, "7");
    }
    if options.quick {
        tests.env("SWIOMMU_TEST_QUICK", "1");
    }
    tests.arg("--").args(options.filter.as_deref());
    tally.cargo(&mut tests)?;
    if options.filter.is_none() {
        if !options.quick {
            models(&mut tally)?;
            tally.checked(mutate::check(None));
        }
        progress("checking the tree's style");
        tally.checked(tidy::check());
    }
    for line in &tally.trouble {
        println!("failed: {line}");
    }
    for line in &tally.skipped {
        println!("skipped: {line}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed,
        tally.failed,
        tally.skipped.len()
    );
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

/// The loom models: every interleaving up to a bound of preemptions.
fn models(tally: &mut Tally) -> Result<()> {
    for (package, model) in [
        ("swiommu-iommu", "loom_drain"),
        ("swiommu-shim", "loom_files"),
    ] {
        progress(&format!("exploring the model {model}"));
        let mut tests = cargo(["test", "--release", "-p", package, "--test", model]);
        tests
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", project::target().join("loom"));
        if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
            tests.env("LOOM_MAX_PREEMPTIONS", "3");
        }
        tally.cargo(&mut tests)?;
    }
    Ok(())
}

/// `cargo xtask bless`: the engine's tests and the client suite write the reports they see instead of comparing them.
pub fn bless() -> Result<()> {
    loud(&mut cargo([
        "build",
        "--quiet",
        "-p",
        "swiommu",
        "-p",
        "swiommu-shim",
    ]))?;
    for (package, program) in [("swiommu-engine", "doors"), ("swiommu", "clients")] {
        let mut tests = cargo([
            "test", "--quiet", "-p", package, "--test", program, "--", "report",
        ]);
        loud(tests.env("SWIOMMU_BLESS", "1"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_a_result_line() {
        let line =
            "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.5s";
        assert_eq!((number(line, "passed"), number(line, "failed")), (12, 3));
    }

    #[test]
    fn a_line_without_counts_counts_nothing() {
        assert_eq!(number("ok", "passed"), 0);
    }
}
