//! Client memory straight into a file: one copy, made by the kernel.
//!
//! The kernel's own copy faults as ours do: it stops at memory it cannot read and says how far it came.
#![allow(unsafe_code)] // a system call on client addresses

use crate::raw::errno;
use crate::{Client, UserAddr};
use std::arch::asm;
use std::os::fd::{AsRawFd, BorrowedFd};
use swiommu_abi::Errno;

/// A run of client memory, laid out as the kernel's `struct iovec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Stretch {
    /// Its first byte.
    pub first: UserAddr,
    /// Its length.
    pub bytes: u64,
}

/// How many stretches one call takes (the kernel's UIO_MAXIOV is 1024).
pub const STRETCHES_MOST: usize = 64;

/// The number of the system call on x86-64.
const PWRITEV: usize = 296;

impl Client {
    /// Writes the stretches, one after the other, to `file` from `offset` on, and returns how many bytes arrived: fewer
    /// than asked when memory could not be read, or the file not written, beyond them.
    ///
    /// # Errors
    /// The kernel's, when not a byte was written: `EFAULT` when the first could not be read.
    ///
    /// # Panics
    /// With more than [`STRETCHES_MOST`] stretches.
    pub fn write_to_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        from: &[Stretch],
    ) -> Result<u64, Errno> {
        assert!(from.len() <= STRETCHES_MOST, "{} stretches", from.len());
        loop {
            let result: isize;
            // SAFETY: pwritev reads the list, which is ours, and the client memory it names; no byte of memory is
            // written. A stretch that is not readable ends the call. The kernel preserves all registers but these.
            unsafe {
                asm!(
                    "syscall",
                    inlateout("rax") PWRITEV => result,
                    in("rdi") file.as_raw_fd() as isize, in("rsi") from.as_ptr(), in("rdx") from.len(),
                    in("r10") offset, in("r8") 0usize,
                    lateout("rcx") _, lateout("r11") _,
                    options(nostack)
                );
            }
            match u64::try_from(result) {
                Ok(done) => return Ok(done),
                Err(_) => {
                    let error = rustix::io::Errno::from_raw_os_error(-result as i32);
                    if error != rustix::io::Errno::INTR {
                        return Err(errno(error));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mapping, PAGE, fd, install_handlers};
    use std::os::fd::AsFd;

    #[test]
    fn stretches_arrive_one_after_the_other_and_a_hole_ends_the_call() {
        install_handlers();
        // SAFETY: the client is this process.
        let client = unsafe { Client::local() };
        let memory = Mapping::anonymous(2 * PAGE).unwrap();
        memory.write(0, b"first").unwrap();
        memory.write(PAGE, b"second").unwrap();
        let stretch = |at: u64, bytes| Stretch {
            first: UserAddr(at),
            bytes,
        };
        let file = fd::memfd("x", PAGE).unwrap();
        let (base, hole) = (memory.base().0, stretch(PAGE, 4));
        let both = [stretch(base + PAGE, 6), stretch(base, 5)];
        assert_eq!(client.write_to_file(file.as_fd(), 10, &both), Ok(11));
        let mut got = [0; 11];
        rustix::io::pread(&file, &mut got, 10).unwrap();
        assert_eq!(&got, b"secondfirst");
        assert_eq!(
            client.write_to_file(file.as_fd(), 0, &[both[0], hole]),
            Ok(6)
        );
        assert_eq!(
            client.write_to_file(file.as_fd(), 0, &[hole]),
            Err(Errno::EFAULT)
        );
    }
}
