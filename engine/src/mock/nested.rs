//! Nested page tables of the mock IOMMU: nothing but a cache of four words.

use std::any::Any;
use std::sync::Mutex;

use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};

use super::arguments;
use crate::iommufd::device::UserData;
use crate::iommufd::file::Command;
use crate::iommufd::nested::NestedHwpt;
use crate::iommufd::nesting::{self, Done, NestedTable, Requests};
use crate::iommufd::object::Ref;

/// The words of a cache.
pub struct Cache(Mutex<[u32; test::CACHE_ENTRIES]>);

impl Cache {
    /// One that holds `value` everywhere.
    pub fn new(value: u32) -> Cache {
        Cache(Mutex::new([value; test::CACHE_ENTRIES]))
    }

    /// Drops one word, or all.
    ///
    /// # Errors
    /// EOPNOTSUPP for unknown flags, EINVAL: there is no such word.
    pub fn invalidate(&self, flags: u32, index: u32) -> Result<(), Errno> {
        check(flags, index)?;
        let mut words = self.0.lock().unwrap();
        match flags {
            0 => words[index as usize] = 0,
            _ => words.fill(0),
        }
        Ok(())
    }

    /// Whether a word is as expected.
    ///
    /// # Errors
    /// EINVAL: it is not, or there is no such word.
    pub fn expect(&self, entry: &test::CacheEntry) -> Result<(), Errno> {
        let words = self.0.lock().unwrap();
        let word = words.get(entry.index as usize);
        (word == Some(&entry.value))
            .then_some(())
            .ok_or(Errno::EINVAL)
    }
}

/// Whether a request to drop a word is one.
///
/// # Errors
/// EOPNOTSUPP for unknown flags, EINVAL: there is no such word.
pub fn check(flags: u32, index: u32) -> Result<(), Errno> {
    if flags & !test::INVALIDATE_FLAG_ALL != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if index as usize >= test::CACHE_ENTRIES {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// A nested page table.
pub struct MockNested {
    iotlb: Cache,
}

impl MockNested {
    /// A fresh one. `flags` are `HWPT_ALLOC_*`.
    ///
    /// # Errors
    /// EOPNOTSUPP for flags or data that the driver does not have. As [`nesting::read`].
    pub fn new(flags: u32, data: &UserData) -> Result<MockNested, Errno> {
        if flags & !iommufd::HWPT_ALLOC_PASID != 0 || data.kind != test::HWPT_DATA_SELFTEST {
            return Err(Errno::EOPNOTSUPP);
        }
        let config: test::HwptSelftest =
            nesting::read(data, test::HWPT_DATA_SELFTEST, size_of::<u32>())?;
        let iotlb = Cache::new(config.iotlb);
        Ok(MockNested { iotlb })
    }
}

impl NestedTable for MockNested {
    fn invalidate(&self, requests: &Requests) -> Done {
        const KIND: u32 = test::HWPT_INVALIDATE_DATA_SELFTEST;
        if requests.kind != KIND {
            return (0, Err(Errno::EINVAL));
        }
        let least = size_of::<test::HwptInvalidateSelftest>();
        for index in 0..requests.count {
            let one = requests.get(index, KIND, least);
            let done = one.and_then(|one: test::HwptInvalidateSelftest| {
                self.iotlb.invalidate(one.flags, one.iotlb_id)
            });
            if done.is_err() {
                return (index, done);
            }
        }
        (requests.count, Ok(()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// OP_MD_CHECK_IOTLB.
pub fn check_iotlb(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let hwpt: Ref<NestedHwpt> = command.context.get(cmd.id)?;
    let table: Option<&MockNested> = hwpt.table.as_any().downcast_ref();
    table.ok_or(Errno::EINVAL)?.iotlb.expect(&arguments(cmd))
}
