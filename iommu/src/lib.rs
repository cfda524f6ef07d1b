//! Software IOMMUs: Intel VT-d and AMD, with page tables in the hardware's own formats.
//!
//! Pure translation: addresses and requester ids go in, addresses or faults come out. The crate moves no
//! data and dereferences no physical address, and it knows nothing of VFIO, so any VMM can use it.
//!
//! An [`Iommu`] is one unit. A [`Domain`] is a page table that streams (requesters) are attached to. A
//! [`Port`] is where a device translates, inside a [`Session`]. Two promises hold between them:
//!
//! - a translation takes no lock and writes nothing shared;
//! - when [`Domain::unmap`] (or remap, or [`Iommu::detach`]) returns, no access through what it removed is
//!   under way or can begin.
//!
//! ```
//! use swiommu_iommu::{Access, Config, Iommu, Iova, Pa, Prot, StreamId};
//!
//! let iommu = Iommu::new(Config::default())?;
//! let domain = iommu.domain();
//! iommu.attach(StreamId(0x100), &domain);
//! domain.map(Iova(0x1000), Pa(0x7f00_0000_0000), 0x1000, Prot::READ)?;
//!
//! let mut port = iommu.port(StreamId(0x100));
//! let mut session = port.begin();
//! let run = session.translate(Iova(0x1ff0), 64, Access::Read)?;
//! assert_eq!((run.pa, run.bytes), (Pa(0x7f00_0000_0ff0), 16));
//! assert!(session.translate(Iova(0x1000), 64, Access::Write).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Lock order: `Iommu::tables`, then a domain's writer lock, then the leaf locks of the unit (pool, ids,
//! fault record). No lock is held during a drain, but the writer lock of an [`Exclusive`].

mod addr;
mod config;
mod domain;
pub mod drain;
mod fault;
mod port;
mod radix;
mod sync;
mod tables;
mod tlb;
mod unit;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

pub use addr::{Access, Dirty, Iova, Pa, Prot, Run, StreamId};
pub use config::{Config, ConfigError, Kind};
pub use domain::{Domain, Exclusive, MapError};
pub use fault::{AmdEvent, Fault, FaultLog, Reason};
pub use port::{Port, Session};
pub use tlb::TlbStats;

use radix::page::NoMemory;
use tables::{Found, amd::AmdTables, vtd::VtdTables};
use unit::{Unit, lock};

/// One remapping unit.
pub struct Iommu {
    unit: Arc<Unit>,
    tables: Mutex<Tables>,
}

/// The upper tables, and who is attached: it keeps the domains' page tables alive.
struct Tables {
    upper: Upper,
    attached: HashMap<StreamId, Arc<Domain>>,
}

enum Upper {
    Vtd(VtdTables),
    Amd(AmdTables),
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("config", &self.unit.config)
            .finish_non_exhaustive()
    }
}

impl Iommu {
    /// A unit with nothing attached: every request faults.
    ///
    /// # Errors
    ///
    /// When the kind does not come with that address width, or there is no memory.
    pub fn new(config: Config) -> Result<Arc<Iommu>, ConfigError> {
        config.check()?;
        let unit = Unit::new(config).map_err(|NoMemory| ConfigError::NoMemory)?;
        let upper = match config.kind {
            Kind::Vtd { scalable } => Upper::Vtd(
                VtdTables::new(&unit.pool, scalable).map_err(|NoMemory| ConfigError::NoMemory)?,
            ),
            Kind::Amd => Upper::Amd(AmdTables::new()),
        };
        Ok(Arc::new(Iommu {
            unit,
            tables: Mutex::new(Tables {
                upper,
                attached: HashMap::new(),
            }),
        }))
    }

    /// How the unit was built.
    pub fn config(&self) -> Config {
        self.unit.config
    }

    /// The page sizes that mappings can use, as a bitmap.
    pub fn page_sizes(&self) -> u64 {
        self.unit.config.page_sizes()
    }

    /// The addresses that can be mapped, first to last.
    pub fn aperture(&self) -> (u64, u64) {
        (0, self.unit.config.last())
    }

    /// Ranges in the aperture that the unit does not translate, first to last. Whoever attaches a stream keeps them free
    /// of mappings.
    pub fn reserved(&self) -> &'static [(u64, u64)] {
        self.unit.config.reserved()
    }

    /// A new, empty domain.
    ///
    /// # Panics
    ///
    /// When there are 65535 domains already, or there is no memory.
    pub fn domain(&self) -> Arc<Domain> {
        self.try_domain()
            .expect("at most 65535 domains at once, and memory for each")
    }

    /// A new, empty domain; `None` when there are 65535 already, or there is no memory.
    pub fn try_domain(&self) -> Option<Arc<Domain>> {
        Domain::new(&self.unit)
    }

    /// Attaches `stream` to `domain`, instead of what it was attached to. On return every access of the
    /// stream goes through the new domain.
    ///
    /// # Panics
    ///
    /// When there is no memory for the tables that lead to it.
    pub fn attach(&self, stream: StreamId, domain: &Arc<Domain>) {
        let found = Found {
            root: domain.root(),
            top: self.unit.config.top(),
            domain: domain.id(),
            dirty: true,
        };
        let mut tables = lock(&self.tables);
        match &mut tables.upper {
            Upper::Vtd(vtd) => vtd.attach(&self.unit.pool, stream, found),
            Upper::Amd(amd) => amd.attach(&self.unit.pool, stream, found),
        }
        let before = tables.attached.insert(stream, Arc::clone(domain));
        drop(tables);
        self.unit.invalidate_contexts();
        drop(before);
    }

    /// Detaches `stream`: its requests fault. On return no access of the stream is under way.
    pub fn detach(&self, stream: StreamId) {
        let mut tables = lock(&self.tables);
        let freed = match &mut tables.upper {
            Upper::Vtd(vtd) => vtd.detach(stream),
            Upper::Amd(amd) => {
                amd.detach(stream);
                Vec::new()
            }
        };
        let before = tables.attached.remove(&stream);
        drop(tables);
        self.unit.invalidate_contexts();
        for address in freed {
            self.unit.pool.give(address);
        }
        drop(before);
    }

    /// A place for `stream` to do DMA; it may be attached before or after.
    pub fn port(self: &Arc<Self>, stream: StreamId) -> Port {
        Port::new(self, stream)
    }

    /// Takes the recorded faults.
    pub fn faults(&self) -> FaultLog {
        self.unit.faults()
    }

    pub(crate) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    /// Walks the upper tables for a request of `stream`.
    fn resolve(&self, stream: StreamId) -> Result<(Found, Arc<Domain>), Reason> {
        let tables = lock(&self.tables);
        let (found, invalid) = match &tables.upper {
            Upper::Vtd(vtd) => (vtd.resolve(stream)?, Reason::ContextInvalid),
            Upper::Amd(amd) => (amd.resolve(stream)?, Reason::DeviceEntryInvalid),
        };
        let domain = tables
            .attached
            .get(&stream)
            .filter(|domain| domain.id() == found.domain);
        Ok((found, Arc::clone(domain.ok_or(invalid)?)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
