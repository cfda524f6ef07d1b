//! Random sequences of calls on containers, groups, device nodes and iommufds of one machine, with devices that do DMA,
//! against a model that predicts every answer, every page table and every byte that a device moves.

mod attach;
mod context;
mod iommufds;
mod model;
mod step;

use std::collections::BTreeMap;

use proptest::test_runner::TestRunner;
use swiommu_abi::{Errno, vfio};

use self::attach::Right;
use self::context::Object;
use self::model::{Backing, DEVICES, Model};
use self::step::{IOVAS, Nth, PAGES, Step, steps};
use crate::model_space::{Area, P, WINDOW, cases};
use crate::support::edu::{load, store};
use crate::support::iommufd::Iommu;
use crate::support::memory::{Memory, address_of};
use crate::support::{Fd, Model as Unit, World, edu, machine};

/// Where the device pages begin.
const AT: u64 = 0x4000_0000;

/// The device page of a number: the last is where interrupts go.
fn iova(number: u64) -> u64 {
    if number + 1 == IOVAS {
        WINDOW.0
    } else {
        AT + number * P
    }
}

/// An open file of a device.
struct Handle {
    fd: Fd,
    device: usize,
    right: Right,
}

/// The engine and the model side by side. A file that is closed keeps its place.
struct Pair {
    model: Model,
    containers: Vec<Option<Fd>>,
    iommus: Vec<Option<Iommu>>,
    groups: Vec<Option<Fd>>,
    handles: Vec<Handle>,
    /// What the client's pages begin with.
    words: Vec<u64>,
    memory: Memory,
    world: World,
}

/// The nth of what is left.
fn nth<T>(list: &[T], nth: Nth) -> Option<&T> {
    list.get(nth.checked_rem(list.len())?)
}

fn open<T>(files: &[Option<T>]) -> Vec<usize> {
    (0..files.len())
        .filter(|index| files[*index].is_some())
        .collect()
}

impl Pair {
    fn new(unit: Unit) -> Pair {
        let devices = DEVICES.map(|(slot, group)| edu(slot, group));
        let memory = Memory::pages(PAGES);
        let words: Vec<u64> = (1..=PAGES).collect();
        for (page, word) in words.iter().enumerate() {
            memory.write(page as u64 * P, &word.to_le_bytes());
        }
        Pair {
            model: Model::new(memory.base() + PAGES * P, unit == Unit::Amd),
            containers: Vec::new(),
            iommus: Vec::new(),
            groups: Vec::new(),
            handles: Vec::new(),
            words,
            memory,
            world: World::new(machine(unit, devices)),
        }
    }

    fn container(&self, container: usize) -> &Fd {
        self.containers[container].as_ref().expect("it is open")
    }

    fn iommu(&self, iommu: usize) -> &Iommu {
        self.iommus[iommu].as_ref().expect("it is open")
    }

    fn group(&self, group: usize) -> &Fd {
        self.groups[group].as_ref().expect("it is open")
    }

    /// The nth of what may stand for a container, and its file.
    fn backing(&self, index: Nth) -> Option<(Backing, &Fd)> {
        let containers = open(&self.containers).into_iter().map(Backing::Container);
        let all: Vec<Backing> = containers
            .chain(open(&self.iommus).into_iter().map(Backing::Iommufd))
            .collect();
        let backing = *nth(&all, index)?;
        Some(match backing {
            Backing::Container(container) => (backing, self.container(container)),
            Backing::Iommufd(iommu) => (backing, &self.iommu(iommu).fd),
        })
    }

    /// The id of the nth object of an iommufd that is meant; one that is not there when there is none.
    fn object(&self, iommu: usize, index: Nth, meant: impl Fn(&Object) -> bool) -> u32 {
        let objects = self.model.iommus[iommu].objects.iter();
        let ids: Vec<u32> = objects
            .filter(|(_, object)| meant(object))
            .map(|(id, _)| *id)
            .collect();
        nth(&ids, index).copied().unwrap_or(99)
    }

    fn ioas(&self, iommu: usize, index: Nth) -> u32 {
        self.object(iommu, index, |object| matches!(object, Object::Ioas(_)))
    }

    fn run(&mut self, step: &Step) -> Option<()> {
        match *step {
            Step::OpenContainer if self.containers.len() < 4 => {
                self.containers.push(Some(self.world.container()));
                self.model.containers.push(Default::default());
            }
            Step::OpenIommu if self.iommus.len() < 4 => {
                self.iommus.push(Some(self.world.iommu()));
                self.model.iommus.push(Default::default());
            }
            Step::OpenContainer | Step::OpenIommu => {}
            Step::OpenGroup(number) => {
                let group = self.world.group(number);
                assert_eq!(
                    group.as_ref().map(drop).map_err(|errno| *errno),
                    self.model.open_group(number)
                );
                self.groups.extend(group.ok().map(Some));
            }
            Step::OpenNode(device) => {
                let (fd, right) = (self.world.node(device), Right::Node(false));
                self.handles.push(Handle { fd, device, right });
            }
            Step::Close(index) => self.close(index)?,
            Step::SetContainer(group, to) => {
                let group = *nth(&open(&self.groups), group)?;
                let (to, file) = self.backing(to)?;
                let answer = self.group(group).set_container(file).map(drop);
                assert_eq!(answer, self.model.set_container(group, to));
            }
            Step::UnsetContainer(group) => {
                let group = *nth(&open(&self.groups), group)?;
                let answer = self.group(group).ioctl(vfio::GROUP_UNSET_CONTAINER, 0);
                assert_eq!(answer.map(drop), self.model.unset_container(group));
            }
            Step::SetIommu(by, kind) => {
                let (by, file) = self.backing(by)?;
                let answer = file.ioctl(vfio::SET_IOMMU, kind).map(drop);
                let expected = match by {
                    Backing::Container(container) => self.model.set_iommu(container, kind),
                    Backing::Iommufd(iommu) => self.model.iommus[iommu].set_iommu(kind),
                };
                assert_eq!(answer, expected);
            }
            Step::Write(page, value) => {
                self.memory.write(page * P, &value.to_le_bytes());
                self.words[page as usize] = value;
            }
            _ => return self.run_on_device(step),
        }
        Some(())
    }

    fn close(&mut self, index: Nth) -> Option<()> {
        let (containers, iommus, groups) = (
            open(&self.containers),
            open(&self.iommus),
            open(&self.groups),
        );
        let all = containers.len() + iommus.len() + groups.len() + self.handles.len();
        let mut index = index.checked_rem(all)?;
        let mut within = |list: &[usize]| {
            let found = list.get(index).copied();
            index = index.wrapping_sub(list.len());
            found
        };
        if let Some(container) = within(&containers) {
            self.containers[container] = None;
        } else if let Some(iommu) = within(&iommus) {
            self.iommus[iommu] = None;
        } else if let Some(group) = within(&groups) {
            self.groups[group] = None;
            self.model.close_group(group);
        } else {
            let handle = self.handles.remove(index);
            self.model.close_device(handle.device, handle.right);
        }
        Some(())
    }

    fn run_on_device(&mut self, step: &Step) -> Option<()> {
        match *step {
            Step::GetDevice(group, device) => {
                let group = *nth(&open(&self.groups), group)?;
                let name = format!("0000:00:{:02x}.0", DEVICES[device].0);
                let answer = self.group(group).device(&name);
                let expected = self.model.get_device(group, device);
                assert_eq!(
                    answer.as_ref().map(drop).map_err(|errno| *errno),
                    expected.map(drop)
                );
                if let (Ok(fd), Ok(right)) = (answer, expected) {
                    fd.bus_master(true);
                    self.handles.push(Handle { fd, device, right });
                }
            }
            Step::Bind(node, iommu) => {
                let node = nth(&(0..self.handles.len()).collect::<Vec<_>>(), node).copied()?;
                let iommu = *nth(&open(&self.iommus), iommu)?;
                let Handle { fd, device, right } = &self.handles[node];
                let answer = fd.bind(self.iommu(iommu));
                let expected = match right {
                    Right::Node(false) => self.model.bind(*device, iommu),
                    _ => Err(Errno::EINVAL),
                };
                assert_eq!(answer, expected);
                if expected.is_ok() {
                    fd.bus_master(true);
                    self.handles[node].right = Right::Node(true);
                }
            }
            Step::Attach(node, to) => {
                let Handle { fd, device, right } = nth(&self.handles, node)?;
                let binding = self.model.devices[*device].binding;
                let to = binding.map_or(1, |binding| self.object(binding.iommu, to, |_| true));
                let expected = match right {
                    Right::Node(true) => self.model.attach(*device, to),
                    Right::Node(false) => Err(Errno::EINVAL),
                    _ => Err(Errno::ENOTTY),
                };
                assert_eq!(fd.attach(to), expected);
            }
            Step::Detach(node) => {
                let Handle { fd, device, right } = nth(&self.handles, node)?;
                let expected = match right {
                    Right::Node(true) => {
                        self.model.detach(*device);
                        Ok(())
                    }
                    Right::Node(false) => Err(Errno::EINVAL),
                    _ => Err(Errno::ENOTTY),
                };
                assert_eq!(fd.detach().map(drop), expected);
            }
            Step::Dma { device, from, to } => self.dma(device, from, to)?,
            Step::TrackContainer(container, on) => {
                let container = *nth(&open(&self.containers), container)?;
                let flags = match on {
                    true => vfio::DIRTY_PAGES_FLAG_START,
                    false => vfio::DIRTY_PAGES_FLAG_STOP,
                };
                let mut dirty = vfio::DirtyBitmap { argsz: 8, flags };
                let answer = self
                    .container(container)
                    .ioctl_with(vfio::IOMMU_DIRTY_PAGES, &mut dirty);
                assert_eq!(answer.map(drop), self.model.track(container, on));
            }
            Step::DirtyContainer(container, mapping) => self.dirty_container(container, mapping)?,
            Step::Map {
                by,
                at,
                page,
                pages,
                prot,
            } => {
                let (by, file) = self.backing(by)?;
                let memory = (self.memory.base() + page * P, pages * P);
                let answer = file.map(iova(at), memory.0, memory.1, prot);
                let expected = self.model.map(by, iova(at), memory, prot);
                assert_eq!(answer.map(drop), expected);
            }
            Step::Unmap {
                by,
                mapping,
                off,
                pages,
            } => {
                let (by, file) = self.backing(by)?;
                let (first, bytes) = range(self.model.areas(by), mapping, off, pages);
                let answer = file.unmap(first, bytes);
                assert_eq!(answer, self.model.unmap(by, first, first + (bytes - 1)));
            }
            _ => return self.run_on_iommufd(step),
        }
        Some(())
    }

    /// A device reads eight bytes and writes them elsewhere: as far as each is mapped for it.
    fn dma(&mut self, device: Nth, from: (Nth, u64), to: (Nth, u64)) -> Option<()> {
        let Handle { fd, device, right } = nth(&self.handles, device)?;
        let page = |(mapping, page)| {
            let (first, _) = range(self.model.mappings(*device), mapping, 0, 0);
            first + page * P
        };
        let (from, to) = (page(from), page(to));
        load(fd, from, 8);
        store(fd, to, 8);
        if *right != Right::Node(false) {
            let page = |va: u64| ((va - self.memory.base()) / P) as usize;
            if let Some(va) = self.model.reach(*device, from, false) {
                self.model.devices[*device].buffer = self.words[page(va)];
            }
            if let Some(va) = self.model.reach(*device, to, true) {
                self.words[page(va)] = self.model.devices[*device].buffer;
            }
        }
        for (page, word) in self.words.iter().enumerate() {
            let there = self.memory.read(page as u64 * P, 8);
            assert_eq!(there, word.to_le_bytes(), "page {page}");
        }
        Some(())
    }

    /// The bitmap of one mapping.
    fn dirty_container(&mut self, container: Nth, mapping: Nth) -> Option<()> {
        let container = *nth(&open(&self.containers), container)?;
        let areas = self.model.containers[container]
            .space
            .as_ref()
            .map(|space| &space.areas);
        let (iova, size) = range(areas, mapping, 0, 0);
        let mut bits = 0u64;
        // the header, the range, the page of a bit, the bitmap
        let head = 48 | u64::from(vfio::DIRTY_PAGES_FLAG_GET_BITMAP) << 32;
        let mut asked = [head, iova, size, P, 8, address_of(&mut bits)];
        let answer = self
            .container(container)
            .ioctl_with(vfio::IOMMU_DIRTY_PAGES, &mut asked);
        let mapped = areas.is_some_and(|areas| !areas.is_empty());
        let expected = self.model.dirty(container);
        assert_eq!(answer.map(drop), expected);
        let all = (1 << (size / P)) - 1;
        assert_eq!(bits, if mapped && expected.is_ok() { all } else { 0 });
        Some(())
    }

    /// Groups say whose they are, iommufds have the model's objects, and page tables lead where the model says.
    fn compare(&mut self) {
        for index in open(&self.groups) {
            assert_eq!(
                self.group(index).status(),
                self.model.status(index),
                "group file {index}"
            );
        }
        for index in open(&self.iommus) {
            let (iommu, model) = (self.iommu(index), &self.model.iommus[index]);
            let mut ids = Vec::new();
            iommu.context().find(|id, _| {
                ids.push(id);
                None::<()>
            });
            assert_eq!(
                ids,
                model.objects.keys().copied().collect::<Vec<_>>(),
                "iommufd {index}"
            );
            for (id, object) in &model.objects {
                let Object::Hwpt(hwpt) = object else { continue };
                let Some(Object::Ioas(space)) = model.objects.get(&hwpt.ioas) else {
                    panic!("a page table of nothing");
                };
                for at in (0..IOVAS).map(iova).chain((1..4).map(|page| page * P)) {
                    let area = space
                        .areas
                        .range(..=at)
                        .next_back()
                        .filter(|(_, area)| at <= area.last);
                    let expected = area.map(|(first, area)| area.va + (at - first));
                    assert_eq!(iommu.lookup(*id, at), expected, "{at:#x} of {id}");
                }
            }
        }
    }
}

/// A range about the nth mapping: its own (with no pages), or some pages that begin near it.
fn range(areas: Option<&BTreeMap<u64, Area>>, mapping: Nth, off: i64, pages: u64) -> (u64, u64) {
    let areas: Vec<(u64, u64)> = areas
        .into_iter()
        .flatten()
        .map(|(at, area)| (*at, area.last))
        .collect();
    let (first, last) = nth(&areas, mapping).copied().unwrap_or((AT, AT + (P - 1)));
    match pages {
        0 => (first, last - first + 1),
        _ => (
            (first as i64 + off * P as i64).max(P as i64) as u64,
            pages * P,
        ),
    }
}

fn behave_like_the_model(unit: Unit) {
    TestRunner::new(cases(100))
        .run(&steps(), |steps| {
            let mut pair = Pair::new(unit);
            for step in &steps {
                let _ = pair.run(step);
                pair.compare();
            }
            let run = pair.world.iommu().context().run().clone();
            drop(pair);
            assert!(run.ground().pins.is_empty(), "nothing stays pinned");
            assert_eq!(run.ground().locked.pinned_bytes(), 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn both_doors_beside_each_other_behave_like_the_model_on_vtd() {
    behave_like_the_model(Unit::Scalable);
}

#[test]
fn both_doors_beside_each_other_behave_like_the_model_on_amd() {
    behave_like_the_model(Unit::Amd);
}
