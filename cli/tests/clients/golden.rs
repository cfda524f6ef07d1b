//! The client programs of clients/programs.toml, compared line by line with what a real kernel answered.
//!
//! A line is `case: result`. An accepted difference is in clients/golden/differences.toml with its reason; one that is
//! listed but no longer there fails too.

use crate::tap::test_lines;
use crate::world::*;
use libtest_mimic::Trial;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Programs {
    devices: BTreeMap<String, String>,
    machine: Machine,
    #[serde(rename = "program")]
    programs: Vec<Program>,
}

#[derive(Deserialize)]
struct Machine {
    devices: Vec<String>,
    iommu: BTreeMap<String, String>,
}

#[derive(Deserialize, Clone)]
struct Program {
    name: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    selftest: bool,
    #[serde(default = "translating")]
    iommus: Vec<String>,
}

impl Program {
    /// Who runs it: this user, and of the kernel's selftests, which want root, also an ordinary one.
    fn users(&self) -> &'static [bool] {
        if self.selftest {
            &[false, true]
        } else {
            &[false]
        }
    }
}

fn translating() -> Vec<String> {
    vec!["intel".into(), "amd".into()]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    #[serde(default, rename = "difference")]
    all: Vec<Difference>,
}

/// One accepted difference.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    program: String,
    /// `*` at its end stands for any rest, at its beginning for any beginning.
    case: String,
    /// Only on this IOMMU.
    iommu: Option<String>,
    ours: String,
    #[allow(dead_code, reason = "it is for people")]
    reason: String,
}

impl Difference {
    fn is_of(&self, program: &str, iommu: &str, case: &str) -> bool {
        let fits = match (self.case.strip_prefix('*'), self.case.strip_suffix('*')) {
            (Some(end), _) => case.ends_with(end),
            (_, Some(start)) => case.starts_with(start),
            _ => case == self.case,
        };
        self.program == program && self.iommu.as_deref().is_none_or(|only| only == iommu) && fits
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &str) -> Result<T, Stop> {
    Ok(toml::from_str(&fs::read_to_string(project(path))?)?)
}

pub fn trials() -> Vec<Trial> {
    let programs: Programs = match read("clients/programs.toml") {
        Ok(programs) => programs,
        Err(why) => {
            return vec![trial("clients/programs.toml can be read", move || {
                fail(format!("{why:?}"))
            })];
        }
    };
    let mut trials = Vec::new();
    for program in &programs.programs {
        let runs_on = |(iommu, _): &(&String, &String)| program.iommus.contains(iommu);
        for (iommu, option) in programs.machine.iommu.iter().filter(runs_on) {
            for &ordinary in program.users() {
                let (program, iommu, option) = (program.clone(), iommu.clone(), option.clone());
                let (devices, machine) =
                    (programs.devices.clone(), programs.machine.devices.clone());
                let who = if ordinary {
                    ", also to an ordinary user"
                } else {
                    ""
                };
                let name = format!("{} answers as Linux does on {iommu}{who}", program.name);
                trials.push(trial(name, move || {
                    compared(&program, &iommu, &option, &devices, &machine, ordinary)
                }));
            }
        }
    }
    trials
}

fn compared(
    program: &Program,
    iommu: &str,
    option: &str,
    devices: &BTreeMap<String, String>,
    machine: &[String],
    ordinary: bool,
) -> Outcome {
    let golden = fs::read_to_string(
        project("clients/golden")
            .join(iommu)
            .join(format!("{}.txt", program.name)),
    )?;
    let differences: Differences = read("clients/golden/differences.toml")?;
    let binary: PathBuf = if program.selftest {
        built(
            &format!("selftests/{}", program.name),
            "the kernel's selftest",
        )?
    } else {
        compiled(&program.name, &[])?
    };
    let argument = |a: &String| {
        a.strip_prefix('$')
            .and_then(|role| devices.get(role))
            .unwrap_or(a)
            .clone()
    };
    let words =
        std::iter::once(binary.display().to_string()).chain(program.args.iter().map(argument));
    let mut run = Run::new(words).iommu(option).options(&program.options);
    for device in machine {
        run = run.options(["--device", device]);
    }
    if ordinary {
        run = run.user(ordinary_user(&binary)?);
    }
    for (role, bdf) in devices {
        run = run.variable(&format!("DEVICE_{role}"), bdf);
    }
    let ended = run.end()?;
    let ours = if program.selftest {
        test_lines(&ended.stdout)
    } else {
        ended.stdout.clone()
    };
    let accepted: Vec<_> = differences
        .all
        .iter()
        .filter(|d| d.program == program.name)
        .collect();
    let mut wrong = compare(
        &program.name,
        iommu,
        &keyed(&golden),
        &keyed(&ours),
        &accepted,
    );
    if wrong.is_empty() && (program.selftest || ended.status.success()) {
        return Ok(());
    }
    let count = wrong.len();
    wrong.truncate(60);
    let ending = if ended.status.success() {
        String::new()
    } else {
        ended.told()
    };
    let lines = golden.lines().count();
    fail(format!(
        "{count} of {lines} lines differ\n{}\n{ending}",
        wrong.join("\n")
    ))
}

/// Lines by case and how often that case came before.
fn keyed(text: &str) -> BTreeMap<(String, usize), String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let (case, result) = line.split_once(": ").unwrap_or((line, ""));
        let nth = seen.entry(case.to_owned()).or_default();
        lines.insert((case.to_owned(), *nth), result.to_owned());
        *nth += 1;
    }
    lines
}

type Lines = BTreeMap<(String, usize), String>;

fn compare(
    program: &str,
    iommu: &str,
    golden: &Lines,
    ours: &Lines,
    accepted: &[&Difference],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, linux) in golden {
        let accepted = accepted.iter().find(|d| d.is_of(program, iommu, &key.0));
        match (ours.get(key), accepted) {
            (None, _) => wrong.push(format!(
                "{}: Linux says {linux}, the line is missing here",
                key.0
            )),
            // What this machine does not have (huge pages) is not a difference.
            (Some(here), _) if here == "absent" || here == "skip" => {}
            (Some(here), None) if here != linux => {
                wrong.push(format!("{}: Linux says {linux}, swiommu {here}", key.0))
            }
            (Some(here), Some(d)) if *here != d.ours && here != linux => {
                wrong.push(format!(
                    "{}: Linux says {linux}, swiommu {here}, accepted was {}",
                    key.0, d.ours
                ));
            }
            (Some(here), Some(d)) if here == linux && !d.case.contains('*') => {
                wrong.push(format!(
                    "{}: no longer differs; take it out of differences.toml",
                    key.0
                ));
            }
            _ => {}
        }
    }
    wrong.extend(
        ours.keys()
            .filter(|k| !golden.contains_key(*k))
            .map(|k| format!("{}: Linux has no such line", k.0)),
    );
    wrong
}
