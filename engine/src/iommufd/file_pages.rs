//! Pages of a file (IOMMU_IOAS_MAP_FILE): a mapping of our own, whose addresses are the physical ones.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fstat, fstatfs, open};
use swiommu_abi::Errno;
use swiommu_mem::fd::{Hidden, dup_client_fd};
use swiommu_mem::{Client, Mapping, UserAddr};

/// `TMPFS_MAGIC`: memory files and shared memory.
const TMPFS: u64 = 0x0102_1994;
/// `HUGETLBFS_MAGIC`.
const HUGETLBFS: u64 = 0x9584_58f6;

/// A part of a file.
pub(super) struct FilePages {
    file: Hidden,
    /// `None`: the file has no pages that can be pinned.
    mapping: Option<Mapping>,
    /// Where the mapping lies in the file, and the first page in the mapping.
    offset: u64,
    first: u64,
    writable: bool,
}

impl FilePages {
    /// `bytes` bytes from `start` (of a page) of the client's descriptor `fd`. That the file can be pinned at all, and is
    /// long enough, is found out when it is pinned.
    ///
    /// # Errors
    /// EBADF.
    pub(super) fn open(
        fd: i32,
        start: u64,
        bytes: u64,
        writable: bool,
    ) -> Result<FilePages, Errno> {
        let file = dup_client_fd(fd, 0)?;
        let kind = fstatfs(&file).map_or(0, |stat| stat.f_type as u64);
        let page = match kind {
            HUGETLBFS => fstat(&file).map_or(4096, |stat| stat.st_blksize as u64),
            _ => 4096,
        };
        let offset = start & !(page - 1);
        let length = (start - offset + bytes).next_multiple_of(page);
        let read_only =
            fcntl_getfl(&file).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY);
        let map = || {
            if !(writable && read_only) {
                return Mapping::of_file_part(file.as_fd(), offset, length, writable);
            }
            // A memory file can be pinned for writing whatever the mode of the descriptor.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let again = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|_| Errno::EINVAL)?;
            Mapping::of_file_part(again.as_fd(), offset, length, writable)
        };
        let mapping = match kind {
            TMPFS | HUGETLBFS => map().ok(),
            _ => None,
        };
        Ok(FilePages {
            file: Hidden::new(file)?,
            mapping,
            offset,
            first: start - offset,
            writable,
        })
    }

    /// Where the first page is.
    pub(super) fn base(&self) -> UserAddr {
        let base = self.mapping.as_ref().map_or(0, |mapping| mapping.base().0);
        UserAddr(base + self.first)
    }

    /// Where the pages begin in the file.
    pub(super) fn start(&self) -> u64 {
        self.offset + self.first
    }

    /// Makes the pages at `at` of the part present.
    ///
    /// # Errors
    /// EINVAL: the file has no such pages. ENOMEM.
    pub(super) fn fault_in(&self, client: &Client, at: u64, bytes: u64) -> Result<(), Errno> {
        let size = fstat(&self.file).map_or(0, |stat| stat.st_size as u64);
        if self.mapping.is_none() || self.start() + at + bytes > size.next_multiple_of(4096) {
            return Err(Errno::EINVAL);
        }
        client.populate(UserAddr(self.base().0 + at), bytes, self.writable)
    }
}
