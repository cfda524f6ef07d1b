//! Virtual functions, made by a shell as an administrator would, and used by programs that know nothing of SR-IOV.

use crate::qemu::Tool;
use crate::world::*;
use libtest_mimic::Trial;
use std::fs;

pub fn trials() -> Vec<Trial> {
    vec![trial("virtual functions share a disk", share_a_disk)]
}

/// Two virtual functions of a controller that has another driver than vfio-pci, so that no token is asked for.
const TWO_FOR_VFIO: &str = "
    set -e
    cd /sys/bus/pci/devices
    pf=0000:01:00.0
    echo $pf > $pf/driver/unbind
    echo pci-stub > $pf/driver_override
    echo $pf > /sys/bus/pci/drivers_probe
    echo 0 > $pf/sriov_drivers_autoprobe
    echo 2 > $pf/sriov_numvfs
    for link in $pf/virtfn*; do
        vf=$(basename $(readlink $link))
        echo vfio-pci > $vf/driver_override
        echo $vf > /sys/bus/pci/drivers_probe
    done";

fn share_a_disk() -> Outcome {
    let (tool, directory) = (Tool::find("7.2", "qemu-img")?, scratch()?);
    let content = random(8 << 20, 7);
    let source = directory.path().join("source");
    fs::write(&source, &content)?;
    let disk = blank(directory.path(), "disk", 8 << 20)?;
    let (qemu, source) = (tool.shell(), source.display());
    let script = format!(
        "{TWO_FOR_VFIO}
         {qemu} convert -n -f raw -O raw {source} nvme://0000:01:00.1/1
         {qemu} compare -f raw -F raw {source} nvme://0000:01:00.2/1
         echo 0 > $pf/sriov_numvfs
         test ! -e 0000:01:00.1"
    );
    let device = format!("nvme,file={},vfs=2", disk.display());
    Run::new(["sh", "-c", &script])
        .options(["--device", &device])
        .success()?;
    match difference(&fs::read(&disk)?, &content) {
        None => Ok(()),
        Some(at) => fail(format!("byte {at} of the disk is not what was written")),
    }
}
