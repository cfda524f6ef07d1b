//! Pages of another process (IOMMU_IOAS_MAP by one that has the file too): shown here once they are pinned.

use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_mem::{UserAddr, Window};

use crate::door::Process;

/// A range of another process's memory. Until it is pinned nobody looks at it, and the process may end.
pub(super) struct OtherPages {
    process: Arc<dyn Process>,
    first: UserAddr,
    window: Window,
}

impl OtherPages {
    /// `bytes` bytes at `first` (whole pages) of a process.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn new(
        process: Arc<dyn Process>,
        first: UserAddr,
        bytes: u64,
    ) -> Result<OtherPages, Errno> {
        let window = Window::reserve(bytes)?;
        Ok(OtherPages {
            process,
            first,
            window,
        })
    }

    /// Where the first page is once it is pinned.
    pub(super) fn base(&self) -> UserAddr {
        self.window.base()
    }

    /// Where it is in its process.
    pub(super) fn there(&self) -> UserAddr {
        self.first
    }

    /// Pins a part.
    ///
    /// # Errors
    /// As the process: EFAULT when it has ended.
    pub(super) fn fault_in(&self, at: u64, bytes: u64, write: bool) -> Result<(), Errno> {
        let there = UserAddr(self.first.0 + at);
        self.process.pin(there, bytes, write, &self.window, at)
    }
}
