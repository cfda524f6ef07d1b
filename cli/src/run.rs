//! `swiommu run`: everything is checked, then the run's directory is made, then the program runs in it.

use crate::args::RunArgs;
use crate::{CANNOT_RUN, Failure, NOT_FOUND, identity, machine, program, shim, signals};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use swiommu_engine::machine::options::{self, Options};
use swiommu_engine::machine::run_dir::{self, RunDir};

/// What a finding that is the program's mistake says of itself.
const CLIENT_BUG: &str = "client-bug";

/// Runs the program; its exit status, or ours.
pub fn run(args: RunArgs) -> Result<u8, Failure> {
    let options = options(&args)?;
    if options.help {
        print_options();
        return Ok(0);
    }
    let mut machine = machine::from_args(&args.machine)?;
    machine.mock = args.mock;
    let identities = identity::of_devices(&machine)?;
    let program = program::find(&args.program[0])?;
    let library = shim::find()?;
    let base = run_dir::choose_base(&machine).map_err(Failure::ours)?;
    // Opened last: after bad input nothing has been created or changed.
    let report = options
        .report
        .as_ref()
        .map(|path| open_report(path))
        .transpose()?;

    signals::take_over();
    run_dir::sweep(&base);
    let mut run = RunDir::create(&base, &mut machine, &identities).map_err(|error| {
        Failure::ours(format!(
            "cannot make the run's directory in {}: {error}",
            base.display()
        ))
    })?;
    if args.keep {
        eprintln!("swiommu: the run's directory is {}", run.path().display());
        run.keep().map_err(Failure::ours)?;
    }
    let mut command = Command::new(&program.path);
    command.arg0(&args.program[0]).args(&args.program[1..]);
    command.env("LD_PRELOAD", shim::preload(&library, run.path())?);
    command
        .env("SWIOMMU_RUN", run.path())
        .env(options::VARIABLE, options.to_string());
    command.env("ASAN_OPTIONS", sanitizer_options());
    let (id, status) = wait(&mut command, &args.program[0])?;

    let findings = run.findings();
    if let Some(report) = report {
        write_report(report, &findings)
            .map_err(|error| Failure::ours(format!("--report: {error}")))?;
    }
    if !run.is_alive(id) {
        return Err(Failure::ours(format!(
            "{} ran without {}: its calls were not intercepted ({status}); the dynamic linker did not load it, or the \
             program was ended before that",
            args.program[0].display(),
            library.display(),
        )));
    }
    let bugs = findings.iter().any(|line| is_client_bug(line));
    Ok(if bugs && options.exitcode != 0 {
        options.exitcode
    } else {
        exit_code(status)
    })
}

/// The user's SWIOMMU_OPTIONS with the flags written over them.
fn options(args: &RunArgs) -> Result<Options, Failure> {
    let given = std::env::var(options::VARIABLE).unwrap_or_default();
    let mut options: Options = given
        .parse()
        .map_err(|error| Failure::ours(format!("{}: {error}", options::VARIABLE)))?;
    if let Some(path) = &args.report {
        let utf8 = path.to_str().filter(|path| !path.contains('"'));
        let refused = || {
            Failure::ours(format!(
                "--report {}: accepted is a UTF-8 path without quotes",
                path.display()
            ))
        };
        options.report = Some(utf8.ok_or_else(refused)?.to_string());
    }
    options.audit |= args.audit;
    options.exitcode = args.error_exitcode.unwrap_or(options.exitcode);
    options.stacks = args.stacks.map_or(options.stacks, Into::into);
    options.color = args.color.map_or(options.color, Into::into);
    if options.color == options::Color::Auto
        && std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
    {
        options.color = options::Color::Never;
    }
    Ok(options)
}

/// AddressSanitizer refuses to start behind another preloaded library unless told that it may. What the user set
/// comes last and wins.
fn sanitizer_options() -> std::ffi::OsString {
    let mut value = std::ffi::OsString::from("verify_asan_link_order=0");
    if let Some(given) = std::env::var_os("ASAN_OPTIONS").filter(|given| !given.is_empty()) {
        value.push(":");
        value.push(given);
    }
    value
}

fn print_options() {
    println!("{}: key=value pairs separated by colons", options::VARIABLE);
    for (form, meaning) in options::HELP {
        println!("  {form:<26} {meaning}");
    }
}

fn open_report(path: &str) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::ours(format!(
            "--report {path}: {error}; accepted is a file that can be written"
        ))
    })
}

fn write_report(mut report: File, findings: &[String]) -> std::io::Result<()> {
    let mut text = findings.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    report.write_all(text.as_bytes())
}

/// Starts the program and waits for it.
fn wait(command: &mut Command, name: &std::ffi::OsStr) -> Result<(u32, ExitStatus), Failure> {
    let mut child = command.spawn().map_err(|error| {
        let status = if error.kind() == std::io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            CANNOT_RUN
        };
        Failure {
            message: format!("{}: {error}", name.display()),
            status,
        }
    })?;
    let id = child.id();
    signals::program_runs(id);
    signals::wait_for_end(id);
    let status = child.wait().map_err(Failure::ours)?;
    Ok((id, status))
}

/// The program's own status, or 128 + the signal that ended it, as a shell says it.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => crate::FAILED,
    }
}

fn is_client_bug(line: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line)
        .is_ok_and(|finding| finding["class"] == CLIENT_BUG)
}
