//! Resets that sysfs asks for (`reset_store`, `reset_method_store`).
//!
//! The process that writes has no engine, and the one that has the device open need not listen. So a reset is a count
//! of the device's in `RUN/resets`, which an engine looks at before each use of a device it has open: whoever could see
//! that the reset was not made yet is who makes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use swiommu_abi::Errno;
use swiommu_mem::Mapping;

use super::{Host, damaged, line};

/// The file of the counts in the run's directory: 32 bits a device, in the machine's order.
const FILE: &str = "resets";
const WIDTH: u64 = size_of::<u32>() as u64;

/// The way in which devices that have one are reset: function level reset.
const METHOD: &str = "flr";

/// Makes the file of the counts.
///
/// # Errors
/// What making it gave.
pub fn create(run: &Path, devices: usize) -> io::Result<()> {
    File::create_new(run.join(FILE))?.set_len(devices as u64 * WIDTH)
}

/// How often each device of the run was reset by sysfs.
#[derive(Debug)]
pub struct Resets(Mapping);

impl Resets {
    /// Those of the run in this directory.
    ///
    /// # Errors
    /// EIO when the directory is gone; what mapping the file gave.
    pub fn of(run: &Path) -> Result<Resets, Errno> {
        let file = File::open(run.join(FILE)).map_err(damaged)?;
        let bytes = file.metadata().map_err(damaged)?.len();
        Mapping::of_file(file.as_fd(), bytes, false).map(Resets)
    }

    /// Those of one device.
    pub fn of_device(&self, index: usize) -> u32 {
        let mut count = [0; WIDTH as usize];
        // with the run's directory gone nobody resets anything
        let _ = self.0.read(index as u64 * WIDTH, &mut count);
        u32::from_ne_bytes(count)
    }
}

impl Host {
    /// `reset`
    ///
    /// # Errors
    /// ENOTTY while all ways to reset the function are switched off. EIO when the run's directory is gone.
    pub(super) fn reset(&self, index: usize) -> Result<(), Errno> {
        if !self.can_reset(index) {
            return Err(Errno::ENOTTY);
        }
        let _device = self.device_lock(index)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.run.join(FILE));
        let file = file.map_err(damaged)?;
        let (at, mut count) = (index as u64 * WIDTH, [0; WIDTH as usize]);
        file.read_exact_at(&mut count, at).map_err(damaged)?;
        let next = u32::from_ne_bytes(count).wrapping_add(1);
        file.write_all_at(&next.to_ne_bytes(), at).map_err(damaged)
    }

    /// `reset_method`: no way, the default, or a list of ways.
    pub(super) fn set_reset_method(&self, index: usize, value: &[u8]) -> Result<(), Errno> {
        let ways = match line(value) {
            "" => "",
            "default" => METHOD,
            list => {
                let mut ways = list.split(' ').map(str::trim).filter(|way| !way.is_empty());
                if ways.any(|way| way != METHOD) {
                    return Err(Errno::EINVAL);
                }
                METHOD
            }
        };
        self.set(&self.attribute(index, "reset_method"), ways)
    }

    /// Is there a way to reset the function alone?
    pub fn can_reset(&self, index: usize) -> bool {
        let path = self.attribute(index, "reset_method");
        let ways = self.tree.value(path.trim_start_matches('/'));
        ways.is_ok_and(|ways| !ways.is_empty())
    }
}
