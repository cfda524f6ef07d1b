//! The model's devices: opened by a group or bound by their nodes, what they go through, and what their DMA reaches.

use std::collections::{BTreeMap, BTreeSet};

use swiommu_abi::{Errno, vfio};

use super::context::Object;
use super::model::{Backing, Binding, DEVICES, Device, Index, Model};
use crate::model_space::{Area, P, WINDOW};

/// What a group goes through in an iommufd.
pub struct Attachment {
    pub hwpt: u32,
    pub devices: BTreeSet<usize>,
}

/// Mappings, and the page table if it is an iommufd's.
type Through<'a> = (&'a BTreeMap<u64, Area>, Option<(Index, u32)>);

/// By what right a device's file is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// A group in a container.
    Group(Index),
    /// A group with an iommufd for its container.
    Iommufd,
    /// Its own node, once that is bound.
    Node(bool),
}

impl Model {
    fn group_of(device: usize) -> u32 {
        DEVICES[device].1
    }

    /// GET_DEVICE_FD.
    pub fn get_device(&mut self, group: Index, device: usize) -> Result<Right, Errno> {
        if Model::group_of(device) != self.groups[group].number {
            return Err(Errno::ENODEV);
        }
        let right = match self.groups[group].backing {
            Some(Backing::Container(container)) if self.containers[container].space.is_some() => {
                self.groups[group].devices += 1;
                Right::Group(group)
            }
            Some(Backing::Iommufd(iommu)) => {
                if self.devices[device].binding.is_none() {
                    self.bind_to(device, iommu)?;
                    let attached = self.iommus[iommu]
                        .compat()
                        .and_then(|ioas| self.attach(device, ioas));
                    if let Err(error) = attached {
                        self.unbind(device);
                        return Err(error);
                    }
                }
                Right::Iommufd
            }
            _ => return Err(Errno::EINVAL),
        };
        self.open(device);
        Ok(right)
    }

    fn open(&mut self, device: usize) {
        let device = &mut self.devices[device];
        if device.opens == 0 {
            device.buffer = 0;
        }
        device.opens += 1;
    }

    fn bind_to(&mut self, device: usize, iommu: Index) -> Result<u32, Errno> {
        if self.devices[device].binding.is_some() {
            return Err(Errno::EINVAL);
        }
        let owner = self.owner(Model::group_of(device));
        if owner.is_some_and(|owner| owner != Backing::Iommufd(iommu)) {
            return Err(Errno::EPERM);
        }
        let id = self.iommus[iommu].add(Object::Device);
        let attached = false;
        self.devices[device].binding = Some(Binding {
            iommu,
            id,
            attached,
        });
        Ok(id)
    }

    /// BIND_IOMMUFD of a node that is not bound.
    pub fn bind(&mut self, device: usize, iommu: Index) -> Result<u32, Errno> {
        if self.group_is_open(Model::group_of(device)) {
            return Err(Errno::EBUSY);
        }
        let id = self.bind_to(device, iommu)?;
        self.devices[device].by_node = true;
        self.open(device);
        Ok(id)
    }

    fn unbind(&mut self, device: usize) {
        self.detach(device);
        let Device {
            binding, by_node, ..
        } = &mut self.devices[device];
        *by_node = false;
        if let Some(binding) = binding.take() {
            self.iommus[binding.iommu].remove(binding.id);
        }
    }

    /// A device's file closes. The last one that shares a binding ends it.
    pub fn close_device(&mut self, device: usize, right: Right) {
        if right == Right::Node(false) {
            return;
        }
        self.devices[device].opens -= 1;
        match right {
            Right::Group(group) => self.device_closed(group),
            _ if self.devices[device].opens == 0 => self.unbind(device),
            _ => {}
        }
    }

    /// Attaches a bound device, or moves it: the page table.
    pub fn attach(&mut self, device: usize, pt: u32) -> Result<u32, Errno> {
        let Binding {
            iommu, attached, ..
        } = self.devices[device].binding.expect("it is bound");
        let id = match self.iommus[iommu].objects.get(&pt).ok_or(Errno::ENOENT)? {
            Object::Device => return Err(Errno::EINVAL),
            Object::Hwpt(_) => self.enter(device, pt, attached).map(|()| pt)?,
            Object::Ioas(space) => {
                let made = space.hwpts.clone();
                self.automatic(device, pt, made, attached)?
            }
        };
        let binding = self.devices[device].binding.as_mut();
        binding.expect("it is bound").attached = true;
        Ok(id)
    }

    /// Finds a page table that was made for such an attachment, or makes one.
    fn automatic(
        &mut self,
        device: usize,
        ioas: u32,
        made: Vec<u32>,
        moves: bool,
    ) -> Result<u32, Errno> {
        let (iommu, hole) = (
            self.devices[device].binding.expect("it is bound").iommu,
            self.hole,
        );
        for id in made {
            if !self.iommus[iommu].hwpt(id).expect("it is listed").auto {
                continue;
            }
            match self.enter(device, id, moves) {
                Err(Errno::EINVAL) => {}
                answer => return answer.map(|()| id),
            }
        }
        let id = self.iommus[iommu].new_hwpt(ioas, false, true, hole)?;
        self.enter(device, id, moves)
            .map(|()| id)
            .inspect_err(|_| self.iommus[iommu].remove(id))
    }

    fn enter(&mut self, device: usize, hwpt: u32, moves: bool) -> Result<(), Errno> {
        let (group, iommu) = (
            Model::group_of(device),
            self.devices[device].binding.expect("it is bound").iommu,
        );
        let iommu = &mut self.iommus[iommu];
        let ioas = iommu.hwpt(hwpt)?.ioas;
        let before = iommu
            .attachments
            .get(&group)
            .map(|attachment| attachment.hwpt);
        if before.is_some_and(|before| before != hwpt) && !moves {
            return Err(Errno::EINVAL);
        }
        if moves && before == Some(hwpt) {
            return Ok(());
        }
        let from = before.map(|before| iommu.hwpt(before).expect("it is attached").ioas);
        let stays = moves && from == Some(ioas);
        if !stays && !iommu.ioas(ioas)?.is_free(WINDOW.0, WINDOW.1) {
            return Err(Errno::EADDRINUSE);
        }
        let attachment = iommu
            .attachments
            .entry(group)
            .or_insert_with(|| Attachment {
                hwpt,
                devices: BTreeSet::new(),
            });
        attachment.hwpt = hwpt;
        attachment.devices.insert(device);
        iommu.settle(before);
        Ok(())
    }

    /// Detaches a device, if it is attached.
    pub fn detach(&mut self, device: usize) {
        let Some(binding) = self.devices[device].binding.as_mut() else {
            return;
        };
        let iommu = binding.iommu;
        if !std::mem::take(&mut binding.attached) {
            return;
        }
        let (group, iommu) = (Model::group_of(device), &mut self.iommus[iommu]);
        let attachment = iommu.attachments.get_mut(&group).expect("it is attached");
        attachment.devices.remove(&device);
        let hwpt = attachment.hwpt;
        if attachment.devices.is_empty() {
            iommu.attachments.remove(&group);
        }
        iommu.settle(Some(hwpt));
    }

    /// What a device goes through.
    fn through(&self, device: usize) -> Option<Through<'_>> {
        let number = Model::group_of(device);
        match self.owner(number)? {
            Backing::Container(container) => {
                Some((&self.containers[container].space.as_ref()?.areas, None))
            }
            Backing::Iommufd(index) => {
                let iommu = &self.iommus[index];
                let hwpt = iommu.attachments.get(&number)?.hwpt;
                Some((iommu.areas_of(hwpt)?, Some((index, hwpt))))
            }
        }
    }

    /// The mappings that a device goes through.
    pub fn mappings(&self, device: usize) -> Option<&BTreeMap<u64, Area>> {
        Some(self.through(device)?.0)
    }

    /// The pages that the page-table entry of an address is about. AMD has entries of two pages, where they fit.
    fn entry(
        &self,
        at: u64,
        (first, area): (u64, &Area),
        through: Option<(Index, u32)>,
    ) -> Vec<u64> {
        let (page, pair) = (at & !(P - 1), at & !(2 * P - 1));
        let large = |(iommu, hwpt): (Index, u32)| self.iommus[iommu].has_large_pages(hwpt);
        let fits = pair >= first && pair + (2 * P - 1) <= area.last;
        if self.pairs
            && fits
            && (area.va + (pair - first)) % (2 * P) == 0
            && through.is_some_and(large)
        {
            return vec![pair, pair + P];
        }
        vec![page]
    }

    /// Where a device's access leads, if anywhere.
    pub fn reach(&mut self, device: usize, at: u64, write: bool) -> Option<u64> {
        let wanted = match write {
            true => vfio::DMA_MAP_FLAG_WRITE,
            false => vfio::DMA_MAP_FLAG_READ,
        };
        let (areas, through) = self.through(device)?;
        let (first, area) = areas.range(..=at).next_back()?;
        if at > area.last || area.prot & wanted == 0 {
            return None;
        }
        let va = area.va + (at - first);
        let entry = self.entry(at, (*first, area), through);
        if let Some((iommu, hwpt)) = through.filter(|_| write) {
            let hwpt = self.iommus[iommu].hwpt(hwpt).expect("it is attached");
            if hwpt.tracking {
                hwpt.dirty.extend(entry);
            }
        }
        Some(va)
    }
}
