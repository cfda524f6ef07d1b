//! `cargo xtask mutate`: each rule of the groups, broken on purpose, must fail its test.
//!
//! `xtask/mutations.toml` lists expressions of the engine and what to put in their place. All go into one copy of the
//! sources, each behind a switch, so that everything is built once; then each is switched on by itself.

use crate::project;
use crate::run::{captured, progress, quiet};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `mutate`.
#[derive(clap::Args)]
pub struct Options {
    /// Only mutations whose test's name contains this
    filter: Option<String>,
}

/// The list's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutation: Vec<Mutation>,
}

/// One rule and how it is broken.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    /// A part of the name of the one test that must notice.
    test: String,
    /// What is wrong then.
    what: String,
    /// The source file.
    file: String,
    /// An expression that stands there exactly once.
    find: String,
    /// The expression in its place.
    replace: String,
}

const LIST: &str = "xtask/mutations.toml";

/// What is copied: the crates that the engine's tests are built from.
const CRATES: [&str; 4] = ["abi", "mem", "iommu", "engine"];

/// The switch in the copy of the engine: the variable has the number of the mutation that is on.
const SWITCH_CODE: &str = r#"
pub fn mutant(number: usize) -> bool {
    std::env::var("SWIOMMU_MUTANT").is_ok_and(|on| on == number.to_string())
}
"#;

/// A test that goes on for longer hangs, in seconds.
const LONGEST: &str = "60";

/// The command.
pub fn mutate(options: &Options) -> Result<()> {
    let (noticed, failures) = check(options.filter.as_deref())?;
    println!("{noticed} noticed, {} failed", failures.len());
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Breaks the rules one by one: how many were noticed, and a line for each that was not.
pub fn check(filter: Option<&str>) -> Result<(u64, Vec<String>)> {
    let List { mutation: list } =
        toml::from_str(&fs::read_to_string(project::file(LIST))?).context(LIST)?;
    let copy = project::target().join("mutants");
    write(&copy, &list)?;
    progress("building the engine's tests with every mutation in them");
    let program = build(&copy)?;
    progress("breaking the rules of the groups one by one");
    let (mut noticed, mut failures) = (0, Vec::new());
    for (number, mutation) in list.iter().enumerate() {
        let Mutation { test, what, .. } = mutation;
        if filter.is_some_and(|part| !test.contains(part)) {
            continue;
        }
        if !passes(&program, test, None)? {
            failures.push(format!("{test} fails without a mutation"));
        } else if passes(&program, test, Some(number))? {
            failures.push(format!("{test} passes although {what}"));
        } else {
            noticed += 1;
        }
    }
    Ok((noticed, failures))
}

/// Makes the copy what it must be. What has not changed keeps its time, so that a second run builds little.
fn write(copy: &Path, list: &[Mutation]) -> Result<()> {
    fs::create_dir_all(copy)?;
    let (mut sources, mut old) = (BTreeMap::new(), BTreeMap::new());
    for name in CRATES {
        collect(&project::file(name), Path::new(name), &mut sources)?;
        if copy.join(name).exists() {
            collect(&copy.join(name), Path::new(name), &mut old)?;
        }
    }
    instrument(&mut sources, list)?;
    for path in old.keys().filter(|path| !sources.contains_key(*path)) {
        fs::remove_file(copy.join(path))?;
    }
    for (path, text) in &sources {
        if old.get(path) != Some(text) {
            let path = copy.join(path);
            fs::create_dir_all(path.parent().expect("it is below the copy"))?;
            fs::write(path, text)?;
        }
    }
    let manifest = members(&fs::read_to_string(project::file("Cargo.toml"))?)?;
    fs::write(copy.join("Cargo.toml"), manifest)?;
    fs::copy(project::file("Cargo.lock"), copy.join("Cargo.lock"))?;
    Ok(())
}

/// Puts every mutation into the sources, behind its switch.
fn instrument(sources: &mut BTreeMap<PathBuf, String>, list: &[Mutation]) -> Result<()> {
    let original = sources.clone();
    for (number, mutation) in list.iter().enumerate() {
        let Mutation { file, find, .. } = mutation;
        let stale = |why: &str| format!("{LIST} is out of date: {why} {file}: {find}");
        let path = Path::new(file);
        let places = original
            .get(path)
            .map_or(0, |text| text.matches(find).count());
        if places != 1 {
            bail!(stale(&format!(
                "this must stand once, not {places} times, in"
            )));
        }
        let text = sources.get_mut(path).expect("the original is there");
        // The last one: an earlier mutation of the same expression keeps it behind its `else`.
        let at = text.rfind(find);
        let at = at.with_context(|| stale("an earlier mutation changes a part of this in"))?;
        let switched = format!(
            "(if crate::mutant({number}) {{ {} }} else {{ {find} }})",
            mutation.replace
        );
        text.replace_range(at..at + find.len(), &switched);
    }
    let root = sources.get_mut(Path::new("engine/src/lib.rs"));
    root.context("the engine has no lib.rs")?
        .push_str(SWITCH_CODE);
    Ok(())
}

/// The workspace's manifest with the copied crates as its only members, and without the lints: a mutation leaves
/// things unused.
fn members(manifest: &str) -> Result<String> {
    let mut table: toml::Table = manifest.parse()?;
    let workspace = table.get_mut("workspace").and_then(|w| w.as_table_mut());
    let workspace = workspace.context("Cargo.toml has no [workspace]")?;
    workspace.insert("members".into(), CRATES.to_vec().into());
    workspace.insert("lints".into(), toml::Table::new().into());
    Ok(table.to_string())
}

/// The text files of a crate.
fn collect(from: &Path, name: &Path, to: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = name.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &name, to)?;
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            to.insert(name, text);
        }
    }
    Ok(())
}

/// Builds the engine's door tests in the copy, beside what the workspace built; gives the program.
fn build(copy: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", std::path::absolute(project::target())?)
        .args(["test", "--quiet", "--offline", "-p", "swiommu-engine"])
        .args(["--test", "doors", "--no-run"])
        .arg("--message-format=json-render-diagnostics");
    let text = quiet(&mut cargo)?;
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message.get("executable")?.as_str()?.into())
    };
    let program = text.lines().find_map(program);
    program.context("cargo built no test program")
}

/// Does a test pass, with a mutation switched on or without? One that hangs does not.
fn passes(program: &Path, test: &str, mutant: Option<usize>) -> Result<bool> {
    let mut command = Command::new("timeout");
    command.arg(LONGEST).arg(program).arg(test);
    command.env(
        "SWIOMMU_MUTANT",
        mutant.map_or("".into(), |number| number.to_string()),
    );
    command.env("RUST_BACKTRACE", "0");
    // A random test that fails here is no news to keep or make smaller.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
    command.env("PROPTEST_MAX_SHRINK_ITERS", "0");
    let output = captured(&mut command)?;
    if !String::from_utf8_lossy(&output.stdout).contains("running 1 test\n") {
        bail!("{LIST} is out of date: {test} does not name one test");
    }
    Ok(output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instrumented(text: &str, list: &[(&str, &str)]) -> Result<String> {
        let lib = PathBuf::from("engine/src/lib.rs");
        let mut sources = BTreeMap::from([(lib.clone(), text.to_owned())]);
        let mutation = |&(find, replace): &(&str, &str)| Mutation {
            test: "a_test".into(),
            what: "a rule is broken".into(),
            file: "engine/src/lib.rs".into(),
            find: find.into(),
            replace: replace.into(),
        };
        let list: Vec<_> = list.iter().map(mutation).collect();
        instrument(&mut sources, &list)?;
        Ok(sources[&lib].replace(SWITCH_CODE, ""))
    }

    #[test]
    fn an_expression_is_mutated_as_often_as_it_is_listed() {
        assert_eq!(
            instrumented("f(a)", &[("a", "a + 1"), ("a", "0")]).unwrap(),
            "f((if crate::mutant(0) { a + 1 } else { \
             (if crate::mutant(1) { 0 } else { a }) }))"
        );
    }

    #[test]
    fn what_stands_twice_or_nowhere_or_across_another_is_refused() {
        for (text, list) in [
            ("f(a, a)", &[("a", "0")][..]),
            ("f(b)", &[("a", "0")]),
            ("f(a)", &[("a", "0"), ("f(a)", "0")]),
        ] {
            let error = instrumented(text, list).unwrap_err().to_string();
            assert!(error.contains("out of date"), "{error}");
        }
    }
}
