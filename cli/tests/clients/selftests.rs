//! The kernel's own selftests that no real kernel here can be asked about, unmodified: those of iommufd, on the mock IOMMU
//! of `swiommu run --mock`, and the one that drives a DMA engine.

use crate::world::*;
use libtest_mimic::Trial;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::time::Duration;

/// Longer than all of them take on a busy machine; the harness ends a single case after 30 s.
const LIMIT: Duration = Duration::from_secs(600);

/// What the iommufd selftests need.
const MOCK: &[&str] = &["--mock"];

/// The address of what the driver selftest drives, and its machines: largest transfers, and small ones.
const IOAT: &str = "0000:00:04.0";
const INTEL_IOAT: &[&str] = &["--iommu=vtd", "--memlock=unlimited", "--device=ioat"];
const AMD_IOAT: &[&str] = &[
    "--iommu=amd",
    "--memlock=unlimited",
    "--device=ioat,transfer=64K",
];

/// How many cases of a fixture end how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Counts {
    pass: u32,
    skip: u32,
    fail: u32,
}

/// Counts by fixture.
type Fixtures = BTreeMap<String, Counts>;

/// What is expected of a selftest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    fixtures: Fixtures,
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for name in ["iommufd", "iommufd_fail_nth"] {
        trials.push(trial(
            format!("the kernel's selftest {name} passes as on a real kernel"),
            move || selftest(name, MOCK, &[], false),
        ));
        trials.push(trial(
            format!("the kernel's selftest {name} passes as an ordinary user, too"),
            move || selftest(name, MOCK, &[], true),
        ));
    }
    for (iommu, machine) in [("intel", INTEL_IOAT), ("amd", AMD_IOAT)] {
        for (who, ordinary) in [("", false), (", also of an ordinary user", true)] {
            trials.push(trial(
                format!("the kernel's selftest drivers copy memory with ioat on {iommu}{who}"),
                move || selftest("vfio_pci_driver_test", machine, &[IOAT], ordinary),
            ));
        }
    }
    trials
}

fn expected(name: &str) -> Result<Expected, Stop> {
    let text = fs::read_to_string(project("clients/golden/selftests.toml"))?;
    let mut all: BTreeMap<String, Expected> = toml::from_str(&text)?;
    all.remove(name)
        .ok_or_else(|| Stop::Fail(format!("selftests.toml has no {name}")))
}

fn selftest(name: &str, options: &[&str], arguments: &[&str], ordinary: bool) -> Outcome {
    let binary = built(&format!("selftests/{name}"), "the kernel's selftest")?;
    let user = match ordinary {
        true => Some(ordinary_user(&binary)?),
        false => None,
    };
    let expected = expected(name)?;
    let program = [binary.as_os_str()].into_iter();
    let mut run = Run::new(program.chain(arguments.iter().map(OsStr::new)))
        .options(options)
        .limit(LIMIT);
    if let Some(user) = user {
        run = run.user(user);
    }
    let ended = run.end()?;
    let counted = count(&ended.stdout);
    if counted == expected.fixtures {
        return Ok(());
    }
    let failed: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("not ok"))
        .collect();
    fail(format!(
        "expected {:#?}\ncounted {counted:#?}\n{}\n{}",
        expected.fixtures,
        failed.join("\n"),
        ended.told()
    ))
}

/// The results in the harness's output: `ok 7 fixture.variant.case # SKIP why`.
fn count(output: &str) -> Fixtures {
    let mut fixtures = Fixtures::new();
    for line in output.lines() {
        let (failed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => continue,
        };
        let name = rest.split_once(' ').map_or("", |(_, name)| name);
        let fixture = name.split('.').next().unwrap_or_default();
        let counts = fixtures.entry(fixture.to_owned()).or_default();
        match (failed, rest.contains("# SKIP")) {
            (true, _) => counts.fail += 1,
            (_, true) => counts.skip += 1,
            _ => counts.pass += 1,
        }
    }
    fixtures
}
