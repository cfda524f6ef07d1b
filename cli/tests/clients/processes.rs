//! Several processes on one machine, and processes that die.

use crate::qemu::{DISK, Tool, io};
use crate::world::*;
use libtest_mimic::Trial;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "two processes work beside each other on two disks",
            two_disks,
        ),
        trial("a second opener of a group gets EBUSY", second_opener),
        trial(
            "a group is free again when its process was killed",
            free_after_kill,
        ),
        trial(
            "what was flushed before a kill is on the medium",
            flushed_before_kill,
        ),
        trial(
            "programs one after the other see the same disk",
            one_after_the_other,
        ),
    ]
}

fn two_disks() -> Outcome {
    let (tool, directory) = (Tool::find("7.2", "qemu-img")?, scratch()?);
    let mut options = Vec::new();
    let mut script = String::new();
    let content = [random(32 << 20, 3), random(32 << 20, 4)];
    for (i, content) in content.iter().enumerate() {
        let (source, image) = (
            directory.path().join(format!("source{i}")),
            format!("disk{i}"),
        );
        fs::write(&source, content)?;
        let image = blank(directory.path(), &image, 32 << 20)?;
        options.push("--device".to_owned());
        options.push(format!(
            "nvme,file={},bdf=0000:0{}:00.0",
            image.display(),
            i + 1
        ));
        script += &format!(
            "{} convert -n -f raw -O raw '{}' nvme://0000:0{}:00.0/1 & p{i}=$!\n",
            tool.shell(),
            source.display(),
            i + 1
        );
    }
    script += "wait $p0 && wait $p1\n";
    Run::new(["sh", "-c", &script]).options(options).success()?;
    for (i, content) in content.iter().enumerate() {
        if let Some(at) = difference(
            content,
            &fs::read(directory.path().join(format!("disk{i}")))?,
        ) {
            return fail(format!("disk {i} differs from its source at byte {at:#x}"));
        }
    }
    Ok(())
}

fn second_opener() -> Outcome {
    let tool = Tool::find("7.2", "qemu-io")?.shell();
    let holder = "-f raw -c 'write -P 1 0 4k' -c 'sleep 3000' -c 'read -P 1 0 4k'";
    let script = format!(
        "{tool} {holder} {DISK} & p=$!; sleep 1; {tool} -f raw -c 'read 0 4k' {DISK}; s=$?; wait $p && exit $s"
    );
    let ended = Run::new(["sh", "-c", &script])
        .options(["--device", "nvme,size=16M"])
        .end()?;
    if ended.status.code() == Some(1) && ended.stderr.contains("resource busy") {
        return Ok(());
    }
    fail(ended.told())
}

fn free_after_kill() -> Outcome {
    let tool = Tool::find("7.2", "qemu-io")?.shell();
    let script = format!(
        "{tool} -f raw -c 'write -P 1 0 4k' -c 'sleep 60000' {DISK} & p=$!; sleep 1; kill -9 $p; wait $p; \
         exec {tool} -f raw -c 'write -P 2 0 4k' -c 'read -P 2 0 4k' {DISK}"
    );
    Run::new(["sh", "-c", &script])
        .options(["--device", "nvme,size=16M"])
        .success()?;
    Ok(())
}

/// The driver writes block after block, flushes now and then, and says up to where; it is killed at random times. What
/// it said is on the medium, whatever became of the rest.
fn flushed_before_kill() -> Outcome {
    const BLOCK: usize = 512;
    let writer = compiled("flush", &[])?;
    for round in 0..if quick() { 2 } else { 12u64 } {
        let directory = scratch()?;
        let image = blank(directory.path(), "disk", 16 << 20)?;
        let device = format!("nvme,file={},cache=256K,seed={round}", image.display());
        let run = Run::new([writer.as_os_str()])
            .options(["--device", &device])
            .variable("DEVICE_NVME", "0000:01:00.0");
        let mut child = run
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let mut flushed = 0;
        let patience = 1 + (round * 37) % 60;
        for line in lines.by_ref().take(usize::try_from(patience)?) {
            flushed = line?.parse()?;
        }
        std::thread::sleep(Duration::from_micros(round * 731 % 3000));
        kill(&mut child)?;
        // What it had already said when it was killed counts too.
        for line in lines {
            flushed = line?.parse().unwrap_or(flushed);
        }
        if flushed == 0 {
            return fail("the writer never flushed");
        }
        let medium = fs::read(&image)?;
        for block in 0..flushed {
            let at = block * BLOCK;
            if medium[at..at + 8] != (block as u64 + 1).to_le_bytes() {
                return fail(format!(
                    "block {block} of {flushed} flushed ones is lost (round {round})"
                ));
            }
        }
    }
    Ok(())
}

fn one_after_the_other() -> Outcome {
    let (tool, directory) = (Tool::find("10.0", "qemu-io")?, scratch()?);
    let image = blank(directory.path(), "disk", 16 << 20)?;
    let older = Tool::find("7.2", "qemu-io")?;
    let quoted = |t: &Tool, commands: &[&str]| {
        let words: Vec<_> = io(commands).iter().map(|w| format!("'{w}'")).collect();
        format!("{} {}", t.shell(), words.join(" "))
    };
    let script = format!(
        "{} && {} && {}",
        quoted(&older, &["write -P 1 0 1M"]),
        quoted(&tool, &["read -P 1 0 1M", "write -P 2 1M 1M"]),
        quoted(&older, &["read -P 1 0 1M", "read -P 2 1M 1M"])
    );
    Run::new(["sh", "-c", &script]).disk(&image).success()?;
    Ok(())
}
