//! Interrupts of devices.

plain! {
    /// `struct vfio_irq_info`
    pub struct IrqInfo {
        /// Size of the caller's struct.
        argsz: u32,
        /// `IRQ_INFO_*`
        flags: u32,
        /// Which interrupt index; in.
        index: u32,
        /// How many vectors the index has.
        count: u32,
    }
}
/// The index can signal an eventfd.
pub const IRQ_INFO_EVENTFD: u32 = 1;
/// The index can be masked and unmasked.
pub const IRQ_INFO_MASKABLE: u32 = 2;
/// The index masks itself when it fires.
pub const IRQ_INFO_AUTOMASKED: u32 = 4;
/// The number of vectors is fixed while the index is enabled.
pub const IRQ_INFO_NORESIZE: u32 = 8;
/// `VFIO_PCI_INTX_IRQ_INDEX`
pub const PCI_INTX_IRQ_INDEX: u32 = 0;
/// `VFIO_PCI_MSI_IRQ_INDEX`
pub const PCI_MSI_IRQ_INDEX: u32 = 1;
/// `VFIO_PCI_MSIX_IRQ_INDEX`
pub const PCI_MSIX_IRQ_INDEX: u32 = 2;
/// `VFIO_PCI_ERR_IRQ_INDEX`
pub const PCI_ERR_IRQ_INDEX: u32 = 3;
/// `VFIO_PCI_REQ_IRQ_INDEX`
pub const PCI_REQ_IRQ_INDEX: u32 = 4;
/// `VFIO_PCI_NUM_IRQS`
pub const PCI_NUM_IRQS: u32 = 5;

plain! {
    /// `struct vfio_irq_set`, without its data.
    pub struct IrqSet {
        /// Size of the caller's struct, data included.
        argsz: u32,
        /// One data flag and one action flag.
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// How many vectors.
        count: u32,
    }
}
/// No data follows.
pub const IRQ_SET_DATA_NONE: u32 = 1;
/// One byte per vector follows.
pub const IRQ_SET_DATA_BOOL: u32 = 2;
/// One `s32` eventfd per vector follows; -1 takes it away.
pub const IRQ_SET_DATA_EVENTFD: u32 = 4;
/// Mask.
pub const IRQ_SET_ACTION_MASK: u32 = 8;
/// Unmask.
pub const IRQ_SET_ACTION_UNMASK: u32 = 16;
/// Set up signalling, or fire.
pub const IRQ_SET_ACTION_TRIGGER: u32 = 32;
/// All data flags.
pub const IRQ_SET_DATA_TYPE_MASK: u32 = 7;
/// All action flags.
pub const IRQ_SET_ACTION_TYPE_MASK: u32 = 56;
