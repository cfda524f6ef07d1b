//! Address spaces and what they pin: the objects behind every door.
//!
//! VFIO containers are clients of these objects, never the reverse. Lock order, over the whole engine:
//!
//! ```text
//! group -> function -> container (with its address space) -> pins -> a domain's writer lock
//! ```
//!
//! A function comes before the container because the report of a blocked DMA looks into the address space. A DMA holds
//! the lock of its function and a session of its port; it gives the session back before it takes any other lock, so
//! that an unmap which waits for sessions never waits for a lock holder.

pub mod account;
pub mod attach;
pub mod change_process;
pub mod compat;
pub mod context;
pub mod device;
pub mod dirty;
pub mod event;
pub mod fault;
pub mod file;
mod file_pages;
pub mod hw_info;
pub mod hw_queue;
pub mod hwpt;
pub mod inject;
pub mod ioas;
pub mod ioas_commands;
pub mod nested;
pub mod nesting;
pub mod object;
pub mod option;
mod other_pages;
pub mod pages;
pub mod pin_counts;
pub mod pins;
pub mod place;
pub mod regions;
pub mod shared_pages;
pub mod space;
pub mod table;
pub mod vdevice;
pub mod veventq;
pub mod viommu;
mod warm;

pub use ioas::{Area, Ioas, MapError, Space};
pub use pins::Pins;
