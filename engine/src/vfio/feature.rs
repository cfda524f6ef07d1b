//! VFIO_DEVICE_FEATURE: what is checked for every feature, and who answers each (`vfio_ioctl_device_feature` and
//! `vfio_pci_core_ioctl_feature`). Those that a variant driver brings are in `migration` and `dma_logging`.

use swiommu_abi::{Errno, vfio};
use swiommu_mem::fd::EventFd;

use super::argsz::copy_in;
use super::device::DeviceFile;
use super::vf_token::{self, Token};
use crate::door::{Answer, Call};

/// What the client asks of a feature.
pub(super) struct Ask {
    index: u32,
    flags: u32,
    /// Client address of the feature's data, and how many bytes the client says there are.
    pub data: u64,
    room: usize,
}

impl Ask {
    fn copy_in(call: &Call<'_>, arg: u64) -> Result<Ask, Errno> {
        let minsz = size_of::<vfio::DeviceFeature>();
        let feature: vfio::DeviceFeature = copy_in(call, arg, minsz)?;
        let (get, set, probe) = (
            vfio::DEVICE_FEATURE_GET,
            vfio::DEVICE_FEATURE_SET,
            vfio::DEVICE_FEATURE_PROBE,
        );
        if (feature.argsz as usize) < minsz
            || feature.flags & !(vfio::DEVICE_FEATURE_MASK | get | set | probe) != 0
            || (feature.flags & probe == 0 && feature.flags & (get | set) == get | set)
        {
            return Err(Errno::EINVAL);
        }
        Ok(Ask {
            index: feature.flags & vfio::DEVICE_FEATURE_MASK,
            flags: feature.flags,
            data: arg + minsz as u64,
            room: feature.argsz as usize - minsz,
        })
    }

    /// Checks that the feature has the ways asked for, `DEVICE_FEATURE_GET` and `DEVICE_FEATURE_SET`, and that there are
    /// `bytes` bytes of data. `false`: it was only a probe.
    ///
    /// # Errors
    /// EINVAL.
    pub fn check(&self, ways: u32, bytes: usize) -> Result<bool, Errno> {
        let asked = self.flags & (vfio::DEVICE_FEATURE_GET | vfio::DEVICE_FEATURE_SET);
        if asked & !ways != 0 {
            return Err(Errno::EINVAL);
        }
        if self.flags & vfio::DEVICE_FEATURE_PROBE != 0 {
            return Ok(false);
        }
        if asked == 0 || self.room < bytes {
            return Err(Errno::EINVAL);
        }
        Ok(true)
    }

    /// GET, not SET.
    pub fn is_get(&self) -> bool {
        self.flags & vfio::DEVICE_FEATURE_GET != 0
    }
}

impl DeviceFile {
    pub(super) fn feature(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let ask = Ask::copy_in(call, arg)?;
        match ask.index {
            vfio::DEVICE_FEATURE_MIGRATION => self.migration_flags(call, &ask),
            vfio::DEVICE_FEATURE_MIG_DEVICE_STATE => return self.migration_state(call, &ask),
            vfio::DEVICE_FEATURE_DMA_LOGGING_START => self.logging_start(call, &ask),
            vfio::DEVICE_FEATURE_DMA_LOGGING_STOP => self.logging_stop(&ask),
            vfio::DEVICE_FEATURE_DMA_LOGGING_REPORT => self.logging_report(call, &ask),
            vfio::DEVICE_FEATURE_MIG_DATA_SIZE => self.migration_data_size(call, &ask),
            vfio::DEVICE_FEATURE_PCI_VF_TOKEN if self.function().config().total_vfs() > 0 => {
                self.set_vf_token(call, &ask)
            }
            vfio::DEVICE_FEATURE_LOW_POWER_ENTRY => self.low_power_entry(&ask),
            vfio::DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP => {
                self.low_power_entry_with_wakeup(call, &ask)
            }
            vfio::DEVICE_FEATURE_LOW_POWER_EXIT => self.low_power_exit(&ask),
            vfio::DEVICE_FEATURE_DMA_BUF => return self.export_dma_buf(call, &ask),
            vfio::DEVICE_FEATURE_MIG_PRECOPY_INFOV2 => self.precopy_info_v2(&ask),
            _ => Err(Errno::ENOTTY),
        }
        .map(|()| Answer::Value(0))
    }

    fn set_vf_token(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        if !ask.check(vfio::DEVICE_FEATURE_SET, size_of::<Token>())? {
            return Ok(());
        }
        let token: Token = copy_in(call, ask.data, size_of::<Token>())?;
        vf_token::set(self.run(), self.function().bdf(), &token)
    }

    fn low_power_entry(&self, ask: &Ask) -> Result<(), Errno> {
        if ask.check(vfio::DEVICE_FEATURE_SET, 0)? {
            self.function().enter_low_power(None)?;
        }
        Ok(())
    }

    fn low_power_entry_with_wakeup(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        let bytes = size_of::<vfio::LowPowerEntryWithWakeup>();
        if !ask.check(vfio::DEVICE_FEATURE_SET, bytes)? {
            return Ok(());
        }
        let entry: vfio::LowPowerEntryWithWakeup = copy_in(call, ask.data, bytes)?;
        if entry.wakeup_eventfd < 0 {
            return Err(Errno::EINVAL);
        }
        let wake = EventFd::of_client(entry.wakeup_eventfd)?;
        self.function().enter_low_power(Some(wake))
    }

    fn low_power_exit(&self, ask: &Ask) -> Result<(), Errno> {
        if ask.check(vfio::DEVICE_FEATURE_SET, 0)? {
            self.function().leave_low_power();
        }
        Ok(())
    }
}
