//! Migration v2: the features that a variant driver adds, and the descriptor of a transfer.

use std::os::fd::AsFd;
use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::{UserAddr, fd};

use super::argsz::{copy_in, copy_out};
use super::device::DeviceFile;
use super::feature::Ask;
use crate::door::{Answer, Call, File, NewFile};
use crate::iommufd::inject;
use crate::pci::function::Function;

impl DeviceFile {
    /// The device's migration features.
    ///
    /// # Errors
    /// ENOTTY if it has none.
    pub(super) fn migration(&self) -> Result<u64, Errno> {
        match self.function().migration_features() {
            0 => Err(Errno::ENOTTY),
            features => Ok(features),
        }
    }

    pub(super) fn migration_flags(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        let answer = vfio::FeatureMigration {
            flags: self.migration()?,
        };
        if ask.check(vfio::DEVICE_FEATURE_GET, size_of_val(&answer))? {
            copy_out(call, ask.data, &answer, size_of_val(&answer))?;
        }
        Ok(())
    }

    pub(super) fn migration_state(&self, call: &Call<'_>, ask: &Ask) -> Result<Answer, Errno> {
        self.migration()?;
        let bytes = size_of::<vfio::FeatureMigState>();
        if !ask.check(vfio::DEVICE_FEATURE_GET | vfio::DEVICE_FEATURE_SET, bytes)? {
            return Ok(Answer::Value(0));
        }
        let mut state: vfio::FeatureMigState = copy_in(call, ask.data, bytes)?;
        let result = if ask.is_get() {
            state.device_state = self.function().migration_state()?.number();
            Ok(None)
        } else {
            let set = |()| {
                self.function()
                    .set_migration_state(call, state.device_state)
            };
            inject::point().and_then(set)
        };
        let new = match result {
            Ok(Some(transfer)) => Some(NewFile {
                object: fd::object(0)?,
                file: Arc::new(TransferFile {
                    function: self.function().clone(),
                    transfer,
                }),
            }),
            _ => None,
        };
        state.data_fd = match &new {
            Some(new) => call.files.number(new.object.as_fd())?,
            None => -1,
        };
        copy_out(call, ask.data, &state, bytes)?;
        result.map(|_| new.map_or(Answer::Value(0), Answer::Also))
    }

    pub(super) fn migration_data_size(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        self.migration()?;
        let bytes = size_of::<vfio::FeatureMigDataSize>();
        if ask.check(vfio::DEVICE_FEATURE_GET, bytes)? {
            let answer = vfio::FeatureMigDataSize {
                stop_copy_length: self.function().migration_bytes()?,
            };
            copy_out(call, ask.data, &answer, bytes)?;
        }
        Ok(())
    }

    pub(super) fn precopy_info_v2(&self, ask: &Ask) -> Result<(), Errno> {
        if self.function().migration_features() & vfio::MIGRATION_PRE_COPY == 0 {
            return Err(Errno::EINVAL);
        }
        if ask.check(vfio::DEVICE_FEATURE_SET, 0)? {
            self.function().expect_precopy_flags();
        }
        Ok(())
    }
}

/// The open file of a transfer: a stream, which a state is read from or written to.
struct TransferFile {
    function: Arc<Function>,
    transfer: u64,
}

impl File for TransferFile {
    fn link(&self) -> String {
        "anon_inode:swiommu_migration".into()
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        if cmd != vfio::MIG_GET_PRECOPY_INFO {
            return Err(Errno::ENOTTY);
        }
        let minsz = size_of::<vfio::PrecopyInfo>();
        let mut info: vfio::PrecopyInfo = copy_in(call, arg, minsz)?;
        if (info.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        let precopy = self.function.precopy(self.transfer)?;
        if precopy.flags_valid {
            info.flags = 0;
        }
        info.initial_bytes = precopy.initial;
        info.dirty_bytes = precopy.dirty;
        copy_out(call, arg, &info, minsz)?;
        Ok(Answer::Value(0))
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.function.read_transfer(call, self.transfer, to, bytes)
    }

    fn pwrite(&self, call: &Call<'_>, from: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.function
            .write_transfer(call, self.transfer, from, bytes)
    }
}
