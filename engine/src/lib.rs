//! VFIO containers, groups and devices over software IOMMUs and PCI device models.
//!
//! The engine lives in the process that opened the files ([`open_run`]): an ioctl is a function call, a DMA is a copy.
//! It sees client memory only through a [`Client`](swiommu_mem::Client) handle.
#![forbid(unsafe_code)]

pub mod accounted;
pub mod argsz;
pub mod calls;
pub mod device;
pub mod door;
pub mod hostdrv;
pub mod iommufd;
pub mod machine;
pub mod mock;
pub mod pci;
pub mod report;
pub mod run;
pub mod service;
pub mod vfio;

pub use run::open_run;
