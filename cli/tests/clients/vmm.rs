//! A program on the unmodified rust-vmm crates.

use crate::world::*;
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    ["vtd", "amd"]
        .map(|iommu| {
            trial(
                format!("a vfio-ioctls program moves data through edu on {iommu}"),
                move || round_trip(iommu),
            )
        })
        .into()
}

fn round_trip(iommu: &str) -> Outcome {
    let program = built(
        "vfio-ioctls/debug/vfio-ioctls-client",
        "the vfio-ioctls client",
    )?;
    let run = Run::new([program.as_os_str(), "0000:00:04.0".as_ref()]).iommu(iommu);
    let ended = run
        .options(["--device", "edu,bdf=0000:00:04.0"])
        .success()?;
    if ended
        .stdout
        .contains("4096 bytes went to the device and back")
    {
        Ok(())
    } else {
        fail(ended.told())
    }
}
