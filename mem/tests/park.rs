//! Stolen pages keep their contents; the place they came from is empty and then gone.
#![allow(unsafe_code)] // maps files, forks

mod common;

use common::{alone, bytes_at, fresh, mapped, paint, pattern, protect, unmap};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use swiommu_abi::Errno;
use swiommu_mem::park::steal;
use swiommu_mem::{PAGE, UserAddr, fd};

#[test]
fn private_pages_move_and_leave_zeros() {
    let _alone = alone();
    let base = fresh(8);
    paint(base, 8 * PAGE, 1);
    let parked = steal(UserAddr(base + 2 * PAGE), 3 * PAGE).unwrap();
    let all = pattern(8 * PAGE, 1);
    let page = PAGE as usize;
    assert_eq!(
        bytes_at(parked.base().0, 3 * PAGE),
        &all[2 * page..5 * page]
    );
    assert_eq!(bytes_at(base + 2 * PAGE, 3 * PAGE), vec![0; 3 * page]);
    assert_eq!(bytes_at(base, 2 * PAGE), &all[..2 * page]);
    assert_eq!(bytes_at(base + 5 * PAGE, 3 * PAGE), &all[5 * page..]);
    unmap(base, 8 * PAGE);
    assert_eq!(bytes_at(parked.base().0, PAGE), &all[2 * page..3 * page]);
}

#[test]
fn shared_pages_stay_shared_with_their_file() {
    let _alone = alone();
    let file = fd::memfd("shared", 4 * PAGE).unwrap();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let map = || {
        // SAFETY: the kernel chooses the address.
        unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                4 * PAGE as usize,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .unwrap() as u64
    };
    let (base, other) = (map(), map());
    paint(base, 4 * PAGE, 2);
    let parked = steal(UserAddr(base), 4 * PAGE).unwrap();
    unmap(base, 4 * PAGE);
    assert_eq!(bytes_at(parked.base().0, 4 * PAGE), pattern(4 * PAGE, 2));
    paint(parked.base().0, 4 * PAGE, 3);
    assert_eq!(bytes_at(other, 4 * PAGE), pattern(4 * PAGE, 3));
}

#[test]
fn changed_pages_of_a_private_file_mapping_move_with_their_changes() {
    let _alone = alone();
    let file = fd::memfd("private", 2 * PAGE).unwrap();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            2 * PAGE as usize,
            protection,
            MapFlags::PRIVATE,
            &file,
            0,
        )
    }
    .unwrap() as u64;
    paint(base, PAGE, 4);
    let parked = steal(UserAddr(base), 2 * PAGE).unwrap();
    assert_eq!(bytes_at(parked.base().0, PAGE), pattern(PAGE, 4));
    assert_eq!(
        bytes_at(parked.base().0 + PAGE, PAGE),
        vec![0; PAGE as usize]
    );
}

#[test]
fn a_growing_stack_mapping_is_moved() {
    let _alone = alone();
    let base = mapped(64 * PAGE, MapFlags::PRIVATE | MapFlags::GROWSDOWN);
    paint(base + 32 * PAGE, 32 * PAGE, 5);
    let parked = steal(UserAddr(base + 40 * PAGE), 4 * PAGE).unwrap();
    let all = pattern(32 * PAGE, 5);
    assert_eq!(
        bytes_at(parked.base().0, 4 * PAGE),
        &all[8 * PAGE as usize..12 * PAGE as usize]
    );
}

#[test]
fn several_mappings_and_a_hole_keep_their_offsets() {
    let _alone = alone();
    let base = fresh(6);
    paint(base, 6 * PAGE, 6);
    unmap(base + 2 * PAGE, PAGE);
    protect(base + 4 * PAGE, PAGE, MprotectFlags::READ);
    let parked = steal(UserAddr(base), 6 * PAGE).unwrap();
    let all = pattern(6 * PAGE, 6);
    for page in [0u64, 1, 3, 4, 5] {
        let at = page * PAGE;
        assert_eq!(
            bytes_at(parked.base().0 + at, PAGE),
            &all[at as usize..][..PAGE as usize],
            "page {page}"
        );
        assert_eq!(
            bytes_at(base + at, PAGE),
            vec![0; PAGE as usize],
            "page {page}"
        );
    }
    let hole = common::client().read(UserAddr(parked.base().0 + 2 * PAGE), &mut [0; 1]);
    assert!(hole.is_err());
}

#[test]
fn inaccessible_memory_is_accessible_where_it_is_parked() {
    let _alone = alone();
    let base = fresh(2);
    paint(base, 2 * PAGE, 7);
    protect(base, 2 * PAGE, MprotectFlags::empty());
    let parked = steal(UserAddr(base), 2 * PAGE).unwrap();
    assert_eq!(bytes_at(parked.base().0, 2 * PAGE), pattern(2 * PAGE, 7));
    assert!(common::client().read(UserAddr(base), &mut [0; 1]).is_err());
}

#[test]
fn large_ranges_are_parked_at_the_same_place_within_a_huge_page() {
    let _alone = alone();
    let base = fresh(2048);
    paint(base + PAGE, PAGE, 8);
    let parked = steal(UserAddr(base + PAGE), 2046 * PAGE).unwrap();
    assert_eq!(parked.base().0 % (2 << 20), (base + PAGE) % (2 << 20));
    assert_eq!(bytes_at(parked.base().0, PAGE), pattern(PAGE, 8));
    assert_eq!(bytes_at(base + PAGE, PAGE), vec![0; PAGE as usize]);
}

#[test]
fn a_child_keeps_what_it_had_when_it_was_forked() {
    let _alone = alone();
    let base = fresh(2);
    paint(base, 2 * PAGE, 9);
    let (from_child, to_parent) = rustix::pipe::pipe().unwrap();
    let (from_parent, to_child) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child makes async-signal-safe calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut go = [0];
        let _ = rustix::io::read(&from_parent, &mut go);
        // SAFETY: the child's own copy of the mapping.
        let seen = unsafe { std::slice::from_raw_parts(base as *const u8, 16) };
        let _ = rustix::io::write(&to_parent, seen);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let parked = steal(UserAddr(base), 2 * PAGE).unwrap();
    paint(parked.base().0, 16, 0x77);
    rustix::io::write(&to_child, b"x").unwrap();
    let mut seen = [0; 16];
    rustix::io::read(&from_child, &mut seen).unwrap();
    assert_eq!(seen, pattern(16, 9)[..]);
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

#[test]
fn parts_can_be_released_in_any_order() {
    let _alone = alone();
    let base = fresh(4);
    paint(base, 4 * PAGE, 10);
    let mut parked = steal(UserAddr(base), 4 * PAGE).unwrap();
    let place = parked.base().0;
    parked.release(PAGE, PAGE);
    // The page is gone, or by now another thread's.
    let mut released = vec![0; PAGE as usize];
    let read = common::client().read(UserAddr(place + PAGE), &mut released);
    assert!(read.is_err() || released != pattern(4 * PAGE, 10)[PAGE as usize..2 * PAGE as usize]);
    assert_eq!(
        bytes_at(place, PAGE),
        &pattern(4 * PAGE, 10)[..PAGE as usize]
    );
    parked.release(0, 2 * PAGE);
    assert!(!parked.is_empty());
    parked.release(2 * PAGE, 2 * PAGE);
    assert!(parked.is_empty());
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let _alone = alone();
    let base = fresh(2);
    assert_eq!(steal(UserAddr(base + 1), PAGE).unwrap_err(), Errno::EINVAL);
    assert_eq!(steal(UserAddr(base), 0).unwrap_err(), Errno::EINVAL);
    assert_eq!(steal(UserAddr(base), 5).unwrap_err(), Errno::EINVAL);
    assert_eq!(steal(UserAddr(!0xfff), PAGE).unwrap_err(), Errno::EINVAL);
    unmap(base, 2 * PAGE);
    assert_eq!(steal(UserAddr(base), 2 * PAGE).unwrap_err(), Errno::EFAULT);
}
