//! What others use: a `BTreeMap` of ranges, vm-memory's `Iotlb`, and its `IommuMemory` over it.

use std::collections::BTreeMap;
use std::sync::{RwLock, RwLockReadGuard};

use vm_memory::iommu::{Error, Iommu, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, IommuMemory, Permissions};

/// Ranges by first address: (last, pa).
#[derive(Default)]
pub struct Ranges(BTreeMap<u64, (u64, u64)>);

impl Ranges {
    pub fn map(&mut self, iova: u64, pa: u64) {
        let before = self.0.range(..=iova + 0xfff).next_back();
        assert!(before.is_none_or(|(_, (last, _))| *last < iova));
        self.0.insert(iova, (iova + 0xfff, pa));
    }

    pub fn unmap(&mut self, iova: u64) {
        self.0.remove(&iova);
    }

    pub fn translate(&self, iova: u64) -> Option<u64> {
        let (first, (last, pa)) = self.0.range(..=iova).next_back()?;
        (iova <= *last).then(|| pa + (iova - first))
    }
}

/// vm-memory's range tree without a lock.
#[derive(Default)]
pub struct Tree(Iotlb);

fn set(tree: &mut Iotlb, iova: u64, pa: u64) {
    tree.set_mapping(
        GuestAddress(iova),
        GuestAddress(pa),
        0x1000,
        Permissions::ReadWrite,
    )
    .unwrap();
}

impl Tree {
    pub fn map(&mut self, iova: u64, pa: u64) {
        set(&mut self.0, iova, pa);
    }

    pub fn unmap(&mut self, iova: u64) {
        self.0.invalidate_mapping(GuestAddress(iova), 0x1000);
    }

    pub fn translate(&self, iova: u64) -> Option<u64> {
        let found = Iotlb::lookup(&self.0, GuestAddress(iova), 64, Permissions::Read).ok()?;
        found.into_iter().next().map(|range| range.base.0)
    }
}

/// The same under a lock, as `IommuMemory` wants it.
#[derive(Debug, Default)]
pub struct Locked(RwLock<Iotlb>);

impl Iommu for Locked {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, Error> {
        Iotlb::lookup(self.0.read().unwrap(), iova, length, access).map_err(|_| {
            Error::CannotResolve {
                iova_range: IovaRange { base: iova, length },
                reason: "not mapped".into(),
            }
        })
    }
}

/// vm-memory's memory behind an IOMMU.
pub struct Memory(IommuMemory<GuestMemoryMmap, Locked>);

impl Memory {
    pub fn new(backend: GuestMemoryMmap) -> Self {
        Memory(IommuMemory::new(backend, Locked::default(), true, ()))
    }

    pub fn map(&self, iova: u64, pa: u64) {
        set(&mut self.0.iommu().0.write().unwrap(), iova, pa);
    }

    pub fn unmap(&self, iova: u64) {
        self.0
            .iommu()
            .0
            .write()
            .unwrap()
            .invalidate_mapping(GuestAddress(iova), 0x1000);
    }

    pub fn translate(&self, iova: u64) -> Option<u64> {
        let mut slices = self
            .0
            .get_slices(GuestAddress(iova), 64, Permissions::Read)
            .ok()?;
        slices
            .next()?
            .ok()
            .map(|slice| slice.ptr_guard().as_ptr() as u64)
    }
}
