//! The page table alone, beside its floor and its peers, in one process and one run.
//!
//! `cargo bench -p swiommu-iommu [-- --json] [-- FILTER]`. Nanoseconds of thread CPU time per operation;
//! every row's contenders take turns, each figure is the median of nine runs of 30 ms.
//!
//! - `pair/N`: with N live 4 KiB mappings at random places of a window of 2N pages, one unmap and one map.
//! - `bytes/N`: bytes of tables per mapping when N mappings lie densely.
//! - `translate/WINDOW/PATTERN`: a translation and a 64-byte read. IOVA neighbours are scattered pages.
#![allow(unsafe_code)] // The floor's tables are addresses, and a translated address is read.

#[path = "page_table/clock.rs"]
mod clock;
#[path = "page_table/floor.rs"]
mod floor;
#[path = "page_table/peers.rs"]
mod peers;

use std::hint::black_box;
use std::sync::{Arc, Barrier};

use clock::{Contender, cpu_ns, pin, race};
use floor::Floor;
use swiommu_iommu::{Access, Config, Domain, Iommu, Iova, Kind, Pa, Port, Prot, Session, StreamId};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const PAGE: u64 = 4096;
const STREAM: StreamId = StreamId(0x100);
/// Bytes of device memory; the largest window.
const MEMORY: u64 = 256 << 20;

/// A small generator of uniform numbers.
struct Random(u64);

impl Random {
    #[inline(always)]
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The results, in the order they were made.
struct Report {
    json: bool,
    filter: Option<String>,
    values: Vec<(String, f64)>,
}

impl Report {
    fn wants(&self, row: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| row.contains(filter.as_str()))
    }

    fn row(&mut self, row: &str, results: Vec<(&'static str, f64)>) {
        let floor = results[0].1;
        for (name, value) in results {
            if !self.json {
                println!(
                    "{row:<34} {name:<22} {value:>10.2}   {:>7.2} x floor",
                    value / floor
                );
            }
            self.values.push((format!("{row}/{name}"), value));
        }
    }

    fn finish(self) {
        if self.json {
            let fields: Vec<String> = self
                .values
                .iter()
                .map(|(name, value)| format!("  \"{name}\": {value:.3}"))
                .collect();
            println!("{{\n{}\n}}", fields.join(",\n"));
        }
    }
}

fn config(kind: Kind, iotlb: bool) -> Config {
    Config {
        kind,
        address_width: 48,
        iotlb,
    }
}

const VTD: Kind = Kind::Vtd { scalable: true };

/// A unit with an attached domain and a port.
fn unit(config: Config) -> (Arc<Iommu>, Arc<Domain>, Port) {
    let iommu = Iommu::new(config).expect("the configuration is possible");
    let domain = iommu.domain();
    iommu.attach(STREAM, &domain);
    let port = iommu.port(STREAM);
    (iommu, domain, port)
}

/// First IOVA of every window: no reserved range lies above it.
const BASE: u64 = 1 << 32;

/// Unmaps and maps at random among `live` mappings, in batches prepared outside the timed part.
fn churn<'a>(
    name: &'static str,
    live: u64,
    mut map: impl FnMut(u64) + 'a,
    mut unmap: impl FnMut(u64) + 'a,
) -> Contender<'a> {
    let mut random = Random(42);
    let mut slots: Vec<u64> = (0..2 * live).map(|slot| BASE + slot * PAGE).collect();
    for place in (1..slots.len()).rev() {
        slots.swap(place, random.below(place as u64 + 1) as usize);
    }
    for iova in &slots[..live as usize] {
        map(*iova);
    }
    let mut batch: Vec<(u64, u64)> = Vec::new();
    let run = Box::new(move |n: u64| {
        let mut spent = 0.0;
        let mut left = n;
        while left > 0 {
            batch.clear();
            for _ in 0..left.min(16384) {
                let (out, into) = (
                    random.below(live) as usize,
                    (live + random.below(live)) as usize,
                );
                batch.push((slots[out], slots[into]));
                slots.swap(out, into);
            }
            let start = cpu_ns();
            for (out, into) in &batch {
                unmap(*out);
                map(*into);
            }
            spent += cpu_ns() - start;
            left -= batch.len() as u64;
        }
        spent / n as f64
    });
    Contender { name, run }
}

/// How many unmaps share one invalidation and drain where a writer has the domain to itself.
const GATHER: u32 = 64;

/// The page table alone: one writer that keeps the domain to itself and gathers invalidations.
fn ours_churn(name: &'static str, live: u64, kind: Kind) -> Contender<'static> {
    let (iommu, domain, port) = unit(config(kind, false));
    let domain: &'static Domain = Box::leak(Box::new(domain));
    let exclusive = std::rc::Rc::new(std::cell::RefCell::new(domain.exclusive()));
    let other = std::rc::Rc::clone(&exclusive);
    let (unit, mut gathered) = ((iommu, port), 0);
    churn(
        name,
        live,
        move |iova| {
            let _ = &unit;
            exclusive
                .borrow_mut()
                .map(Iova(iova), Pa(iova ^ 0x5_5555_5000), PAGE, Prot::all())
                .unwrap()
        },
        move |iova| {
            let mut domain = other.borrow_mut();
            assert_eq!(domain.unmap(Iova(iova), Iova(iova + PAGE - 1)), PAGE);
            gathered += 1;
            if gathered == GATHER {
                domain.sync();
                gathered = 0;
            }
        },
    )
}

/// Single calls that may come from any thread: each takes the domain's lock, each unmap drains.
fn shared_churn(name: &'static str, live: u64, kind: Kind) -> Contender<'static> {
    let (iommu, domain, port) = unit(config(kind, false));
    let domain = Arc::new((domain, iommu, port));
    let other = Arc::clone(&domain);
    churn(
        name,
        live,
        move |iova| {
            domain
                .0
                .map(Iova(iova), Pa(iova ^ 0x5_5555_5000), PAGE, Prot::all())
                .unwrap()
        },
        move |iova| assert_eq!(other.0.unmap(Iova(iova), Iova(iova + PAGE - 1)), PAGE),
    )
}

fn pairs(report: &mut Report, memory: &GuestMemoryMmap) {
    for live in [1, 1000, 64_000, 1_000_000] {
        let row = format!("pair/{live}");
        if !report.wants(&row) {
            continue;
        }
        let floor = std::cell::RefCell::new(Floor::new());
        let ranges = std::cell::RefCell::new(peers::Ranges::default());
        let tree = std::cell::RefCell::new(peers::Tree::default());
        let guarded = peers::Memory::new(memory.clone());
        let mut contenders = [
            churn(
                "floor",
                live,
                |iova| floor.borrow_mut().map(iova, iova ^ 0x5_5555_5000),
                |iova| {
                    floor.borrow_mut().unmap(iova);
                },
            ),
            ours_churn("swiommu vtd", live, VTD),
            ours_churn("swiommu amd", live, Kind::Amd),
            shared_churn("swiommu vtd, drain each", live, VTD),
            churn(
                "BTreeMap",
                live,
                |iova| ranges.borrow_mut().map(iova, iova),
                |iova| {
                    ranges.borrow_mut().unmap(iova);
                },
            ),
            churn(
                "vm-memory Iotlb",
                live,
                |iova| tree.borrow_mut().map(iova, iova),
                |iova| {
                    tree.borrow_mut().unmap(iova);
                },
            ),
            churn(
                "vm-memory IommuMemory",
                live,
                |iova| guarded.map(iova, iova),
                |iova| guarded.unmap(iova),
            ),
        ];
        let results = race(&mut contenders);
        report.row(&row, results);
    }
}

fn bytes(report: &mut Report) {
    for live in [64_000, 1_000_000] {
        let row = format!("bytes/{live}");
        if !report.wants(&row) {
            continue;
        }
        let mut floor = Floor::new();
        let (_vtd, domain, _port) = unit(config(VTD, false));
        for iova in (0..live).map(|page| BASE + page * PAGE) {
            floor.map(iova, iova ^ 0x5_5555_5000);
            domain
                .map(Iova(iova), Pa(iova ^ 0x5_5555_5000), PAGE, Prot::all())
                .unwrap();
        }
        let each = |bytes: u64| bytes as f64 / live as f64;
        report.row(
            &row,
            vec![
                ("floor", each(floor.table_bytes())),
                ("swiommu", each(domain.table_bytes())),
            ],
        );
    }
}

#[derive(Clone, Copy)]
enum Pattern {
    Sequential,
    Random,
    Dependent,
}

/// Reads 64 bytes at a translated address.
#[inline(always)]
fn touch(pa: u64) -> u64 {
    // SAFETY: only addresses inside the bench's memory are mapped, at 64-byte steps, and it is mapped and
    // initialised for the whole run; nobody writes it.
    let words = unsafe { std::ptr::read(pa as *const [u64; 8]) };
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// What is timed: a translation, inlined into the loop as a device model would inline it.
trait Translate {
    fn translate(&mut self, iova: u64) -> Option<u64>;
}

impl<F: FnMut(u64) -> Option<u64>> Translate for F {
    #[inline(always)]
    fn translate(&mut self, iova: u64) -> Option<u64> {
        self(iova)
    }
}

/// Ours, for reads or for writes.
struct InSession<'a, const WRITE: bool>(Session<'a>);

impl<const WRITE: bool> Translate for InSession<'_, WRITE> {
    #[inline(always)]
    fn translate(&mut self, iova: u64) -> Option<u64> {
        let access = if WRITE { Access::Write } else { Access::Read };
        self.0
            .translate(Iova(iova), 64, access)
            .ok()
            .map(|run| run.pa.0)
    }
}

/// Translates and reads `n` times in a window of `pages` pages.
#[inline(always)]
fn drive(n: u64, pattern: Pattern, pages: u64, translate: impl Translate) {
    black_box(match pattern {
        Pattern::Sequential => sequential(n, pages, translate),
        Pattern::Random => random(n, pages, translate),
        Pattern::Dependent => dependent(n, pages, translate),
    });
}

#[inline(never)]
fn sequential(n: u64, pages: u64, mut by: impl Translate) -> u64 {
    (0..n).fold(0, |sum, i| {
        let offset = (i & (pages - 1)) * PAGE + (i & 63) * 64;
        sum.wrapping_add(touch(by.translate(BASE + offset).unwrap()))
    })
}

#[inline(never)]
fn random(n: u64, pages: u64, mut by: impl Translate) -> u64 {
    let mut random = Random(7);
    (0..n).fold(0, |sum, _| {
        let offset = (random.next() & (pages * 64 - 1)) * 64;
        sum.wrapping_add(touch(by.translate(BASE + offset).unwrap()))
    })
}

#[inline(never)]
fn dependent(n: u64, pages: u64, mut by: impl Translate) -> u64 {
    let mut random = Random(7);
    (0..n).fold(0, |sum, _| {
        let offset = ((random.next() ^ sum) & (pages * 64 - 1)) * 64;
        touch(by.translate(BASE + offset).unwrap())
    })
}

/// Two threads at once, each with its own `make()`; CPU time per operation and thread.
fn two_threads<'a, T>(
    name: &'static str,
    make: impl Fn() -> T + Sync + 'a,
    run: impl Fn(&mut T, u64) + Sync + 'a,
) -> Contender<'a> {
    let run = Box::new(move |n: u64| {
        let barrier = Barrier::new(2);
        let work = |processor: usize| {
            pin(processor);
            let mut state = make();
            barrier.wait();
            let start = cpu_ns();
            run(&mut state, n);
            (cpu_ns() - start) / n as f64
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| work(1));
            let mine = scope.spawn(|| work(0));
            (other.join().unwrap() + mine.join().unwrap()) / 2.0
        })
    });
    Contender { name, run }
}

/// Where page `page` of every window lives: a fixed permutation of the memory's pages.
fn scatter(page: u64) -> u64 {
    page.wrapping_mul(0x9e37) % (MEMORY / PAGE) * PAGE
}

/// Every contender with the same window mapped.
struct World {
    floor: Floor,
    ranges: peers::Ranges,
    tree: peers::Tree,
    guarded: peers::Memory,
    vtd: (Arc<Iommu>, Arc<Domain>, Port),
    amd: (Arc<Iommu>, Arc<Domain>, Port),
    cached: (Arc<Iommu>, Arc<Domain>, Port),
    tracked: (Arc<Iommu>, Arc<Domain>, Port),
}

impl World {
    fn new(memory: &GuestMemoryMmap, pages: u64) -> Self {
        let host = memory
            .get_host_address(GuestAddress(0))
            .expect("memory begins at 0") as u64;
        let mut world = World {
            floor: Floor::new(),
            ranges: peers::Ranges::default(),
            tree: peers::Tree::default(),
            guarded: peers::Memory::new(memory.clone()),
            vtd: unit(config(VTD, false)),
            amd: unit(config(Kind::Amd, false)),
            cached: unit(config(VTD, true)),
            tracked: unit(config(VTD, false)),
        };
        for page in 0..pages {
            let (iova, offset) = (BASE + page * PAGE, scatter(page));
            world.floor.map(iova, host + offset);
            world.ranges.map(iova, host + offset);
            world.tree.map(iova, host + offset);
            world.guarded.map(iova, offset);
            for unit in [&world.vtd, &world.amd, &world.cached, &world.tracked] {
                unit.1
                    .map(Iova(iova), Pa(host + offset), PAGE, Prot::all())
                    .unwrap();
            }
        }
        world.tracked.1.set_dirty_tracking(true);
        world
    }
}

fn ours<const WRITE: bool>(port: &mut Port, n: u64, pattern: Pattern, pages: u64) {
    drive(n, pattern, pages, InSession::<WRITE>(port.begin()));
}

#[inline(never)]
fn bare(floor: &Floor, n: u64, pattern: Pattern, pages: u64) {
    drive(n, pattern, pages, |iova| floor.translate(iova));
}

fn translations(report: &mut Report, memory: &GuestMemoryMmap) {
    for (window, name) in [(2 << 20, "2MiB"), (256 << 20, "256MiB")] {
        let pages = window / PAGE;
        if !report.wants("translate") {
            continue;
        }
        let mut world = World::new(memory, pages);
        for (pattern, pattern_name) in [
            (Pattern::Sequential, "sequential"),
            (Pattern::Random, "random"),
            (Pattern::Dependent, "dependent"),
        ] {
            let World {
                floor,
                ranges,
                tree,
                guarded,
                vtd,
                amd,
                cached,
                tracked,
            } = &mut world;
            let mut contenders = [
                Contender::new("floor", |n| bare(floor, n, pattern, pages)),
                Contender::new("swiommu vtd", |n| {
                    ours::<false>(&mut vtd.2, n, pattern, pages)
                }),
                Contender::new("swiommu amd", |n| {
                    ours::<false>(&mut amd.2, n, pattern, pages)
                }),
                Contender::new("swiommu vtd iotlb", |n| {
                    ours::<false>(&mut cached.2, n, pattern, pages)
                }),
                Contender::new("swiommu vtd dirty", |n| {
                    ours::<true>(&mut tracked.2, n, pattern, pages)
                }),
                Contender::new("BTreeMap", |n| {
                    drive(n, pattern, pages, |iova| ranges.translate(iova))
                }),
                Contender::new("vm-memory Iotlb", |n| {
                    drive(n, pattern, pages, |iova| tree.translate(iova))
                }),
                Contender::new("vm-memory IommuMemory", |n| {
                    drive(n, pattern, pages, |iova| guarded.translate(iova))
                }),
            ];
            let results = race(&mut contenders);
            report.row(&format!("translate/{name}/{pattern_name}"), results);
        }
        let (floor, guarded, vtd) = (&world.floor, &world.guarded, &world.vtd.0);
        let random = Pattern::Random;
        let mut contenders = [
            two_threads("floor", || (), |(), n| bare(floor, n, random, pages)),
            two_threads(
                "swiommu vtd",
                || vtd.port(STREAM),
                |port, n| ours::<false>(port, n, random, pages),
            ),
            two_threads(
                "vm-memory IommuMemory",
                || (),
                |(), n| drive(n, random, pages, |iova| guarded.translate(iova)),
            ),
        ];
        let results = race(&mut contenders);
        report.row(&format!("translate/{name}/random 2 threads"), results);
    }
}

fn main() {
    // Cargo passes `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let filter = arguments
        .into_iter()
        .find(|argument| !argument.starts_with("--"));
    let mut report = Report {
        json,
        filter,
        values: Vec::new(),
    };
    pin(0);
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)])
        .expect("memory for the bench");
    let host = memory
        .get_host_address(GuestAddress(0))
        .expect("memory begins at 0");
    // SAFETY: the region is MEMORY bytes long and nobody else uses it yet.
    unsafe { std::ptr::write_bytes(host, 0, MEMORY as usize) };
    pairs(&mut report, &memory);
    bytes(&mut report);
    translations(&mut report, &memory);
    report.finish();
}
