//! `cargo xtask tidy`: the style of the tree, as a test.

mod imports;
mod text;

use crate::project;
use anyhow::{Result, bail};
use std::fs;
use std::path::Path;

/// A text file of the project.
pub struct Source {
    /// Below the root, with slashes.
    pub path: String,
    pub text: String,
}

type Rule = fn(&[Source]) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("modules import only what the house allows", imports::check),
    ("no file is longer than 800 lines", text::lengths),
    (
        "unsafe code is where it may be, with a reason",
        text::unsafe_code,
    ),
    ("nothing is left to do", text::left_to_do),
    ("no path of one machine is in the tree", text::machine_paths),
    ("links between documents lead somewhere", text::links),
    ("every source file says what it is", text::headers),
];

/// How many rules hold, and what breaks the others.
pub fn check() -> Result<(u64, Vec<String>)> {
    let mut sources = Vec::new();
    collect(project::root(), &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let (mut passed, mut failures) = (0, Vec::new());
    for (name, rule) in RULES {
        let broken = rule(&sources);
        if broken.is_empty() {
            passed += 1;
        } else {
            failures.push(format!("tidy: {name}:\n    {}", broken.join("\n    ")));
        }
    }
    Ok((passed, failures))
}

/// The command.
pub fn tidy() -> Result<()> {
    let (_, failures) = check()?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Reads the project's text files, leaving out what is built, hidden or recorded.
fn collect(directory: &Path, into: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name == "target"
            || name == ".git"
            || name == "golden"
            || name.ends_with(".lock")
            || name.ends_with(".lock.toml")
        {
            continue;
        }
        if path.is_dir() {
            collect(&path, into)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path
                .strip_prefix(project::root())
                .expect("it lies below the root")
                .to_string_lossy()
                .into_owned();
            into.push(Source { path, text });
        }
    }
    Ok(())
}
