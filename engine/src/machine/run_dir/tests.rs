//! Runs made, ended, killed and swept.

use super::*;
use crate::machine::{Layer, resolve, spec};
use crate::pci::{Bar, Role};

fn identity() -> Identity {
    Identity {
        vendor: 1,
        device: 2,
        subsystem: (3, 4),
        class: 5,
        revision: 6,
        bars: [Bar::None; 6],
        interrupt_pin: 0,
        msi: 0,
        msix: None,
        express: true,
        role: Role::default(),
    }
}

fn machine() -> Machine {
    let flags = ["nvme,size=3M,size=1M,group=5", "edu,group=9"];
    let devices = flags
        .iter()
        .map(|flag| spec::device(flag).unwrap())
        .collect();
    resolve(&[Layer {
        devices,
        ..Layer::default()
    }])
    .unwrap()
}

fn make(base: &Path) -> (RunDir, Machine) {
    let mut machine = machine();
    let run = RunDir::create(base, &mut machine, &[identity(), identity()]).unwrap();
    (run, machine)
}

fn names(base: &Path) -> usize {
    fs::read_dir(base).unwrap().count()
}

#[test]
fn a_run_has_its_machine_its_media_and_a_lock_per_group() {
    let base = tempfile::tempdir().unwrap();
    let (run, machine) = make(base.path());
    assert_eq!(Machine::load(run.path()), Ok(machine.clone()));
    let DeviceKind::Nvme(nvme) = &machine.devices[0].kind else {
        panic!("no nvme")
    };
    for (medium, bytes) in nvme.namespaces.iter().zip([3 << 20, 1 << 20]) {
        assert!(medium.path.is_absolute());
        let metadata = fs::metadata(&medium.path).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (bytes, 0), "sparse");
    }
    for group in [5, 9] {
        assert!(run.path().join(format!("locks/group-{group}")).exists());
    }
    assert!(run.path().join("root/dev/vfio/9").exists());
    assert_eq!(
        fs::metadata(run.path()).unwrap().mode() & 0o777,
        0o700,
        "nobody else's business"
    );
}

#[test]
fn a_run_that_ends_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    drop(make(base.path()));
    assert_eq!(names(base.path()), 0);
}

#[test]
fn a_kept_run_stays() {
    let base = tempfile::tempdir().unwrap();
    let (mut run, _) = make(base.path());
    run.keep().unwrap();
    drop(run);
    sweep(base.path());
    assert_eq!(names(base.path()), 1);
}

#[test]
fn loading_from_nowhere_or_nonsense_is_an_error() {
    let base = tempfile::tempdir().unwrap();
    assert_eq!(Machine::load(base.path()), Err(rustix::io::Errno::NOENT));
    fs::write(base.path().join("machine.json"), "{}x").unwrap();
    assert_eq!(Machine::load(base.path()), Err(rustix::io::Errno::INVAL));
}

#[test]
fn findings_come_in_order_and_alive_processes_are_known() {
    let base = tempfile::tempdir().unwrap();
    let (run, _) = make(base.path());
    for (name, text) in [("10.jsonl", "c\n"), ("9.jsonl", "a\nb\n"), ("9.alive", "")] {
        fs::write(run.path().join("reports").join(name), text).unwrap();
    }
    assert_eq!(run.findings(), ["a", "b", "c"]);
    assert!(run.is_alive(9) && !run.is_alive(10));
}

#[test]
fn a_sweep_spares_runs_whose_owner_lives_and_foreign_files() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("other")).unwrap();
    let (run, _) = make(base.path());
    sweep(base.path());
    assert!(run.path().join("machine.json").exists() && base.path().join("other").exists());
}

#[test]
fn a_sweep_removes_runs_whose_owner_is_gone_unless_a_group_is_held() {
    let base = tempfile::tempdir().unwrap();
    let (mut run, _) = make(base.path());
    let path = run.path().to_path_buf();
    run.keep = true; // As if the owner were killed: nothing is removed, nothing is marked.
    drop(run);
    let holder = File::open(path.join("locks/group-9")).unwrap();
    rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
    sweep(base.path());
    assert!(path.exists(), "a process of the run still has group 9");
    drop(holder);
    sweep(base.path());
    assert!(!path.exists());
}

#[test]
fn only_media_of_the_run_itself_need_room() {
    assert_eq!(media_bytes(&machine()), 4 << 20);
    let base = tempfile::tempdir().unwrap();
    assert_eq!(media_bytes(&make(base.path()).1), 0);
}
