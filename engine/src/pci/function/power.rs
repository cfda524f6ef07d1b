//! Low power (`vfio_pci_core_pm_entry` and what follows it): a function that may sleep does so at once, and any call on
//! its file wakes it for as long as the call takes.

use std::sync::atomic::Ordering;

use swiommu_abi::Errno;
use swiommu_mem::fd::EventFd;

use super::Function;

/// Whether the client lets the function sleep.
#[derive(Debug, Default)]
pub(super) enum Power {
    /// No.
    #[default]
    On,
    /// Yes. With an eventfd only until the next call, which signals it.
    Low(Option<EventFd>),
}

impl Power {
    /// Mapped registers do not answer.
    pub fn is_low(&self) -> bool {
        matches!(self, Power::Low(_))
    }
}

impl Function {
    /// Lets the function sleep.
    ///
    /// # Errors
    /// EINVAL if it may already, ENODEV if nobody has it open.
    pub fn enter_low_power(&self, wake: Option<EventFd>) -> Result<(), Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        open.exports.revoke();
        if open.power.is_low() {
            return Err(Errno::EINVAL);
        }
        self.wakes.store(wake.is_some(), Ordering::Relaxed);
        open.power = Power::Low(wake);
        Ok(())
    }

    /// The function may sleep no more.
    pub fn leave_low_power(&self) {
        if let Some(open) = &mut self.live().open {
            open.power = Power::On;
            open.settle_exports();
        }
    }

    /// A call on the function's file begins: a sleeper that tells of it wakes for good.
    #[inline]
    pub fn wake(&self) {
        if self.wakes.load(Ordering::Relaxed) {
            self.wake_now();
        }
    }

    #[cold]
    fn wake_now(&self) {
        let mut live = self.live();
        self.wakes.store(false, Ordering::Relaxed);
        if let Some(open) = &mut live.open
            && let Power::Low(Some(wake)) = &open.power
        {
            wake.signal();
            open.power = Power::On;
        }
    }
}
