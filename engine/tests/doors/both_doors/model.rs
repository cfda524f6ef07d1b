//! What the kernel answers when containers, groups, iommufds and device nodes are used beside each other: a few maps.

use std::collections::{BTreeMap, BTreeSet};

use swiommu_abi::vfio::{
    GROUP_FLAGS_CONTAINER_SET, GROUP_FLAGS_VIABLE, TYPE1_IOMMU, TYPE1V2_IOMMU, UNMAP_ALL,
};
use swiommu_abi::{Errno, vfio};

use super::context::{Iommufd, Object};
use crate::model_space::{Area, Space, WINDOW};

/// The machine's devices: slot and group.
pub const DEVICES: [(u8, u32); 3] = [(4, 4), (5, 5), (6, 5)];

/// Index of a file that was opened once.
pub type Index = usize;

/// Everything there is.
pub struct Model {
    pub containers: Vec<Container>,
    pub iommus: Vec<Iommufd>,
    pub groups: Vec<GroupFile>,
    pub devices: [Device; 3],
    /// Where client memory ends.
    pub hole: u64,
    /// Page tables have entries of two pages.
    pub pairs: bool,
}

/// A container.
#[derive(Default)]
pub struct Container {
    /// The group files in it.
    pub groups: BTreeSet<Index>,
    /// What SET_IOMMU made.
    pub space: Option<Type1>,
}

/// A container's address space.
pub struct Type1 {
    pub v2: bool,
    pub areas: BTreeMap<u64, Area>,
    pub tracking: bool,
}

/// A group's file, which lives for as long as it or a device of a container behind it is open.
pub struct GroupFile {
    pub number: u32,
    pub open: bool,
    pub backing: Option<Backing>,
    pub devices: usize,
}

/// What stands for the container of a group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    Container(Index),
    Iommufd(Index),
}

/// A function of the machine.
#[derive(Clone, Copy, Default)]
pub struct Device {
    /// How many files of it are open.
    pub opens: usize,
    pub binding: Option<Binding>,
    /// Its node is what bound it.
    pub by_node: bool,
    /// The beginning of its buffer.
    pub buffer: u64,
}

/// A function as an object of an iommufd.
#[derive(Clone, Copy)]
pub struct Binding {
    pub iommu: Index,
    pub id: u32,
    pub attached: bool,
}

impl Type1 {
    fn map(&mut self, at: u64, (va, bytes): (u64, u64), prot: u32, hole: u64) -> Result<(), Errno> {
        let last = at + (bytes - 1);
        let free = |(first, area): (&u64, &Area)| area.last < at || last < *first;
        if !self.areas.iter().all(free) {
            return Err(Errno::EEXIST);
        }
        if at <= WINDOW.1 && WINDOW.0 <= last {
            return Err(Errno::EINVAL);
        }
        if va + bytes > hole {
            return Err(Errno::EFAULT);
        }
        let area = Area {
            last,
            va,
            writable: true,
            prot,
        };
        self.areas.insert(at, area);
        Ok(())
    }

    fn unmap(&mut self, first: u64, last: u64) -> Result<u64, Errno> {
        let hit = self
            .areas
            .iter()
            .filter(|(at, area)| **at <= last && first <= area.last);
        let hit: Vec<(u64, u64)> = hit.map(|(at, area)| (*at, area.last)).collect();
        let cut = |&(at, to): &(u64, u64)| at < first || to > last;
        if self.v2 && hit.iter().any(cut) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = 0;
        for (at, to) in hit.into_iter().take_while(|(at, _)| *at >= first) {
            self.areas.remove(&at);
            bytes += to - at + 1;
        }
        Ok(bytes)
    }
}

impl Model {
    pub fn new(hole: u64, pairs: bool) -> Model {
        let (containers, iommus, groups) = (Vec::new(), Vec::new(), Vec::new());
        let devices = [Device::default(); 3];
        Model {
            containers,
            iommus,
            groups,
            devices,
            hole,
            pairs,
        }
    }

    /// Whose the DMA of a group is: `None` nobody's, else a group's file or an iommufd.
    pub fn owner(&self, number: u32) -> Option<Backing> {
        let in_container = |group: &&GroupFile| {
            group.number == number && matches!(group.backing, Some(Backing::Container(_)))
        };
        let bound = |(index, device): (usize, &Device)| {
            device
                .binding
                .filter(|_| DEVICES[index].1 == number)
                .map(|binding| Backing::Iommufd(binding.iommu))
        };
        let group = self
            .groups
            .iter()
            .find(in_container)
            .and_then(|group| group.backing);
        group.or_else(|| self.devices.iter().enumerate().find_map(bound))
    }

    fn alive(group: &GroupFile) -> bool {
        group.open || group.devices > 0
    }

    /// Whether somebody has a group's node open.
    pub fn group_is_open(&self, number: u32) -> bool {
        let open = |group: &GroupFile| group.number == number && Model::alive(group);
        self.groups.iter().any(open)
    }

    /// open of a group's node.
    pub fn open_group(&mut self, number: u32) -> Result<(), Errno> {
        let node = |(index, device): (usize, &Device)| DEVICES[index].1 == number && device.by_node;
        if self.group_is_open(number) || self.devices.iter().enumerate().any(node) {
            return Err(Errno::EBUSY);
        }
        let (open, backing, devices) = (true, None, 0);
        self.groups.push(GroupFile {
            number,
            open,
            backing,
            devices,
        });
        Ok(())
    }

    /// GET_STATUS.
    pub fn status(&self, group: Index) -> u32 {
        let group = &self.groups[group];
        match group.backing {
            Some(_) => GROUP_FLAGS_VIABLE | GROUP_FLAGS_CONTAINER_SET,
            None if self.owner(group.number).is_none() => GROUP_FLAGS_VIABLE,
            None => 0,
        }
    }

    /// SET_CONTAINER.
    pub fn set_container(&mut self, group: Index, to: Backing) -> Result<(), Errno> {
        if self.groups[group].backing.is_some() {
            return Err(Errno::EINVAL);
        }
        match to {
            Backing::Container(container) => {
                if self.owner(self.groups[group].number).is_some() {
                    return Err(Errno::EPERM);
                }
                self.containers[container].groups.insert(group);
            }
            Backing::Iommufd(iommu) => {
                let iommu = &mut self.iommus[iommu];
                if iommu.vfio_ioas.is_none() {
                    iommu.vfio_ioas = Some(iommu.add(Object::Ioas(Space::default())));
                }
            }
        }
        self.groups[group].backing = Some(to);
        Ok(())
    }

    /// UNSET_CONTAINER.
    pub fn unset_container(&mut self, group: Index) -> Result<(), Errno> {
        match self.groups[group].backing {
            None => return Err(Errno::EINVAL),
            Some(Backing::Container(_)) if self.groups[group].devices > 0 => {
                return Err(Errno::EBUSY);
            }
            Some(_) => self.leave(group),
        }
        Ok(())
    }

    fn leave(&mut self, group: Index) {
        if let Some(Backing::Container(container)) = self.groups[group].backing.take() {
            let container = &mut self.containers[container];
            container.groups.remove(&group);
            if container.groups.is_empty() {
                container.space = None;
            }
        }
    }

    /// A group's own file closes.
    pub fn close_group(&mut self, group: Index) {
        self.groups[group].open = false;
        if !Model::alive(&self.groups[group]) {
            self.leave(group);
        }
    }

    /// A device of a group in a container closes.
    pub fn device_closed(&mut self, group: Index) {
        self.groups[group].devices -= 1;
        if !Model::alive(&self.groups[group]) {
            self.leave(group);
        }
    }

    /// SET_IOMMU of a container.
    pub fn set_iommu(&mut self, container: Index, kind: u64) -> Result<(), Errno> {
        let container = &mut self.containers[container];
        if container.groups.is_empty() || container.space.is_some() {
            return Err(Errno::EINVAL);
        }
        let v2 = match kind {
            TYPE1_IOMMU => false,
            TYPE1V2_IOMMU => true,
            UNMAP_ALL => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENODEV),
        };
        let (areas, tracking) = (BTreeMap::new(), false);
        container.space = Some(Type1 {
            v2,
            areas,
            tracking,
        });
        Ok(())
    }

    fn space(&mut self, container: Index) -> Result<&mut Type1, Errno> {
        self.containers[container]
            .space
            .as_mut()
            .ok_or(Errno::EINVAL)
    }

    /// MAP_DMA of whatever stands for a container.
    pub fn map(
        &mut self,
        by: Backing,
        at: u64,
        memory: (u64, u64),
        prot: u32,
    ) -> Result<(), Errno> {
        let hole = self.hole;
        match by {
            Backing::Container(container) => self.space(container)?.map(at, memory, prot, hole),
            Backing::Iommufd(iommu) => {
                let ioas = self.iommus[iommu].compat()?;
                self.map_ioas(iommu, ioas, Some(at), memory, prot).map(drop)
            }
        }
    }

    /// The mappings of whatever stands for a container.
    pub fn areas(&self, by: Backing) -> Option<&BTreeMap<u64, Area>> {
        match by {
            Backing::Container(container) => {
                Some(&self.containers[container].space.as_ref()?.areas)
            }
            Backing::Iommufd(iommu) => match self.iommus[iommu]
                .objects
                .get(&self.iommus[iommu].vfio_ioas?)?
            {
                Object::Ioas(space) => Some(&space.areas),
                _ => None,
            },
        }
    }

    /// UNMAP_DMA of whatever stands for a container.
    pub fn unmap(&mut self, by: Backing, first: u64, last: u64) -> Result<u64, Errno> {
        match by {
            Backing::Container(container) => self.space(container)?.unmap(first, last),
            Backing::Iommufd(iommu) => self.iommus[iommu].compat_unmap(first, last),
        }
    }

    /// IOAS_MAP.
    pub fn map_ioas(
        &mut self,
        iommu: Index,
        ioas: u32,
        at: Option<u64>,
        (va, bytes): (u64, u64),
        prot: u32,
    ) -> Result<u64, Errno> {
        let writable = prot & vfio::DMA_MAP_FLAG_WRITE != 0;
        let space = self.iommus[iommu].ioas(ioas)?;
        space.insert(at, &[(va, bytes, writable)], prot, self.hole)
    }

    /// DIRTY_PAGES of a container: START and STOP.
    pub fn track(&mut self, container: Index, on: bool) -> Result<(), Errno> {
        let space = self.space(container)?;
        if !space.v2 {
            return Err(Errno::EACCES);
        }
        space.tracking = on;
        Ok(())
    }

    /// DIRTY_PAGES of a container: GET_BITMAP of a mapping, all of whose pages are told each time.
    pub fn dirty(&mut self, container: Index) -> Result<(), Errno> {
        let space = self.space(container)?;
        match () {
            () if !space.v2 => Err(Errno::EACCES),
            () if !space.tracking => Err(Errno::EINVAL),
            () => Ok(()),
        }
    }
}
