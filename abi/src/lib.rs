//! The numbers and structs that cross the boundary between a VFIO or iommufd program and the kernel, and the
//! errno values that come back. No logic: a size, an offset and a name are all there is here.
//!
//! Layouts follow Linux 7.2's `include/uapi/linux/vfio.h`; a test compares each of them with the
//! `vfio-bindings` crate, which is generated from the kernel's header.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod plain;

pub mod commands;
mod errno;
pub mod iommufd;
pub mod iommufd_test;
pub mod pci;
pub mod vfio;

pub use errno::Errno;
