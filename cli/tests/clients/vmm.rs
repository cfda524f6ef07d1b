//! A program on the unmodified rust-vmm crates.

use crate::world::*;
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    let doors = [("group", "its group", 1), ("cdev", "its own node", 2)];
    let mut trials = Vec::new();
    for iommu in ["vtd", "amd"] {
        for (door, name, times) in doors {
            trials.push(trial(
                format!("a vfio-ioctls program moves data through edu by {name} on {iommu}"),
                move || round_trip(iommu, door, times),
            ));
        }
    }
    trials
}

/// The program moves the data, and with the device's own node once more through a page table that it made.
fn round_trip(iommu: &str, door: &str, times: usize) -> Outcome {
    let program = built(
        "vfio-ioctls/debug/vfio-ioctls-client",
        "the vfio-ioctls client",
    )?;
    let words = [program.as_os_str(), "0000:00:04.0".as_ref(), door.as_ref()];
    let run = Run::new(words).iommu(iommu);
    let ended = run
        .options(["--device", "edu,bdf=0000:00:04.0"])
        .success()?;
    let told = "4096 bytes went to the device and back";
    if ended.stdout.matches(told).count() == times {
        Ok(())
    } else {
        fail(ended.told())
    }
}
