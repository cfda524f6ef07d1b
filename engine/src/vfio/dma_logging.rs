//! VFIO_DEVICE_FEATURE_DMA_LOGGING_*: the device tells what it wrote. Part of what a variant driver brings.

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;

use super::argsz::{copy_in, copy_out};
use super::device::DeviceFile;
use super::feature::Ask;
use crate::door::Call;
use crate::iommufd::inject;

/// The ranges that fit a page.
const RANGES_MOST: u32 = 4096 / size_of::<vfio::DmaLoggingRange>() as u32;

impl DeviceFile {
    pub(super) fn logging_start(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        self.migration()?;
        let bytes = size_of::<vfio::DmaLoggingControl>();
        if !ask.check(vfio::DEVICE_FEATURE_SET, bytes)? {
            return Ok(());
        }
        let mut control: vfio::DmaLoggingControl = copy_in(call, ask.data, bytes)?;
        match control.num_ranges {
            0 => return Err(Errno::EINVAL),
            1..=RANGES_MOST => {}
            _ => return Err(Errno::E2BIG),
        }
        inject::point()?;
        let ranges = copy_ranges(call, &control)?;
        control.page_size = self.function().start_log(ranges, control.page_size)?;
        copy_out(call, ask.data, &control, bytes).inspect_err(|_| self.function().stop_log())
    }

    pub(super) fn logging_stop(&self, ask: &Ask) -> Result<(), Errno> {
        self.migration()?;
        if ask.check(vfio::DEVICE_FEATURE_SET, 0)? {
            self.function().stop_log();
        }
        Ok(())
    }

    pub(super) fn logging_report(&self, call: &Call<'_>, ask: &Ask) -> Result<(), Errno> {
        self.migration()?;
        let bytes = size_of::<vfio::DmaLoggingReport>();
        if !ask.check(vfio::DEVICE_FEATURE_GET, bytes)? {
            return Ok(());
        }
        let report: vfio::DmaLoggingReport = copy_in(call, ask.data, bytes)?;
        if report.page_size < 4096 || !report.page_size.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        report
            .iova
            .checked_add(report.length)
            .ok_or(Errno::EOVERFLOW)?;
        let page_lg2 = report.page_size.ilog2();
        let range = (report.iova, report.length);
        self.function().report_log(range, page_lg2, |word, bits| {
            let at = UserAddr(report.bitmap.wrapping_add(word * 8));
            let mut old = [0; 8];
            call.client.read(at, &mut old).map_err(|_| Errno::EFAULT)?;
            let new = u64::from_ne_bytes(old) | bits;
            call.client
                .write(at, &new.to_ne_bytes())
                .map_err(|_| Errno::EFAULT)
        })
    }
}

/// The ranges as `first..=last`.
fn copy_ranges(
    call: &Call<'_>,
    control: &vfio::DmaLoggingControl,
) -> Result<Vec<(u64, u64)>, Errno> {
    let bytes = size_of::<vfio::DmaLoggingRange>();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mask = control.page_size.wrapping_sub(1);
    for index in 0..u64::from(control.num_ranges) {
        let at = control.ranges.wrapping_add(index * bytes as u64);
        let range: vfio::DmaLoggingRange = copy_in(call, at, bytes)?;
        if (range.iova | range.length) & mask != 0 {
            return Err(Errno::EINVAL);
        }
        let end = range
            .iova
            .checked_add(range.length)
            .ok_or(Errno::EOVERFLOW)?;
        if range.length == 0 {
            continue;
        }
        let (first, last) = (range.iova, end - 1);
        if ranges
            .iter()
            .any(|other| first <= other.1 && other.0 <= last)
        {
            return Err(Errno::EINVAL);
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}
