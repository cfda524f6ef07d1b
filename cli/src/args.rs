//! The command line: every flag is defined here and nowhere else. Help, man pages and completions come from it.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;
use swiommu_engine::machine::options::{Color, Stacks};

/// Runs unmodified VFIO programs on a machine without an IOMMU.
#[derive(Debug, Parser)]
#[command(
    name = "swiommu",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  swiommu run --device nvme,file=disk.img -- qemu-io -f raw -c 'read 0 4k' nvme://0000:01:00.0/1
  swiommu run --iommu amd -- sh -c 'qemu-img convert -n -O raw a.img nvme://0000:01:00.0/1'
  swiommu machine --device nvme,size=1G --format toml > machine.toml
  swiommu doctor

Exit status: the program's own (128+N if signal N ended it); 125 swiommu failed, 126 the program
cannot be run under swiommu, 127 it was not found."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with the machine's VFIO devices
    Run(RunArgs),
    /// Print the machine that `run` would make of the same options
    Machine(MachinePrintArgs),
    /// Say what works on this computer, and why something does not
    Doctor(DoctorArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
    /// Print the man page, or write all of them to a directory
    Man(ManArgs),
}

/// What describes a machine.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Add a device: nvme, edu, ioat or stub (repeatable)
    ///
    /// nvme: file=PATH or size=SIZE for each namespace in order (or nsN.file=, nsN.size=, nsN.ro), block=512|4096,
    /// serial=TEXT, queues=1..64, cache=SIZE (volatile write cache, 0 = none), seed=N (what the cache loses), ro,
    /// migration=off|stop-copy|p2p|pre-copy|all, vfs=N (virtual functions).
    /// edu: dma_bits=1..64. ioat: model=skylake|icelake, channels=1..8, transfer=4K..1M (most bytes of a descriptor).
    /// stub: vendor=ID, device=ID, class=ID, barN=128K|io:32, msix=N, msi=N, intx.
    /// All: bdf=SSSS:BB:DD.F, group=N, driver=NAME|none (the driver it begins with: vfio-pci), present=0 (appears by
    /// a rescan), requester=SSSS:BB:DD.F (its requests bear this address, as behind a bridge to conventional PCI).
    /// Without any device there are an nvme of 1G in memory at 0000:01:00.0 and an edu at 0000:00:04.0. A comma within a
    /// value is written twice.
    #[arg(long, value_name = "KIND,KEY=VALUE,...")]
    pub device: Vec<String>,

    /// Choose the IOMMU: vtd, amd or none
    ///
    /// vtd: address_width=39|48|57, scalable=0|1, iotlb=0|1. amd: address_width=32..64, iotlb=0|1. none, VFIO's
    /// no-IOMMU mode: rawio=0|1.
    #[arg(long, value_name = "KIND,KEY=VALUE,...")]
    pub iommu: Option<String>,

    /// Read the machine from a TOML file; devices given by --device are added to it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Add a PCI driver, or replace a built-in one (repeatable)
    ///
    /// managed_dma: it leaves DMA to user space, so its devices do not keep others of their group from VFIO. vfio: it
    /// gives its devices to VFIO. id=VVVV:DDDD or id=class:CCCC (repeatable): devices it takes by itself.
    #[arg(long, value_name = "NAME,KEY=VALUE,...")]
    pub driver: Vec<String>,

    /// Set VFIO's own rules: multi_device_groups=1|2|3, groups=landed|rfc, enable_sriov=0|1
    ///
    /// multi_device_groups: what the devices of a group of several may do through iommufd: nothing (1), share
    /// one address space (2, as Linux), or have different ones, as far as the IOMMU tells them apart (3). groups:
    /// the errnos of Linux, or those of the proposal of 2021. enable_sriov: the parameter of vfio-pci, so that its
    /// devices can have virtual functions.
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub vfio: Option<String>,

    /// Locked-memory limit for mapped memory: inherit, unlimited (the default) or a size
    #[arg(long, value_name = "LIMIT")]
    pub memlock: Option<String>,

    /// Mappings that one container may hold (the kernel's default is 65535)
    #[arg(long, value_name = "N")]
    pub dma_entry_limit: Option<String>,
}

/// `swiommu run`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Write and read back through an emulated NVMe on a raw file:
    swiommu run --device nvme,file=disk.img -- \\
        qemu-io -f raw -c 'write -P 0x5a 1M 256k' -c 'read -P 0x5a 1M 256k' nvme://0000:01:00.0/1
  Fail a CI job when the program made a VFIO mistake, and keep what was found:
    swiommu run --error-exitcode 99 --report findings.jsonl -- ./my-driver 0000:01:00.0
  Two devices in one group, behind an AMD IOMMU:
    swiommu run --iommu amd --device nvme,size=1G,group=7 \\
        --device stub,msix=4,bar0=128K,group=7 -- ./my-vmm

The options of the preloaded library can also be set in SWIOMMU_OPTIONS (key=value:key=value,
help=1 lists them); flags win.")]
pub struct RunArgs {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,

    /// Also write findings to FILE, one JSON object a line
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub report: Option<PathBuf>,

    /// Exit with N when the program made mistakes that were reported
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..), help_heading = "Reports")]
    pub error_exitcode: Option<u8>,

    /// Watch for system calls that escape interposition, and name them
    #[arg(long, help_heading = "Reports")]
    pub audit: bool,

    /// How much of the program's call stack a report names
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Reports")]
    pub stacks: Option<StacksArg>,

    /// Colour in reports
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Reports")]
    pub color: Option<ColorArg>,

    /// Give the machine the mock IOMMU of the kernel's iommufd selftests, and what else they need
    ///
    /// Test equipment: /dev/iommu answers IOMMU_TEST_CMD, fault injection is there, capabilities are those of root, and
    /// memory of huge pages is had from ordinary ones where the system has none.
    #[arg(long, help_heading = "Machine")]
    pub mock: bool,

    /// Keep the run's directory, and say where it is
    #[arg(long)]
    pub keep: bool,

    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// `swiommu machine`
#[derive(Debug, Args)]
pub struct MachinePrintArgs {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,

    /// How to print it; toml is what --config reads
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: Format,
}

/// `swiommu doctor`
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 if `swiommu run` works here, 1 if it does not.")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `swiommu completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swiommu completions bash > ~/.local/share/bash-completion/completions/swiommu
  swiommu completions zsh > ~/.zfunc/_swiommu
  swiommu completions fish > ~/.config/fish/completions/swiommu.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = shells(), value_name = "SHELL")]
    pub shell: Shell,
}

/// The shells we test.
fn shells() -> impl clap::builder::TypedValueParser<Value = Shell> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]).map(|name| {
        name.parse::<Shell>()
            .expect("these are shells that clap_complete knows")
    })
}

/// `swiommu man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write swiommu.1 and a page for each subcommand to DIR
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `--format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// A machine file.
    Toml,
    /// For programs.
    Json,
}

/// `--stacks`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StacksArg {
    /// Nothing.
    None,
    /// Thread, return address, module and offset (the default).
    Site,
    /// The symbolised stack.
    Full,
}

impl From<StacksArg> for Stacks {
    fn from(arg: StacksArg) -> Stacks {
        match arg {
            StacksArg::None => Stacks::None,
            StacksArg::Site => Stacks::Site,
            StacksArg::Full => Stacks::Full,
        }
    }
}

/// `--color`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// If stderr is a terminal and NO_COLOR is not set (the default).
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<ColorArg> for Color {
    fn from(arg: ColorArg) -> Color {
        match arg {
            ColorArg::Auto => Color::Auto,
            ColorArg::Always => Color::Always,
            ColorArg::Never => Color::Never,
        }
    }
}
