//! One suite over every format, level count and alignment, against a plain map of 4 KiB pages.

mod dirty;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 0x1000;
const STREAM: StreamId = StreamId(0x0310);

/// The rule book: what each 4 KiB page leads to and what it allows, and which were written.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, (u64, Prot)>,
    tracking: bool,
    written: BTreeSet<u64>,
}

impl Model {
    fn range(&self, first: u64, last: u64) -> Vec<u64> {
        self.pages
            .range(first..=last)
            .map(|(iova, _)| *iova)
            .collect()
    }

    fn map(&mut self, first: u64, pa: u64, bytes: u64, prot: Prot) -> bool {
        let free = self
            .pages
            .range(first..=first + (bytes - 1))
            .next()
            .is_none();
        if free {
            let pages = (0..bytes).step_by(PAGE as usize);
            self.pages
                .extend(pages.map(|at| (first + at, (pa + at, prot))));
        }
        free
    }

    fn unmap(&mut self, first: u64, last: u64) -> u64 {
        let pages = self.range(first, last);
        for page in &pages {
            self.pages.remove(page);
            self.written.remove(page);
        }
        pages.len() as u64 * PAGE
    }

    fn remap(&mut self, first: u64, last: u64, pa: u64) {
        for page in self.range(first, last) {
            self.pages.get_mut(&page).unwrap().0 = pa + (page - first);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        first: u64,
        pages: u64,
        pa: u64,
        prot: u8,
    },
    Unmap {
        first: u64,
        pages: u64,
    },
    Remap {
        first: u64,
        pages: u64,
        pa: u64,
    },
    Write {
        page: u64,
    },
    Dirty {
        first: u64,
        pages: u64,
        clear: bool,
    },
    Track {
        on: bool,
    },
}

/// Page numbers that like to be aligned: 4 KiB, 64 KiB, 2 MiB and their neighbours.
fn page_number(bound: u64) -> impl Strategy<Value = u64> {
    (
        0..bound,
        prop_oneof![Just(1u64), Just(16), Just(512)],
        0..2u64,
    )
        .prop_map(move |(page, align, off)| ((page / align * align) + off).min(bound - 1))
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![1..4u64, Just(16), 10..600u64, Just(512), Just(1024)]
}

fn step(bound: u64) -> impl Strategy<Value = Step> {
    let pa = || page_number(1 << 18);
    prop_oneof![
        4 => (page_number(bound), length(), pa(), 1..4u8)
            .prop_map(|(first, pages, pa, prot)| Step::Map { first, pages, pa, prot }),
        3 => (page_number(bound), length()).prop_map(|(first, pages)| Step::Unmap { first, pages }),
        1 => (page_number(bound), length(), pa()).prop_map(|(first, pages, pa)| Step::Remap { first, pages, pa }),
        3 => page_number(bound).prop_map(|page| Step::Write { page }),
        2 => (page_number(bound), length(), any::<bool>())
            .prop_map(|(first, pages, clear)| Step::Dirty { first, pages, clear }),
        1 => prop::bool::weighted(0.8).prop_map(|on| Step::Track { on }),
    ]
}

/// A unit with one attached, tracking domain and a port.
fn setup(config: Config) -> (Arc<Iommu>, Arc<Domain>, Port) {
    let iommu = Iommu::new(config).unwrap();
    let domain = iommu.domain();
    iommu.attach(STREAM, &domain);
    let port = iommu.port(STREAM);
    (iommu, domain, port)
}

/// Runs the steps in a window of `bound` pages that begins at `base`.
fn run(config: Config, base: u64, bound: u64, steps: &[Step]) {
    let (iommu, domain, mut port) = setup(config);
    domain.set_dirty_tracking(true);
    let mut model = Model {
        tracking: true,
        ..Model::default()
    };
    let iova = |page: u64| base + page * PAGE;
    let last = |first: u64, pages: u64| base + ((first + pages).min(bound) * PAGE - 1);
    for step in steps {
        match *step {
            Step::Map {
                first,
                pages,
                pa,
                prot,
            } => {
                let bytes = last(first, pages) - iova(first) + 1;
                let prot = Prot::from_bits_truncate(prot);
                let answer = domain.map(Iova(iova(first)), Pa(pa * PAGE), bytes, prot);
                let expected = model.map(iova(first), pa * PAGE, bytes, prot);
                assert_eq!(
                    answer,
                    if expected {
                        Ok(())
                    } else {
                        Err(MapError::AlreadyMapped)
                    }
                );
            }
            Step::Unmap { first, pages } => {
                let (first, last) = (iova(first), last(first, pages));
                assert_eq!(
                    domain.unmap(Iova(first), Iova(last)),
                    model.unmap(first, last)
                );
            }
            Step::Remap { first, pages, pa } => {
                let (first, last) = (iova(first), last(first, pages));
                domain.remap(Iova(first), Iova(last), Pa(pa * PAGE));
                model.remap(first, last, pa * PAGE);
            }
            Step::Write { page } => {
                let answer = port
                    .begin()
                    .translate(Iova(iova(page) + 8), 8, Access::Write);
                let expected = model
                    .pages
                    .get(&iova(page))
                    .filter(|entry| entry.1.contains(Prot::WRITE));
                assert_eq!(
                    answer.map(|run| run.pa.0).ok(),
                    expected.map(|entry| entry.0 + 8)
                );
                if expected.is_some() && model.tracking {
                    model
                        .written
                        .extend(dirty::page_around(&domain, iova(page)));
                }
            }
            Step::Dirty {
                first,
                pages,
                clear,
            } => dirty::read_both(&domain, &mut model, iova(first), last(first, pages), clear),
            Step::Track { on } => {
                domain.set_dirty_tracking(on);
                model.tracking = on;
                model.written.clear();
            }
        }
    }
    check(&domain, &mut port, &model, base, bound);
    let copy = iommu.domain();
    copy.copy(&domain).unwrap();
    assert_eq!(copy.table_bytes(), domain.table_bytes());
    for page in (0..bound).map(|page| Iova(base + page * PAGE)) {
        assert_eq!(copy.lookup(page), domain.lookup(page), "the copy at {page}");
    }
    assert_eq!(
        domain.unmap(Iova(0), Iova(u64::MAX)),
        model.pages.len() as u64 * PAGE
    );
    assert_eq!(domain.table_bytes(), PAGE, "only the root is left");
    let left = copy.unmap(Iova(0), Iova(u64::MAX));
    assert_eq!(left, model.pages.len() as u64 * PAGE, "the copy stays");
}

/// Lookup, reads and writes agree with the model on every page of the window.
fn check(domain: &Domain, port: &mut Port, model: &Model, base: u64, bound: u64) {
    domain.set_dirty_tracking(false);
    for page in (0..bound).map(|page| base + page * PAGE) {
        let expected = model.pages.get(&page);
        let found = domain.lookup(Iova(page));
        assert_eq!(
            found.map(|(pa, prot, _)| (pa.0, prot)),
            expected.map(|entry| (entry.0, entry.1)),
            "{page:#x}"
        );
        let mut session = port.begin();
        for (access, prot) in [(Access::Read, Prot::READ), (Access::Write, Prot::WRITE)] {
            let allowed = expected.filter(|entry| entry.1.contains(prot));
            let answer = session.translate(Iova(page + 0x123), 16, access);
            assert_eq!(
                answer.map(|run| (run.pa.0, run.bytes)).ok(),
                allowed.map(|entry| (entry.0 + 0x123, 16))
            );
        }
    }
}

/// Runs a test body for every format and level count, with and without IOTLB.
macro_rules! each_format {
    ($($name:ident: $kind:expr, $width:expr;)*) => {$(
        mod $name {
            use super::*;

            fn config(iotlb: bool) -> Config {
                Config { kind: $kind, address_width: $width, iotlb }
            }

            /// Near the end of the aperture, at a boundary of every level.
            fn high_base() -> u64 {
                let (_, last) = Iommu::new(config(false)).unwrap().aperture();
                last - (4096 * PAGE - 1)
            }

            proptest! {
                #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn agrees_with_the_model(steps in prop::collection::vec(step(3000), 1..40)) {
                    run(config(false), 0, 3000, &steps);
                }

                #[test]
                fn agrees_with_the_model_with_an_iotlb(steps in prop::collection::vec(step(3000), 1..40)) {
                    run(config(true), 0x4000_0000 - 1500 * PAGE, 3000, &steps);
                }

                #[test]
                fn agrees_with_the_model_at_the_end_of_the_aperture(steps in prop::collection::vec(step(4096), 1..40)) {
                    run(config(false), high_base(), 4096, &steps);
                }
            }

            #[test]
            fn an_exclusive_writers_changes_reach_every_cache_when_it_syncs_or_ends() {
                exclusive_writer(config(false));
                exclusive_writer(config(true));
            }

            #[test]
            fn every_page_size_is_used_split_and_moved() {
                super::every_page_size(config(false));
            }

            #[test]
            fn unmap_invalidates_what_the_iotlb_holds() {
                super::iotlb_coherence(config(true));
            }

            #[test]
            fn what_is_dirty_follows_writes_and_only_writes() {
                super::dirty::follows_writes(config(false));
                super::dirty::follows_writes(config(true));
            }

            #[test]
            fn no_write_is_lost_between_readings_while_pages_are_parted() {
                super::dirty::no_write_is_lost(config(false));
                super::dirty::no_write_is_lost(config(true));
            }

            #[test]
            fn a_page_that_straddles_an_end_of_the_reading_stays_dirty() {
                super::dirty::straddling_stays(config(false));
            }
        }
    )*};
}

each_format! {
    vtd_legacy_39: Kind::Vtd { scalable: false }, 39;
    vtd_legacy_48: Kind::Vtd { scalable: false }, 48;
    vtd_scalable_48: Kind::Vtd { scalable: true }, 48;
    vtd_scalable_57: Kind::Vtd { scalable: true }, 57;
    amd_32: Kind::Amd, 32;
    amd_48: Kind::Amd, 48;
    amd_57: Kind::Amd, 57;
    amd_64: Kind::Amd, 64;
}

fn read(port: &mut Port, iova: u64) -> Option<u64> {
    port.begin()
        .translate(Iova(iova), 1, Access::Read)
        .ok()
        .map(|run| run.pa.0)
}

/// For each page size: one entry serves it, its middle can be unmapped, and its rest moved.
fn every_page_size(config: Config) {
    let (iommu, domain, mut port) = setup(config);
    let (_, last) = iommu.aperture();
    for lg2 in (12..48).filter(|lg2| iommu.page_sizes() >> lg2 & 1 == 1 && 2u64 << lg2 <= last) {
        let size = 1u64 << lg2;
        // The second multiple of the size; its like in physical space. Reserved ranges are stepped over.
        let first = size;
        if iommu
            .reserved()
            .iter()
            .any(|range| first <= range.1 && range.0 < first + size)
        {
            continue;
        }
        let pa = 1 << 50 | size;
        domain.map(Iova(first), Pa(pa), size, Prot::all()).unwrap();
        assert_eq!(
            domain.lookup(Iova(first + size - 1)),
            Some((Pa(pa + size - 1), Prot::all(), size))
        );
        assert_eq!(read(&mut port, first + size / 2), Some(pa + size / 2));
        let long = port
            .begin()
            .translate(Iova(first), u64::MAX, Access::Write)
            .unwrap();
        assert_eq!(long.bytes, size, "a run ends at the end of the page");
        if lg2 > 12 {
            let hole = first + size / 2;
            assert_eq!(domain.unmap(Iova(hole), Iova(hole + PAGE - 1)), PAGE);
            assert_eq!(read(&mut port, hole), None);
            assert_eq!(read(&mut port, hole - 1), Some(pa + size / 2 - 1));
            assert_eq!(
                read(&mut port, first + size - 1),
                if lg2 == 13 { None } else { Some(pa + size - 1) }
            );
            domain.remap(Iova(first), Iova(first + PAGE - 1), Pa(0x5000));
            assert_eq!(read(&mut port, first + 1), Some(0x5001));
            domain
                .map(Iova(hole), Pa(0x9000), PAGE, Prot::READ)
                .unwrap();
            assert_eq!(read(&mut port, hole), Some(0x9000));
        }
        assert_eq!(domain.unmap(Iova(first), Iova(first + size - 1)), size);
        assert_eq!(read(&mut port, first), None);
    }
    domain.unmap(Iova(0), Iova(u64::MAX));
    assert_eq!(domain.table_bytes(), PAGE);
}

fn iotlb_coherence(config: Config) {
    let (_iommu, domain, mut port) = setup(config);
    domain
        .map(Iova(0x20_0000), Pa(0x40_0000), 0x20_0000, Prot::all())
        .unwrap();
    for _ in 0..3 {
        assert_eq!(read(&mut port, 0x20_1234), Some(0x40_1234));
    }
    assert_eq!(port.tlb_stats(), Some(TlbStats { hits: 2, misses: 1 }));
    domain.remap(Iova(0x20_0000), Iova(0x3f_ffff), Pa(0x80_0000));
    assert_eq!(read(&mut port, 0x20_1234), Some(0x80_1234));
    domain.unmap(Iova(0x20_1000), Iova(0x20_1fff));
    assert_eq!(read(&mut port, 0x20_1234), None);
    assert_eq!(read(&mut port, 0x20_2234), Some(0x80_2234));
    assert_eq!(
        domain.unmap_batch([
            (Iova(0x20_2000), Iova(0x20_2fff)),
            (Iova(0), Iova(0x20_0fff))
        ]),
        0x2000
    );
    assert_eq!(read(&mut port, 0x20_2234), None);
    assert_eq!(read(&mut port, 0x20_3234), Some(0x80_3234));
}

/// A writer that has the domain to itself: later translations see its changes at once, caches after `sync` or its end.
fn exclusive_writer(config: Config) {
    let (_iommu, domain, mut port) = setup(config);
    let mut writer = domain.exclusive();
    writer
        .map(Iova(0x20_0000), Pa(0x40_0000), 0x20_0000, Prot::all())
        .unwrap();
    assert_eq!(
        writer.map(Iova(0x20_0000), Pa(0), PAGE, Prot::READ),
        Err(MapError::AlreadyMapped)
    );
    assert_eq!(read(&mut port, 0x20_1234), Some(0x40_1234));
    assert_eq!(writer.unmap(Iova(0x20_1000), Iova(0x20_1fff)), PAGE);
    assert_eq!(writer.unmap(Iova(0x20_1000), Iova(0x20_1fff)), 0);
    writer.sync();
    assert_eq!(read(&mut port, 0x20_1234), None);
    assert_eq!(read(&mut port, 0x20_2234), Some(0x40_2234));
    writer.unmap(Iova(0), Iova(u64::MAX));
    drop(writer);
    assert_eq!(read(&mut port, 0x20_2234), None);
    assert_eq!(domain.table_bytes(), PAGE);
}
