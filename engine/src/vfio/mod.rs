//! VFIO as programs see it: containers, groups, devices, their regions and interrupts.

pub(crate) use crate::argsz;

pub mod bound;
pub mod cdev;
pub mod container;
pub mod device;
pub mod dirty;
pub mod dma_buf;
mod dma_logging;
mod feature;
pub mod group;
pub mod hot_reset;
mod migration;
pub mod noiommu;
pub mod owner;
pub mod type1;
pub mod vf_token;
