//! `swiommu run` as a command: exit statuses, streams, and input that is refused.

use crate::world::*;
use libtest_mimic::Trial;
use std::fs;
use std::io::Write;
use std::process::Stdio;

/// Options that are refused: a sentence, the options, and words that the one-line message has.
const REFUSED: &[(&str, &[&str], &[&str])] = &[
    (
        "an unknown device kind",
        &["--device", "floppy"],
        &["--device", "floppy", "nvme", "edu", "ioat", "stub"],
    ),
    (
        "an unknown key of nvme",
        &["--device", "nvme,size=16M,colour=red"],
        &["--device", "colour", "queues"],
    ),
    (
        "an unknown key of edu",
        &["--device", "edu,size=16M"],
        &["--device", "size", "dma_bits"],
    ),
    (
        "an unknown key of ioat",
        &["--device", "ioat,size=16M"],
        &["--device", "size", "channels"],
    ),
    (
        "an unknown key of stub",
        &["--device", "stub,file=x"],
        &["--device", "file", "vendor"],
    ),
    (
        "a bad value of a key",
        &["--device", "nvme,size=16M,block=100"],
        &["--device", "block", "512", "4096"],
    ),
    (
        "a bad address",
        &["--device", "nvme,size=16M,bdf=zero"],
        &["--device", "bdf", "zero"],
    ),
    (
        "a medium that is not there",
        &["--device", "nvme,file=no/such/file"],
        &["--device", "no/such/file"],
    ),
    (
        "a medium of no blocks",
        &["--device", "nvme,file=small"],
        &["--device", "small"],
    ),
    (
        "a directory as a medium",
        &["--device", "nvme,file=."],
        &["--device"],
    ),
    (
        "two devices at one address",
        &[
            "--device",
            "edu,bdf=0000:00:04.0",
            "--device",
            "edu,bdf=0000:00:04.0",
        ],
        &["--device", "0000:00:04.0"],
    ),
    (
        "an unknown IOMMU",
        &["--iommu", "pamu"],
        &["--iommu", "pamu", "vtd", "amd"],
    ),
    (
        "an unknown key of an IOMMU",
        &["--iommu", "vtd,colour=red"],
        &["--iommu", "colour"],
    ),
    (
        "a machine file that is not there",
        &["--config", "no.toml"],
        &["--config", "no.toml"],
    ),
    (
        "a machine file that is none",
        &["--config", "small"],
        &["--config", "small"],
    ),
    (
        "a bad memory limit",
        &["--memlock", "plenty"],
        &["--memlock", "plenty", "unlimited"],
    ),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("the exit status is the program's own", exit_status),
        trial(
            "a program ended by a signal gives 128 and its number",
            by_signal,
        ),
        trial("standard streams are untouched", streams),
        trial("a program that is not found gives 127", not_found),
        trial(
            "a static program gives 126 and is named as such",
            static_program,
        ),
        trial(
            "a program without mistakes passes error-exitcode",
            no_mistakes,
        ),
        trial(
            "a machine printed as TOML is read back the same",
            machine_file,
        ),
    ];
    for (what, options, words) in REFUSED {
        trials.push(trial(format!("{what} is refused"), move || {
            refused(options, words)
        }));
    }
    trials
}

fn exit_status() -> Outcome {
    for code in [0, 1, 7, 255] {
        let ended = Run::new(["sh", "-c", &format!("exit {code}")]).end()?;
        if ended.status.code() != Some(code) || !ended.stderr.is_empty() {
            return fail(ended.told());
        }
    }
    Ok(())
}

fn by_signal() -> Outcome {
    let ended = Run::new(["sh", "-c", "kill -KILL $$"]).end()?;
    if ended.status.code() == Some(137) {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn streams() -> Outcome {
    let text = random(200_000, 5);
    let mut child = Run::new(["cat"])
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().expect("it was piped");
    let sent = text.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let output = child.wait_with_output()?;
    writer
        .join()
        .map_err(|_| Stop::Fail("the writer panicked".into()))??;
    match difference(&text, &output.stdout) {
        None if output.status.success() => Ok(()),
        _ => fail(format!(
            "{} of {} bytes came back, {}",
            output.stdout.len(),
            text.len(),
            output.status
        )),
    }
}

fn not_found() -> Outcome {
    let ended = Run::new(["no-such-program-anywhere"]).end()?;
    let told = ended.stderr.contains("no-such-program-anywhere");
    if ended.status.code() == Some(127) && told {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn static_program() -> Outcome {
    let Ok(program) = compiled("limit", &["-static"]) else {
        return Err(Stop::Skip("no static C library here".into()));
    };
    let ended = Run::new([program]).end()?;
    if ended.status.code() == Some(126) && ended.stderr.contains("static") {
        Ok(())
    } else {
        fail(ended.told())
    }
}

fn no_mistakes() -> Outcome {
    Run::new(["true"])
        .options(["--error-exitcode", "99"])
        .success()?;
    Ok(())
}

fn machine_file() -> Outcome {
    let directory = scratch()?;
    let file = directory.path().join("machine.toml");
    let print = |options: &[&str]| -> Result<Vec<u8>, Stop> {
        let output = std::process::Command::new(swiommu())
            .arg("machine")
            .args(options)
            .args(["--format", "toml"])
            .output()?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            fail(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let first = print(&[
        "--iommu",
        "amd",
        "--device",
        "edu",
        "--device",
        "stub,msix=4,bar0=128K",
    ])?;
    fs::write(&file, &first)?;
    let second = print(&["--config", &file.display().to_string()])?;
    if first == second {
        Ok(())
    } else {
        fail(String::from_utf8_lossy(&second).into_owned())
    }
}

/// One line that names the flag and what is accepted, 125 to 127, and nothing made.
fn refused(options: &[&str], words: &[&str]) -> Outcome {
    let directory = scratch()?;
    fs::write(directory.path().join("small"), "x")?;
    let made = directory.path().join("made");
    let run = Run::new(["touch".as_ref(), made.as_os_str()]).options(options);
    let output = run.command().current_dir(&directory).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !matches!(output.status.code(), Some(125..=127)) {
        return fail(format!("{}\n{text}", output.status));
    }
    if made.exists() {
        return fail("the program ran");
    }
    if text.lines().count() != 1 {
        return fail(format!("not one line:\n{text}"));
    }
    match words.iter().find(|w| !text.contains(**w)) {
        None => Ok(()),
        Some(word) => fail(format!("the message does not say {word:?}: {text}")),
    }
}
