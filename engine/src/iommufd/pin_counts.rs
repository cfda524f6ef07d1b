//! How often pages are pinned: once for each set of pages that uses them, as the kernel counts.

use std::collections::BTreeSet;

use swiommu_mem::{Files, PAGE, UserAddr};

use super::pins::PagesId;

/// The counts at one moment.
pub struct PinCounts {
    runs: Vec<(UserAddr, u64, PagesId)>,
    /// What is mapped where, if anything is pinned: a page of a file may be pinned at another address.
    files: Option<Files>,
}

impl PinCounts {
    pub(crate) fn new(runs: Vec<(UserAddr, u64, PagesId)>) -> PinCounts {
        let files = (!runs.is_empty()).then(Files::now);
        PinCounts { runs, files }
    }

    /// How often the page at `at` (its first byte) is pinned.
    pub fn of(&self, at: UserAddr) -> u32 {
        let Some(files) = &self.files else {
            return 0;
        };
        let byte = files.byte(at);
        let holders: BTreeSet<PagesId> = (self.runs.iter())
            .filter(|&&(first, bytes, _)| {
                let (from, to) = (first.0 & !(PAGE - 1), first.0 + (bytes - 1));
                let covers = from <= at.0 && at.0 <= to;
                covers
                    || byte.as_ref().is_some_and(|byte| {
                        let pinned = files.byte(UserAddr(from));
                        pinned.is_some_and(|pinned| byte.is_in(&pinned, to - from + 1))
                    })
            })
            .map(|(.., pages)| *pages)
            .collect();
        holders.len() as u32
    }
}
