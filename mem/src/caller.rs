//! [`Caller`]: where the arguments of a call lie.
//!
//! A call comes from this process, or from another one that uses a file of ours: one that was forked, or was given the
//! descriptor. The kernel copies to and from the other process, with its permissions; what it cannot copy is the same
//! fault as here.

#![allow(unsafe_code)] // hands our own buffers to the kernel

use crate::raw;
use crate::{ADDRESS_END, Client, MemFault, UserAddr};
use std::num::NonZeroU32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The process whose call this is, as far as its memory is concerned.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    /// This very process.
    Here(Client),
    /// Another process, by its id as this process sees it.
    Other(NonZeroU32),
}

impl From<Client> for Caller {
    fn from(client: Client) -> Caller {
        Caller::Here(client)
    }
}

/// Which way the kernel copies.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

impl Caller {
    /// The other process's id; `None` for this very process.
    pub fn other(&self) -> Option<u32> {
        self.process().map(NonZeroU32::get)
    }

    /// As [`Caller::other`].
    pub fn process(&self) -> Option<NonZeroU32> {
        match self {
            Caller::Here(_) => None,
            Caller::Other(process) => Some(*process),
        }
    }

    /// Copies the caller's memory out, `to.len()` bytes. Bytes before a fault are in `to`.
    ///
    /// # Errors
    /// The first byte that could not be read.
    #[inline(always)]
    pub fn read(&self, from: UserAddr, to: &mut [u8]) -> Result<(), MemFault> {
        match self {
            Caller::Here(client) => client.read(from, to),
            Caller::Other(process) => {
                let ours = to.as_mut_ptr() as usize;
                // SAFETY: `to` is ours and exclusively borrowed.
                unsafe { transfer(Way::Read, *process, ours, from, to.len()) }
            }
        }
    }

    /// Copies into the caller's memory. Bytes before a fault are written.
    ///
    /// # Errors
    /// The first byte that could not be written.
    #[inline(always)]
    pub fn write(&self, to: UserAddr, from: &[u8]) -> Result<(), MemFault> {
        match self {
            Caller::Here(client) => client.write(to, from),
            Caller::Other(process) => {
                let ours = from.as_ptr() as usize;
                // SAFETY: `from` is only read.
                unsafe { transfer(Way::Write, *process, ours, to, from.len()) }
            }
        }
    }

    /// Reads one object.
    ///
    /// # Errors
    /// The first byte that could not be read.
    #[inline(always)]
    pub fn read_obj<T: FromBytes>(&self, from: UserAddr) -> Result<T, MemFault> {
        match self {
            Caller::Here(client) => client.read_obj(from),
            Caller::Other(process) => {
                let mut object = T::new_zeroed();
                let ours = &raw mut object as usize;
                // SAFETY: the object is ours, and any bytes make a `T: FromBytes`.
                unsafe { transfer(Way::Read, *process, ours, from, size_of::<T>()) }?;
                Ok(object)
            }
        }
    }

    /// Writes one object.
    ///
    /// # Errors
    /// The first byte that could not be written.
    #[inline(always)]
    pub fn write_obj<T: IntoBytes + Immutable>(
        &self,
        to: UserAddr,
        value: &T,
    ) -> Result<(), MemFault> {
        self.write(to, value.as_bytes())
    }
}

/// Copies `bytes` bytes between `ours` and another process. The kernel stops at a page it cannot reach, so what it
/// copied is exact.
///
/// # Safety
/// `ours` is good for `bytes` bytes, and for writing them when reading from the other process.
#[cold]
unsafe fn transfer(
    way: Way,
    process: NonZeroU32,
    ours: usize,
    theirs: UserAddr,
    bytes: usize,
) -> Result<(), MemFault> {
    let mut done = 0;
    while done < bytes {
        let at = theirs.0.wrapping_add(done as u64);
        let room = ADDRESS_END.saturating_sub(at).min((bytes - done) as u64) as usize;
        // SAFETY: the caller's.
        let moved =
            unsafe { raw::process_vm(matches!(way, Way::Write), process, ours + done, at, room) };
        match moved {
            Ok(moved) if moved > 0 => done += moved,
            _ => {
                return Err(MemFault {
                    done: done as u64,
                    at: UserAddr(at),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mapping, PAGE};

    fn myself() -> Caller {
        // The kernel treats a process's own id as any other.
        Caller::Other(NonZeroU32::new(std::process::id()).expect("an id is not 0"))
    }

    #[test]
    fn what_is_written_to_another_process_is_read_back_from_it() {
        let memory = Mapping::anonymous(PAGE).unwrap();
        let at = UserAddr(memory.base().0 + 5);
        myself().write(at, b"across").unwrap();
        let mut back = [0; 6];
        memory.read(5, &mut back).unwrap();
        assert_eq!(&back, b"across");
        assert_eq!(
            myself()
                .read_obj::<[u8; 6]>(at)
                .map(|got| got == *b"across"),
            Ok(true)
        );
    }

    #[test]
    fn a_copy_stops_at_the_first_page_that_is_not_there() {
        let memory = Mapping::anonymous(2 * PAGE).unwrap();
        // SAFETY: the second page is ours and nothing points into it.
        unsafe {
            let second = (memory.base().0 + PAGE) as *mut _;
            let none = rustix::mm::MprotectFlags::empty();
            rustix::mm::mprotect(second, PAGE as usize, none).unwrap();
        }
        let at = UserAddr(memory.base().0 + PAGE - 3);
        let fault = MemFault {
            done: 3,
            at: UserAddr(memory.base().0 + PAGE),
        };
        assert_eq!(myself().read(at, &mut [0; 8]), Err(fault));
        assert_eq!(myself().write(at, &[0; 8]), Err(fault));
    }

    #[test]
    fn addresses_no_client_has_are_not_touched() {
        for at in [ADDRESS_END, u64::MAX - 3, 0] {
            let fault = myself().read(UserAddr(at), &mut [0; 8]).unwrap_err();
            assert_eq!((fault.done, fault.at), (0, UserAddr(at)));
        }
    }
}
