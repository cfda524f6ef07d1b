//! Random sequences of calls on /dev/iommu, by its own commands and by VFIO's, against a simple model that predicts every
//! answer and every page-table entry.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use swiommu_abi::{Errno, iommufd, vfio};

use crate::model_space::{END, P, Slice, Space, cases};
use crate::support::iommufd::{ANYWHERE, FIXED, Iommu};
use crate::support::memory::Memory;
use crate::support::vfio::RW;
use crate::support::{Model, World, machine};

/// Pages of client memory; sources beyond are a hole.
const PAGES: u64 = 12;
/// Device pages that are tried by number.
const IOVAS: u64 = 26;
/// Where they begin: below a boundary of large pages.
const AT: u64 = 0x4000_0000 - 8 * P;
const READ: u32 = vfio::DMA_MAP_FLAG_READ;
const RO: u32 = iommufd::IOAS_MAP_READABLE;

/// The device page of a number: the last two lie at the end of what a page table translates, and beyond.
fn iova(number: u64) -> u64 {
    match number {
        24 => END + 1 - P,
        25 => END + 1,
        _ => AT + number * P,
    }
}

/// What a call names: the nth of all there are.
type Nth = usize;

#[derive(Clone, Debug)]
enum Step {
    Alloc,
    Hwpt(Nth),
    Destroy(Nth),
    Map {
        ioas: Nth,
        at: Option<u64>,
        page: u64,
        pages: u64,
        writable: bool,
    },
    Copy {
        from: Nth,
        mapping: Nth,
        skip: u64,
        pages: u64,
        to: Nth,
        at: Option<u64>,
        writable: bool,
    },
    Unmap {
        ioas: Nth,
        mapping: Nth,
        off: i64,
        pages: u64,
    },
    UnmapAll(Nth),
    Allow {
        ioas: Nth,
        at: u64,
        pages: u64,
    },
    LargePages(Nth, bool),
    Vfio(Nth),
    VfioMap {
        at: u64,
        page: u64,
        pages: u64,
    },
    VfioUnmap {
        mapping: Nth,
        off: i64,
        pages: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = || prop_oneof![3 => (0..IOVAS).prop_map(Some), 1 => Just(None)];
    let page = || prop_oneof![8 => 0..PAGES, 1 => Just(PAGES + 1)];
    let nth = || 0usize..8;
    prop_oneof![
        2 => Just(Step::Alloc),
        3 => nth().prop_map(Step::Hwpt),
        2 => nth().prop_map(Step::Destroy),
        8 => (nth(), at(), page(), 1..5u64, any::<bool>()).prop_map(
            |(ioas, at, page, pages, writable)| Step::Map { ioas, at, page, pages, writable }
        ),
        5 => (nth(), nth(), 0..3u64, 1..6u64, nth(), at(), any::<bool>()).prop_map(
            |(from, mapping, skip, pages, to, at, writable)| Step::Copy {
                from, mapping, skip, pages, to, at, writable
            }
        ),
        4 => (nth(), nth(), -1..2i64, 0..4u64).prop_map(
            |(ioas, mapping, off, pages)| Step::Unmap { ioas, mapping, off, pages }
        ),
        1 => nth().prop_map(Step::UnmapAll),
        1 => (nth(), 0..IOVAS, 1..8u64).prop_map(|(ioas, at, pages)| Step::Allow { ioas, at, pages }),
        1 => (nth(), any::<bool>()).prop_map(|(ioas, on)| Step::LargePages(ioas, on)),
        2 => nth().prop_map(Step::Vfio),
        3 => (0..IOVAS, page(), 1..5u64).prop_map(|(at, page, pages)| Step::VfioMap { at, page, pages }),
        3 => (nth(), -1..3i64, 0..4u64).prop_map(
            |(mapping, off, pages)| Step::VfioUnmap { mapping, off, pages }
        ),
    ]
}

/// The engine and the model side by side.
struct Pair {
    iommu: Iommu,
    device: u32,
    memory: Memory,
    /// Address spaces by id.
    spaces: BTreeMap<u32, Space>,
    vfio: Option<u32>,
    _world: World,
}

impl Pair {
    fn new(model: Model) -> Pair {
        let world = World::new(machine(model, []));
        let iommu = world.iommu();
        Pair {
            device: iommu.bare(),
            iommu,
            memory: Memory::pages(PAGES),
            spaces: BTreeMap::new(),
            vfio: None,
            _world: world,
        }
    }

    fn nth(&self, nth: Nth) -> Option<u32> {
        let ids: Vec<u32> = self.spaces.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[nth % ids.len()])
    }

    fn mapping(&self, ioas: u32, nth: Nth) -> Option<(u64, u64)> {
        let areas = &self.spaces[&ioas].areas;
        let nth = nth.checked_rem(areas.len())?;
        areas.iter().nth(nth).map(|(at, area)| (*at, area.last))
    }

    /// Where client memory ends.
    fn hole(&self) -> u64 {
        self.memory.base() + PAGES * P
    }

    /// Maps slices in the model: where, or why not.
    fn insert(
        &mut self,
        ioas: u32,
        at: Option<u64>,
        slices: &[Slice],
        writable: bool,
    ) -> Result<u64, Errno> {
        let (prot, hole) = (if writable { RW } else { READ }, self.hole());
        let space = self.spaces.get_mut(&ioas).expect("it exists");
        space.insert(at, slices, prot, hole)
    }

    fn make_hwpt(&mut self, ioas: u32) {
        let space = &self.spaces[&ioas];
        let beyond = space.areas.values().any(|area| area.last > END);
        let kept = space.allowed.is_some_and(|(_, last)| last > END);
        let hole = space.reaches(self.hole());
        let expected = match () {
            () if beyond || kept => Err(Errno::EADDRINUSE),
            () if hole => Err(Errno::EFAULT),
            () => Ok(()),
        };
        let answer = self.iommu.hwpt(self.device, ioas, 0);
        assert_eq!(answer.map(drop), expected);
        if let Ok(id) = answer {
            self.spaces
                .get_mut(&ioas)
                .expect("it exists")
                .hwpts
                .push(id);
        }
    }

    fn destroy(&mut self, nth: Nth) {
        let hwpts = self.spaces.values().flat_map(|space| &space.hwpts);
        let ids: Vec<u32> = self.spaces.keys().chain(hwpts).copied().collect();
        let Some(&id) = nth.checked_rem(ids.len()).map(|nth| &ids[nth]) else {
            assert_eq!(self.iommu.destroy(77), Err(Errno::ENOENT));
            return;
        };
        let answer = self.iommu.destroy(id);
        if self
            .spaces
            .get(&id)
            .is_some_and(|space| !space.hwpts.is_empty())
        {
            assert_eq!(answer, Err(Errno::EBUSY));
            return;
        }
        assert_eq!(answer, Ok(0));
        self.spaces.remove(&id);
        self.vfio = self.vfio.filter(|vfio| *vfio != id);
        for space in self.spaces.values_mut() {
            space.hwpts.retain(|hwpt| *hwpt != id);
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Alloc => {
                let id = self.iommu.ioas();
                assert!(self.spaces.insert(id, Space::default()).is_none());
            }
            Step::Destroy(nth) => self.destroy(nth),
            Step::VfioMap { at, page, pages } => self.vfio_map(iova(at), page, pages),
            Step::VfioUnmap {
                mapping,
                off,
                pages,
            } => self.vfio_unmap(mapping, off, pages),
            Step::Hwpt(ioas)
            | Step::UnmapAll(ioas)
            | Step::LargePages(ioas, _)
            | Step::Vfio(ioas)
            | Step::Map { ioas, .. }
            | Step::Copy { from: ioas, .. }
            | Step::Unmap { ioas, .. }
            | Step::Allow { ioas, .. } => {
                if let Some(id) = self.nth(ioas) {
                    self.run_on(id, step);
                }
            }
        }
    }

    fn run_on(&mut self, id: u32, step: &Step) {
        match *step {
            Step::Hwpt(_) => self.make_hwpt(id),
            Step::Map {
                at,
                page,
                pages,
                writable,
                ..
            } => {
                let (va, bytes) = (self.memory.base() + page * P, pages * P);
                let at = at.map(iova);
                let expected = self.insert(id, at, &[(va, bytes, writable)], writable);
                let flags = flags(at, writable);
                let answer = self.iommu.map(id, flags, at.unwrap_or(7), va, bytes);
                assert_eq!(answer, expected);
            }
            Step::Copy {
                mapping,
                skip,
                pages,
                to,
                at,
                writable,
                ..
            } => self.copy((id, mapping, skip), pages, to, at.map(iova), writable),
            Step::Unmap {
                mapping,
                off,
                pages,
                ..
            } => {
                let (first, bytes) = self.range(id, mapping, off, pages);
                let space = self.spaces.get_mut(&id).expect("it exists");
                let expected = match space.unmap(first, first + (bytes - 1)) {
                    (_, Err(error)) => Err(error),
                    (0, Ok(())) => Err(Errno::ENOENT),
                    (bytes, Ok(())) => Ok(bytes),
                };
                assert_eq!(self.iommu.unmap(id, first, bytes), expected);
            }
            Step::UnmapAll(_) => {
                let space = self.spaces.get_mut(&id).expect("it exists");
                let (bytes, _) = space.unmap(0, u64::MAX);
                assert_eq!(self.iommu.unmap(id, 0, u64::MAX), Ok(bytes));
            }
            Step::Allow { at, pages, .. } => {
                let (first, last) = (iova(at), iova(at) + (pages * P - 1));
                let space = self.spaces.get_mut(&id).expect("it exists");
                let expected = match last > space.end() {
                    true => Err(Errno::EADDRINUSE),
                    false => Ok(0),
                };
                if expected.is_ok() {
                    space.allowed = Some((first, last));
                }
                assert_eq!(self.iommu.allow(id, &[(first, last)]), expected);
            }
            Step::LargePages(_, on) => {
                let space = self.spaces.get_mut(&id).expect("it exists");
                let in_use = !space.hwpts.is_empty() && !space.areas.is_empty();
                let expected = match !on && !space.small_pages && in_use {
                    true => Err(Errno::EINVAL),
                    false => Ok(u64::from(on)),
                };
                if expected.is_ok() {
                    space.small_pages = !on;
                }
                let set = (iommufd::OPTION_HUGE_PAGES, iommufd::OPTION_OP_SET);
                assert_eq!(self.iommu.option(set.0, set.1, id, on.into()), expected);
            }
            Step::Vfio(_) => {
                self.vfio = Some(id);
                assert_eq!(self.iommu.vfio_ioas(iommufd::VFIO_IOAS_SET, id), Ok(id));
            }
            _ => unreachable!("they name no address space"),
        }
    }

    /// A range about the nth mapping: its own (with no pages), or some that begins near it.
    fn range(&self, id: u32, mapping: Nth, off: i64, pages: u64) -> (u64, u64) {
        let (first, last) = self.mapping(id, mapping).unwrap_or((AT, AT + (P - 1)));
        match pages {
            0 => (first, last - first + 1),
            _ => (first.wrapping_add_signed(off * P as i64), pages * P),
        }
    }

    fn copy(
        &mut self,
        (from, mapping, skip): (u32, Nth, u64),
        pages: u64,
        to: Nth,
        at: Option<u64>,
        writable: bool,
    ) {
        let to = self.nth(to).expect("there is one");
        let first = self.mapping(from, mapping).map_or(AT, |(first, _)| first) + skip * P;
        let bytes = pages * P;
        let slices = self.spaces[&from].slices(first, first + (bytes - 1));
        let expected = match slices {
            None => Err(Errno::ENOENT),
            Some(slices) => self.insert(to, at, &slices, writable),
        };
        let flags = flags(at, writable);
        let answer = self
            .iommu
            .copy((from, first), (to, at.unwrap_or(7)), bytes, flags);
        assert_eq!(answer, expected);
    }

    fn vfio_map(&mut self, at: u64, page: u64, pages: u64) {
        let (va, bytes) = (self.memory.base() + page * P, pages * P);
        let expected = match self.vfio {
            None => Err(Errno::ENODEV),
            Some(id) => self.insert(id, Some(at), &[(va, bytes, true)], true),
        };
        let flags = vfio::DMA_MAP_FLAG_READ | vfio::DMA_MAP_FLAG_WRITE;
        let answer = self.iommu.fd.map(at, va, bytes, flags);
        assert_eq!(answer.map(drop), expected.map(drop));
    }

    fn vfio_unmap(&mut self, mapping: Nth, off: i64, pages: u64) {
        let Some(id) = self.vfio else {
            assert_eq!(self.iommu.fd.unmap(AT, P), Err(Errno::ENODEV));
            return;
        };
        let (first, bytes) = self.range(id, mapping, off, pages);
        let last = first + (bytes - 1);
        let space = self.spaces.get_mut(&id).expect("it exists");
        if space.small_pages {
            space.cut(last);
            if let Some(before) = first.checked_sub(1) {
                space.cut(before);
            }
        }
        let (bytes_gone, result) = space.unmap(first, last);
        let answer = self.iommu.fd.unmap(first, bytes);
        assert_eq!(answer, result.map(|()| bytes_gone));
    }

    /// Every page table has what the model has, and nothing else; the address space tells the same.
    fn compare(&self) {
        for (&id, space) in &self.spaces {
            let alignment = match space.hwpts.is_empty() && !space.small_pages {
                true => 1,
                false => P,
            };
            let usable = (vec![(0, space.end())], 1, alignment);
            assert_eq!(self.iommu.ranges(id, 4), Ok(usable), "space {id}");
            let pages = (0..IOVAS).map(iova).chain((1..12).map(|page| page * P));
            for at in pages {
                let area = space.areas.range(..=at).next_back();
                let expected = area
                    .filter(|(_, area)| at <= area.last)
                    .map(|(first, area)| area.va + (at - first));
                for &hwpt in &space.hwpts {
                    assert_eq!(self.iommu.lookup(hwpt, at), expected, "{at:#x} of {hwpt}");
                }
            }
        }
    }
}

fn flags(at: Option<u64>, writable: bool) -> u32 {
    let flags = if at.is_some() { FIXED } else { ANYWHERE };
    if writable {
        flags
    } else {
        flags & !ANYWHERE | RO
    }
}

fn behaves_like_the_model(model: Model) {
    let steps = proptest::collection::vec(step(), 1..40);
    TestRunner::new(cases(100))
        .run(&steps, |steps| {
            let mut pair = Pair::new(model);
            for step in &steps {
                pair.run(step);
                pair.compare();
            }
            let run = pair.iommu.context().run().clone();
            drop(pair);
            assert!(run.ground().pins.is_empty(), "nothing stays pinned");
            assert_eq!(run.ground().locked.pinned_bytes(), 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn address_spaces_behave_like_the_model_on_vtd() {
    behaves_like_the_model(Model::Scalable);
}

#[test]
fn address_spaces_behave_like_the_model_on_amd() {
    behaves_like_the_model(Model::Amd);
}
