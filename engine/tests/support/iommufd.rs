//! The calls of an iommufd client, one function each, and a device that has page tables and nothing else.

use std::any::Any;
use std::sync::Arc;

use swiommu_abi::{Errno, iommufd};
use swiommu_engine::iommufd::attach::{Group, Translation};
use swiommu_engine::iommufd::context::Context;
use swiommu_engine::iommufd::device::{Device, UserData};
use swiommu_engine::iommufd::file::IommuFile;
use swiommu_engine::iommufd::hwpt::Hwpt;
use swiommu_engine::iommufd::object::{Kind, Object, Ref};
use swiommu_engine::iommufd::table::Table;
use swiommu_engine::run::Run;
use swiommu_iommu::Iova;

use super::{Fd, World};

/// A fixed address, readable and writable.
pub const FIXED: u32 = iommufd::IOAS_MAP_FIXED_IOVA | ANYWHERE;
/// Wherever there is room, readable and writable.
pub const ANYWHERE: u32 = iommufd::IOAS_MAP_READABLE | iommufd::IOAS_MAP_WRITEABLE;

/// What IOAS_IOVA_RANGES says: ranges, how many there are, the alignment.
pub type Ranges = (Vec<(u64, u64)>, u32, u64);

/// A device that page tables can be made for: its IOMMU is the run's.
pub struct Bare(Arc<Run>, Group);

impl Object for Bare {
    fn kind(&self) -> Kind {
        Kind::Device
    }

    fn as_device(&self) -> Option<&dyn Device> {
        Some(self)
    }
}

impl Device for Bare {
    fn new_table(&self, _: u32, data: Option<&UserData>) -> Result<Table, Errno> {
        match data {
            Some(_) => Err(Errno::EOPNOTSUPP),
            None => Ok(Table::Domain(self.0.iommu.domain())),
        }
    }

    fn tracks_dirty(&self) -> bool {
        true
    }

    fn enforces_coherency(&self) -> bool {
        true
    }

    fn driver(&self) -> usize {
        1
    }

    fn group(&self) -> &Group {
        &self.1
    }

    fn owner(&self) -> u64 {
        u64::MAX
    }

    fn reserved(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn change(
        &self,
        _: u32,
        _: Option<&dyn Translation>,
        _: Option<&dyn Translation>,
    ) -> Result<(), Errno> {
        Ok(())
    }
}

/// An open /dev/iommu.
pub struct Iommu {
    /// Its descriptor.
    pub fd: Fd,
}

impl World {
    /// Opens /dev/iommu.
    pub fn iommu(&self) -> Iommu {
        Iommu {
            fd: self.open("/dev/iommu").expect("/dev/iommu"),
        }
    }
}

fn size_of_u32<T>(_: &T) -> u32 {
    size_of::<T>() as u32
}

impl Iommu {
    /// Runs a command with the struct's true size.
    pub fn run<T>(&self, cmd: u32, value: &mut T) -> Result<i32, Errno> {
        self.fd.ioctl_with(cmd, value)
    }

    /// Its objects.
    pub fn context(&self) -> Arc<Context> {
        let file: Arc<dyn Any + Send + Sync> = self.fd.file();
        let file = file.downcast::<IommuFile>().expect("it is /dev/iommu");
        file.context().clone()
    }

    /// IOAS_ALLOC.
    pub fn ioas(&self) -> u32 {
        let mut cmd = iommufd::IoasAlloc::default();
        cmd.size = size_of_u32(&cmd);
        self.run(iommufd::IOAS_ALLOC, &mut cmd).expect("IOAS_ALLOC");
        cmd.out_ioas_id
    }

    /// DESTROY.
    pub fn destroy(&self, id: u32) -> Result<i32, Errno> {
        self.run(iommufd::DESTROY, &mut iommufd::Destroy { size: 8, id })
    }

    /// IOAS_MAP: the device address.
    pub fn map(
        &self,
        ioas: u32,
        flags: u32,
        iova: u64,
        va: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let mut cmd = iommufd::IoasMap {
            flags,
            ioas_id: ioas,
            user_va: va,
            length,
            iova,
            ..Default::default()
        };
        cmd.size = size_of_u32(&cmd);
        self.run(iommufd::IOAS_MAP, &mut cmd)?;
        Ok(cmd.iova)
    }

    /// IOAS_MAP_FILE: the device address.
    pub fn map_file(
        &self,
        ioas: u32,
        flags: u32,
        iova: u64,
        fd: i32,
        start: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let mut cmd = iommufd::IoasMapFile {
            flags,
            ioas_id: ioas,
            fd,
            start,
            length,
            iova,
            ..Default::default()
        };
        cmd.size = size_of_u32(&cmd);
        self.run(iommufd::IOAS_MAP_FILE, &mut cmd)?;
        Ok(cmd.iova)
    }

    /// IOAS_COPY: the device address.
    pub fn copy(
        &self,
        from: (u32, u64),
        to: (u32, u64),
        length: u64,
        flags: u32,
    ) -> Result<u64, Errno> {
        let mut cmd = iommufd::IoasCopy {
            flags,
            src_ioas_id: from.0,
            src_iova: from.1,
            dst_ioas_id: to.0,
            dst_iova: to.1,
            length,
            ..Default::default()
        };
        cmd.size = size_of_u32(&cmd);
        self.run(iommufd::IOAS_COPY, &mut cmd)?;
        Ok(cmd.dst_iova)
    }

    /// IOAS_UNMAP: the bytes unmapped.
    pub fn unmap(&self, ioas: u32, iova: u64, length: u64) -> Result<u64, Errno> {
        let mut cmd = iommufd::IoasUnmap {
            size: 24,
            ioas_id: ioas,
            iova,
            length,
        };
        self.run(iommufd::IOAS_UNMAP, &mut cmd)?;
        Ok(cmd.length)
    }

    /// IOAS_IOVA_RANGES with room for `room`: what is told, how many there are, the alignment.
    pub fn ranges(&self, ioas: u32, room: usize) -> Result<Ranges, Errno> {
        let mut list = vec![iommufd::IovaRange::default(); room];
        let mut cmd = iommufd::IoasIovaRanges {
            size: 32,
            ioas_id: ioas,
            num_iovas: room as u32,
            allowed_iovas: super::address_of(&mut list[..]),
            ..Default::default()
        };
        self.run(iommufd::IOAS_IOVA_RANGES, &mut cmd)?;
        let list = list.iter().map(|range| (range.start, range.last));
        Ok((
            list.take(cmd.num_iovas as usize).collect(),
            cmd.num_iovas,
            cmd.out_iova_alignment,
        ))
    }

    /// IOAS_ALLOW_IOVAS.
    pub fn allow(&self, ioas: u32, ranges: &[(u64, u64)]) -> Result<i32, Errno> {
        let range = |&(start, last): &(u64, u64)| iommufd::IovaRange { start, last };
        let mut list: Vec<_> = ranges.iter().map(range).collect();
        let mut cmd = iommufd::IoasAllowIovas {
            size: 24,
            ioas_id: ioas,
            num_iovas: list.len() as u32,
            allowed_iovas: super::address_of(&mut list[..]),
            ..Default::default()
        };
        self.run(iommufd::IOAS_ALLOW_IOVAS, &mut cmd)
    }

    /// OPTION: the value.
    pub fn option(
        &self,
        option_id: u32,
        op: u16,
        object_id: u32,
        val64: u64,
    ) -> Result<u64, Errno> {
        let mut cmd = iommufd::IommuOption {
            size: 24,
            option_id,
            op,
            object_id,
            val64,
            ..Default::default()
        };
        self.run(iommufd::OPTION, &mut cmd)?;
        Ok(cmd.val64)
    }

    /// VFIO_IOAS: the id.
    pub fn vfio_ioas(&self, op: u16, ioas_id: u32) -> Result<u32, Errno> {
        let mut cmd = iommufd::VfioIoas {
            size: 12,
            ioas_id,
            op,
            ..Default::default()
        };
        self.run(iommufd::VFIO_IOAS, &mut cmd)?;
        Ok(cmd.ioas_id)
    }

    /// A [`Bare`] device, bound.
    pub fn bare(&self) -> u32 {
        let context = self.context();
        let reserved = context.reserve().expect("an id");
        reserved
            .commit(Bare(context.run().clone(), Group::default()))
            .id()
    }

    /// HWPT_ALLOC without data.
    pub fn hwpt(&self, device: u32, parent: u32, flags: u32) -> Result<u32, Errno> {
        let mut cmd = iommufd::HwptAlloc {
            flags,
            dev_id: device,
            pt_id: parent,
            ..Default::default()
        };
        cmd.size = size_of_u32(&cmd);
        self.run(iommufd::HWPT_ALLOC, &mut cmd)?;
        Ok(cmd.out_hwpt_id)
    }

    /// What a page table leads to at an address.
    pub fn lookup(&self, hwpt: u32, iova: u64) -> Option<u64> {
        let hwpt: Ref<Hwpt> = self.context().get(hwpt).expect("a page table");
        hwpt.table.lookup(Iova(iova)).map(|pa| pa.0)
    }
}
