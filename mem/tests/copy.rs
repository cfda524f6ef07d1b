//! Faulting copies: exact prefixes, both signals, refused addresses.

mod common;

use common::{client, fresh, paint, pattern, protect, unmap};
use proptest::prelude::*;
use rustix::mm::MprotectFlags;
use std::os::fd::AsFd;
use swiommu_mem::{ADDRESS_END, Mapping, MemFault, PAGE, UserAddr, fd};

/// Two pages followed by one that cannot be touched (rather than by nothing, where another test might map something):
/// its address.
fn before_a_hole() -> u64 {
    let base = fresh(3);
    protect(base + 2 * PAGE, PAGE, MprotectFlags::empty());
    base + 2 * PAGE
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_read_into_a_hole_delivers_exactly_the_bytes_before_it(good in 0u64..6000, beyond in 1u64..4000) {
        let hole = before_a_hole();
        paint(hole - 2 * PAGE, 2 * PAGE, 7);
        let mut out = vec![0xee; (good + beyond) as usize];
        let fault = client().read(UserAddr(hole - good), &mut out).unwrap_err();
        prop_assert_eq!(fault, MemFault { done: good, at: UserAddr(hole) });
        let all = pattern(2 * PAGE, 7);
        prop_assert_eq!(&out[..good as usize], &all[all.len() - good as usize..]);
        prop_assert!(out[good as usize..].iter().all(|&b| b == 0xee));
        unmap(hole - 2 * PAGE, 3 * PAGE);
    }

    #[test]
    fn a_write_into_a_hole_leaves_exactly_the_bytes_before_it(good in 0u64..6000, beyond in 1u64..4000) {
        let hole = before_a_hole();
        let data = pattern(good + beyond, 3);
        let fault = client().write(UserAddr(hole - good), &data).unwrap_err();
        prop_assert_eq!(fault, MemFault { done: good, at: UserAddr(hole) });
        prop_assert_eq!(common::bytes_at(hole - good, good), &data[..good as usize]);
        prop_assert_eq!(common::bytes_at(hole - good - 1, 1), vec![0]);
        unmap(hole - 2 * PAGE, 3 * PAGE);
    }

    #[test]
    fn a_copy_names_the_side_that_failed(good in 0u64..6000, beyond in 1u64..4000, source in any::<bool>()) {
        let (hole, plain) = (before_a_hole(), fresh(3));
        let (to, from) = if source { (plain, hole - good) } else { (hole - good, plain) };
        let fault = client().copy(UserAddr(to), UserAddr(from), good + beyond).unwrap_err();
        prop_assert_eq!(fault, MemFault { done: good, at: UserAddr(hole) });
        unmap(hole - 2 * PAGE, 3 * PAGE);
        unmap(plain, 3 * PAGE);
    }

    #[test]
    fn a_fill_stops_at_a_hole(good in 0u64..300, beyond in 1u64..300) {
        let hole = before_a_hole();
        let fault = client().fill(UserAddr(hole - good), 0xa5, good + beyond).unwrap_err();
        prop_assert_eq!(fault, MemFault { done: good, at: UserAddr(hole) });
        prop_assert!(common::bytes_at(hole - good, good).iter().all(|&b| b == 0xa5));
        unmap(hole - 2 * PAGE, 3 * PAGE);
    }

    #[test]
    fn every_size_arrives_whole(offset in 0u64..64, bytes in 0u64..10_000, seed in any::<u8>()) {
        let base = fresh(3);
        let data = pattern(bytes, seed);
        client().write(UserAddr(base + offset), &data).unwrap();
        prop_assert_eq!(common::bytes_at(base + offset, bytes), data);
        prop_assert_eq!(common::bytes_at(base + offset + bytes, 1), vec![0]);
        unmap(base, 3 * PAGE);
    }
}

#[test]
fn a_hole_before_the_range_does_not_matter() {
    let base = fresh(3);
    protect(base, PAGE, MprotectFlags::empty());
    let mut out = [1; 300];
    client().read(UserAddr(base + PAGE), &mut out).unwrap();
    assert_eq!(out, [0; 300]);
    let fault = client()
        .read(UserAddr(base + PAGE - 1), &mut out)
        .unwrap_err();
    assert_eq!(
        fault,
        MemFault {
            done: 0,
            at: UserAddr(base + PAGE - 1)
        }
    );
}

#[test]
fn the_part_of_a_mapping_beyond_its_file_is_a_fault() {
    client();
    let file = fd::memfd("medium", 2 * PAGE).unwrap();
    let mapping = Mapping::of_file(file.as_fd(), 2 * PAGE, true).unwrap();
    mapping.write(PAGE - 4, b"12345678").unwrap();
    rustix::fs::ftruncate(&file, PAGE).unwrap();
    let mut out = [0; 8];
    let fault = mapping.read(PAGE - 4, &mut out).unwrap_err();
    assert_eq!(
        fault,
        MemFault {
            done: 4,
            at: UserAddr(mapping.base().0 + PAGE)
        }
    );
    assert_eq!(&out, b"1234\0\0\0\0");
    assert!(mapping.write(PAGE, b"x").is_err());
    mapping.sync().unwrap();
}

#[test]
fn what_lies_beyond_a_mapping_is_a_fault_and_not_its_neighbour() {
    client();
    let mapping = Mapping::anonymous(100).unwrap();
    assert_eq!(mapping.read(96, &mut [0; 4]), Ok(()));
    let fault = mapping.write(96, &[1; 8]).unwrap_err();
    assert_eq!(
        fault,
        MemFault {
            done: 4,
            at: UserAddr(mapping.base().0 + 100)
        }
    );
    assert_eq!(mapping.read(u64::MAX, &mut [0; 1]).unwrap_err().done, 0);
}

#[test]
fn a_read_only_mapping_faults_on_writing() {
    client();
    let file = fd::memfd("medium", PAGE).unwrap();
    let mapping = Mapping::of_file(file.as_fd(), PAGE, false).unwrap();
    assert_eq!(mapping.write(0, b"x").unwrap_err().done, 0);
    assert_eq!(mapping.read(0, &mut [0; 16]), Ok(()));
}

#[test]
fn addresses_that_no_client_has_are_refused() {
    for at in [
        ADDRESS_END,
        ADDRESS_END + 8,
        1 << 63,
        0xffff_8000_0000_0000,
        u64::MAX,
    ] {
        let fault = MemFault {
            done: 0,
            at: UserAddr(at),
        };
        assert_eq!(client().read(UserAddr(at), &mut [0; 8]), Err(fault));
        assert_eq!(client().write(UserAddr(at), &[0; 200]), Err(fault));
        assert_eq!(client().read_obj::<u64>(UserAddr(at)), Err(fault));
        assert_eq!(client().load(UserAddr(at), 4), Err(fault));
        assert_eq!(client().store(UserAddr(at), 4, 0), Err(fault));
        assert_eq!(client().compare_exchange(UserAddr(at), 4, 0, 1), Err(fault));
        assert_eq!(client().fill(UserAddr(at), 0, 9), Err(fault));
        assert_eq!(client().copy(UserAddr(at), UserAddr(0x1000), 9), Err(fault));
    }
    let fault = client()
        .read(UserAddr(ADDRESS_END - 8), &mut [0; 64])
        .unwrap_err();
    assert_eq!(
        fault,
        MemFault {
            done: 0,
            at: UserAddr(ADDRESS_END - 8)
        }
    );
}

#[test]
fn nothing_is_moved_by_an_empty_copy() {
    client().read(UserAddr(0), &mut []).unwrap();
    client()
        .write(UserAddr(u64::MAX), &[])
        .unwrap_or_else(|_| panic!("nothing was touched"));
}

#[test]
fn single_accesses_have_the_width_asked_for() {
    let base = fresh(2);
    protect(base + PAGE, PAGE, MprotectFlags::empty());
    for (bytes, mask) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff), (8, u64::MAX)] {
        let (value, at) = (0x8182_8384_8586_8788, UserAddr(base));
        client().fill(at, 0x11, 16).unwrap();
        client().store(at, bytes, value).unwrap();
        assert_eq!(client().load(at, bytes), Ok(value & mask));
        assert_eq!(
            client().load(UserAddr(base + u64::from(bytes)), 1),
            Ok(0x11)
        );
        assert_eq!(client().compare_exchange(at, bytes, 0, 5), Ok(value & mask));
        assert_eq!(
            client().compare_exchange(at, bytes, value, 5),
            Ok(value & mask)
        );
        assert_eq!(client().load(at, bytes), Ok(5));
        let hole = UserAddr(base + PAGE);
        assert_eq!(
            client().load(hole, bytes),
            Err(MemFault { done: 0, at: hole })
        );
        assert_eq!(
            client().store(hole, bytes, 1),
            Err(MemFault { done: 0, at: hole })
        );
        assert_eq!(
            client().compare_exchange(hole, bytes, 1, 1),
            Err(MemFault { done: 0, at: hole })
        );
    }
}

#[test]
fn objects_come_back_as_written() {
    let base = UserAddr(fresh(1));
    client().write_obj(base, &[1u32, 2, 3, 4, 5]).unwrap();
    assert_eq!(client().read_obj::<[u32; 5]>(base), Ok([1, 2, 3, 4, 5]));
    assert_eq!(client().read_obj::<u16>(UserAddr(base.0 + 4)), Ok(2));
    assert_eq!(
        client().read_obj::<[u32; 2]>(UserAddr(8)).unwrap_err().done,
        0
    );
}
