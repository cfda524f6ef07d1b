//! The log of what an open function wrote.

use swiommu_abi::Errno;

use super::Function;
use crate::pci::dma_log::DmaLog;

impl Function {
    /// Logs writes to `ranges` from now on; the page size taken.
    ///
    /// # Errors
    /// EINVAL if it logs already, ENODEV if nobody has the function open.
    pub fn start_log(&self, ranges: Vec<(u64, u64)>, page_bytes: u64) -> Result<u64, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        if open.wires.log.is_some() {
            return Err(Errno::EINVAL);
        }
        let log = DmaLog::new(ranges, page_bytes);
        let taken = log.page_bytes();
        open.wires.log = Some(Box::new(log));
        Ok(taken)
    }

    /// Logs no more.
    pub fn stop_log(&self) {
        if let Some(open) = &mut self.live().open {
            open.wires.log = None;
        }
    }

    /// Hands the words of a bitmap that are not zero to `sink`, and forgets what they told.
    ///
    /// # Errors
    /// EINVAL without a log; what `sink` answers, and then nothing is forgotten.
    pub fn report_log(
        &self,
        (iova, bytes): (u64, u64),
        page_lg2: u32,
        mut sink: impl FnMut(u64, u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let log = open.wires.log.as_mut().ok_or(Errno::EINVAL)?;
        let Some(more) = bytes.checked_sub(1) else {
            return Ok(());
        };
        let last = iova + more;
        for (word, bits) in log.bitmap(iova, last, page_lg2) {
            sink(word, bits)?;
        }
        log.forget(iova, last);
        Ok(())
    }
}
