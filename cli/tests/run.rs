//! `swiommu run` with a stand-in for the preloaded library: exit codes, signals, environment, what is left behind.
//!
//! The stand-in only says that it was loaded. It is built with `cc`; without one these tests are skipped, and say so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const STAND_IN: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void alive(void) {
    char path[4096];
    const char *run = getenv("SWIOMMU_RUN");
    if (!run) return;
    snprintf(path, sizeof path, "%s/reports/%d.alive", run, (int)getpid());
    close(open(path, O_CREAT | O_WRONLY, 0600));
}
"#;

/// The stand-in, built once for all tests; `None` without a C compiler.
fn stand_in() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let directory =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (source, stand_in) = (directory.join("shim.c"), directory.join("libswiommu.so"));
        fs::write(&source, STAND_IN).unwrap();
        let cc = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&stand_in)
            .arg(&source)
            .status();
        match cc {
            Ok(status) if status.success() => Some(stand_in),
            _ => None,
        }
    };
    LIBRARY.get_or_init(build).as_deref()
}

/// One place to run in: its own runtime directory, no standing machine files.
struct Place {
    directory: tempfile::TempDir,
    stand_in: &'static Path,
}

/// `None`: the test is skipped.
fn place() -> Option<Place> {
    let Some(stand_in) = stand_in() else {
        eprintln!("skipped: no C compiler to build a stand-in for the preloaded library");
        return None;
    };
    Some(Place {
        directory: tempfile::tempdir().unwrap(),
        stand_in,
    })
}

impl Place {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swiommu"));
        command
            .args(args)
            .env("SWIOMMU_SHIM", self.stand_in)
            .env("XDG_RUNTIME_DIR", self.directory.path());
        command.env("XDG_CONFIG_HOME", self.directory.path().join("config"));
        command
            .env_remove("SWIOMMU_OPTIONS")
            .env_remove("NO_COLOR")
            .env_remove("LD_PRELOAD");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(&[&["run"], args].concat()).output().unwrap()
    }

    /// What lies in the runtime directory.
    fn left(&self) -> usize {
        fs::read_dir(self.directory.path()).unwrap().count()
    }

    fn file(&self, name: &str, mode: u32, content: &[u8]) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().into()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_exit_status_is_the_program_s_own() {
    let Some(place) = place() else { return };
    for status in [0, 1, 42, 125, 255] {
        let output = place.run(&["--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(
            (output.status.code(), stderr(&output)),
            (Some(status), String::new())
        );
    }
    assert_eq!(place.left(), 0, "the run's directory is gone");
}

#[test]
fn a_program_ended_by_a_signal_gives_128_and_the_signal() {
    let Some(place) = place() else { return };
    assert_eq!(
        place
            .run(&["--", "sh", "-c", "kill -KILL $$"])
            .status
            .code(),
        Some(137)
    );
}

#[test]
fn stdio_is_untouched() {
    let Some(place) = place() else { return };
    let mut command = place.command(&["run", "--", "sh", "-c", "cat; echo err >&2"]);
    let input = place.file("input", 0o600, b"through\n");
    let output = command
        .stdin(fs::File::open(input).unwrap())
        .output()
        .unwrap();
    assert_eq!(
        (output.stdout.as_slice(), stderr(&output).as_str()),
        (b"through\n".as_slice(), "err\n")
    );
}

#[test]
fn options_end_at_the_program() {
    let Some(place) = place() else { return };
    let output = place.run(&["echo", "--device", "-x", "--", "y"]);
    assert_eq!(output.stdout, b"--device -x -- y\n");
}

#[test]
fn the_program_sees_the_run_and_its_options() {
    let Some(place) = place() else { return };
    let script = "cat $SWIOMMU_RUN/root/sys/bus/pci/devices/*/vendor; echo $SWIOMMU_OPTIONS; echo $LD_PRELOAD";
    let mut command = place.command(&[
        "run", "--stacks", "full", "--audit", "--", "sh", "-c", script,
    ]);
    let output = command
        .env("SWIOMMU_OPTIONS", "stacks=none:verbosity=2")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let library = place.stand_in.display();
    let options = "audit=1:color=never:exitcode=0:stacks=full:verbosity=2";
    assert_eq!(text, format!("0x1234\n0x1b36\n{options}\n{library}\n"));
}

#[test]
fn an_existing_preload_stays_behind_ours() {
    let Some(place) = place() else { return };
    let mut command = place.command(&["run", "--", "sh", "-c", "echo $LD_PRELOAD"]);
    let output = command.env("LD_PRELOAD", "libm.so.6").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{}:libm.so.6\n", place.stand_in.display())
    );
}

#[test]
fn address_sanitizer_is_told_that_it_may_come_second() {
    let Some(place) = place() else { return };
    let mut command = place.command(&["run", "--", "sh", "-c", "echo $ASAN_OPTIONS"]);
    let output = command.env("ASAN_OPTIONS", "exitcode=5").output().unwrap();
    assert_eq!(output.stdout, b"verify_asan_link_order=0:exitcode=5\n");
}

#[test]
fn a_library_in_a_path_with_spaces_is_loaded_all_the_same() {
    let Some(place) = place() else { return };
    let copy = place.file(
        "with a space:and colon.so",
        0o755,
        &fs::read(place.stand_in).unwrap(),
    );
    let output = place
        .command(&["run", "--", "true"])
        .env("SWIOMMU_SHIM", copy)
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn programs_that_cannot_be_run_are_refused_by_reason() {
    let Some(place) = place() else { return };
    let mut header = [0u8; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[18] = 62;
    let fixed = place.file("static", 0o755, &header);
    header[18] = 183;
    let foreign = place.file("arm", 0o755, &header);
    let text = place.file("text", 0o755, b"hello");
    let script = place.file("script", 0o755, format!("#!{fixed}\n").as_bytes());
    let orphan = place.file("orphan", 0o755, b"#!/no/such/shell\n");
    let plain = place.file("plain", 0o644, b"#!/bin/sh\n");
    let table = [
        ("no-such-program", 127, "program not found in PATH"),
        ("/no/such/program", 127, "program not found"),
        ("/", 126, "is a directory"),
        (&plain, 126, "is not executable"),
        (
            &text,
            126,
            "is neither an ELF program nor a script with a #! line",
        ),
        (&fixed, 126, "is statically linked"),
        (&foreign, 126, "is not an x86-64 program"),
        (&script, 126, "its interpreter"),
        (
            &orphan,
            126,
            "its interpreter /no/such/shell does not exist",
        ),
    ];
    let before = place.left();
    for (program, status, reason) in table {
        let output = place.run(&["--", program]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{program}: {error}");
        assert!(
            error.starts_with(&format!("swiommu: {program}: {reason}")),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
    assert_eq!(place.left(), before, "nothing created");
}

#[test]
fn a_program_that_was_not_intercepted_is_never_a_success() {
    let Some(place) = place() else { return };
    // A library without a constructor: loaded, but nothing says so.
    let mute = Path::new("/lib/x86_64-linux-gnu/libm.so.6");
    if !mute.exists() {
        return eprintln!("skipped: no {} to stand in", mute.display());
    }
    let output = place
        .command(&["run", "--", "true"])
        .env("SWIOMMU_SHIM", mute)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).starts_with("swiommu: true ran without /lib"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn findings_go_to_the_report_and_change_the_exit_status_only_when_asked() {
    let Some(place) = place() else { return };
    let report = place.file("report.jsonl", 0o600, b"old");
    let bug = r#"echo '{"class":"client-bug","what":"x"}' > $SWIOMMU_RUN/reports/$$.jsonl; exit 3"#;
    let note =
        r#"echo '{"class":"unsupported","what":"x"}' > $SWIOMMU_RUN/reports/$$.jsonl; exit 3"#;
    let status = |args: &[&str]| place.run(args).status.code();
    assert_eq!(
        status(&["--report", &report, "--", "sh", "-c", bug]),
        Some(3)
    );
    assert_eq!(
        fs::read_to_string(&report).unwrap(),
        "{\"class\":\"client-bug\",\"what\":\"x\"}\n"
    );
    assert_eq!(
        status(&["--error-exitcode", "99", "--", "sh", "-c", bug]),
        Some(99)
    );
    assert_eq!(
        status(&["--error-exitcode=99", "--", "sh", "-c", note]),
        Some(3)
    );
    assert_eq!(status(&["--report", &report, "--", "true"]), Some(0));
    assert_eq!(fs::read_to_string(&report).unwrap(), "");
}

#[test]
fn a_signal_sent_to_swiommu_reaches_the_program() {
    let Some(place) = place() else { return };
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = place
        .command(&["run", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(place.left(), 0);
}

#[test]
fn a_killed_run_s_directory_is_removed_by_the_next() {
    let Some(place) = place() else { return };
    let mut child = place.command(&["run", "--", "sh", "-c", "echo ready; read x"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(place.left(), 1);
    assert_eq!(place.run(&["--", "true"]).status.code(), Some(0));
    assert_eq!(place.left(), 0);
}

#[test]
fn keep_leaves_the_directory_and_says_where() {
    let Some(place) = place() else { return };
    let output = place.run(&["--keep", "--", "true"]);
    let error = stderr(&output);
    let path = error
        .trim()
        .strip_prefix("swiommu: the run's directory is ")
        .unwrap();
    assert!(Path::new(path).join("machine.json").exists());
    assert_eq!(place.run(&["--", "true"]).status.code(), Some(0));
    assert!(Path::new(path).exists(), "and a later run spares it");
}

#[test]
fn doctor_finds_interposition_working() {
    let Some(place) = place() else { return };
    let output = place.command(&["doctor", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let interposition = checks
        .iter()
        .find(|check| check["check"] == "interposition")
        .unwrap();
    assert_eq!(interposition["ok"], true);
    assert_eq!(json["works"].as_bool(), Some(output.status.success()));
    assert_eq!(place.left(), 0);
}

#[test]
fn doctor_says_why_a_missing_library_is_a_failure() {
    let Some(place) = place() else { return };
    let output = place
        .command(&["doctor"])
        .env("SWIOMMU_SHIM", "/no/such/library")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("FAIL preloaded library        SWIOMMU_SHIM=/no/such/library: no such file"),
        "{text}"
    );
}
