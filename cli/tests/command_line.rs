//! The command line itself: what `machine` prints, how mistakes are answered, help, man pages, completions.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs swiommu in `directory`, with no standing machine file in sight.
fn swiommu(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swiommu"));
    command
        .args(args)
        .current_dir(directory)
        .env("XDG_CONFIG_HOME", directory.join("config"));
    command
        .env_remove("SWIOMMU_OPTIONS")
        .env("COLUMNS", "100")
        .output()
        .unwrap()
}

fn stdout(args: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = swiommu(directory.path(), args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

const TABLE: &str = "\
IOMMU  VT-d, scalable mode, 48-bit addresses, IOTLB
VFIO   65535 mappings per container, memlock unlimited

ADDRESS       GROUP  KIND  DETAILS
0000:01:00.0  1      nvme  serial swiommu-0000:01:00.0, 16 queues, blocks of 512, cache 8M
                           namespace 1: 1G, in memory
0000:00:04.0  2      edu   28-bit DMA
";

#[test]
fn the_default_machine_is_printed_as_a_table() {
    assert_eq!(stdout(&["machine"]), TABLE);
}

#[test]
fn the_machine_printed_as_toml_is_read_back_by_config() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("disk.img"), vec![0; 4096]).unwrap();
    let args = [
        "machine",
        "--format",
        "toml",
        "--iommu",
        "amd",
        "--device",
        "nvme,file=disk.img,ro",
        "--device",
        "stub,group=4",
    ];
    let first = swiommu(directory.path(), &args).stdout;
    fs::write(directory.path().join("m.toml"), &first).unwrap();
    let second = swiommu(
        directory.path(),
        &["machine", "--format", "toml", "--config", "m.toml"],
    );
    assert_eq!(
        String::from_utf8_lossy(&second.stdout),
        String::from_utf8_lossy(&first)
    );
}

#[test]
fn json_carries_the_whole_machine() {
    let json: serde_json::Value = serde_json::from_str(&stdout(&[
        "machine",
        "--format",
        "json",
        "--memlock",
        "64K",
    ]))
    .unwrap();
    assert_eq!(json["device"][0]["kind"], "nvme");
    assert_eq!(json["vfio"]["memlock"], "64K");
    assert_eq!(json["iommu"]["kind"], "vtd");
}

#[test]
fn flags_win_over_config_and_config_over_the_user_s_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir_all(path.join("config/swiommu")).unwrap();
    fs::write(
        path.join("config/swiommu/machine.toml"),
        "[vfio]\nmemlock = \"1M\"\n[iommu]\nkind = \"amd\"\n[[device]]\nkind = \"stub\"",
    )
    .unwrap();
    fs::write(
        path.join("m.toml"),
        "[vfio]\nmemlock = \"2M\"\n[[device]]\nkind = \"edu\"",
    )
    .unwrap();
    let machine = |args: &[&str]| {
        let output = swiommu(path, &[&["machine", "--format", "json"], args].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let kinds: Vec<String> = json["device"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["kind"].as_str().unwrap().into())
            .collect();
        (
            json["iommu"]["kind"].as_str().unwrap().to_string(),
            json["vfio"]["memlock"].as_str().unwrap().to_string(),
            kinds.join("+"),
        )
    };
    let is = |iommu: &str, memlock: &str, kinds: &str| {
        (iommu.to_string(), memlock.to_string(), kinds.to_string())
    };
    assert_eq!(machine(&[]), is("amd", "1M", "stub"));
    assert_eq!(machine(&["--device", "edu"]), is("amd", "1M", "edu"));
    assert_eq!(machine(&["--config", "m.toml"]), is("amd", "2M", "edu"));
    assert_eq!(
        machine(&[
            "--config",
            "m.toml",
            "--device",
            "stub",
            "--memlock",
            "inherit"
        ]),
        is("amd", "inherit", "edu+stub")
    );
}

#[test]
fn every_mistake_is_one_line_and_125() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("bad.toml"),
        "[[device]]\nkind = \"edu\"\ncolour = 1\n",
    )
    .unwrap();
    let table: [(&[&str], &str); 12] = [
        (
            &["run"],
            "the following required arguments were not provided: <PROGRAM>... (see --help)",
        ),
        (
            &["run", "--colour", "--", "true"],
            "unexpected argument '--colour' found; a similar argument exists: '--color' (see --help)",
        ),
        (
            &["run", "--color", "red", "--", "true"],
            "invalid value 'red' for '--color <WHEN>' [possible values: auto, always, never] (see --help)",
        ),
        (
            &["run", "--error-exitcode", "0", "true"],
            "invalid value '0' for '--error-exitcode <N>': 0 is not in 1..=255 (see --help)",
        ),
        (
            &["run", "--device", "floppy", "true"],
            "--device floppy: unknown kind 'floppy': accepted are nvme, edu, ioat, stub",
        ),
        (
            &["run", "--device", "nvme,file=none.img", "true"],
            "--device nvme,file=none.img: file=none.img: cannot find it: no such file or directory; accepted is a raw file or a block device",
        ),
        (
            &["run", "--memlock", "lots", "true"],
            "--memlock lots: memlock=lots: accepted is inherit, unlimited or a size such as 512, 128K, 64M, 1G or 2T",
        ),
        (
            &["run", "--dma-entry-limit", "0", "true"],
            "--dma-entry-limit 0: dma_entry_limit=0: accepted is a number from 1 to 4294967295",
        ),
        (
            &["run", "--iommu", "smmu", "true"],
            "--iommu smmu: kind=smmu: accepted is vtd, amd or none",
        ),
        (
            &["run", "--config", "none.toml", "true"],
            "--config none.toml: No such file or directory (os error 2); accepted is a readable TOML file",
        ),
        (
            &["run", "--config", "bad.toml", "true"],
            "--config bad.toml: device 1: unknown key 'colour': edu accepts bdf=, dma_bits=, driver=, group=, present=, requester=",
        ),
        (
            &["frobnicate"],
            "unrecognized subcommand 'frobnicate' (see --help)",
        ),
    ];
    for (args, message) in table {
        let output = swiommu(directory.path(), args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            error.starts_with(&format!("swiommu: {message}")),
            "{args:?}: {error}"
        );
        assert_eq!(
            (output.status.code(), error.lines().count()),
            (Some(125), 1),
            "{args:?}: {error}"
        );
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing created"
    );
}

#[test]
fn a_report_is_not_made_for_a_run_that_cannot_be() {
    let directory = tempfile::tempdir().unwrap();
    let output = swiommu(
        directory.path(),
        &["run", "--report", "r.jsonl", "--", "/no/such/program"],
    );
    assert_eq!(output.status.code(), Some(127));
    assert!(!directory.path().join("r.jsonl").exists());
}

#[test]
fn bad_swiommu_options_are_refused_and_help_lists_them() {
    let directory = tempfile::tempdir().unwrap();
    let run = |options: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swiommu"));
        let output = command
            .args(["run", "--", "true"])
            .env("SWIOMMU_OPTIONS", options)
            .current_dir(directory.path())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (status, text) = run("colour=1");
    assert_eq!(status, Some(125));
    assert!(
        text.starts_with(
            "swiommu: SWIOMMU_OPTIONS: unknown option 'colour': accepted are audit=0|1 "
        ),
        "{text}"
    );
    let (status, text) = run("help=1");
    assert_eq!(status, Some(0));
    for key in [
        "audit=",
        "color=",
        "exitcode=",
        "report=",
        "stacks=",
        "verbosity=",
    ] {
        assert!(text.contains(key), "{key} is not in {text}");
    }
}

#[test]
fn help_has_every_subcommand_and_examples() {
    let help = stdout(&["--help"]);
    for word in [
        "run",
        "machine",
        "doctor",
        "completions",
        "man",
        "Examples:",
        "Exit status:",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let help = stdout(&["run", "--help"]);
    for flag in RUN_FLAGS {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("Examples:"));
}

const RUN_FLAGS: [&str; 11] = [
    "--device",
    "--iommu",
    "--config",
    "--memlock",
    "--dma-entry-limit",
    "--report",
    "--error-exitcode",
    "--audit",
    "--stacks",
    "--color",
    "--keep",
];

#[test]
fn man_pages_and_completions_know_every_flag() {
    let directory = tempfile::tempdir().unwrap();
    let output = swiommu(directory.path(), &["man", "--dir", "."]);
    assert!(output.status.success());
    let page = fs::read_to_string(directory.path().join("swiommu-run.1")).unwrap();
    let bash = stdout(&["completions", "bash"]);
    let zsh = stdout(&["completions", "zsh"]);
    let fish = stdout(&["completions", "fish"]);
    for flag in RUN_FLAGS {
        assert!(page.contains(&flag.replace('-', "\\-")), "man: {flag}");
        assert!(bash.contains(flag) && zsh.contains(flag), "{flag}");
        assert!(fish.contains(&format!("-l {}", &flag[2..])), "fish: {flag}");
    }
    for page in [
        "swiommu.1",
        "swiommu-machine.1",
        "swiommu-doctor.1",
        "swiommu-completions.1",
        "swiommu-man.1",
    ] {
        assert!(directory.path().join(page).exists(), "{page}");
    }
    assert!(stdout(&["man"]).contains(".TH swiommu 1"));
}

#[test]
fn an_unknown_shell_is_refused_with_the_accepted_ones() {
    let directory = tempfile::tempdir().unwrap();
    let output = swiommu(directory.path(), &["completions", "tcsh"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        error,
        "swiommu: invalid value 'tcsh' for '<SHELL>' [possible values: bash, zsh, fish]; a similar value exists: 'zsh' (see --help)\n"
    );
}
