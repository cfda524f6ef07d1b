//! The engine driven through its public door, as the preloaded library drives it: what a client sees of groups,
//! containers and devices, what DMA reaches, and what is reported.

#[path = "../support/mod.rs"]
mod support;

mod attributes;
mod both_doors;
mod cdev;
mod change_process;
mod device;
mod feature;
mod fuzz;
mod group_owner;
mod groups;
mod host;
mod hot_reset;
mod ioat;
mod iommufd;
mod iommufd_access;
mod iommufd_args;
mod iommufd_compat;
mod iommufd_dirty;
mod iommufd_fail;
mod iommufd_model;
mod irq;
mod migration;
mod mock;
mod model;
mod model_space;
mod nesting;
mod noiommu;
mod ownership;
mod pins;
mod reports;
mod scatter;
mod space;
mod sriov;
mod stages;
mod stress;
mod vfio_fail;
