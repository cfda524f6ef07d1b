//! Groups.

plain! {
    /// `struct vfio_group_status`
    pub struct GroupStatus {
        /// Size of the caller's struct.
        argsz: u32,
        /// `GROUP_FLAGS_*`
        flags: u32,
    }
}
/// All devices of the group are bound to a VFIO driver or to none.
pub const GROUP_FLAGS_VIABLE: u32 = 1;
/// The group belongs to a container.
pub const GROUP_FLAGS_CONTAINER_SET: u32 = 2;
