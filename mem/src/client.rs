//! [`Client`]: reads, writes and single accesses by client address.
#![allow(unsafe_code)] // calls the faulting moves

use crate::moves::{self, Stop};
use crate::{ADDRESS_END, MemFault, PAGE, UserAddr};
use std::mem::MaybeUninit;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The memory of this very process: the client's that loaded us, and what DMA reaches.
///
/// It is a token: copying it is free, and every access through it compiles to the moves themselves. The arguments of a
/// call may lie in another process ([`Caller`](crate::Caller)); what a device reaches never does, because memory of
/// another process is first shown here ([`Window`](crate::Window)).
#[derive(Clone, Copy, Debug)]
pub struct Client(());

/// How many of `bytes` bytes at `first` lie below the end of client addresses, if not all do.
#[inline(always)]
fn beyond(first: UserAddr, bytes: u64) -> Option<u64> {
    let inside = ADDRESS_END.saturating_sub(first.0);
    (bytes > inside).then_some(inside)
}

impl Client {
    /// The client is this very process.
    ///
    /// # Safety
    /// 1. From now on, whenever a method of this crate runs, SIGSEGV and SIGBUS of the running thread reach a handler
    ///    that calls [`crate::recover`] first ([`crate::install_handlers`] or the preloaded library's), and neither is
    ///    blocked.
    /// 2. Addresses passed to the methods come from the client and are not known to lie in memory that Rust code
    ///    of this process holds references to. A client that aims a device at our heap corrupts its own process, as
    ///    one that writes there by itself does; no Rust code may do so on its behalf.
    pub const unsafe fn local() -> Client {
        Client(())
    }

    /// Copies client memory out, `to.len()` bytes. Bytes before a fault are in `to`.
    #[inline(always)]
    pub fn read(&self, from: UserAddr, to: &mut [u8]) -> Result<(), MemFault> {
        if let Some(inside) = beyond(from, to.len() as u64) {
            let (prefix, _) = to.split_at_mut(inside as usize);
            return self.read_clipped(from, prefix);
        }
        // SAFETY: `local`'s obligations for the client's side; `to` is ours and exclusively borrowed.
        let copied = unsafe { moves::copy(to.as_mut_ptr(), from.0 as *const u8, to.len()) };
        copied.map_err(|stop| stopped(from, to.len(), stop))
    }

    /// Copies into client memory. Bytes before a fault are written.
    #[inline(always)]
    pub fn write(&self, to: UserAddr, from: &[u8]) -> Result<(), MemFault> {
        if let Some(inside) = beyond(to, from.len() as u64) {
            return self.write_clipped(to, &from[..inside as usize]);
        }
        // SAFETY: `local`'s obligations for the client's side; `from` is ours.
        let copied = unsafe { moves::copy(to.0 as *mut u8, from.as_ptr(), from.len()) };
        copied.map_err(|stop| stopped(to, from.len(), stop))
    }

    /// Asks for the first cache lines at an address that is about to be copied to or from, and for its translation. Only a
    /// hint: nothing faults, nothing is touched.
    #[inline(always)]
    pub fn prefetch(&self, at: UserAddr) {
        for line in 0..4 {
            // SAFETY: a prefetch accesses nothing as far as the program can tell, at any address.
            unsafe {
                std::arch::asm!("prefetcht0 [{}]", in(reg) at.0.wrapping_add(64 * line), options(nostack, readonly, preserves_flags));
            }
        }
    }

    /// Copies from client memory to client memory; [`MemFault::at`] tells by address which side failed. Where the
    /// ranges overlap, what arrives in the overlap is unspecified, as with memcpy; nothing outside of them is touched.
    #[inline(always)]
    pub fn copy(&self, to: UserAddr, from: UserAddr, bytes: u64) -> Result<(), MemFault> {
        if beyond(to, bytes).is_some() || beyond(from, bytes).is_some() {
            return self.copy_clipped(to, from, bytes);
        }
        // SAFETY: `local`'s obligations, for both sides.
        let copied = unsafe { moves::copy(to.0 as *mut u8, from.0 as *const u8, bytes as usize) };
        copied.map_err(|stop| MemFault {
            done: bytes - stop.left as u64,
            at: UserAddr(stop.at),
        })
    }

    /// Sets client memory to one byte value. Bytes before a fault are set.
    #[inline(always)]
    pub fn fill(&self, to: UserAddr, byte: u8, bytes: u64) -> Result<(), MemFault> {
        if let Some(inside) = beyond(to, bytes) {
            self.fill(to, byte, inside)?;
            return Err(MemFault {
                done: inside,
                at: UserAddr(to.0 + inside),
            });
        }
        // SAFETY: `local`'s obligations.
        let filled = unsafe { moves::fill(to.0 as *mut u8, byte, bytes as usize) };
        filled.map_err(|stop| stopped(to, bytes as usize, stop))
    }

    /// Reads one object; sizes of 1, 2, 4, 8 and 16 bytes are read by a single move.
    #[inline(always)]
    pub fn read_obj<T: FromBytes>(&self, from: UserAddr) -> Result<T, MemFault> {
        let mut object = MaybeUninit::<T>::uninit();
        if beyond(from, size_of::<T>() as u64).is_some() {
            return Err(MemFault { done: 0, at: from });
        }
        // SAFETY: `local`'s obligations for the client's side; `object` is ours and as large as the copy.
        let copied = unsafe {
            moves::copy(
                object.as_mut_ptr().cast(),
                from.0 as *const u8,
                size_of::<T>(),
            )
        };
        match copied {
            // SAFETY: every byte was written, and any bytes make a `T: FromBytes`.
            Ok(()) => Ok(unsafe { object.assume_init() }),
            Err(stop) => Err(stopped(from, size_of::<T>(), stop)),
        }
    }

    /// Writes one object; sizes of 1, 2, 4, 8 and 16 bytes are written by a single move.
    #[inline(always)]
    pub fn write_obj<T: IntoBytes + Immutable>(
        &self,
        to: UserAddr,
        value: &T,
    ) -> Result<(), MemFault> {
        self.write(to, value.as_bytes())
    }

    /// A single load of 1, 2, 4 or 8 bytes with Acquire ordering, atomic if naturally aligned.
    ///
    /// # Panics
    /// On any other size.
    #[inline(always)]
    pub fn load(&self, from: UserAddr, bytes: u8) -> Result<u64, MemFault> {
        let fault = MemFault { done: 0, at: from };
        if beyond(from, u64::from(bytes)).is_some() {
            return Err(fault);
        }
        // SAFETY: `local`'s obligations.
        let value = unsafe {
            match bytes {
                1 => moves::load_1(from.0).map(u64::from),
                2 => moves::load_2(from.0).map(u64::from),
                4 => moves::load_4(from.0).map(u64::from),
                8 => moves::load_8(from.0),
                _ => panic!("a load of {bytes} bytes"),
            }
        };
        value.ok_or(fault)
    }

    /// A single store of the low 1, 2, 4 or 8 bytes with Release ordering, atomic if naturally aligned.
    ///
    /// # Panics
    /// On any other size.
    #[inline(always)]
    pub fn store(&self, to: UserAddr, bytes: u8, value: u64) -> Result<(), MemFault> {
        let fault = MemFault { done: 0, at: to };
        if beyond(to, u64::from(bytes)).is_some() {
            return Err(fault);
        }
        // SAFETY: `local`'s obligations.
        let stored = unsafe {
            match bytes {
                1 => moves::store_1(to.0, value as u8),
                2 => moves::store_2(to.0, value as u16),
                4 => moves::store_4(to.0, value as u32),
                8 => moves::store_8(to.0, value),
                _ => panic!("a store of {bytes} bytes"),
            }
        };
        stored.ok_or(fault)
    }

    /// A sequentially consistent compare and swap of 1, 2, 4 or 8 bytes: the value found; `new` was stored if that
    /// equals `old` (in its low bytes).
    ///
    /// # Panics
    /// On any other size.
    #[inline(always)]
    pub fn compare_exchange(
        &self,
        at: UserAddr,
        bytes: u8,
        old: u64,
        new: u64,
    ) -> Result<u64, MemFault> {
        let fault = MemFault { done: 0, at };
        if beyond(at, u64::from(bytes)).is_some() {
            return Err(fault);
        }
        // SAFETY: `local`'s obligations.
        let found = unsafe {
            match bytes {
                1 => moves::swap_1(at.0, old as u8, new as u8).map(u64::from),
                2 => moves::swap_2(at.0, old as u16, new as u16).map(u64::from),
                4 => moves::swap_4(at.0, old as u32, new as u32).map(u64::from),
                8 => moves::swap_8(at.0, old, new),
                _ => panic!("a compare and swap of {bytes} bytes"),
            }
        };
        found.ok_or(fault)
    }

    /// Proves that a store to every page that `bytes` bytes (not 0) at `first` touch would succeed, and changes none.
    pub fn touch(&self, first: UserAddr, bytes: u64) -> Result<(), MemFault> {
        let base = first.0 & !(PAGE - 1);
        let pages = || (base..first.0.saturating_add(bytes)).step_by(PAGE as usize);
        for page in pages() {
            // SAFETY: a hint, which does nothing about memory that does not exist; every x86-64 processor has it.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(
                    page as *const i8,
                )
            };
        }
        for page in pages() {
            // Stores what is there, whatever it is.
            self.compare_exchange(UserAddr(page), 8, 0, 0)?;
        }
        Ok(())
    }

    #[cold]
    fn read_clipped(&self, from: UserAddr, prefix: &mut [u8]) -> Result<(), MemFault> {
        self.read(from, prefix)?;
        let done = prefix.len() as u64;
        Err(MemFault {
            done,
            at: UserAddr(from.0 + done),
        })
    }

    #[cold]
    fn write_clipped(&self, to: UserAddr, prefix: &[u8]) -> Result<(), MemFault> {
        self.write(to, prefix)?;
        let done = prefix.len() as u64;
        Err(MemFault {
            done,
            at: UserAddr(to.0 + done),
        })
    }

    #[cold]
    fn copy_clipped(&self, to: UserAddr, from: UserAddr, bytes: u64) -> Result<(), MemFault> {
        let room = |a: UserAddr| beyond(a, bytes).unwrap_or(bytes);
        let (source, sink) = (room(from), room(to));
        let done = source.min(sink);
        self.copy(to, from, done)?;
        let at = if source == done { from } else { to };
        Err(MemFault {
            done,
            at: UserAddr(at.0 + done),
        })
    }
}

/// The fault of a copy with one client side: the first byte that was not moved.
#[cold]
fn stopped(first: UserAddr, bytes: usize, stop: Stop) -> MemFault {
    let done = (bytes - stop.left) as u64;
    MemFault {
        done,
        at: UserAddr(first.0 + done),
    }
}
