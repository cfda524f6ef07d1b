//! Pages of a virtual IOMMU that the client maps through `/dev/iommu` (`_iommufd_alloc_mmap`).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::Errno;
use swiommu_mem::fd::Hidden;
use swiommu_mem::{PAGE, UserAddr};

use super::object::AnyRef;

/// What can be mapped through one `/dev/iommu`, by offset. Offset 0 is nothing.
#[derive(Default)]
pub struct SharedPages(Mutex<BTreeMap<u64, Arc<Shared>>>);

/// A run of pages that is mapped as a whole or not at all.
pub struct Shared {
    /// The object whose they are: it cannot be destroyed while they are mapped.
    pub owner: u32,
    bytes: u64,
    object: Hidden,
}

impl Shared {
    /// The kernel object that holds the pages, from its first byte.
    pub fn object(&self) -> BorrowedFd<'_> {
        self.object.as_fd()
    }
}

impl SharedPages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Shared>>> {
        self.0.lock().unwrap()
    }

    /// Offers `bytes` bytes (of whole pages) of a memory file; the offset to map them by.
    pub fn add(&self, owner: u32, object: Hidden, bytes: u64) -> u64 {
        let mut list = self.lock();
        let mut offset = PAGE;
        for (first, shared) in &*list {
            if first - offset >= bytes {
                break;
            }
            offset = first + shared.bytes;
        }
        let shared = Shared {
            owner,
            bytes,
            object,
        };
        list.insert(offset, Arc::new(shared));
        offset
    }

    /// Offers them no longer.
    pub fn remove(&self, offset: u64) {
        self.lock().remove(&offset);
    }

    /// What the client maps: only a whole offer.
    ///
    /// # Errors
    /// ENXIO: nothing begins there, or it is of another size.
    pub fn find(&self, offset: u64, bytes: u64) -> Result<Arc<Shared>, Errno> {
        let found = self.lock().get(&offset).cloned();
        found
            .filter(|shared| shared.bytes == bytes)
            .ok_or(Errno::ENXIO)
    }
}

/// What stays because the client has its pages mapped, by the addresses they are at.
#[derive(Default)]
pub struct Keepers(Mutex<Vec<Keeper>>);

struct Keeper {
    first: u64,
    last: u64,
    object: AnyRef,
}

impl Keepers {
    /// `bytes` bytes at `first` are pages of `object`.
    pub fn add(&self, first: UserAddr, bytes: u64, object: AnyRef) {
        self.0.lock().unwrap().push(Keeper {
            first: first.0,
            last: first.0 + (bytes - 1),
            object,
        });
    }

    /// They are unmapped there. What is left of a mapping keeps the object.
    pub fn remove(&self, first: UserAddr, bytes: u64) {
        let (first, last) = (first.0, first.0 + (bytes - 1));
        let mut keepers = self.0.lock().unwrap();
        let (cut, mut stay): (Vec<_>, Vec<_>) = std::mem::take(&mut *keepers)
            .into_iter()
            .partition(|keeper| keeper.first <= last && first <= keeper.last);
        for keeper in &cut {
            let before = (keeper.first, first.wrapping_sub(1));
            let behind = (last.wrapping_add(1), keeper.last);
            let (before, behind) = (
                (keeper.first < first).then_some(before),
                (last < keeper.last).then_some(behind),
            );
            stay.extend([before, behind].into_iter().flatten().map(|(first, last)| {
                let object = keeper.object.hold();
                Keeper {
                    first,
                    last,
                    object,
                }
            }));
        }
        *keepers = stay;
        drop(keepers);
        drop(cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swiommu_mem::fd::memfd;

    fn offer(pages: &SharedPages, bytes: u64) -> u64 {
        let object = Hidden::new(memfd("x", bytes).unwrap()).unwrap();
        pages.add(7, object, bytes)
    }

    #[test]
    fn an_offer_begins_behind_the_first_page_and_fills_holes() {
        let pages = SharedPages::default();
        let (one, two) = (offer(&pages, 2 * PAGE), offer(&pages, PAGE));
        assert_eq!((one, two), (PAGE, 3 * PAGE));
        pages.remove(one);
        assert_eq!(offer(&pages, 3 * PAGE), 4 * PAGE);
        assert_eq!(offer(&pages, PAGE), PAGE);
        assert_eq!(offer(&pages, PAGE), 2 * PAGE);
    }

    #[test]
    fn only_a_whole_offer_can_be_mapped() {
        let pages = SharedPages::default();
        let at = offer(&pages, 2 * PAGE);
        assert!(
            pages
                .find(at, 2 * PAGE)
                .is_ok_and(|shared| shared.owner == 7)
        );
        for (offset, bytes) in [(at, PAGE), (at, 3 * PAGE), (at + PAGE, PAGE), (0, PAGE)] {
            assert_eq!(pages.find(offset, bytes).err(), Some(Errno::ENXIO));
        }
        pages.remove(at);
        assert_eq!(pages.find(at, 2 * PAGE).err(), Some(Errno::ENXIO));
    }
}
