//! Populating answers as pinning does.

mod common;

use common::{alone, client, fresh, mapped, protect, unmap};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use swiommu_abi::Errno;
use swiommu_mem::{ADDRESS_END, PAGE, UserAddr, fd, note_shared_file_mapping};

fn populate(first: u64, bytes: u64, write: bool) -> Result<(), Errno> {
    client().populate(UserAddr(first), bytes, write)
}

#[test]
fn present_and_fresh_memory_is_granted_both_ways() {
    let _alone = alone();
    let base = fresh(4);
    assert_eq!(populate(base, 4 * PAGE, true), Ok(()));
    assert_eq!(populate(base + 5, 1, false), Ok(()));
    assert_eq!(populate(mapped(PAGE, MapFlags::SHARED), PAGE, true), Ok(()));
    assert_eq!(populate(base, 0, true), Ok(()));
}

#[test]
fn a_hole_is_efault() {
    let _alone = alone();
    let base = fresh(3);
    unmap(base + PAGE, PAGE);
    assert_eq!(populate(base, 3 * PAGE, true), Err(Errno::EFAULT));
    assert_eq!(populate(base, 3 * PAGE, false), Err(Errno::EFAULT));
    assert_eq!(populate(base + 2 * PAGE, PAGE, false), Ok(()));
}

#[test]
fn read_only_memory_is_granted_for_reading_alone() {
    let _alone = alone();
    let base = fresh(1);
    protect(base, PAGE, MprotectFlags::READ);
    assert_eq!(populate(base, PAGE, false), Ok(()));
    assert_eq!(populate(base, PAGE, true), Err(Errno::EFAULT));
}

#[test]
fn touching_finds_what_cannot_be_written_and_changes_nothing() {
    let _alone = alone();
    let base = fresh(3);
    client().write(UserAddr(base + PAGE), b"here").unwrap();
    assert_eq!(client().touch(UserAddr(base), 3 * PAGE), Ok(()));
    let mut there = [0; 4];
    client().read(UserAddr(base + PAGE), &mut there).unwrap();
    assert_eq!(&there, b"here");
    protect(base + 2 * PAGE, PAGE, MprotectFlags::READ);
    assert_eq!(client().touch(UserAddr(base), 2 * PAGE), Ok(()));
    let stopped = client().touch(UserAddr(base), 2 * PAGE + 1).unwrap_err();
    assert_eq!(stopped.at, UserAddr(base + 2 * PAGE));
    unmap(base + PAGE, PAGE);
    assert!(client().touch(UserAddr(base), 2 * PAGE).is_err());
}

#[test]
fn inaccessible_memory_is_efault() {
    let _alone = alone();
    let base = fresh(1);
    protect(base, PAGE, MprotectFlags::empty());
    assert_eq!(populate(base, PAGE, false), Err(Errno::EFAULT));
    assert_eq!(populate(base, PAGE, true), Err(Errno::EFAULT));
}

#[test]
fn a_page_beyond_the_end_of_its_file_is_efault() {
    let _alone = alone();
    let file = fd::memfd("short", PAGE).unwrap();
    let base = map_file(&file, 2 * PAGE, MapFlags::SHARED);
    assert_eq!(populate(base, PAGE, true), Ok(()));
    assert_eq!(populate(base, 2 * PAGE, true), Err(Errno::EFAULT));
    assert_eq!(populate(base + PAGE, 1, false), Err(Errno::EFAULT));
}

#[test]
fn addresses_beyond_the_client_are_efault() {
    let _alone = alone();
    assert_eq!(populate(ADDRESS_END, 1, false), Err(Errno::EFAULT));
    assert_eq!(
        populate(ADDRESS_END - PAGE, 2 * PAGE, false),
        Err(Errno::EFAULT)
    );
    assert_eq!(populate(u64::MAX, 2, false), Err(Errno::EFAULT));
}

#[test]
fn a_writable_shared_mapping_of_an_ordinary_file_is_refused_for_writing() {
    let _alone = alone();
    note_shared_file_mapping();
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/populate.bin");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(2 * PAGE).unwrap();
    let kind = rustix::fs::fstatfs(&file).unwrap().f_type;
    let file = std::os::fd::OwnedFd::from(file);
    let ordinary = kind as u64 != 0x0102_1994;
    let expected = if ordinary { Err(Errno::EFAULT) } else { Ok(()) };
    let shared = map_file(&file, PAGE, MapFlags::SHARED);
    assert_eq!(populate(shared, PAGE, true), expected);
    assert_eq!(populate(shared, PAGE, false), Ok(()));
    assert_eq!(
        populate(map_file(&file, PAGE, MapFlags::PRIVATE), PAGE, true),
        Ok(())
    );
    let memory = fd::memfd("shared memory", PAGE).unwrap();
    assert_eq!(
        populate(map_file(&memory, PAGE, MapFlags::SHARED), PAGE, true),
        Ok(())
    );
    assert_eq!(populate(mapped(PAGE, MapFlags::SHARED), PAGE, true), Ok(()));
}

#[allow(unsafe_code)] // maps a file
fn map_file(file: &std::os::fd::OwnedFd, bytes: u64, flags: MapFlags) -> u64 {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address.
    unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            protection,
            flags,
            file,
            0,
        )
    }
    .unwrap() as u64
}
