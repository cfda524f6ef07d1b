//! Errno values as they come back from raw system calls.

use swiommu_abi::Errno;

/// The same number in our own type. A number outside 1..=4095 cannot come from a system call.
pub(crate) fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error()).expect("a system call's errno lies in 1..=4095")
}
