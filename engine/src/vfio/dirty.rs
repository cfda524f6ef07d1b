//! Dirty pages of a container: VFIO_IOMMU_DIRTY_PAGES and the bitmap of an unmap.
//!
//! type1 knows which pages a driver pinned by itself, not which pages a device wrote: for devices behind an IOMMU every
//! mapped page is reported dirty, each time (`vfio_iova_dirty_bitmap`, `update_user_bitmap`).

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;

use super::argsz::{copy_in, through};
use super::type1::Type1;
use crate::door::Call;
use crate::iommufd::inject;

/// The largest bitmap: 2^28 bytes, `DIRTY_BITMAP_SIZE_MAX`.
pub const BITMAP_BYTES_MAX: u64 = 1 << 28;

const PAGE: u64 = 4096;

/// Whether a bitmap of `bytes` bytes holds `pages` bits.
fn fits(pages: u64, bytes: u64) -> bool {
    pages != 0 && bytes != 0 && bytes <= BITMAP_BYTES_MAX && pages.div_ceil(64) * 8 <= bytes
}

/// A bitmap that passed its checks. Bit 0 is the page at `first`.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    first: u64,
    data: UserAddr,
}

/// Checks the bitmap that goes with a range, as far as that needs no address space.
///
/// # Errors
/// EINVAL: the bitmap lies outside client memory or is too small.
pub fn check(iova: u64, size: u64, bitmap: &vfio::Bitmap) -> Result<Checked, Errno> {
    let last = bitmap.data.checked_add(bitmap.size);
    if last.is_none_or(|last| last > swiommu_mem::ADDRESS_END) || bitmap.pgsize == 0 {
        return Err(Errno::EINVAL);
    }
    if !fits(size >> bitmap.pgsize.trailing_zeros(), bitmap.size) {
        return Err(Errno::EINVAL);
    }
    Ok(Checked {
        first: iova,
        data: UserAddr(bitmap.data),
    })
}

/// Sets the bits of the pages `first..=last`, which lie in the bitmap's range. As in the kernel whole words are written:
/// bits above `last` in its word are cleared, bits below `first` stay.
///
/// # Errors
/// EFAULT.
pub fn mark(call: &Call<'_>, bitmap: &Checked, first: u64, last: u64) -> Result<(), Errno> {
    let (mut bit, last) = ((first - bitmap.first) / PAGE, (last - bitmap.first) / PAGE);
    while bit <= last {
        let at = UserAddr(bitmap.data.0 + bit / 64 * 8);
        let in_word = (last - bit + 1).min(64 - bit % 64);
        let mask = (u64::MAX >> (64 - in_word)) << (bit % 64);
        let word: u64 = call.client.read_obj(at).map_err(|_| Errno::EFAULT)?;
        let below = word & ((1 << (bit % 64)) - 1);
        call.client
            .write_obj(at, &(below | mask))
            .map_err(|_| Errno::EFAULT)?;
        bit += in_word;
    }
    Ok(())
}

impl Type1 {
    /// VFIO_IOMMU_DIRTY_PAGES.
    ///
    /// # Errors
    /// EACCES for type1 (v1), else as the kernel.
    pub(super) fn dirty_pages(&mut self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        if !self.is_v2() {
            return Err(Errno::EACCES);
        }
        let minsz = through!(vfio::DirtyBitmap, flags);
        let dirty: vfio::DirtyBitmap = copy_in(call, arg, minsz)?;
        if (dirty.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        match dirty.flags {
            vfio::DIRTY_PAGES_FLAG_START => {
                inject::point()?;
                self.tracking = true;
            }
            vfio::DIRTY_PAGES_FLAG_STOP => self.tracking = false,
            vfio::DIRTY_PAGES_FLAG_GET_BITMAP => {
                if (dirty.argsz as usize - minsz) < size_of::<vfio::DirtyBitmapGet>() {
                    return Err(Errno::EINVAL);
                }
                let get = call
                    .client
                    .read_obj(UserAddr(arg + minsz as u64))
                    .map_err(|_| Errno::EFAULT)?;
                self.get_bitmap(call, &get)?;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn get_bitmap(&self, call: &Call<'_>, get: &vfio::DirtyBitmapGet) -> Result<(), Errno> {
        if get.size != 0 && get.iova.checked_add(get.size - 1).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        let bitmap = check(get.iova, get.size, &get.bitmap)?;
        let aligned = (get.iova | get.size) & (PAGE - 1) == 0;
        if get.bitmap.pgsize != PAGE || !aligned || get.size == 0 || !self.tracking {
            return Err(Errno::EINVAL);
        }
        let last = get.iova + (get.size - 1);
        if self.cuts(get.iova, last) {
            return Err(Errno::EINVAL);
        }
        for (first, area) in self.ioas.overlapping(get.iova, last) {
            mark(call, &bitmap, first, area.last)?;
        }
        Ok(())
    }
}
