//! Deliberate client bugs, and what swiommu says about each.
//!
//! clients/bugs/NAME.c has its report in clients/golden/reports/NAME.txt, with addresses and numbers that change from
//! run to run replaced. `cargo xtask bless` writes them.

use crate::world::*;
use libtest_mimic::Trial;
use std::fs;

const BUGS: &[&str] = &["blocked_dma", "use_after_unmap"];
/// No mistakes: told, but no reason for the exit code.
const REQUESTS: &[&str] = &["left_behind", "unsupported"];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for name in BUGS.iter().chain(REQUESTS) {
        let sentence = name.replace('_', " ");
        trials.push(trial(
            format!("the report of {sentence} is as it was blessed"),
            move || as_blessed(name),
        ));
        let status = if BUGS.contains(name) { 99 } else { 0 };
        trials.push(trial(
            format!("{sentence} ends with {status} when 99 is asked for"),
            move || exit_code(name, status),
        ));
        trials.push(trial(format!("{sentence} is told as JSON"), move || {
            json(name)
        }));
    }
    trials.push(trial(
        "mappings left behind are told only to those who ask for notes",
        without_notes,
    ));
    trials.push(trial(
        "ordinary memory stands in for huge pages in a run with test equipment, which is said once",
        huge_pages,
    ));
    trials.push(trial(
        "full stacks name the client's functions, inlined ones too, and end at main",
        full_stacks,
    ));
    trials
}

fn without_notes() -> Outcome {
    let ended = run("left_behind")?
        .variable("SWIOMMU_OPTIONS", "verbosity=1")
        .success()?;
    if ended.stderr.is_empty() {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn huge_pages() -> Outcome {
    let has_none = |line: &str| {
        line.strip_prefix("HugePages_Total:")
            .is_some_and(|n| n.trim() == "0")
    };
    if !fs::read_to_string("/proc/meminfo")?.lines().any(has_none) {
        return Err(Stop::Skip("this machine has huge pages".into()));
    }
    let program = compiled("huge", &[])?;
    let run = |options: &[&str], verbosity: &str| {
        Run::new([&program])
            .options(options)
            .variable("SWIOMMU_OPTIONS", verbosity)
            .success()
    };
    let refused = run(&[], "verbosity=2")?;
    let (told, quiet) = (
        run(&["--mock"], "verbosity=1")?,
        run(&["--mock"], "verbosity=0")?,
    );
    let mapped = "map: mapped\naligned: 1\nmap: mapped\naligned: 1\n";
    let good = refused.stdout == "map: ENOMEM\nmap: ENOMEM\n"
        && refused.stderr.is_empty()
        && told.stdout == mapped
        && told.stderr.lines().count() == 1
        && told.stderr.contains("no huge pages are free")
        && quiet.stdout == mapped
        && quiet.stderr.is_empty();
    if good {
        Ok(())
    } else {
        fail([refused, told, quiet].map(|ended| ended.told()).join("\n"))
    }
}

fn full_stacks() -> Outcome {
    let program = compiled("bugs/use_after_unmap", &["-g"])?;
    let options = ["--stacks", "full", "--device", "edu,bdf=0000:00:04.0"];
    let told = Run::new([program]).options(options).success()?.stderr;
    let frames: Vec<&str> = told
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('#'))
        .collect();
    let ends_at_main = |function: &str, stack: &[&str]| {
        stack[0].starts_with(&format!("#0 {function} "))
            && stack[1].starts_with("#1 main ")
            && stack[1].contains("use_after_unmap.c:")
    };
    match frames.len() {
        4 if ends_at_main("map", &frames[..2]) && ends_at_main("unmap", &frames[2..]) => Ok(()),
        _ => fail(told),
    }
}

fn run(name: &str) -> Result<Run, Stop> {
    let program = compiled(&format!("bugs/{name}"), &[])?;
    let run = Run::new([program]).options(["--device", "edu,bdf=0000:00:04.0"]);
    Ok(match name {
        "left_behind" => run.variable("SWIOMMU_OPTIONS", "verbosity=2"),
        _ => run,
    })
}

fn as_blessed(name: &str) -> Outcome {
    let report = normal(&run(name)?.success()?.stderr);
    let path = project("clients/golden/reports").join(format!("{name}.txt"));
    if std::env::var_os("SWIOMMU_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("it has one"))?;
        return Ok(fs::write(path, report)?);
    }
    let Ok(golden) = fs::read_to_string(&path) else {
        return Err(Stop::Skip(
            "no report is blessed yet; cargo xtask bless does".into(),
        ));
    };
    if report == golden {
        Ok(())
    } else {
        fail(format!("-- blessed --\n{golden}\n-- now --\n{report}"))
    }
}

fn exit_code(name: &str, status: i32) -> Outcome {
    let ended = run(name)?.options(["--error-exitcode", "99"]).end()?;
    if ended.status.code() == Some(status) {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn json(name: &str) -> Outcome {
    let directory = scratch()?;
    let file = directory.path().join("findings.jsonl");
    let ended = run(name)?
        .options(["--report".as_ref(), file.as_os_str()])
        .success()?;
    let text = fs::read_to_string(&file)?;
    if text.trim().is_empty() {
        return fail(ended.told());
    }
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line)?;
    }
    Ok(())
}

/// Replaces what differs between two runs of the same build or between builds: long hexadecimal numbers, code offsets
/// and process or thread numbers.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = |s: &str, radix| s.chars().take_while(|c| c.is_digit(radix)).count();
        if let Some(hex) = rest.strip_prefix("+0x") {
            let n = digits(hex, 16);
            out += "+0x...";
            rest = &hex[n..];
        } else if let Some(hex) = rest.strip_prefix("0x") {
            let n = digits(hex, 16);
            out += if n > 8 { "0x..." } else { &rest[..n + 2] };
            rest = &hex[n..];
        } else if first.is_ascii_digit() {
            let n = digits(rest, 10);
            let before = out
                .trim_end()
                .rsplit(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or_default();
            let banner = out.ends_with("==") && rest[n..].starts_with("==");
            out += if banner || ["thread", "process", "pid", "tid"].contains(&before) {
                "N"
            } else {
                &rest[..n]
            };
            rest = &rest[n..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out.replace(&format!("{}/", clients().display()), "")
}
