//! DMA through the engine's bus beside memcpy into the same scattered pages, in one process and one run.
//!
//! `cargo bench -p swiommu-engine --bench dma [-- --json] [-- --quick]`. Nanoseconds of thread CPU time per transfer;
//! a row's contenders take turns, each figure is the median of their runs. Device addresses are contiguous, the pages
//! behind them scattered over client memory; the floor knows where each page lies and copies page by page.
//!
//! A transfer of a command with a list, an NVMe command's pages, is one of [`LIST`] that the bus is given at once; `x1` is
//! a transfer by itself.
#![allow(unsafe_code, missing_docs)] // memcpy on raw memory

#[path = "../../iommu/benches/page_table/clock.rs"]
mod clock;

use std::hint::black_box;
use std::sync::{Arc, Weak};

use clock::{Contender, cpu_ns, pin, race};
use swiommu_engine::door::{Call, File, Files};
use swiommu_engine::machine::Machine;
use swiommu_engine::machine::options::Options;
use swiommu_engine::pci::bus::Wires;
use swiommu_engine::pci::config::Config;
use swiommu_engine::pci::function::Function;
use swiommu_engine::pci::irq::Irqs;
use swiommu_engine::pci::{Bus, Span, Spans};
use swiommu_engine::run::Run;
use swiommu_engine::vfio::container::Container;
use swiommu_iommu::{Domain, Iova, Pa, Prot};
use swiommu_mem::{Client, Mapping};
use zerocopy::{FromBytes, IntoBytes};

const PAGE: u64 = 4096;
/// First device address of the window.
const BASE: u64 = 1 << 32;
/// Client memory.
const MEMORY: u64 = 256 << 20;
/// Pages of a command's list.
const LIST: usize = 16;
/// Offset of PCI's command register, and memory decoding with bus mastering.
const COMMAND: (usize, [u8; 2]) = (4, [6, 0]);

/// Memory that begins on a page.
#[derive(Clone, FromBytes, IntoBytes)]
#[repr(C, align(4096))]
struct Page([u8; PAGE as usize]);

/// A call that names no other files.
struct NoFiles;

impl Files for NoFiles {
    fn get(&self, _: i32) -> Option<Arc<dyn File>> {
        None
    }
}

/// A function with its wires, and the address space it does DMA in.
struct World {
    wires: Wires,
    domain: Arc<Domain>,
    _directory: tempfile::TempDir,
}

impl World {
    /// The default machine's edu, with the first pages of the window mapped to where `place` says.
    fn new(iotlb: bool, client: Client, pages: u64, place: impl Fn(u64) -> u64) -> World {
        let directory = tempfile::tempdir().expect("a directory");
        let mut machine = Machine::default();
        machine.iommu.iotlb = iotlb;
        let text = serde_json::to_vec(&machine).expect("a machine can be written");
        std::fs::create_dir(directory.path().join("reports")).expect("a directory");
        std::fs::write(directory.path().join("machine.json"), text).expect("the machine");
        let name = directory.path().to_str().expect("a path of plain text");
        let run = Run::open(name, Options::default(), client).expect("the default machine");
        let function = run.functions[1].clone();
        let container = Container::new(run.clone());
        let call = Call {
            client: client.into(),
            thread: 0,
            site: 0,
            files: &NoFiles,
        };
        function
            .open(&run, container.clone(), &call)
            .expect("edu needs nothing");
        let identity = function.identity();
        let mut config = Config::new(identity, &[0; 6]);
        config.write(COMMAND.0, &COMMAND.1);
        let domain = run.iommu.domain();
        run.iommu.attach(function.stream(), &domain);
        for page in 0..pages {
            let iova = Iova(BASE + page * PAGE);
            domain
                .map(iova, Pa(place(page)), PAGE, Prot::all())
                .expect("an empty domain");
        }
        let irqs = Irqs::new(identity, Weak::<Function>::new());
        let wires = Wires::new(&run, &function, container.clone(), config, irqs);
        World {
            wires,
            domain,
            _directory: directory,
        }
    }
}

/// The offsets of one pass over as much as the window holds: aligned to the transfer, the same for every contender.
fn offsets(bytes: u64, window: u64) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let step = bytes.max(64);
    (0..(window / step).clamp(1024, 65536))
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % (window / step) * step
        })
        .collect()
}

/// The floor: page by page to or from known addresses.
#[inline(never)]
fn plain(pages: &[u64], offset: u64, buffer: &mut [u8], write: bool) {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let piece = (PAGE - at % PAGE).min((buffer.len() - done) as u64) as usize;
        let place = (pages[(at / PAGE) as usize] + at % PAGE) as *mut u8;
        let ours = buffer[done..].as_mut_ptr();
        // SAFETY: every page of the list is mapped memory of the bench, and none is part of `buffer`.
        unsafe {
            if write {
                place.copy_from_nonoverlapping(black_box(ours), black_box(piece));
            } else {
                ours.copy_from_nonoverlapping(black_box(place), black_box(piece));
            }
        }
        black_box(ours);
        done += piece;
    }
}

/// One command's transfers.
fn through(wires: &mut Wires, spans: &[Span], buffer: &mut [u8], write: bool) {
    let moved = match (spans, write) {
        ([span], true) => wires.write(span.iova, black_box(buffer)),
        ([span], false) => wires.read(span.iova, black_box(buffer)),
        (list, true) => wires.scatter(Spans::all(list), black_box(buffer)),
        (list, false) => wires.gather(Spans::all(list), black_box(buffer)),
    };
    moved.expect("the window is mapped");
}

/// Nanoseconds for each transfer of `bytes` bytes, of which a command has `list`.
fn row(
    worlds: &mut [(&'static str, World)],
    pages: &[u64],
    window: u64,
    (bytes, list): (u64, usize),
    write: bool,
) -> Vec<(&'static str, f64)> {
    let offsets = offsets(bytes, window);
    let spans: Vec<Span> = offsets
        .iter()
        .map(|offset| Span {
            iova: BASE + offset,
            bytes,
        })
        .collect();
    let all = bytes * list as u64;
    // Every contender's own side begins on a page, as a medium does: a copy's speed depends on it.
    let mut buffers: Vec<Vec<Page>> = (0..=worlds.len())
        .map(|_| vec![Page([1; PAGE as usize]); all.div_ceil(PAGE) as usize])
        .collect();
    let mut buffers = buffers
        .iter_mut()
        .map(|pages| &mut pages.as_mut_bytes()[..all as usize]);
    let first = buffers.next().expect("there is one at least");
    let mut contenders = vec![Contender::new("memcpy", |n| {
        let commands = offsets.chunks_exact(list).cycle();
        for command in commands.take((n as usize).div_ceil(list)) {
            for (&offset, piece) in command.iter().zip(first.chunks_mut(bytes as usize)) {
                plain(pages, offset, piece, write);
            }
        }
    })];
    for ((name, world), buffer) in worlds.iter_mut().zip(buffers) {
        let spans = &spans;
        contenders.push(Contender::new(name, move |n| {
            let commands = spans.chunks_exact(list).cycle();
            for command in commands.take((n as usize).div_ceil(list)) {
                through(&mut world.wires, command, buffer, write);
            }
        }));
    }
    race(&mut contenders)
}

/// The first write to each page of the window since tracking began, in turn, beside the same writes untracked.
fn first_writes(worlds: &mut [(&'static str, World)], pages: u64) -> Vec<(&'static str, f64)> {
    let mut contenders = Vec::new();
    let wanted = ["swiommu", "swiommu dirty"];
    for (name, world) in worlds {
        let name = *name;
        if !wanted.contains(&name) {
            continue;
        }
        let mut buffer = [Page([1; PAGE as usize])];
        let run = Box::new(move |n: u64| {
            let passes = n.div_ceil(pages);
            let mut spent = 0.0;
            for _ in 0..passes {
                // Forgets what was written before.
                world.domain.set_dirty_tracking(name == "swiommu dirty");
                let start = cpu_ns();
                for page in 0..pages {
                    let iova = BASE + page.wrapping_mul(0x9e37) % pages * PAGE;
                    let span = Span { iova, bytes: PAGE };
                    through(&mut world.wires, &[span], buffer.as_mut_bytes(), true);
                }
                spent += cpu_ns() - start;
            }
            spent / (passes * pages) as f64
        });
        contenders.push(Contender { name, run });
    }
    race(&mut contenders)
}

fn main() {
    swiommu_mem::install_handlers();
    pin(0);
    // SAFETY: handlers are installed; the addresses are those of a mapping no reference points into.
    let client = unsafe { Client::local() };
    let memory = Mapping::anonymous(MEMORY).expect("memory for the bench");
    client.fill(memory.base(), 1, MEMORY).expect("it is mapped");
    let json = std::env::args().any(|argument| argument == "--json");
    let mut fields = Vec::new();
    for (window, name) in [(1 << 20, "1MiB"), (MEMORY, "256MiB")] {
        let count = window / PAGE;
        let place = |page: u64| memory.base().0 + page.wrapping_mul(0x9e37) % count * PAGE;
        let pages: Vec<u64> = (0..count).map(place).collect();
        let mut worlds = [
            ("swiommu", World::new(false, client, count, place)),
            ("swiommu iotlb", World::new(true, client, count, place)),
            ("swiommu dirty", World::new(false, client, count, place)),
        ];
        worlds[2].1.domain.set_dirty_tracking(true);
        for (bytes, list) in [
            (64, 1),
            (4 << 10, 1),
            (4 << 10, LIST),
            (64 << 10, 1),
            (1 << 20, 1),
        ] {
            for write in [true, false] {
                let direction = if write { "write" } else { "read" };
                let results = row(&mut worlds, &pages, window, (bytes, list), write);
                let floor = results[0].1;
                for (contender, value) in results {
                    if !json {
                        println!(
                            "{direction:<5} {bytes:>8} x{list:<2} in {name:<7} {contender:<14} {value:>12.1} ns   {:>6.3} of memcpy",
                            floor / value
                        );
                    }
                    fields.push(format!(
                        "  \"{direction}/{bytes}x{list}/{name}/{contender}\": {value:.2}"
                    ));
                }
            }
        }
        let results = first_writes(&mut worlds, count);
        let untracked = results[0].1;
        for (contender, value) in results {
            if !json {
                println!(
                    "first writes of 4096 in {name:<7} {contender:<14} {value:>12.1} ns   {:>6.3} x untracked",
                    value / untracked
                );
            }
            fields.push(format!("  \"first/4096x1/{name}/{contender}\": {value:.2}"));
        }
    }
    if json {
        println!("{{\n{}\n}}", fields.join(",\n"));
    }
}
