//! Random mappings and transfers against a model: what edu reads and writes is what a map of bytes says, and each
//! transfer that cannot happen leaves memory untouched and makes one report of the right kind.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use swiommu_abi::vfio::{DMA_MAP_FLAG_READ as READ, DMA_MAP_FLAG_WRITE as WRITE};

use crate::model_space::cases;
use crate::support::Model;
use crate::support::edu::{self, Rig};
use crate::support::memory::Memory;
use crate::support::vfio::RW;

const P: u64 = 4096;
/// Pages of client memory, and of device addresses that are tried.
const PAGES: u64 = 12;
const IOVAS: u64 = 24;
/// Where the device addresses begin: below a boundary of large pages, so that they straddle it.
const AT: u64 = 0x4000_0000 - 8 * P;

#[derive(Clone, Debug)]
enum Step {
    Map {
        iova: u64,
        page: u64,
        pages: u64,
        flags: u32,
    },
    Unmap {
        iova: u64,
    },
    GiveUp {
        page: u64,
    },
    Write {
        iova: u64,
        offset: u64,
        bytes: u64,
        value: u8,
    },
    Read {
        iova: u64,
        offset: u64,
        bytes: u64,
    },
    BusMaster(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![4 => Just(RW), 1 => Just(READ), 1 => Just(WRITE)];
    let bytes = prop_oneof![1..64u64, 1..edu::BUFFER_BYTES + 1];
    prop_oneof![
        4 => (0..IOVAS, 0..PAGES, 1..5u64, flags).prop_map(|(iova, page, pages, flags)| Step::Map {
            iova, page, pages: pages.min(PAGES - page), flags
        }),
        2 => (0..IOVAS).prop_map(|iova| Step::Unmap { iova }),
        1 => (0..PAGES).prop_map(|page| Step::GiveUp { page }),
        6 => (0..IOVAS, 0..P, bytes.clone(), any::<u8>()).prop_map(|(iova, offset, bytes, value)| Step::Write {
            iova, offset, bytes, value
        }),
        6 => (0..IOVAS, 0..P, bytes).prop_map(|(iova, offset, bytes)| Step::Read { iova, offset, bytes }),
        1 => any::<bool>().prop_map(Step::BusMaster),
    ]
}

/// A page of memory: which one a client page or a device page is.
type Page = usize;

#[derive(Default)]
struct Space {
    /// Contents of every page there ever was.
    contents: Vec<Vec<u8>>,
    /// What the client sees.
    client: Vec<Page>,
    /// Mappings: first device page -> (pages, flags).
    maps: BTreeMap<u64, (u64, u32)>,
    /// What the device sees.
    device: BTreeMap<u64, Page>,
    /// Device pages that were mapped once.
    ever: BTreeMap<u64, ()>,
    master: bool,
}

impl Space {
    fn new() -> Space {
        let mut space = Space {
            master: true,
            ..Space::default()
        };
        for _ in 0..PAGES {
            let page = space.fresh();
            space.client.push(page);
        }
        space
    }

    fn fresh(&mut self) -> Page {
        self.contents.push(vec![0; P as usize]);
        self.contents.len() - 1
    }

    fn mapping_of(&self, iova: u64) -> Option<(u64, u64, u32)> {
        let (&first, &(pages, flags)) = self.maps.range(..=iova).next_back()?;
        (iova < first + pages).then_some((first, pages, flags))
    }

    fn map(&mut self, iova: u64, page: u64, pages: u64, flags: u32) -> bool {
        if (iova..iova + pages).any(|at| self.mapping_of(at).is_some()) {
            return false;
        }
        self.maps.insert(iova, (pages, flags));
        for index in 0..pages {
            self.device
                .insert(iova + index, self.client[(page + index) as usize]);
            self.ever.insert(iova + index, ());
        }
        true
    }

    fn unmap(&mut self, first: u64) -> u64 {
        let pages = self.maps.remove(&first).map_or(0, |(pages, _)| pages);
        self.device
            .retain(|at, _| !(first..first + pages).contains(at));
        pages * P
    }

    /// How far a transfer comes and, if not to its end, the kind of its report.
    fn reach(&self, at: u64, bytes: u64, flag: u32) -> (u64, Option<&'static str>) {
        if !self.master {
            return (0, Some("bus-master-off"));
        }
        let mut done = 0;
        while done < bytes {
            let page = (at + done) / P;
            match self.mapping_of(page) {
                Some((_, _, flags)) if flags & flag != 0 => {
                    done += (P - (at + done) % P).min(bytes - done)
                }
                Some(_) => return (done, Some("wrong-direction")),
                None if done > 0 => return (done, Some("beyond-the-end")),
                None if self.ever.contains_key(&page) => return (done, Some("use-after-unmap")),
                None => return (done, Some("never-mapped")),
            }
        }
        (done, None)
    }

    fn byte(&mut self, at: u64) -> &mut u8 {
        &mut self.contents[self.device[&(at / P)]][(at % P) as usize]
    }
}

/// The engine and the model side by side.
struct Pair {
    rig: Rig,
    memory: Memory,
    space: Space,
    told: usize,
}

impl Pair {
    fn run(&mut self, step: &Step) {
        let rig = &self.rig;
        let mut expected = None;
        match *step {
            Step::Map {
                iova,
                page,
                pages,
                flags,
            } => {
                let mapped = self.space.map(iova, page, pages, flags);
                let answer = rig.container.map(
                    AT + iova * P,
                    self.memory.base() + page * P,
                    pages * P,
                    flags,
                );
                assert_eq!(answer.is_ok(), mapped, "{answer:?}");
                expected = (!mapped).then_some("map-overlaps");
            }
            Step::Unmap { iova } => {
                let (first, pages) = self
                    .space
                    .mapping_of(iova)
                    .map_or((iova, 1), |(first, pages, _)| (first, pages));
                let bytes = self.space.unmap(first);
                assert_eq!(rig.container.unmap(AT + first * P, pages * P), Ok(bytes));
                expected = (bytes == 0).then_some("unmap-of-nothing");
            }
            Step::GiveUp { page } => {
                rig.world.vacate(self.memory.base() + page * P, P);
                self.memory.replace(page * P, P);
                self.space.client[page as usize] = self.space.fresh();
            }
            Step::Write {
                iova,
                offset,
                bytes,
                value,
            } => {
                let at = iova * P + offset;
                let master = self.space.master;
                let (done, kind) = self.space.reach(at, bytes, WRITE);
                // loading the buffer is not what is tried here
                rig.device.bus_master(true);
                rig.load_buffer(&vec![value; bytes as usize]);
                rig.device.bus_master(master);
                rig.post(AT + at, bytes);
                (at..at + done).for_each(|at| *self.space.byte(at) = value);
                expected = kind;
            }
            Step::Read {
                iova,
                offset,
                bytes,
            } => {
                let at = iova * P + offset;
                let master = self.space.master;
                let (done, kind) = self.space.reach(at, bytes, READ);
                rig.device.bus_master(true);
                rig.load_buffer(&vec![0xee; bytes as usize]);
                rig.device.bus_master(master);
                rig.fetch(AT + at, bytes);
                rig.device.bus_master(true);
                let got = rig.buffer(bytes as usize);
                rig.device.bus_master(master);
                let mut wanted = vec![0xee; bytes as usize];
                (0..done).for_each(|index| wanted[index as usize] = *self.space.byte(at + index));
                assert_eq!(got, wanted);
                expected = kind;
            }
            Step::BusMaster(on) => {
                rig.device.bus_master(on);
                self.space.master = on;
            }
        }
        let kinds = self.rig.world.kinds();
        assert_eq!(
            kinds[self.told..]
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            Vec::from_iter(expected)
        );
        self.told = kinds.len();
    }

    fn compare_memory(&self) {
        for (index, &page) in self.space.client.iter().enumerate() {
            assert_eq!(
                self.memory.read(index as u64 * P, P as usize),
                self.space.contents[page],
                "client page {index}"
            );
        }
    }
}

fn behaves_like_the_model(model: Model) {
    let steps = proptest::collection::vec(step(), 1..40);
    TestRunner::new(cases(60))
        .run(&steps, |steps| {
            let mut pair = Pair {
                rig: Rig::new(model),
                memory: Memory::pages(PAGES),
                space: Space::new(),
                told: 0,
            };
            steps.iter().for_each(|step| pair.run(step));
            pair.compare_memory();
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_sequences_behave_like_the_model_behind_vtd_in_legacy_mode() {
    behaves_like_the_model(Model::Legacy);
}

#[test]
fn random_sequences_behave_like_the_model_behind_vtd_in_scalable_mode() {
    behaves_like_the_model(Model::Scalable);
}

#[test]
fn random_sequences_behave_like_the_model_behind_amd() {
    behaves_like_the_model(Model::Amd);
}
