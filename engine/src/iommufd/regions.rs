//! Device regions mapped into the client, and how MAP_DMA finds them there.
//!
//! A client may hand the address of a mapped BAR to MAP_DMA (peer-to-peer DMA). The page behind it is a register
//! page that traps: DMA must never store to it. So such a run is entered as a handle of the BAR.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use swiommu_iommu::Pa;
use swiommu_mem::UserAddr;

/// A run of client addresses of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// From the start of the range that was split.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// The handle of a device region, or `None` for ordinary memory.
    pub region: Option<Pa>,
}

/// All mappings of device regions in the client's address space.
#[derive(Debug, Default)]
pub struct Regions {
    count: AtomicUsize,
    /// First client address -> (last, handle of the first byte).
    maps: RwLock<BTreeMap<u64, (u64, Pa)>>,
}

impl Regions {
    /// `bytes` bytes at `first` now show the region whose first byte has the handle `pa`.
    pub fn add(&self, first: UserAddr, bytes: u64, pa: Pa) {
        let mut maps = self.maps.write().unwrap();
        cut(&mut maps, first.0, first.0 + (bytes - 1));
        maps.insert(first.0, (first.0 + (bytes - 1), pa));
        self.count.store(maps.len(), Ordering::Release);
    }

    /// `bytes` bytes at `first` no longer show a region.
    pub fn remove(&self, first: UserAddr, bytes: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut maps = self.maps.write().unwrap();
        cut(&mut maps, first.0, first.0.saturating_add(bytes - 1));
        self.count.store(maps.len(), Ordering::Release);
    }

    /// Splits client memory into runs of ordinary memory and of device regions, in order; `None` where no region is
    /// mapped at all.
    #[inline]
    pub fn split(&self, va: UserAddr, bytes: u64) -> Option<Vec<Run>> {
        (self.count.load(Ordering::Acquire) != 0).then(|| self.runs(va, bytes))
    }

    fn runs(&self, va: UserAddr, bytes: u64) -> Vec<Run> {
        let maps = self.maps.read().unwrap();
        let (mut at, last) = (va.0, va.0 + (bytes - 1));
        let mut runs = Vec::new();
        let from = maps
            .range(..=at)
            .next_back()
            .map_or(at, |(first, _)| *first);
        for (&first, &(map_last, pa)) in maps.range(from..=last) {
            if map_last < at {
                continue;
            }
            if first > at {
                runs.push(Run {
                    offset: at - va.0,
                    bytes: first - at,
                    region: None,
                });
                at = first;
            }
            let run_last = map_last.min(last);
            runs.push(Run {
                offset: at - va.0,
                bytes: run_last - at + 1,
                region: Some(Pa(pa.0 + (at - first))),
            });
            if run_last == last {
                return runs;
            }
            at = run_last + 1;
        }
        runs.push(Run {
            offset: at - va.0,
            bytes: last - at + 1,
            region: None,
        });
        runs
    }
}

/// Takes `first..=last` out of the map; what a mapping has outside stays.
fn cut(maps: &mut BTreeMap<u64, (u64, Pa)>, first: u64, last: u64) {
    let from = maps
        .range(..=first)
        .next_back()
        .map_or(first, |(at, _)| *at);
    let hit: Vec<_> = maps
        .range(from..=last)
        .filter(|(_, (map_last, _))| *map_last >= first)
        .map(|(at, map)| (*at, *map))
        .collect();
    for (at, (map_last, pa)) in hit {
        maps.remove(&at);
        if at < first {
            maps.insert(at, (first - 1, pa));
        }
        if map_last > last {
            maps.insert(last + 1, (map_last, Pa(pa.0 + (last + 1 - at))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, bytes: u64, region: Option<u64>) -> Run {
        Run {
            offset,
            bytes,
            region: region.map(Pa),
        }
    }

    #[test]
    fn memory_without_regions_is_one_run() {
        assert_eq!(Regions::default().split(UserAddr(0x1000), 0x3000), None);
        let regions = Regions::default();
        regions.add(UserAddr(0x9000), 0x1000, Pa(1 << 47));
        assert_eq!(
            regions.runs(UserAddr(0x1000), 0x3000),
            [run(0, 0x3000, None)]
        );
    }

    #[test]
    fn a_region_inside_the_range_makes_three_runs() {
        let regions = Regions::default();
        regions.add(UserAddr(0x2000), 0x1000, Pa(1 << 47));
        assert_eq!(
            regions.runs(UserAddr(0x1000), 0x3000),
            [
                run(0, 0x1000, None),
                run(0x1000, 0x1000, Some(1 << 47)),
                run(0x2000, 0x1000, None)
            ]
        );
    }

    #[test]
    fn a_range_inside_a_region_is_one_run_at_its_offset() {
        let regions = Regions::default();
        regions.add(UserAddr(0x10000), 0x8000, Pa(1 << 47));
        assert_eq!(
            regions.runs(UserAddr(0x12000), 0x1000),
            [run(0, 0x1000, Some((1 << 47) + 0x2000))]
        );
    }

    #[test]
    fn removing_the_middle_leaves_both_ends() {
        let regions = Regions::default();
        regions.add(UserAddr(0x10000), 0x3000, Pa(1 << 47));
        regions.remove(UserAddr(0x11000), 0x1000);
        assert_eq!(
            regions.runs(UserAddr(0x10000), 0x3000),
            [
                run(0, 0x1000, Some(1 << 47)),
                run(0x1000, 0x1000, None),
                run(0x2000, 0x1000, Some((1 << 47) + 0x2000))
            ]
        );
    }
}
