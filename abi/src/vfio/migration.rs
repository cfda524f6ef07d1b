//! Migration of devices: features, and the descriptor of a transfer.

plain! {
    /// `struct vfio_device_feature_migration`
    pub struct FeatureMigration {
        /// `MIGRATION_*`
        flags: u64,
    }
}
/// STOP, STOP_COPY and RESUMING exist.
pub const MIGRATION_STOP_COPY: u64 = 1;
/// RUNNING_P2P exists.
pub const MIGRATION_P2P: u64 = 2;
/// PRE_COPY exists.
pub const MIGRATION_PRE_COPY: u64 = 4;

plain! {
    /// `struct vfio_device_feature_mig_state`
    pub struct FeatureMigState {
        /// `DEVICE_STATE_*`
        device_state: u32,
        /// The descriptor of a new transfer, else -1.
        data_fd: i32,
    }
}
/// The device must be reset.
pub const DEVICE_STATE_ERROR: u32 = 0;
/// The device does nothing.
pub const DEVICE_STATE_STOP: u32 = 1;
/// The device works.
pub const DEVICE_STATE_RUNNING: u32 = 2;
/// STOP, and the state can be read.
pub const DEVICE_STATE_STOP_COPY: u32 = 3;
/// STOP, and a state can be written.
pub const DEVICE_STATE_RESUMING: u32 = 4;
/// RUNNING without DMA to other devices.
pub const DEVICE_STATE_RUNNING_P2P: u32 = 5;
/// RUNNING, and the state can be read as far as it is.
pub const DEVICE_STATE_PRE_COPY: u32 = 6;
/// RUNNING_P2P, and the state can be read as far as it is.
pub const DEVICE_STATE_PRE_COPY_P2P: u32 = 7;

plain! {
    /// `struct vfio_device_feature_mig_data_size`
    pub struct FeatureMigDataSize {
        /// Bytes, an estimate.
        stop_copy_length: u64,
    }
}

plain! {
    /// `struct vfio_precopy_info`
    pub struct PrecopyInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `PRECOPY_INFO_*`
        flags: u32,
        /// Bytes not yet read of the first state.
        initial_bytes: u64,
        /// Bytes not yet read of what changed since.
        dirty_bytes: u64,
    }
}
/// There is a new first state.
pub const PRECOPY_INFO_REINIT: u32 = 1;
