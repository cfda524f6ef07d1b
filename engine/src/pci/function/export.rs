//! Parts of a BAR that the client took out as dma-bufs (`drivers/vfio/pci/vfio_pci_dmabuf.c`).
//!
//! They are revoked while memory decoding is off and during a reset, from the entry to low power until its end (or
//! until a reset, or until memory decoding is turned on), and for good once the function's last file is closed.

use std::sync::{Arc, Mutex, Weak};

use swiommu_abi::Errno;
use swiommu_iommu::Pa;

use super::{Function, Open};
use crate::iommufd::place;
use crate::pci::Bar;

/// A part of a BAR, as offset and bytes, multiples of 4096.
pub type Piece = (u64, u64);

/// The memory behind a dma-buf.
#[derive(Debug)]
pub struct Export {
    /// Where its pieces are for DMA.
    pieces: Vec<(Pa, u64)>,
    /// Its size.
    bytes: u64,
    revoked: Mutex<bool>,
}

impl Export {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The one piece that it is, for an IOMMU.
    ///
    /// # Errors
    /// ENODEV while it is revoked, EOPNOTSUPP if there are several.
    pub fn whole(&self) -> Result<Pa, Errno> {
        if *self.revoked.lock().unwrap() {
            return Err(Errno::ENODEV);
        }
        match self.pieces[..] {
            [(pa, _)] => Ok(pa),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn set_revoked(&self, revoked: bool) {
        *self.revoked.lock().unwrap() = revoked;
    }
}

/// All dma-bufs of a function that still have a descriptor.
#[derive(Debug, Default)]
pub(super) struct Exports(Vec<Weak<Export>>);

impl Exports {
    fn each(&mut self, visit: impl Fn(&Export)) {
        self.0.retain(|export| export.strong_count() > 0);
        self.0
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|export| visit(&export));
    }

    /// Nobody reaches the memory any more.
    pub fn revoke(&mut self) {
        self.each(|export| export.set_revoked(true));
    }

    /// The memory can be reached again.
    pub fn restore(&mut self) {
        self.each(|export| export.set_revoked(false));
    }
}

impl Open {
    /// Revokes or restores the dma-bufs, as memory decoding is now.
    pub(super) fn settle_exports(&mut self) {
        if self.wires.config.memory() {
            self.exports.restore();
        } else {
            self.exports.revoke();
        }
    }
}

impl Function {
    /// A dma-buf of parts of a BAR.
    ///
    /// # Errors
    /// As the kernel: EINVAL for parts that are not whole pages of the BAR or a BAR of I/O ports, EOVERFLOW.
    pub fn export(&self, bar: u8, parts: &[Piece]) -> Result<Arc<Export>, Errno> {
        let bytes = total(parts)?;
        let Bar::Memory { bytes: size, .. } = self.identity().bars[usize::from(bar)] else {
            return Err(Errno::EINVAL);
        };
        let base = self.bases.get().map_or(0, |bases| bases[usize::from(bar)]);
        for (offset, bytes) in parts {
            let end = base
                .checked_add(*offset)
                .and_then(|first| first.checked_add(*bytes))
                .ok_or(Errno::EOVERFLOW)?;
            if end > base + size {
                return Err(Errno::EINVAL);
            }
        }
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let at = |(offset, bytes): &Piece| (place::region(self.index, bar, *offset), *bytes);
        let export = Arc::new(Export {
            pieces: parts.iter().map(at).collect(),
            bytes,
            revoked: Mutex::new(!open.wires.config.memory()),
        });
        open.exports.0.push(Arc::downgrade(&export));
        Ok(export)
    }
}

/// `validate_dmabuf_input`: whole pages, and a sum that fits 63 bits.
fn total(parts: &[Piece]) -> Result<u64, Errno> {
    let mut total = 0u64;
    for (offset, bytes) in parts {
        if *bytes == 0 || (offset | bytes) % 4096 != 0 {
            return Err(Errno::EINVAL);
        }
        total = total.checked_add(*bytes).ok_or(Errno::EINVAL)?;
    }
    if total >> 63 != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(total)
}
