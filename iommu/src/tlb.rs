//! The IOTLB of one port: a direct-mapped cache of 4 KiB translations.
//!
//! An entry is tagged with the domain id and the domain's generation at the time of the walk, so one
//! increment of the generation invalidates a whole domain (VT-d 6.5.2.3 domain-selective, AMD
//! INVALIDATE_IOMMU_PAGES with S = 1 over everything). A large page fills one entry per 4 KiB used.

use crate::addr::Prot;

const ENTRIES: usize = 1024;

/// Domain ids begin at 1, so tag 0 never matches.
const EMPTY: Cached = Cached {
    page: 0,
    tag: 0,
    target: 0,
    run: 0,
};

#[derive(Clone, Copy)]
pub(crate) struct Cached {
    /// Page number of the IOVA.
    page: u64,
    /// Domain id << 48 | generation (its low 48 bits).
    tag: u64,
    /// Where the 4 KiB page lives | permission bits | `WRITTEN`.
    target: u64,
    /// Bytes from the start of the 4 KiB page to the end of the translation's page.
    run: u64,
}

/// It is recorded that the page was written.
const WRITTEN: u64 = 4;

impl Cached {
    pub(crate) fn pa(&self) -> u64 {
        self.target & !0xfff
    }

    pub(crate) fn prot(&self) -> Prot {
        Prot::from_bits_truncate(self.target as u8 & 3)
    }

    pub(crate) fn is_written(&self) -> bool {
        self.target & WRITTEN != 0
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }
}

/// How often the cache answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbStats {
    /// Translations answered from the cache.
    pub hits: u64,
    /// Translations that walked the tables.
    pub misses: u64,
}

pub(crate) struct Tlb {
    entries: Box<[Cached; ENTRIES]>,
    pub(crate) stats: TlbStats,
}

/// The tag of entries that hold now.
#[inline(always)]
pub(crate) fn tag(domain: u16, generation: u64) -> u64 {
    u64::from(domain) << 48 | generation & 0xffff_ffff_ffff
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Tlb {
            entries: Box::new([EMPTY; ENTRIES]),
            stats: TlbStats::default(),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.fill(EMPTY);
    }

    #[inline(always)]
    pub(crate) fn find(&self, iova: u64, tag: u64) -> Option<&Cached> {
        let page = iova >> 12;
        let cached = &self.entries[page as usize % ENTRIES];
        (cached.page == page && cached.tag == tag).then_some(cached)
    }

    /// Remembers that `iova` leads to `pa` with `run` bytes to the end of its page.
    pub(crate) fn insert(
        &mut self,
        iova: u64,
        tag: u64,
        pa: u64,
        run: u64,
        prot: Prot,
        written: bool,
    ) {
        let page = iova >> 12;
        let written = if written { WRITTEN } else { 0 };
        self.entries[page as usize % ENTRIES] = Cached {
            page,
            tag,
            target: pa & !0xfff | u64::from(prot.bits()) | written,
            run: run + (iova & 0xfff),
        };
    }
}
