use super::*;
use std::sync::Mutex;
use swiommu_abi::Errno;
use swiommu_engine::door::{Answer, Call};

/// The registry is one for the process.
static ALONE: Mutex<()> = Mutex::new(());

struct Nothing;

impl File for Nothing {
    fn link(&self) -> String {
        String::new()
    }
    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }
}

const BASE: usize = 1 << 40;

fn range(first: usize, last: usize) -> Range {
    Range {
        first: BASE + first,
        last: BASE + last,
        file: Arc::new(Nothing),
        offset: first as u64,
        prot: libc::PROT_READ,
        trap: true,
    }
}

fn at_offset(offset: usize) -> Option<u64> {
    at(BASE + offset).map(|range| range.offset + (BASE + offset - range.first) as u64)
}

#[test]
fn an_address_finds_its_mapping_and_its_offset_and_its_neighbours_do_not() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    insert(vec![range(0x1000, 0x1fff), range(0x4000, 0x5fff)]);
    assert_eq!(at_offset(0x1008), Some(0x1008));
    assert_eq!(at_offset(0x5fff), Some(0x5fff));
    for outside in [0xfff, 0x2000, 0x3fff, 0x6000] {
        assert_eq!(at_offset(outside), None);
    }
    drop(remove(BASE, BASE + 0xffff));
    assert_eq!(at_offset(0x1008), None);
}

#[test]
fn a_hole_splits_a_mapping_and_the_rest_keeps_its_offsets() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    insert(vec![range(0x1000, 0x4fff)]);
    let gone = remove(BASE + 0x2000, BASE + 0x2fff);
    assert_eq!(gone.len(), 1);
    assert_eq!(
        (gone[0].first, gone[0].last, gone[0].offset),
        (BASE + 0x2000, BASE + 0x2fff, 0x2000)
    );
    assert_eq!(
        (at_offset(0x1fff), at_offset(0x2000), at_offset(0x3000)),
        (Some(0x1fff), None, Some(0x3000))
    );
    assert!(any(BASE + 0x2000, BASE + 0x3000) && !any(BASE + 0x2000, BASE + 0x2fff));
    drop(remove(BASE, BASE + 0xffff));
}

#[test]
fn protection_changes_where_it_was_asked_and_nowhere_else() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    insert(vec![range(0x1000, 0x3fff)]);
    protect(BASE + 0x2000, BASE + 0x2fff, libc::PROT_NONE);
    let prots: Vec<i32> = within(BASE, BASE + 0xffff)
        .iter()
        .map(|range| range.prot)
        .collect();
    assert_eq!(prots, [libc::PROT_READ, libc::PROT_NONE, libc::PROT_READ]);
    drop(remove(BASE, BASE + 0xffff));
}

#[test]
fn a_reader_inside_a_writer_keeps_its_snapshot_until_a_later_writer() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let file: Arc<dyn File> = Arc::new(Nothing);
    let first = Range {
        file: Arc::clone(&file),
        ..range(0x1000, 0x1fff)
    };
    insert(vec![first]);
    read(|ranges| {
        drop(remove(BASE, BASE + 0xffff));
        assert_eq!(ranges.len(), 1);
        assert!(
            Arc::strong_count(&file) > 1,
            "the snapshot under our eyes still holds the file"
        );
    });
    insert(vec![range(0x1000, 0x1fff)]);
    drop(remove(BASE, BASE + 0xffff));
    assert_eq!(Arc::strong_count(&file), 1);
}
