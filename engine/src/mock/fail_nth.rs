//! `fail-nth` of procfs: the n-th point of a thread that can fail does (`Documentation/fault-injection`).

use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_mem::UserAddr;
use swiommu_mem::fd::memfd;

use crate::door::{Answer, Call, File, NewFile};
use crate::iommufd::inject;

/// The longest number it is given, in bytes.
const MOST: u64 = 16;

/// The file of one thread. Only that thread may use it: in the kernel another one of the process may, too.
struct FailNth {
    thread: u32,
}

impl FailNth {
    fn check(&self, call: &Call<'_>) -> Result<(), Errno> {
        let same = call.client.other().is_none() && call.thread == self.thread;
        same.then_some(()).ok_or(Errno::EPERM)
    }
}

impl File for FailNth {
    fn link(&self) -> String {
        format!("/proc/thread-self/task/{}/fail-nth", self.thread)
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.check(call)?;
        let text = format!("{}\n", inject::left());
        let rest = text.as_bytes().get(offset as usize..).unwrap_or_default();
        let part = &rest[..rest.len().min(bytes as usize)];
        call.client.write(to, part).map_err(|_| Errno::EFAULT)?;
        Ok(part.len() as u64)
    }

    fn pwrite(&self, call: &Call<'_>, from: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.check(call)?;
        let mut text = vec![0; bytes.min(MOST) as usize];
        call.client
            .read(from, &mut text)
            .map_err(|_| Errno::EFAULT)?;
        let text = std::str::from_utf8(&text).map_err(|_| Errno::EINVAL)?;
        let nth: i32 = text.trim_end().parse().map_err(|_| Errno::EINVAL)?;
        inject::arm(u32::try_from(nth).map_err(|_| Errno::EINVAL)?);
        Ok(bytes)
    }
}

/// The file of a thread.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn open(thread: u32) -> Result<NewFile, Errno> {
    Ok(NewFile {
        object: memfd("fail-nth", 0)?,
        file: Arc::new(FailNth { thread }),
    })
}
