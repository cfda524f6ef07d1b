//! The size rule of VFIO's structs.
//!
//! Every struct begins with `argsz`, the size of the caller's buffer. A command names the smallest prefix it needs
//! (`minsz`, up to the last field that every version had): less is EINVAL, more is fine. The prefix is copied in once;
//! the answer is clipped to `argsz`. Capabilities follow the struct when they fit; when not, `argsz` tells how much is needed.

use swiommu_abi::{Errno, vfio::InfoCapHeader};
use swiommu_mem::UserAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::door::Call;
use crate::iommufd::inject;

/// Copies the first `minsz` bytes of a `T` in; the rest is zero.
///
/// # Errors
/// EFAULT.
pub fn copy_in<T>(call: &Call<'_>, arg: u64, minsz: usize) -> Result<T, Errno>
where
    T: FromBytes + IntoBytes + Default,
{
    let mut value = T::default();
    let bytes = &mut value.as_mut_bytes()[..minsz];
    call.client
        .read(UserAddr(arg), bytes)
        .map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// Copies the first `bytes` bytes of the answer out.
///
/// # Errors
/// EFAULT.
pub fn copy_out<T: IntoBytes + Immutable>(
    call: &Call<'_>,
    arg: u64,
    value: &T,
    bytes: usize,
) -> Result<(), Errno> {
    let all = value.as_bytes();
    call.client
        .write(UserAddr(arg), &all[..bytes.min(all.len())])
        .map_err(|_| Errno::EFAULT)
}

/// Bytes up to and including a field: `offsetofend(struct, field)`.
macro_rules! through {
    ($ty:ty, $field:ident) => {{
        let size = {
            fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> usize {
                size_of::<F>()
            }
            size_of_field::<$ty, _>(|value| &value.$field)
        };
        std::mem::offset_of!($ty, $field) + size
    }};
}
pub(crate) use through;

/// A capability chain under construction.
#[derive(Debug, Default)]
pub struct Chain {
    bytes: Vec<u8>,
    last: Option<usize>,
}

impl Chain {
    /// Appends a capability: header, then `body`. Each begins at a multiple of 8.
    pub fn add(&mut self, id: u16, version: u16, body: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.bytes.len();
        if let Some(last) = self.last.replace(at) {
            self.header(last, |header| header.next = at as u32);
        }
        self.bytes.extend_from_slice(
            InfoCapHeader {
                id,
                version,
                next: 0,
            }
            .as_bytes(),
        );
        self.bytes.extend_from_slice(body);
    }

    /// Whether there is no capability.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn header(&mut self, at: usize, change: impl FnOnce(&mut InfoCapHeader)) {
        let slot = &mut self.bytes[at..at + size_of::<InfoCapHeader>()];
        let mut header =
            InfoCapHeader::read_from_bytes(slot).expect("the slot has a header's size");
        change(&mut header);
        slot.copy_from_slice(header.as_bytes());
    }

    /// Writes the chain behind a struct of `head` bytes if `argsz` leaves room.
    /// Returns `(argsz, cap_offset)` to answer with: the size needed and 0 when it did not fit.
    ///
    /// # Errors
    /// EFAULT; ENOMEM by fault injection.
    pub fn place(
        mut self,
        call: &Call<'_>,
        arg: u64,
        head: usize,
        argsz: u32,
    ) -> Result<(u32, u32), Errno> {
        inject::point()?;
        let needed = head + self.bytes.len();
        if (argsz as usize) < needed {
            return Ok((needed as u32, 0));
        }
        let mut at = Some(0);
        while let Some(offset) = at {
            let mut next = 0;
            self.header(offset, |header| {
                next = header.next;
                if next != 0 {
                    header.next += head as u32;
                }
            });
            at = (next != 0).then_some(next as usize);
        }
        call.client
            .write(UserAddr(arg + head as u64), &self.bytes)
            .map_err(|_| Errno::EFAULT)?;
        Ok((argsz, head as u32))
    }
}
