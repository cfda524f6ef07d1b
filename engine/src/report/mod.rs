//! Reports: what the client did wrong, in the manner of AddressSanitizer and Miri.
//!
//! What is checked lies where the checking is done (bus, address space, doors); what is told lies here. A
//! [`Finding`] is typed data; [`text`] renders it for a person and serde for a machine. Reports never block or change
//! what the client sees.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use swiommu_iommu::{Access, Fault};
use swiommu_mem::UserAddr;
use swiommu_mem::fd::Hidden;

use crate::calls::CallRecord;
use crate::door::Call;
use crate::iommufd::{Ioas, Space};
use crate::machine::options::{Color, Options, Stacks};
use crate::pci::Doing;
use crate::pci::function::Function;
use crate::run::Run;

mod blocked;
pub mod site;
pub mod stack;
pub mod text;

/// Whose fault a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The program under test did something wrong.
    ClientBug,
    /// The program asked for something swiommu does not do.
    Unsupported,
    /// Legal, but worth knowing.
    Note,
    /// The machine or swiommu itself failed.
    Broken,
}

/// One line of evidence: a label and what it says, with the lines that belong under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What is told.
    pub text: String,
    /// Details under it, e.g. the frames of a stack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub under: Vec<String>,
    /// The call it points at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<Pointed>,
}

/// A call of the client, for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pointed {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Kernel thread id.
    pub thread: u32,
    /// Module and offset of its return address, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

impl Evidence {
    /// A line without details.
    pub fn line(text: impl Into<String>) -> Evidence {
        Evidence {
            text: text.into(),
            under: Vec::new(),
            call: None,
        }
    }
}

/// What is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whose fault.
    pub class: Class,
    /// A stable word for the kind, e.g. `use-after-unmap`.
    pub kind: &'static str,
    /// One line: who did what where.
    pub title: String,
    /// The device, if one was involved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The DMA, if one was blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dma: Option<Dma>,
    /// What is known.
    pub evidence: Vec<Evidence>,
    /// What to do next.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub help: &'static str,
    /// Process.
    pub pid: u32,
    /// Thread that did it.
    pub thread: u32,
}

/// The DMA of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dma {
    /// PCI requester id, `bus:slot.function`.
    pub requester: String,
    /// First device address asked for.
    pub iova: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes moved before it stopped.
    pub done: u64,
    /// `read` (device reads memory) or `write`.
    pub direction: &'static str,
    /// The IOMMU's own fault code, if it raised one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Why a DMA did not happen.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The command register's bus master bit is clear.
    BusMasterOff,
    /// The IOMMU refused.
    Fault(Fault),
    /// The client page behind the mapping cannot be touched.
    Vanished(UserAddr),
    /// Another function's BAR did not take it.
    PeerRefused,
    /// There is no IOMMU, and no memory at that bus address.
    NoMemory,
}

/// A DMA that did not happen.
pub struct Blocked<'a> {
    /// Who tried.
    pub function: &'a Function,
    /// First device address.
    pub iova: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes moved before it stopped.
    pub done: u64,
    /// Direction.
    pub access: Access,
    /// Why.
    pub cause: Cause,
    /// What the device was doing.
    pub doing: Doing,
    /// The thread whose register access made the device move.
    pub thread: u32,
    /// Where that access was.
    pub site: u64,
}

/// Legal calls that are usually mistakes.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// MAP_DMA met a mapping: EEXIST.
    MapOverlaps {
        /// First address asked for.
        iova: u64,
        /// Last.
        last: u64,
    },
    /// UNMAP_DMA succeeded and unmapped nothing.
    UnmapOfNothing {
        /// First address asked for.
        iova: u64,
        /// Bytes asked for.
        bytes: u64,
        /// type1v2 rather than type1.
        v2: bool,
    },
}

/// After so many reports of one process the rest goes to the report file only.
const MAX_TOLD: u32 = 20;

/// Where findings go.
pub struct Reports {
    options: Options,
    color: bool,
    told: AtomicU32,
    once: Mutex<HashSet<String>>,
    file: Mutex<Option<Hidden>>,
    /// Standard error as it was when the engine was made: a program may close its own before it exits.
    stderr: Option<Hidden>,
}

impl Reports {
    /// Reports of this process: text on standard error, JSON lines in the run's `reports` folder.
    pub fn new(dir: &Path, options: &Options) -> Reports {
        let pid = std::process::id();
        let path = dir.join("reports").join(format!("{pid}.jsonl"));
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .ok()
            .and_then(|file| Hidden::new(file).ok());
        let color = match options.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && rustix::termios::isatty(rustix::stdio::stderr())
            }
        };
        Reports {
            options: options.clone(),
            color,
            told: AtomicU32::new(0),
            once: Mutex::default(),
            file: Mutex::new(file),
            stderr: swiommu_mem::fd::duplicate(rustix::stdio::stderr())
                .and_then(Hidden::new)
                .ok(),
        }
    }

    /// Tells a finding, or only counts it when enough was told.
    pub fn tell(&self, finding: &Finding) {
        if let Some(file) = &*self.file.lock().unwrap()
            && let Ok(mut line) = serde_json::to_vec(finding)
        {
            line.push(b'\n');
            write_all(file.as_fd(), &line);
        }
        let shown = match finding.class {
            Class::Note => self.options.verbosity >= 2,
            Class::Unsupported => self.options.verbosity >= 1,
            Class::ClientBug | Class::Broken => true,
        };
        if !shown {
            return;
        }
        let told = self.told.fetch_add(1, Ordering::Relaxed);
        if told < MAX_TOLD {
            let text = text::render(finding, self.color);
            self.print(&text);
        } else if told == MAX_TOLD {
            let line =
                format!("==swiommu== {told} reports told; more go only to the report file\n");
            self.print(&line);
        }
    }

    fn print(&self, text: &str) {
        if let Some(stderr) = &self.stderr {
            write_all(stderr, text.as_bytes());
        }
    }

    /// A site, unless none are to be named.
    fn site(&self, site: u64) -> u64 {
        if self.options.stacks == Stacks::None {
            0
        } else {
            site
        }
    }

    fn first_time(&self, what: &str) -> bool {
        self.once.lock().unwrap().insert(what.to_owned())
    }

    /// A DMA did not happen.
    pub fn blocked(&self, blocked: &Blocked<'_>, space: &dyn Space) {
        let blocked = &Blocked {
            site: self.site(blocked.site),
            cause: blocked.cause.clone(),
            ..*blocked
        };
        let mut finding = None;
        space.show(&mut |ioas| finding = Some(blocked::finding(blocked, Some(ioas))));
        self.tell(&finding.unwrap_or_else(|| blocked::finding(blocked, None)));
    }

    /// The client asked for something swiommu does not do. Told once per text.
    pub fn unsupported(&self, call: &Call<'_>, what: fmt::Arguments<'_>) {
        let what = what.to_string();
        if self.first_time(&what) {
            let mut finding = plain(Class::Unsupported, "not-supported", call.thread);
            finding.title = format!("not supported by swiommu: {what}");
            finding.evidence = vec![self.called(call)];
            finding.help =
                "The call failed as the kernel would fail it. See docs/support-matrix.md.";
            self.tell(&finding);
        }
    }

    /// The client touched a part of a device that its model does not have. Told once per text.
    pub fn unmodelled(&self, function: &Function, what: fmt::Arguments<'_>) {
        let title = format!("not modelled by swiommu: {}", told_of(function, what));
        if self.first_time(&title) {
            let mut finding = plain(Class::Unsupported, "not-modelled", 0);
            finding.title = title;
            finding.device = Some(function.bdf().to_string());
            self.tell(&finding);
        }
    }

    /// Something unusual that a device saw. Told once per text.
    pub fn remark(&self, function: &Function, thread: u32, what: fmt::Arguments<'_>) {
        let title = told_of(function, what);
        if self.first_time(&title) {
            let mut finding = plain(Class::Note, "device-remark", thread);
            finding.title = title;
            finding.device = Some(function.bdf().to_string());
            self.tell(&finding);
        }
    }

    /// The client did something a device's specification forbids. Told once per text.
    pub fn misuse(&self, function: &Function, thread: u32, site: u64, what: fmt::Arguments<'_>) {
        let title = told_of(function, what);
        if self.first_time(&title) {
            let mut finding = plain(Class::ClientBug, "device-misuse", thread);
            finding.title = title;
            finding.device = Some(function.bdf().to_string());
            finding.evidence = vec![Evidence::line(format!(
                "register access {}",
                called_from(thread, self.site(site))
            ))];
            self.tell(&finding);
        }
    }

    /// Where a call came from, as evidence.
    fn called(&self, call: &Call<'_>) -> Evidence {
        Evidence::line(format!(
            "called {}",
            called_from(call.thread, self.site(call.site))
        ))
    }

    /// A legal call that is usually a mistake.
    pub fn note(&self, call: &Call<'_>, note: Note, ioas: &Ioas) {
        let mut finding = plain(Class::Note, "", call.thread);
        match note {
            Note::MapOverlaps { iova, last } => {
                finding.kind = "map-overlaps";
                finding.title = format!("MAP_DMA of [{iova:#x}..={last:#x}] met a mapping: EEXIST");
                finding.evidence = ioas
                    .overlapping(iova, last)
                    .take(4)
                    .map(|(first, area)| text::area(first, area.last, area.mapped()))
                    .collect();
            }
            Note::UnmapOfNothing { iova, bytes, v2 } => {
                finding.kind = "unmap-of-nothing";
                finding.title = format!(
                    "UNMAP_DMA of {bytes} bytes at {iova:#x} succeeded and unmapped nothing"
                );
                if !v2 && let Some((first, area)) = ioas.overlapping(iova, iova).next() {
                    finding.evidence = vec![text::area(first, area.last, area.mapped())];
                    finding.help =
                        "type1 (v1) unmaps whole mappings only, and only from their first address.";
                }
            }
        }
        finding.evidence.push(self.called(call));
        self.tell(&finding);
    }

    /// Pinned pages could not be kept when the client took their address away.
    pub fn lost_page(&self, call: &Call<'_>, iova: u64, va: UserAddr, bytes: u64) {
        let mut finding = plain(Class::Broken, "pinned-pages-lost", call.thread);
        finding.title = format!(
            "{bytes} pinned bytes at {:#x} could not be kept when they were unmapped",
            va.0
        );
        finding.evidence = vec![Evidence::line(format!(
            "IOVA {iova:#x} is no longer mapped; the kernel would keep it"
        ))];
        self.tell(&finding);
    }

    /// A device cannot be used.
    pub fn broken(&self, call: &Call<'_>, function: &Function, what: fmt::Arguments<'_>) {
        let mut finding = plain(Class::Broken, "machine", call.thread);
        finding.title = told_of(function, what);
        finding.device = Some(function.bdf().to_string());
        self.tell(&finding);
    }

    /// The process exits: mappings it leaves behind.
    pub fn at_exit(&self, run: &Run) {
        let containers = std::mem::take(&mut *run.containers.lock().unwrap());
        for container in containers.iter().filter_map(std::sync::Weak::upgrade) {
            let mut found = None;
            container.show(&mut |ioas| {
                let (mut count, mut bytes, mut first) = (0u64, 0u64, Vec::new());
                for (at, area) in ioas.areas() {
                    count += 1;
                    bytes += area.last - at + 1;
                    if first.len() < 8 {
                        first.push(text::area(at, area.last, area.mapped()));
                    }
                }
                found = Some((count, bytes, first));
            });
            if let Some((count @ 1.., bytes, evidence)) = found {
                let mut finding = plain(Class::Note, "mappings-left-behind", 0);
                let mappings = if count == 1 { "mapping" } else { "mappings" };
                finding.title = format!("{count} {mappings} ({bytes} bytes) left behind at exit");
                finding.evidence = evidence;
                finding.help = "The kernel cleans up; a long-lived process that does this leaks pinned memory.";
                self.tell(&finding);
            }
        }
    }
}

/// `0000:01:00.0 (nvme): what`; models begin what they tell with their kind, which is said once.
fn told_of(function: &Function, what: fmt::Arguments<'_>) -> String {
    let what = what.to_string();
    let kind = function.config().kind.name();
    let what = what
        .strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(&what);
    format!("{}: {what}", blocked::device_name(function))
}

/// `in thread 12, at qemu-io+0x1234`
fn called_from(thread: u32, site: u64) -> String {
    match site {
        0 => format!("in thread {thread}"),
        _ => format!("in thread {thread}, at {}", site::name(site)),
    }
}

/// A call as evidence: number, name, thread, place, and its stack if there is one.
fn call_line(prefix: &str, record: &CallRecord) -> Evidence {
    Evidence {
        text: format!(
            "{prefix} by call #{} {} {}",
            record.number,
            record.name,
            called_from(record.thread, record.site)
        ),
        under: record
            .stack
            .as_ref()
            .map(|stack| stack.frames())
            .unwrap_or_default(),
        call: Some(Pointed {
            number: record.number,
            name: record.name,
            thread: record.thread,
            site: (record.site != 0).then(|| site::name(record.site)),
        }),
    }
}

fn plain(class: Class, kind: &'static str, thread: u32) -> Finding {
    Finding {
        class,
        kind,
        title: String::new(),
        device: None,
        dma: None,
        evidence: Vec::new(),
        help: "",
        pid: std::process::id(),
        thread,
    }
}

/// Writes all of it; a report that cannot be written is lost, never an error of the client.
fn write_all(fd: impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
