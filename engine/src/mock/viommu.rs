//! The mock IOMMU's virtual IOMMU: caches of its devices, two queues of which one needs the other, two pages to map.

use std::any::Any;
use std::sync::{Arc, Mutex, Weak};

use swiommu_abi::Errno;
use swiommu_abi::iommufd_test as test;
use swiommu_iommu::Iova;
use swiommu_mem::PAGE;
use swiommu_mem::fd::{Hidden, memfd};
use zerocopy::IntoBytes;

use super::device::MockDevice;
use super::nested::{MockNested, check};
use crate::iommufd::context::Context;
use crate::iommufd::device::UserData;
use crate::iommufd::hw_queue::HwQueueObject;
use crate::iommufd::nesting::{self, Done, HwQueue, NestedTable, NewHwQueue, NewViommu};
use crate::iommufd::nesting::{Requests, VirtualIommu};
use crate::iommufd::object::Ref;
use crate::iommufd::table::Table;
use crate::iommufd::viommu::Vdevices;

/// Bytes of the pages that the client can map.
const SHARED_BYTES: u64 = 2 * PAGE;

/// The ids of its queues.
type Queues = Arc<Mutex<[Option<u32>; test::HW_QUEUE_MAX as usize]>>;

/// The virtual IOMMU.
pub struct MockViommu {
    parent: Table,
    queues: Queues,
    _shared: Option<Offer>,
}

/// Pages that the client can map as long as the virtual IOMMU lives.
struct Offer {
    context: Weak<Context>,
    offset: u64,
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(context) = self.context.upgrade() {
            context.shared_pages.remove(self.offset);
        }
    }
}

impl MockViommu {
    /// A fresh one; with data it offers pages to map and answers with the number it was given.
    ///
    /// # Errors
    /// As [`nesting::read`]; ENOMEM.
    pub fn new(new: &NewViommu<'_>, data: Option<&UserData>) -> Result<MockViommu, Errno> {
        Ok(MockViommu {
            parent: new.parent.table.clone(),
            queues: Queues::default(),
            _shared: data.map(|data| share(new, data)).transpose()?,
        })
    }
}

fn share(new: &NewViommu<'_>, data: &UserData) -> Result<Offer, Errno> {
    let least = std::mem::offset_of!(test::ViommuSelftest, out_mmap_offset);
    let mut answer: test::ViommuSelftest = nesting::read(data, test::VIOMMU_TYPE_SELFTEST, least)?;
    let pages = memfd("iommufd", SHARED_BYTES)?;
    let written = rustix::io::pwrite(&pages, answer.in_data.as_bytes(), 0);
    written.map_err(|_| Errno::ENOMEM)?;
    let shared = &new.context.shared_pages;
    let offer = Offer {
        context: Arc::downgrade(new.context),
        offset: shared.add(new.id, Hidden::new(pages)?, SHARED_BYTES),
    };
    answer.out_data = answer.in_data;
    answer.out_mmap_offset = offer.offset;
    answer.out_mmap_length = SHARED_BYTES;
    nesting::write(data, answer.as_bytes())?;
    Ok(offer)
}

impl VirtualIommu for MockViommu {
    fn nested_table(&self, flags: u32, data: &UserData) -> Result<Box<dyn NestedTable>, Errno> {
        Ok(Box::new(MockNested::new(flags, data)?))
    }

    fn invalidate(&self, devices: &Vdevices, requests: &Requests) -> Done {
        const KIND: u32 = test::VIOMMU_INVALIDATE_DATA_SELFTEST;
        if requests.count == 0 && requests.kind == KIND {
            return (0, Ok(()));
        }
        let all: Vec<test::ViommuInvalidateSelftest> = match requests.all(KIND) {
            Ok(all) => all,
            Err(error) => return (0, Err(error)),
        };
        for (index, one) in (0..).zip(&all) {
            let done = check(one.flags, one.cache_id).and_then(|()| {
                let found = devices.with(one.vdev_id.into(), |object| {
                    let device = object.get::<MockDevice>().ok_or(Errno::EINVAL)?;
                    device.cache.invalidate(one.flags, one.cache_id)
                });
                found.ok_or(Errno::EINVAL)?
            });
            if done.is_err() {
                return (index, done);
            }
        }
        (requests.count, Ok(()))
    }

    fn has_hw_queue(&self, kind: u32) -> bool {
        kind == test::HW_QUEUE_TYPE_SELFTEST
    }

    fn new_hw_queue(&self, new: &NewHwQueue<'_>) -> Result<Box<dyn HwQueue>, Errno> {
        let mut queues = self.queues.lock().unwrap();
        let index = new.index as usize;
        if queues.get(index).ok_or(Errno::EINVAL)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let before = match index.checked_sub(1) {
            None => None,
            Some(before) => {
                let id = queues[before].ok_or(Errno::EIO)?;
                let queue: Ref<HwQueueObject> = new.context.get(id).map_err(|_| Errno::EIO)?;
                Some(queue.hold())
            }
        };
        if self.parent.lookup(Iova(new.iova)) != Some(new.pa) {
            return Err(Errno::EFAULT);
        }
        queues[index] = Some(new.id);
        Ok(Box::new(MockQueue {
            index,
            queues: self.queues.clone(),
            _before: before,
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A queue. Those behind it need it.
struct MockQueue {
    index: usize,
    queues: Queues,
    _before: Option<Ref<HwQueueObject>>,
}

impl HwQueue for MockQueue {}

impl Drop for MockQueue {
    fn drop(&mut self) {
        self.queues.lock().unwrap()[self.index] = None;
    }
}
