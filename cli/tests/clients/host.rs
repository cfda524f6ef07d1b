//! Tools that bind and unbind devices by writing to sysfs: shells, dpdk-devbind, the kernel's own scripts.

use crate::world::*;
use libtest_mimic::Trial;

const EDU: &str = "0000:00:04.0";

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("dpdk-devbind binds a device to vfio-pci", devbind_binds),
        trial("dpdk-devbind shows and unbinds a device", devbind_unbinds),
        trial(
            "the kernel's scripts give a device to vfio-pci and back",
            kernel_scripts,
        ),
        trial(
            "a driver of the host keeps its group from a client",
            held_back,
        ),
    ];
    for shell in ["bash", "dash"] {
        trials.push(trial(
            format!("{shell} rebinds a device by override and probe"),
            move || rebinds(shell),
        ));
        trials.push(trial(
            format!("a refused write is the echo's failure in {shell}"),
            move || refused(shell),
        ));
    }
    trials
}

/// Runs a script that stops at its first failure; gives its output.
fn script(shell: &str, device: &str, text: &str) -> Result<String, Stop> {
    let text = format!("set -e\nD=/sys/bus/pci/devices/{EDU}\n{text}");
    let run = Run::new([shell, "-c", &text]).options(["--device", device]);
    Ok(run.success()?.stdout)
}

fn expect(shown: &str, expected: &str) -> Outcome {
    match shown == expected {
        true => Ok(()),
        false => fail(format!("shown:\n{shown}\nexpected:\n{expected}")),
    }
}

fn rebinds(shell: &str) -> Outcome {
    let shown = script(
        shell,
        "edu,group=7",
        "ls -I devices /dev/vfio
         echo 0000:00:04.0 > $D/driver/unbind
         ls -I devices /dev/vfio
         echo vfio-pci > $D/driver_override
         cat $D/driver_override
         echo 0000:00:04.0 > /sys/bus/pci/drivers_probe
         basename $(readlink $D/driver)
         ls -I devices /dev/vfio",
    )?;
    expect(&shown, "7\nvfio\nvfio\nvfio-pci\nvfio-pci\n7\nvfio\n")
}

fn refused(shell: &str) -> Outcome {
    let shown = script(
        shell,
        "edu",
        "for driver in vfio-pci nothing; do
           if echo 0000:00:04.0 > /sys/bus/pci/drivers/$driver/bind; then echo bound; else echo refused; fi
         done 2>/dev/null
         if /bin/echo 0000:00:05.0 > /sys/bus/pci/drivers/vfio-pci/unbind; then echo unbound; else echo refused; fi
         if echo 1 > $D/vendor; then echo written; else echo refused; fi
         cat $D/vendor",
    )?;
    expect(&shown, "refused\nrefused\nrefused\nrefused\n0x1234\n")
}

fn held_back() -> Outcome {
    let text = "[ $(basename $(readlink /sys/bus/pci/devices/0000:00:05.0/driver)) = e1000e ]
         echo pci-stub > /sys/bus/pci/devices/0000:00:05.0/driver_override
         echo 0000:00:05.0 > /sys/bus/pci/drivers/e1000e/unbind
         echo 0000:00:05.0 > /sys/bus/pci/drivers/pci-stub/bind
         basename $(readlink /sys/bus/pci/devices/0000:00:05.0/driver)";
    let run = Run::new(["bash", "-ec", text]).options([
        "--device",
        "edu,group=3",
        "--device",
        "stub,bdf=00:05.0,group=3,driver=e1000e",
    ]);
    expect(&run.success()?.stdout, "pci-stub\n")
}

/// Runs a script in which `devbind` is dpdk-devbind and `driver` names the device's driver; gives its output.
fn with_devbind(driver: &str, text: &str) -> Result<String, Stop> {
    let root = set("dpdk")?;
    let text = format!(
        "export PATH={root}/usr/bin:$PATH LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu
         devbind() {{ python3 {root}/usr/bin/dpdk-devbind.py \"$@\"; }}
         driver() {{ basename $(readlink $D/driver || echo none); }}
         {text}",
        root = root.display(),
    );
    let device = format!("stub,bdf=00:04.0,class=0x020000,group=7,driver={driver}");
    script("bash", &device, &text)
}

fn devbind_binds() -> Outcome {
    let shown = with_devbind(
        "none",
        &format!(
            "devbind --status | grep ^{EDU}
             devbind --bind=vfio-pci {EDU} 2>&1 | grep -v libkmod || true
             driver; ls -I devices /dev/vfio"
        ),
    )?;
    let line = format!("{EDU} 'Device 0001' unused=vfio-pci\n");
    expect(&shown, &format!("{line}vfio-pci\n7\nvfio\n"))
}

fn devbind_unbinds() -> Outcome {
    let shown = with_devbind(
        "vfio-pci",
        &format!(
            "devbind --status | grep ^{EDU}
             devbind --unbind {EDU}; driver
             devbind --bind=vfio-pci {EDU}; driver"
        ),
    )?;
    let line = format!("{EDU} 'Device 0001' drv=vfio-pci unused=\n");
    expect(&shown, &format!("{line}none\nvfio-pci\n"))
}

fn kernel_scripts() -> Outcome {
    let scripts = set("linux")?.join("source/tools/testing/selftests/vfio/scripts");
    if !scripts.join("setup.sh").exists() {
        return Err(Stop::Skip("the kernel's source has no such scripts".into()));
    }
    let state = scratch()?;
    let text = format!(
        "export TMPDIR={}
         bash {scripts}/setup.sh {EDU}
         basename $(readlink $D/driver); cat $D/driver_override; ls -I devices /dev/vfio
         bash {scripts}/cleanup.sh {EDU}
         basename $(readlink $D/driver); cat $D/driver_override; ls -I devices /dev/vfio",
        state.path().display(),
        scripts = scripts.display(),
    );
    let shown = script(
        "bash",
        "stub,bdf=00:04.0,driver=e1000e,vendor=0x8086,device=0x10d3,group=7",
        &text,
    )?;
    let told = format!(
        "+ echo \"{EDU}\" > /sys/bus/pci/drivers/e1000e/unbind
+ echo \"vfio-pci\" > /sys/bus/pci/devices/{EDU}/driver_override
+ echo \"{EDU}\" > /sys/bus/pci/drivers/vfio-pci/bind
vfio-pci
vfio-pci
7
vfio
+ echo \"{EDU}\" > /sys/bus/pci/drivers/vfio-pci/unbind
+ echo \"\" > /sys/bus/pci/devices/{EDU}/driver_override
+ echo \"{EDU}\" > /sys/bus/pci/drivers/e1000e/bind
e1000e
(null)
vfio
"
    );
    expect(&shown, &told)
}
