//! Parts of a BAR that the client took out as dma-bufs (`drivers/vfio/pci/vfio_pci_dmabuf.c`).
//!
//! They are revoked while memory decoding is off and during a reset, from the entry to low power until its end (or
//! until a reset, or until memory decoding is turned on), and for good once the function's last file is closed.

use std::sync::{Arc, Mutex, Weak};

use swiommu_abi::Errno;
use swiommu_iommu::Pa;

use super::{Function, Open};
use crate::iommufd::pages::{DmaBuf, Revoked};
use crate::iommufd::place;
use crate::pci::Bar;

/// A part of a BAR, as offset and bytes, multiples of 4096.
pub type Piece = (u64, u64);

/// The memory behind a dma-buf.
pub struct Export {
    /// Where its pieces are for DMA.
    pieces: Vec<(Pa, u64)>,
    /// Its size.
    bytes: u64,
    state: Mutex<Access>,
}

/// Who may reach it, and who does.
#[derive(Default)]
struct Access {
    revoked: bool,
    importers: Vec<Arc<dyn Revoked>>,
}

impl Export {
    /// Lets nobody reach it any more: on return no device does.
    fn revoke(&self) {
        let importers = {
            let mut state = self.state.lock().unwrap();
            state.revoked = true;
            std::mem::take(&mut state.importers)
        };
        for importer in importers {
            importer.revoke();
        }
    }

    /// It can be mapped again.
    fn restore(&self) {
        self.state.lock().unwrap().revoked = false;
    }
}

impl DmaBuf for Export {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn attach(&self, importer: Arc<dyn Revoked>) -> Result<Pa, Errno> {
        let mut state = self.state.lock().unwrap();
        if state.revoked {
            return Err(Errno::ENODEV);
        }
        let [(first, _)] = self.pieces[..] else {
            return Err(Errno::EOPNOTSUPP);
        };
        state.importers.push(importer);
        Ok(first)
    }

    fn detach(&self, importer: &Arc<dyn Revoked>) {
        let mut state = self.state.lock().unwrap();
        let other = |held: &Arc<dyn Revoked>| !Arc::ptr_eq(held, importer);
        state.importers.retain(other);
    }
}

/// All dma-bufs of a function that still have a descriptor.
#[derive(Default)]
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
        self.each(Export::revoke);
    }

    /// The memory can be reached again.
    pub fn restore(&mut self) {
        self.each(Export::restore);
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
            state: Mutex::new(Access {
                revoked: !open.wires.config.memory(),
                importers: Vec::new(),
            }),
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
