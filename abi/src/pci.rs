//! PCI and PCI Express configuration space: offsets and bits (PCI Local Bus 3.0 section 6.1, PCIe 5.0 chapter 7).

/// Vendor ID, 16 bits.
pub const VENDOR_ID: usize = 0x00;
/// Device ID, 16 bits.
pub const DEVICE_ID: usize = 0x02;
/// Command register, 16 bits.
pub const COMMAND: usize = 0x04;
/// I/O space decoding.
pub const COMMAND_IO: u16 = 0x1;
/// Memory space decoding.
pub const COMMAND_MEMORY: u16 = 0x2;
/// Bus master: the device may issue DMA and MSI.
pub const COMMAND_MASTER: u16 = 0x4;
/// INTx disabled.
pub const COMMAND_INTX_DISABLE: u16 = 0x400;
/// Status register, 16 bits.
pub const STATUS: usize = 0x06;
/// INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 0x08;
/// There is a capability list.
pub const STATUS_CAP_LIST: u16 = 0x10;
/// Revision ID, 8 bits, then the 24 bits of the class code.
pub const CLASS_REVISION: usize = 0x08;
/// Header type, 8 bits; bit 7 = multi-function.
pub const HEADER_TYPE: usize = 0x0e;
/// First of six base address registers.
pub const BASE_ADDRESS_0: usize = 0x10;
/// Subsystem vendor ID.
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
/// Subsystem ID.
pub const SUBSYSTEM_ID: usize = 0x2e;
/// Expansion ROM base.
pub const ROM_ADDRESS: usize = 0x30;
/// Offset of the first capability.
pub const CAPABILITY_LIST: usize = 0x34;
/// Interrupt line, 8 bits.
pub const INTERRUPT_LINE: usize = 0x3c;
/// Interrupt pin, 8 bits; 1 = INTA.
pub const INTERRUPT_PIN: usize = 0x3d;
/// Conventional configuration space, bytes.
pub const CFG_SPACE_SIZE: usize = 256;
/// PCI Express configuration space, bytes.
pub const CFG_SPACE_EXP_SIZE: usize = 4096;

/// Single Root I/O Virtualization extended capability, and its bytes.
pub const EXT_CAP_ID_SRIOV: u16 = 0x10;
/// See above.
pub const EXT_CAP_SRIOV_SIZE: usize = 0x40;

/// Power management capability.
pub const CAP_ID_PM: u8 = 0x01;
/// MSI capability.
pub const CAP_ID_MSI: u8 = 0x05;
/// PCI Express capability.
pub const CAP_ID_EXP: u8 = 0x10;
/// MSI-X capability.
pub const CAP_ID_MSIX: u8 = 0x11;
