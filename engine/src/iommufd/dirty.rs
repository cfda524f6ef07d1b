//! Dirty pages of a page table (`iopt_read_and_clear_dirty_data`, `drivers/iommu/iommufd/iova_bitmap.c`).

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::{Caller, UserAddr};

use super::file::Command;
use super::hwpt::Hwpt;
use super::inject;
use super::object::Ref;

/// IOMMU_HWPT_SET_DIRTY_TRACKING. Switching it on forgets what was written before.
pub fn set_tracking(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptSetDirtyTracking,
) -> Result<(), Errno> {
    if cmd.flags & !iommufd::HWPT_DIRTY_TRACKING_ENABLE != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let hwpt: Ref<Hwpt> = command.context.get(cmd.hwpt_id)?;
    if !hwpt.dirty {
        return Err(Errno::EOPNOTSUPP);
    }
    let ioas = hwpt.ioas.lock();
    let enable = cmd.flags & iommufd::HWPT_DIRTY_TRACKING_ENABLE != 0;
    if enable {
        for (first, area) in ioas.areas() {
            hwpt.table.forget_dirty(first, area.last)?;
        }
    }
    hwpt.table.set_tracking(enable)
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP. As in the kernel, pages behind the first hole in the range are not looked at, nor are
/// any while tracking is off, and neither is an error.
pub fn get_bitmap(
    command: &Command<'_>,
    cmd: &mut iommufd::HwptGetDirtyBitmap,
) -> Result<(), Errno> {
    let no_clear = iommufd::HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
    if cmd.flags & !no_clear != 0 || cmd.reserved != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let hwpt: Ref<Hwpt> = command.context.get(cmd.hwpt_id)?;
    let ioas = hwpt.ioas.lock();
    let last = check_range(cmd, ioas.alignment())?;
    if !hwpt.dirty {
        return Err(Errno::EOPNOTSUPP);
    }
    inject::point()?;
    let mut bitmap = Bitmap::new(&command.call.client, cmd);
    if let Some(last) = ioas.contiguous_to(cmd.iova, last) {
        let clear = cmd.flags & no_clear == 0;
        let sink = &mut |first, bytes| bitmap.set(first, bytes);
        // a table that does not track answers EINVAL, which the kernel drops
        let _ = hwpt.table.read_dirty(cmd.iova, last, clear, sink);
    }
    bitmap.flush();
    Ok(())
}

/// `iommufd_check_iova_range`: the last address.
fn check_range(cmd: &iommufd::HwptGetDirtyBitmap, alignment: u64) -> Result<u64, Errno> {
    let last = cmd.iova.checked_add(cmd.length.wrapping_sub(1));
    let last = last.ok_or(Errno::EOVERFLOW)?;
    let crooked = |size: u64| (cmd.iova | last.wrapping_add(1)) & (size - 1) != 0;
    if crooked(alignment) || cmd.page_size == 0 || crooked(cmd.page_size) {
        return Err(Errno::EINVAL);
    }
    Ok(last)
}

/// Words of which every page was written.
static ONES: [u8; 512] = [0xff; 512];

/// A bitmap in client memory, of which bits are set in rising order, as the kernel does it: word by word, and words that
/// cannot be touched are passed over.
struct Bitmap<'a> {
    client: &'a Caller,
    /// Client address of the word that bit 0 is in.
    words: u64,
    /// Its number there.
    bit: u64,
    iova: u64,
    shift: u32,
    /// Bits that are not in client memory yet: a word's number, and the bits.
    pending: (u64, u64),
}

impl<'a> Bitmap<'a> {
    fn new(client: &'a Caller, cmd: &iommufd::HwptGetDirtyBitmap) -> Bitmap<'a> {
        Bitmap {
            client,
            words: cmd.data & !7,
            bit: cmd.data % 8 * 8,
            iova: cmd.iova,
            shift: cmd.page_size.trailing_zeros(),
            pending: (0, 0),
        }
    }

    /// The device wrote to `first..first+bytes`.
    #[inline]
    fn set(&mut self, first: u64, bytes: u64) {
        let at = |iova: u64| ((iova - self.iova) >> self.shift) + self.bit;
        let (from, to) = (at(first), at(first + (bytes - 1)));
        let (word, last) = (from / 64, to / 64);
        let (head, tail) = (u64::MAX << (from % 64), u64::MAX >> (63 - to % 64));
        if word == last {
            return self.or(word, head & tail);
        }
        self.or(word, head);
        if last - word > 1 {
            self.flush();
            for word in (word + 1..last).step_by(ONES.len() / 8) {
                let at = UserAddr(self.words.wrapping_add(word * 8));
                let bytes = ((last - word) * 8).min(ONES.len() as u64);
                let _ = self.client.write(at, &ONES[..bytes as usize]);
            }
        }
        self.or(last, tail);
    }

    #[inline]
    fn or(&mut self, word: u64, bits: u64) {
        if self.pending.0 != word {
            self.flush();
            self.pending.0 = word;
        }
        self.pending.1 |= bits;
    }

    fn flush(&mut self) {
        let (word, bits) = std::mem::take(&mut self.pending);
        let at = UserAddr(self.words.wrapping_add(word * 8));
        if bits != 0
            && let Ok(before) = self.client.read_obj::<u64>(at)
        {
            let _ = self.client.write_obj(at, &(before | bits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_of_whole_pages_of_both_sizes_and_does_not_wrap() {
        let check = |iova, length, page_size| {
            let cmd = iommufd::HwptGetDirtyBitmap {
                iova,
                length,
                page_size,
                ..Default::default()
            };
            check_range(&cmd, 4096)
        };
        assert_eq!(check(0x1000, 0x1000, 2048), Ok(0x1fff));
        assert_eq!(check(0x1000, 0x1000, 8192), Err(Errno::EINVAL));
        assert_eq!(check(0x1000, 0x1000, 0), Err(Errno::EINVAL));
        assert_eq!(check(0x800, 0x1000, 2048), Err(Errno::EINVAL));
        assert_eq!(check(0x1000, 0, 4096), Err(Errno::EOVERFLOW));
        assert_eq!(check(0, 0, 4096), Ok(u64::MAX));
        let last = u64::MAX - 0xfff;
        assert_eq!(check(last, 0x1000, 4096), Ok(u64::MAX));
        assert_eq!(check(last, 0x1001, 4096), Err(Errno::EOVERFLOW));
    }
}
