//! A machine that is given its device as open descriptors, as libvirt does it: `-object iommufd,fd= -device
//! vfio-pci,fd=`. Who opened them, and what became of it, makes no difference.

use crate::guest::boot_sector;
use crate::machine::*;
use crate::world::*;
use libtest_mimic::Trial;
use std::fs;

/// How a shell hands the descriptors over; `M` stands for the machine, `GO` and `END` for files.
const WAYS: &[(&str, &str)] = &[
    (
        "that a launcher opened before it became qemu",
        "exec M 3<>/dev/vfio/devices/vfio0 4<>/dev/iommu",
    ),
    (
        "that a launcher opened and keeps open",
        "exec 3<>/dev/vfio/devices/vfio0 4<>/dev/iommu; M; s=$?; exit $s",
    ),
    (
        "that a launcher opened which has ended",
        "( exec 3<>/dev/vfio/devices/vfio0 4<>/dev/iommu
           (until [ -e 'GO' ]; do sleep 0.05; done; M; touch 'END') & )
         touch 'GO'; until [ -e 'END' ]; do sleep 0.05; done",
    ),
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = WAYS
        .iter()
        .map(|(how, script)| {
            trial(
                format!("the firmware of qemu boots from a disk by descriptors {how}"),
                move || boots(script),
            )
        })
        .collect();
    trials.push(trial(
        "a Linux guest copies on its disk by descriptors that a launcher opened",
        copies,
    ));
    trials
}

fn boots(script: &str) -> Outcome {
    const SECTOR: usize = 512;
    const LINE: &str = "this line was read from the disk";
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    content[..SECTOR].copy_from_slice(&boot_sector(directory.path())?);
    content[SECTOR..][..LINE.len()].copy_from_slice(LINE.as_bytes());
    content[SECTOR + LINE.len()] = b'\n';
    fs::write(&image, &content)?;
    let [serial, go, end] = ["serial", "go", "end"].map(|name| directory.path().join(name));
    let machine = Machine::new("10.0")?.device_by_descriptor("");
    let script = script
        .replace('M', &machine.serial_file(&serial).shell())
        .replace("GO", &go.display().to_string())
        .replace("END", &end.display().to_string());
    let ended = Run::new(["sh", "-c", &script]).disk(&image).success()?;
    if fs::read_to_string(&serial)?.trim() != LINE {
        return fail(ended.told());
    }
    content.copy_within(SECTOR..65 * SECTOR, 128 * SECTOR);
    holds(&image, &content)
}

fn copies() -> Outcome {
    let directory = scratch()?;
    let (image, mut content) = medium(directory.path(), "disk", 64)?;
    let machine = Machine::linux("10.0", directory.path(), "copy", "")?;
    let machine = machine.device_by_descriptor("").with(["-serial", "stdio"]);
    let script = format!(
        "exec {} 3<>/dev/vfio/devices/vfio0 4<>/dev/iommu",
        machine.shell()
    );
    let ended = Run::new(["sh", "-c", &script]).disk(&image).success()?;
    after_copy(&mut content);
    if let Err(Stop::Fail(why)) = holds(&image, &content) {
        return fail(format!("{why}\n{}", ended.told()));
    }
    Ok(())
}
