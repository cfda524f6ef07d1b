//! Runs of pages and their dirty bits against a map of single pages.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = test::MOCK_PAGE_SIZE;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn table(large: bool) -> MockTable {
    MockTable {
        large,
        tracks: true,
        state: Mutex::default(),
    }
}

fn dirty(table: &MockTable, first: u64, last: u64, clear: bool) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let mut sink =
        |from: u64, bytes: u64| pages.extend((from..from + bytes).step_by(PAGE as usize));
    table
        .read_dirty(Iova(first), Iova(last), clear, &mut sink)
        .unwrap();
    pages
}

#[test]
fn a_write_makes_its_small_page_dirty_and_no_other() {
    let table = table(false);
    table.map(Iova(0x1000), Pa(0x7000), 0x4000, RW).unwrap();
    table.write(0x1800 + 5);
    table.write(0x9000);
    assert_eq!(dirty(&table, 0, u64::MAX, false), BTreeSet::from([0x1800]));
    assert_eq!(dirty(&table, 0, 0x17ff, true), BTreeSet::new());
    assert_eq!(
        dirty(&table, 0x1800, 0x1fff, true),
        BTreeSet::from([0x1800])
    );
    assert_eq!(dirty(&table, 0, u64::MAX, false), BTreeSet::new());
}

#[test]
fn a_write_makes_a_whole_large_page_dirty_where_there_is_one() {
    const LARGE: u64 = test::MOCK_HUGE_PAGE_SIZE;
    let table = table(true);
    table.map(Iova(LARGE), Pa(4 * LARGE), LARGE, RW).unwrap();
    table
        .map(Iova(3 * LARGE), Pa(8 * LARGE + 4096), LARGE, RW)
        .unwrap();
    table.write(LARGE + 0x5000);
    assert_eq!(dirty(&table, 0, u64::MAX, true).len() as u64, LARGE / PAGE);
    table.write(3 * LARGE + 0x5000);
    let pages = [3 * LARGE + 0x5000, 3 * LARGE + 0x5800];
    assert_eq!(dirty(&table, 0, u64::MAX, true), BTreeSet::from(pages));
}

#[test]
fn what_is_mapped_is_not_mapped_again() {
    let table = table(false);
    table.map(Iova(0x1000), Pa(0x7000), 0x1000, RW).unwrap();
    let again = table.map(Iova(0x1800), Pa(0), 0x1000, RW);
    assert_eq!(again, Err(Errno::EADDRINUSE));
    assert_eq!(table.map(Iova(0x2000), Pa(0), 0x1000, RW), Ok(()));
    assert_eq!(table.map(Iova(0x800), Pa(0), 0x800, RW), Ok(()));
}

/// One change of a table.
#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u64),
    Unmap(u64, u64),
    Remap(u64, u64, u64),
    Write(u64),
    Clean(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (at, pages) = (0..160u64, 1..90u64);
    prop_oneof![
        (at.clone(), 0..1000u64, pages.clone()).prop_map(|(at, pa, n)| Step::Map(at, pa, n)),
        (at.clone(), pages.clone()).prop_map(|(at, n)| Step::Unmap(at, n)),
        (at.clone(), 0..1000u64, pages.clone()).prop_map(|(at, pa, n)| Step::Remap(at, pa, n)),
        at.clone().prop_map(Step::Write),
        (at, pages).prop_map(|(at, n)| Step::Clean(at, n)),
    ]
}

proptest! {
    /// A page of the model: where it leads, and whether it is dirty.
    #[test]
    fn agrees_with_a_map_of_single_pages(steps in prop::collection::vec(step(), 1..60)) {
        let table = table(false);
        let mut model = BTreeMap::<u64, (u64, bool)>::new();
        for step in steps {
            let range = |at: u64, n: u64| (Iova(at * PAGE), Iova((at + n) * PAGE - 1));
            match step {
                Step::Map(at, pa, n) => {
                    let free = model.range(at..at + n).next().is_none();
                    let mapped = table.map(Iova(at * PAGE), Pa(pa * PAGE), n * PAGE, RW);
                    prop_assert_eq!(mapped.is_ok(), free);
                    if free {
                        model.extend((0..n).map(|i| (at + i, (pa + i, false))));
                    }
                }
                Step::Unmap(at, n) => {
                    let (first, last) = range(at, n);
                    table.unmap(first, last);
                    model.retain(|page, _| !(at..at + n).contains(page));
                }
                Step::Remap(at, pa, n) => {
                    let (first, last) = range(at, n);
                    table.remap(first, last, Pa(pa * PAGE));
                    for (page, (leads, _)) in model.range_mut(at..at + n) {
                        *leads = pa + (page - at);
                    }
                }
                Step::Write(at) => {
                    table.write(at * PAGE + 7);
                    if let Some((_, dirty)) = model.get_mut(&at) {
                        *dirty = true;
                    }
                }
                Step::Clean(at, n) => {
                    let (first, last) = range(at, n);
                    let found = dirty(&table, first.0, last.0, true);
                    let mut expected = BTreeSet::new();
                    for (page, (_, dirty)) in model.range_mut(at..at + n) {
                        if std::mem::take(dirty) {
                            expected.insert(page * PAGE);
                        }
                    }
                    prop_assert_eq!(found, expected);
                }
            }
            for page in 0..260 {
                let leads = table.lookup(Iova(page * PAGE + 3)).map(|pa| pa.0);
                let expected = model.get(&page).map(|(pa, _)| pa * PAGE + 3);
                prop_assert_eq!(leads, expected);
            }
        }
        let left: BTreeSet<u64> =
            model.iter().filter(|(_, (_, dirty))| *dirty).map(|(page, _)| page * PAGE).collect();
        prop_assert_eq!(dirty(&table, 0, u64::MAX, false), left);
    }
}
