//! Dirty pages of a page table (`iopt_read_and_clear_dirty_data`, `drivers/iommu/iommufd/iova_bitmap.c`).

use swiommu_abi::{Errno, iommufd};
use swiommu_iommu::{Dirty, Iova};
use swiommu_mem::{Caller, MemFault, UserAddr};
use zerocopy::IntoBytes;

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
    let mut ioas = hwpt.ioas.lock();
    let last = check_range(cmd, ioas.alignment())?;
    if !hwpt.dirty {
        return Err(Errno::EOPNOTSUPP);
    }
    inject::point()?;
    let mut bitmap = Bitmap::new(&command.call.client, cmd, last);
    if let Some(last) = ioas.contiguous_to(cmd.iova, last) {
        let clear = cmd.flags & no_clear == 0;
        // a table that does not track answers EINVAL, which the kernel drops
        let _ = hwpt.table.read_dirty(cmd.iova, last, clear, &mut bitmap);
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

/// Words that are set in client memory at once.
const WORDS: usize = 128;
/// Words of which every page was written.
static ONES: [u64; WORDS] = [u64::MAX; WORDS];

/// A bitmap in client memory, of which bits are set. As in the kernel other bits stay, words without a bit to set are not
/// touched, and words that cannot be touched are passed over.
pub(super) struct Bitmap<'a> {
    client: &'a Caller,
    /// Client address of the word that bit 0 is in.
    words: u64,
    /// Its number there.
    bit: u64,
    iova: u64,
    last: u64,
    shift: u32,
    /// Bits that are not in client memory yet: `count` neighbouring words from word `first` on.
    pending: [u64; WORDS],
    first: u64,
    count: usize,
}

impl<'a> Bitmap<'a> {
    /// The bitmap of a command whose last address is `last`.
    fn new(client: &'a Caller, cmd: &iommufd::HwptGetDirtyBitmap, last: u64) -> Bitmap<'a> {
        Bitmap {
            client,
            words: cmd.data & !7,
            bit: cmd.data % 8 * 8,
            iova: cmd.iova,
            last,
            shift: cmd.page_size.trailing_zeros(),
            pending: [0; WORDS],
            first: 0,
            count: 0,
        }
    }

    /// The device wrote to pages, some of which may be outside the range.
    #[inline]
    pub(super) fn set_pages(&mut self, dirty: Dirty<'_>) {
        if dirty.page_lg2 != self.shift {
            for (Iova(first), bytes) in dirty.runs() {
                let last = (first + (bytes - 1)).min(self.last);
                let first = first.max(self.iova);
                self.set(first, last - first + 1);
            }
            return;
        }
        // Bit for bit. The first of the pages may lie before the range, then its bit is not set.
        let page = |iova: u64| (iova >> self.shift) as i64;
        let at = page(dirty.first.0) - page(self.iova) + self.bit as i64;
        let (word, by) = ((at >> 6) as u64, (at & 63) as u32);
        if by == 0 && self.append(word, dirty.bits) {
            return;
        }
        for (index, bits) in dirty.bits.iter().enumerate() {
            let word = word.wrapping_add(index as u64);
            self.or(word, bits << by);
            self.or(word.wrapping_add(1), (bits >> 1) >> (63 - by));
        }
    }

    /// The device wrote to `first..first+bytes`.
    #[inline]
    pub(super) fn set(&mut self, first: u64, bytes: u64) {
        let at = |iova: u64| ((iova - self.iova) >> self.shift) + self.bit;
        let (from, to) = (at(first), at(first + (bytes - 1)));
        let (word, last) = (from / 64, to / 64);
        let (head, tail) = (u64::MAX << (from % 64), u64::MAX >> (63 - to % 64));
        if word == last {
            return self.or(word, head & tail);
        }
        self.or(word, head);
        let mut next = word + 1;
        while next < last {
            let count = (last - next).min(WORDS as u64);
            self.append(next, &ONES[..count as usize]);
            next += count;
        }
        self.or(last, tail);
    }

    /// At most [`WORDS`] words that all have bits to set, behind what is pending. `false`: one has none.
    #[inline]
    fn append(&mut self, word: u64, bits: &[u64]) -> bool {
        if bits.contains(&0) {
            return false;
        }
        if word != self.first + self.count as u64 || self.count + bits.len() > WORDS {
            self.flush();
        }
        if self.count == 0 {
            self.first = word;
        }
        self.pending[self.count..][..bits.len()].copy_from_slice(bits);
        self.count += bits.len();
        true
    }

    #[inline]
    fn or(&mut self, word: u64, bits: u64) {
        if bits == 0 {
            return;
        }
        let behind = self.first + self.count as u64;
        if self.count > 0 && word == behind - 1 {
            self.pending[self.count - 1] |= bits;
            return;
        }
        if word != behind || self.count == WORDS {
            self.flush();
        }
        if self.count == 0 {
            self.first = word;
        }
        self.pending[self.count] = bits;
        self.count += 1;
    }

    fn flush(&mut self) {
        let words = &mut self.pending[..std::mem::take(&mut self.count)];
        let at = |word: usize| UserAddr(self.words.wrapping_add((self.first + word as u64) * 8));
        if set(self.client, at(0), words).is_err() {
            for (index, word) in words.iter_mut().enumerate() {
                let _ = set(self.client, at(index), std::slice::from_mut(word));
            }
        }
    }
}

/// Sets bits in words of client memory.
fn set(client: &Caller, at: UserAddr, words: &mut [u64]) -> Result<(), MemFault> {
    if words.iter().any(|bits| *bits != u64::MAX) {
        let mut before = [0; WORDS];
        let before = &mut before[..words.len()];
        client.read(at, before.as_mut_bytes())?;
        for (word, before) in words.iter_mut().zip(before) {
            *word |= *before;
        }
    }
    client.write(at, words.as_bytes())
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
