//! Running other programs, and saying what takes long.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::process::{Command, Output, Stdio};

/// Says what is being done, on stderr.
pub fn progress(text: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || !std::io::stderr().is_terminal();
    let (on, off) = if plain {
        ("", "")
    } else {
        ("\x1b[1m", "\x1b[0m")
    };
    // Whoever closed stderr does not want to know.
    let _ = writeln!(std::io::stderr(), "{on}xtask: {text}{off}");
}

/// A command's words, for messages.
fn words(command: &Command) -> String {
    let mut all = vec![command.get_program().to_string_lossy().into_owned()];
    all.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    all.join(" ")
}

/// Runs a command with our own output; its failure is an error.
pub fn loud(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| words(command))?;
    if !status.success() {
        bail!("{}: {status}", words(command));
    }
    Ok(())
}

/// Runs a command and keeps its output; whatever it ends with is an answer.
pub fn captured(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| words(command))
}

/// Runs a command silently and gives its standard output; a failure shows the end of what it printed.
pub fn quiet(command: &mut Command) -> Result<String> {
    let output = captured(command)?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let lines: Vec<_> = text.lines().collect();
        bail!(
            "{}: {}\n{}",
            words(command),
            output.status,
            lines[lines.len().saturating_sub(30)..].join("\n")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Cargo itself, in the workspace's root.
pub fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::project::root()).args(args);
    command
}
