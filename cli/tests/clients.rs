//! The client suite: programs that know nothing of swiommu, under `swiommu run`.
//!
//! Data is compared byte for byte with the medium's file, and answers with those of a real kernel
//! (`clients/golden`). A client that is not on this machine is skipped and says why; `cargo xtask test` fetches and
//! builds all of them. `SWIOMMU_TEST_QUICK` leaves out what takes long.

#[path = "clients/command.rs"]
mod command;
#[path = "clients/descriptors.rs"]
mod descriptors;
#[path = "clients/golden.rs"]
mod golden;
#[path = "clients/guest.rs"]
mod guest;
#[path = "clients/host.rs"]
mod host;
#[path = "clients/machine.rs"]
mod machine;
#[path = "clients/migration.rs"]
mod migration;
#[path = "clients/monitor.rs"]
mod monitor;
#[path = "clients/processes.rs"]
mod processes;
#[path = "clients/qemu.rs"]
mod qemu;
#[path = "clients/qemu_system.rs"]
mod qemu_system;
#[path = "clients/report.rs"]
mod report;
#[path = "clients/selftests.rs"]
mod selftests;
#[path = "clients/sriov.rs"]
mod sriov;
#[path = "../../xtask/src/tap.rs"]
mod tap;
#[path = "clients/vmm.rs"]
mod vmm;
#[path = "clients/world.rs"]
mod world;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(command::trials());
    trials.extend(golden::trials());
    trials.extend(qemu::trials());
    trials.extend(qemu_system::trials());
    trials.extend(descriptors::trials());
    trials.extend(migration::trials());
    trials.extend(processes::trials());
    trials.extend(sriov::trials());
    trials.extend(vmm::trials());
    trials.extend(report::trials());
    trials.extend(host::trials());
    trials.extend(selftests::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}
