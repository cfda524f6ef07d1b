//! `swiommu`: runs unmodified VFIO programs on a machine without an IOMMU.
//!
//! Exit status: the program's own; 125 when swiommu itself failed, 126 when the program cannot be run (or not be
//! interposed), 127 when it was not found.

mod args;
mod doctor;
mod generate;
mod identity;
mod machine;
mod probe;
mod program;
mod run;
mod shim;
mod signals;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// Our own failure.
pub const FAILED: u8 = 125;
/// The program was found but cannot be run under swiommu.
pub const CANNOT_RUN: u8 = 126;
/// The program was not found.
pub const NOT_FOUND: u8 = 127;

/// A failure that ends `swiommu`: one line, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// What to say, without `swiommu:` before it.
    pub message: String,
    /// 125, 126 or 127.
    pub status: u8,
}

impl Failure {
    /// A failure of our own (125).
    pub fn ours(message: impl ToString) -> Failure {
        Failure {
            message: message.to_string(),
            status: FAILED,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Machine(args) => machine::print(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("swiommu: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version go out as they are; a mistake becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(FAILED);
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let text = text
        .split("\n\nFor more information")
        .next()
        .unwrap_or(text);
    let text = text.split("\n  tip: to pass").next().unwrap_or(text);
    let text = text.replace("\n\n  tip: ", "; ");
    let words: Vec<&str> = text.split_whitespace().collect();
    eprintln!("swiommu: {} (see --help)", words.join(" "));
    ExitCode::from(FAILED)
}
