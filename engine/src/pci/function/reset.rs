//! Function level reset, by the client or by somebody who writes to the `reset` attribute.

use std::sync::Arc;

use swiommu_abi::Errno;

use super::{Function, Live, Open};
use crate::hostdrv::reset::Resets;
use crate::run::Run;

/// The resets that sysfs asked for, as far as they were made.
pub(super) struct BySysfs {
    resets: Arc<Resets>,
    made: u32,
}

impl Function {
    /// The resets by sysfs of a function that can be reset. `None`: it cannot, or all ways to do it are switched off.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub(super) fn resets(&self, run: &Run) -> Result<Option<BySysfs>, Errno> {
        if !self.identity().express || !run.host()?.can_reset(self.index) {
            return Ok(None);
        }
        let resets = run.resets()?;
        let made = resets.of_device(self.index);
        Ok(Some(BySysfs { resets, made }))
    }

    /// Whether its client can reset it. That was decided when it was opened.
    pub fn can_reset(&self) -> bool {
        let live = self.live();
        live.open
            .as_ref()
            .is_some_and(|open| open.by_sysfs.is_some())
    }

    /// Function level reset.
    pub fn reset(&self) {
        if let Some(open) = &mut self.live().open {
            open.reset();
        }
    }
}

impl Live {
    /// Makes the reset that sysfs asked for since the last look.
    pub(super) fn catch_up(&mut self, index: usize) {
        let Some(open) = &mut self.open else { return };
        let Some(by_sysfs) = &mut open.by_sysfs else {
            return;
        };
        let asked = by_sysfs.resets.of_device(index);
        if by_sysfs.made != asked {
            by_sysfs.made = asked;
            open.reset();
        }
    }
}

impl Open {
    /// The kernel saves configuration space before a reset and restores it after.
    pub(super) fn reset(&mut self) {
        self.exports.revoke();
        self.migration.reset();
        self.wires.reset_msix_table();
        self.model.reset(&mut self.wires);
        self.settle_exports();
    }
}
