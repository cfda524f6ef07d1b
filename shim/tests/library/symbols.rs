//! Each interposed function, inside the run's tree and outside of it, against the same call without the library.

use crate::run::{DEVICE, Run, library, program, text};
use std::collections::BTreeSet;
use std::process::Command;

/// The same lines, or the first that differs.
fn same(with: &str, without: &str) {
    for (with, without) in with.lines().zip(without.lines()) {
        assert_eq!(with, without);
    }
    assert_eq!(with.lines().count(), without.lines().count());
}

#[test]
fn every_path_function_answers_inside_the_tree_as_it_would_on_the_directory_itself() {
    let (with, without, paths) = (Run::new(), Run::new(), program("paths"));
    for place in [DEVICE, "sys/bus/pci/devices/0000:01:00.0"] {
        let real = without.root().join(place);
        let plain = text(Command::new(&paths).arg(&real).output().unwrap());
        let plain = plain.replace(without.root().to_str().unwrap(), "");
        let ours = text(
            with.command(&paths)
                .arg(format!("/{place}"))
                .output()
                .unwrap(),
        );
        let (ours, plain) = (inodes_hidden(&ours), inodes_hidden(&plain));
        same(&without_creation(&ours), &without_creation(&plain));
        // sysfs has no files but the kernel's
        for creation in ["creat", "creat64", "excl"] {
            let refused = format!("{creation}: failed errno {}", libc::EACCES);
            assert!(ours.contains(&refused), "{creation} in the tree: {ours}");
        }
    }
}

/// The lines about anything but new files, which an ordinary directory takes and sysfs does not.
fn without_creation(lines: &str) -> String {
    let about_new = |line: &&str| {
        ["creat", "excl", "unlinkat"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    lines
        .lines()
        .filter(|line| !about_new(line))
        .fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn every_path_function_answers_outside_the_tree_as_without_the_library() {
    let (run, paths) = (Run::new(), program("paths"));
    let outside = Run::new();
    let real = outside.root().join(DEVICE);
    let plain = text(Command::new(&paths).arg(&real).output().unwrap());
    let ours = text(run.command(&paths).arg(&real).output().unwrap());
    same(&ours, &plain);
}

#[test]
fn without_a_run_the_library_changes_nothing() {
    let (outside, paths) = (Run::new(), program("paths"));
    let real = outside.root().join(DEVICE);
    let plain = text(Command::new(&paths).arg(&real).output().unwrap());
    let ours = text(
        Command::new(&paths)
            .arg(&real)
            .env("LD_PRELOAD", library())
            .output()
            .unwrap(),
    );
    same(&ours, &plain);
}

#[test]
fn every_descriptor_function_answers_on_an_ordinary_file_as_without_the_library() {
    let (run, descriptors) = (Run::new(), program("descriptors"));
    let file = run.path().join("file");
    let plain = text(Command::new(&descriptors).arg(&file).output().unwrap());
    let ours = text(run.command(&descriptors).arg(&file).output().unwrap());
    same(&ours, &plain);
}

#[test]
fn every_signal_function_answers_as_without_the_library() {
    let (run, signals) = (Run::new(), program("signals"));
    let plain = text(Command::new(&signals).output().unwrap());
    let ours = text(run.command(&signals).output().unwrap());
    same(&ours, &plain);
}

/// Inode numbers differ between two trees.
fn inodes_hidden(text: &str) -> String {
    let hide = |line: &str| line.split(" ino ").next().unwrap_or("").to_owned();
    text.lines().map(hide).collect::<Vec<_>>().join("\n")
}

#[test]
fn nodes_descriptors_mappings_and_children_behave_as_vfio_programs_expect() {
    let run = Run::new();
    text(run.command(program("nodes")).output().unwrap());
}

#[test]
fn an_engine_that_cannot_be_made_fails_the_open_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    std::fs::create_dir_all(broken.join("root/dev/vfio")).unwrap();
    std::fs::write(broken.join("root/dev/vfio/vfio"), "").unwrap();
    let mut command = Command::new("cat");
    command
        .arg("/dev/vfio/vfio")
        .env("LD_PRELOAD", library())
        .env("SWIOMMU_RUN", &broken);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        errors.contains("swiommu: the machine of this run cannot be read"),
        "{errors}"
    );
    assert!(errors.contains("Input/output error"), "{errors}");
}

#[test]
fn a_process_of_a_run_says_that_it_is_alive_and_tells_the_engine_that_it_exits() {
    let run = Run::new();
    let output = run
        .command("sh")
        .args(["-c", "exec 3</dev/vfio/vfio"])
        .env("FAKE_EXIT", "1")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("fake engine: exit"),
        "{output:?}"
    );
    assert_eq!(
        std::fs::read_dir(run.path().join("reports"))
            .unwrap()
            .count(),
        1
    );
    let none = run.command("true").env("FAKE_EXIT", "1").output().unwrap();
    assert!(none.stderr.is_empty(), "no engine without a node: {none:?}");
}

#[test]
fn a_program_started_with_another_environment_is_still_part_of_the_run() {
    let (run, exec) = (Run::new(), program("exec"));
    let ways = [
        "execve",
        "execve_none",
        "execvpe",
        "execle",
        "fexecve",
        "execveat",
        "vfork",
        "posix_spawn",
        "posix_spawnp",
        "execv",
        "execvp",
        "execl",
        "execlp",
    ];
    for way in ways {
        let out = text(
            run.command(&exec)
                .args([way, "/usr/bin/env"])
                .output()
                .unwrap(),
        );
        let expected = format!("SWIOMMU_RUN={}", run.path().display());
        assert!(out.contains(&expected), "{way}: {out}");
        assert!(out.contains(library().to_str().unwrap()), "{way}: {out}");
        assert_eq!(
            out.contains("THEIRS=1"),
            way != "execve_none",
            "{way}: {out}"
        );
    }
}

#[test]
fn an_audit_names_system_calls_that_bypass_the_library_and_no_others() {
    let (run, escape) = (Run::new(), program("escape"));
    let errors = |how: &str| {
        let output = run
            .command(&escape)
            .arg(how)
            .env("SWIOMMU_OPTIONS", "audit=1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{how}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    if errors("").contains("does not offer") {
        eprintln!("skipped: no Syscall User Dispatch here");
        return;
    }
    for (how, call) in [
        ("open", "openat"),
        ("ioctl", "ioctl"),
        ("thread", "ioctl"),
        ("child", "ioctl"),
    ] {
        let errors = errors(how);
        assert!(
            errors.contains(&format!("swiommu: audit: {call} (system call")),
            "{how}: {errors}"
        );
        assert!(
            errors.contains(escape.file_name().unwrap().to_str().unwrap()),
            "{how}: {errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{how}: {errors}");
    }
    assert_eq!(errors("none"), "");
}

#[test]
fn no_interposed_symbol_is_imported_and_each_is_called_by_a_test() {
    let symbols = |kind: &str| -> BTreeSet<String> {
        let output = Command::new("nm")
            .args(["-D", kind])
            .arg(library())
            .output()
            .expect("nm is needed");
        let name = |line: &str| {
            line.split_whitespace()
                .last()
                .map(|name| name.split('@').next().unwrap().to_owned())
        };
        text(output).lines().filter_map(name).collect()
    };
    let (ours, imports) = (symbols("--defined-only"), symbols("--undefined-only"));
    let both: Vec<_> = ours.intersection(&imports).collect();
    assert!(both.is_empty(), "imported although defined here: {both:?}");
    let sources = ["paths", "descriptors", "nodes", "exec", "signals"].map(|name| {
        std::fs::read_to_string(format!("{}/tests/c/{name}.c", env!("CARGO_MANIFEST_DIR"))).unwrap()
    });
    let called = |name: &String| {
        let (plain, quoted) = (format!("{name}("), format!("\"{name}\""));
        sources
            .iter()
            .any(|source| source.contains(&plain) || source.contains(&quoted))
    };
    let missing: Vec<_> = ours
        .iter()
        .filter(|name| !called(name) && !name.contains("swiommu_ex_table"))
        .collect();
    assert!(missing.is_empty(), "no test calls {missing:?}");
}

#[test]
fn python_walks_the_tree_by_every_means_it_has() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let run = Run::new();
    let script = r#"
import glob, os, pathlib, subprocess
assert os.listdir("/sys/bus/pci/devices") == ["0000:01:00.0"]
assert [e.name for e in os.scandir("/sys/bus/pci/devices") if e.is_symlink()] == ["0000:01:00.0"]
assert sorted(os.listdir("/dev/vfio")) == ["1", "vfio"]
assert all(not e.is_file() for e in os.scandir("/dev/vfio"))
device = pathlib.Path("/sys/bus/pci/devices/0000:01:00.0")
assert device.resolve() == pathlib.Path("/sys/devices/pci0000:00/0000:01:00.0")
assert (device / "iommu_group").resolve().name == "1"
assert (device / "vendor").read_text() == "0x8086\n"
assert glob.glob("/sys/bus/pci/devices/*/vendor") == [str(device / "vendor")]
seen = [n for _, _, files in os.walk("/sys/devices/pci0000:00") for n in files]
assert sorted(seen) == ["inner", "link", "vendor"], seen
seen = [n for _, _, files, _ in os.fwalk("/sys/devices/pci0000:00") for n in files]
assert sorted(seen) == ["inner", "link", "vendor"], seen
dir = os.open("/sys/bus/pci", os.O_RDONLY)
assert os.stat("devices", dir_fd=dir).st_mode & 0o40000
assert pathlib.Path("/dev/vfio/vfio").is_char_device()
os.chdir("/sys/bus/pci/devices/0000:01:00.0")
assert os.getcwd() == "/sys/devices/pci0000:00/0000:01:00.0"
assert subprocess.check_output(["pwd", "-P"], text=True).strip() == os.getcwd()
assert subprocess.check_output(["cat", "vendor"], env={}, text=True) == "0x8086\n"
assert not os.path.exists("/sys/bus/pci/devices/0000:02:00.0")
assert os.listdir("/sys/bus/pci/devices/0000:01:00.0/../../../bus/pci/devices") == ["0000:01:00.0"]
assert not os.path.exists("/sys/bus/pci/devices/0000:01:00.0/../../bus")
assert os.listdir("/sys/bus/pci/devices/../../pci/devices") == ["0000:01:00.0"]
"#;
    text(
        run.command("python3")
            .args(["-c", script])
            .output()
            .unwrap(),
    );
}
