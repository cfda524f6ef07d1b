//! VFIO_DEVICE_FEATURE_DMA_BUF: a descriptor of a part of a BAR, for whoever wants to do DMA to it.

use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::{UserAddr, fd};
use zerocopy::IntoBytes;

use super::argsz::copy_in;
use super::device::DeviceFile;
use super::feature::Ask;
use crate::door::{Answer, Call, File, NewFile, Span};
use crate::iommufd::inject;
use crate::iommufd::pages::DmaBuf;
use crate::pci::Bar;
use crate::pci::function::export::Export;

/// The most ranges the kernel allocates room for: 4 MiB.
const RANGES_MOST: u32 = (4 << 20) / size_of::<vfio::RegionDmaRange>() as u32;

/// `DMA_BUF_IOCTL_SYNC`
const SYNC: u32 = 0x4008_6200;
/// Its flags: read, write, end.
const SYNC_FLAGS: u64 = 7;
const SYNC_READ_WRITE: u64 = 3;

impl DeviceFile {
    pub(super) fn export_dma_buf(&self, call: &Call<'_>, ask: &Ask) -> Result<Answer, Errno> {
        let bytes = size_of::<vfio::FeatureDmaBuf>();
        if !ask.check(vfio::DEVICE_FEATURE_GET, bytes)? {
            return Ok(Answer::Value(0));
        }
        let get: vfio::FeatureDmaBuf = copy_in(call, ask.data, bytes)?;
        if get.nr_ranges == 0 || get.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let exists = |bar: &Bar| *bar != Bar::None;
        if !self
            .function()
            .identity()
            .bars
            .get(get.region_index as usize)
            .is_some_and(exists)
        {
            return Err(Errno::ENODEV);
        }
        let parts = copy_ranges(call, ask.data + bytes as u64, get.nr_ranges)?;
        let parts: Vec<_> = parts
            .iter()
            .map(|part| (part.offset, part.length))
            .collect();
        inject::point()?;
        let export = self.function().export(get.region_index as u8, &parts)?;
        inject::point()?;
        let object = fd::object(export.bytes())?;
        if get.open_flags & rustix::fs::OFlags::CLOEXEC.bits() == 0 {
            fd::keep_on_exec(&object)?;
        }
        Ok(Answer::Open(NewFile {
            object,
            file: Arc::new(DmaBufFile(export)),
        }))
    }
}

fn copy_ranges(call: &Call<'_>, at: u64, count: u32) -> Result<Vec<vfio::RegionDmaRange>, Errno> {
    if count > RANGES_MOST {
        return Err(Errno::ENOMEM);
    }
    let mut ranges = vec![vfio::RegionDmaRange::default(); count as usize];
    call.client
        .read(UserAddr(at), ranges.as_mut_bytes())
        .map_err(|_| Errno::EFAULT)?;
    Ok(ranges)
}

/// The open file of a dma-buf. A processor cannot map it: that is what the device's own file is for.
struct DmaBufFile(Arc<Export>);

impl File for DmaBufFile {
    fn link(&self) -> String {
        "/dmabuf:".into()
    }

    fn dma_buf(&self) -> Option<Arc<dyn DmaBuf>> {
        Some(self.0.clone())
    }

    /// There is nothing to wait for or to write back: an access reaches the device at once.
    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        if cmd != SYNC {
            return Err(Errno::ENOTTY);
        }
        let mut flags = 0u64;
        call.client
            .read(UserAddr(arg), flags.as_mut_bytes())
            .map_err(|_| Errno::EFAULT)?;
        if flags & !SYNC_FLAGS != 0 || flags & SYNC_READ_WRITE == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Answer::Value(0))
    }

    fn mmap(
        &self,
        _: &Call<'_>,
        _offset: u64,
        _bytes: u64,
        _write: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        Err(Errno::EINVAL)
    }
}
