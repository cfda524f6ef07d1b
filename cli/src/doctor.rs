//! `swiommu doctor`: what works on this computer, and why something does not.
//!
//! A check that is needed and fails means that `swiommu run` does not work here; any other only says what one gets.

use crate::args::DoctorArgs;
use crate::{Failure, identity, probe, shim};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use swiommu_engine::machine::options::{self, Options};
use swiommu_engine::machine::run_dir::{self, RunDir};
use swiommu_engine::machine::{Machine, size};

/// The exit status when something needed is missing.
const DOES_NOT_WORK: u8 = 1;
/// Less room than this in /dev/shm is worth a word: it is what container engines give by default.
const LITTLE_ROOM: u64 = 256 << 20;

/// One check and its outcome. The preloaded library's own checks come as JSON lines of the same shape, without
/// `needed`.
#[derive(Debug, Serialize, Deserialize)]
struct Check {
    /// What was looked at.
    check: String,
    /// Did it work?
    ok: bool,
    /// Does `swiommu run` need it?
    #[serde(default)]
    needed: bool,
    /// What was found, or what follows from its absence.
    detail: String,
}

/// `swiommu doctor`
pub fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let mut checks = vec![c_library(), runtime_directory(), shared_memory()];
    checks.extend(interposition());
    checks.extend(kernel());
    let works = checks.iter().all(|check| check.ok || !check.needed);
    let text = if args.json {
        let json = serde_json::json!({ "works": works, "version": env!("CARGO_PKG_VERSION"), "checks": checks });
        serde_json::to_string_pretty(&json).map_err(Failure::ours)? + "\n"
    } else {
        render(&checks, works)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::ours)?;
    Ok(if works { 0 } else { DOES_NOT_WORK })
}

fn render(checks: &[Check], works: bool) -> String {
    let mut text = String::new();
    for Check {
        check,
        ok,
        needed,
        detail,
    } in checks
    {
        let mark = match (ok, needed) {
            (true, _) => "ok",
            (false, true) => "FAIL",
            (false, false) => "no",
        };
        text += &format!("{mark:<5}{check:<24} {detail}\n");
    }
    text + if works {
        "\nswiommu run works here.\n"
    } else {
        "\nswiommu run does not work here: see FAIL above.\n"
    }
}

fn check(name: &str, needed: bool, outcome: Result<String, String>) -> Check {
    let ok = outcome.is_ok();
    let detail = outcome.unwrap_or_else(|why| why);
    Check {
        check: name.into(),
        ok,
        needed,
        detail,
    }
}

fn c_library() -> Check {
    let version = probe::glibc_version();
    check("C library", true, Ok(format!("glibc {version}")))
}

fn runtime_directory() -> Check {
    let outcome = run_dir::choose_base(&Machine::default()).map(|path| {
        let room = run_dir::writable_room(&path).unwrap_or(0);
        format!("{} ({} free)", path.display(), rounded(room))
    });
    check(
        "run directory",
        true,
        outcome.map_err(|error| error.to_string()),
    )
}

fn shared_memory() -> Check {
    let outcome = match run_dir::writable_room(Path::new("/dev/shm")) {
        None => Err("/dev/shm cannot be written: size= namespaces go to $TMPDIR or /tmp".into()),
        Some(room) if room < LITTLE_ROOM => Err(format!(
            "/dev/shm has {} free: larger size= namespaces go to $TMPDIR or /tmp",
            rounded(room)
        )),
        Some(room) => Ok(format!("/dev/shm has {} free", rounded(room))),
    };
    check("shared memory", false, outcome)
}

/// To a unit that people read.
fn rounded(bytes: u64) -> String {
    let shift = bytes.max(1).ilog2() / 10 * 10;
    size::format(bytes >> shift << shift)
}

/// Runs `true` under the library; its own checks join ours.
fn interposition() -> Vec<Check> {
    const LIBRARY: &str = "preloaded library";
    let library = match shim::find() {
        Ok(library) => library,
        Err(failure) => return vec![check(LIBRARY, true, Err(failure.message))],
    };
    let mut checks = vec![check(LIBRARY, true, Ok(library.display().to_string()))];
    match self_test(&library) {
        Ok(found) => {
            checks.push(check(
                "interposition",
                true,
                Ok("a program's calls are intercepted".into()),
            ));
            checks.extend(found);
        }
        Err(why) => checks.push(check("interposition", true, Err(why))),
    }
    checks
}

fn self_test(library: &Path) -> Result<Vec<Check>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut machine = Machine::default();
    let base = run_dir::choose_base(&machine).map_err(|error| text(&error))?;
    let identities = identity::of_devices(&machine).map_err(|failure| failure.message)?;
    let run = RunDir::create(&base, &mut machine, &identities).map_err(|error| text(&error))?;
    let preload = shim::preload(library, run.path()).map_err(|failure| failure.message)?;
    let options = Options {
        selftest: true,
        ..Options::default()
    };
    let mut child = Command::new("/bin/true")
        .env("LD_PRELOAD", preload)
        .env("SWIOMMU_RUN", run.path())
        .env(options::VARIABLE, options.to_string())
        .spawn()
        .map_err(|error| format!("/bin/true: {error}"))?;
    let id = child.id();
    let status = child.wait().map_err(|error| text(&error))?;
    if !run.is_alive(id) {
        return Err(format!(
            "the dynamic linker did not load the library into /bin/true ({status})"
        ));
    }
    if !status.success() {
        return Err(format!("/bin/true failed under the library ({status})"));
    }
    Ok(run
        .selftest(id)
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// What the kernel and the processor offer.
fn kernel() -> Vec<Check> {
    let ask = |name: &str, needed: bool, result: std::io::Result<()>, yes: &str, no: &str| {
        check(
            name,
            needed,
            result
                .map(|()| yes.to_string())
                .map_err(|error| format!("{error}: {no}")),
        )
    };
    let memfd = rustix::fs::memfd_create("swiommu-doctor", rustix::fs::MemfdFlags::CLOEXEC);
    let memfd = memfd.map(drop).map_err(std::io::Error::from);
    vec![
        ask(
            "memfd",
            true,
            memfd,
            "devices' files are real files",
            "needed for every file that a program opens",
        ),
        ask(
            "MADV_POPULATE",
            false,
            probe::madv_populate(),
            "mapping memory faults it in at once",
            "mapping large memory is slower",
        ),
        ask(
            "MREMAP_DONTUNMAP",
            true,
            probe::mremap_dontunmap(),
            "pinned pages outlive munmap",
            "needed to keep pinned pages when a program unmaps them",
        ),
        ask(
            "PROCMAP_QUERY",
            false,
            probe::procmap_query(),
            "address look-ups are cheap",
            "/proc/self/maps is read instead",
        ),
        ask(
            "io_uring",
            false,
            probe::io_uring(),
            "allowed",
            "programs fall back to other I/O; not needed",
        ),
        ask(
            "syscall user dispatch",
            false,
            probe::syscall_user_dispatch(),
            "--audit works",
            "--audit does not work",
        ),
        ptrace(),
        check(
            "MOVDIR64B",
            false,
            match probe::processor_has("movdir64b") {
                true => Ok("the processor has it".into()),
                false => {
                    Err("the processor lacks it: programs that submit with it cannot run".into())
                }
            },
        ),
    ]
}

fn ptrace() -> Check {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    check(
        "debuggers",
        false,
        match scope.trim() {
            "" | "0" => Ok("may attach to a running program".into()),
            "1" => Err("may only start a program, not attach (yama ptrace_scope 1)".into()),
            other => Err(format!("need privilege (yama ptrace_scope {other})")),
        },
    )
}
