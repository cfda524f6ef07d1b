//! The numbers and structs that cross the boundary between a VFIO program and the kernel, and the
//! errno values that come back. No logic: a size, an offset and a name are all there is here.
//!
//! Layouts follow Linux 7.2's `include/uapi/linux/vfio.h`; a test compares each of them with the
//! `vfio-bindings` crate, which is generated from the kernel's header.
#![no_std]
#![forbid(unsafe_code)]

mod errno;
pub mod pci;
pub mod vfio;

pub use errno::Errno;
