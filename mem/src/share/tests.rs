use super::*;
use crate::{Mapping, Window, install_handlers};
use std::sync::{Mutex, MutexGuard};

/// One range moves at a time.
fn alone() -> (MutexGuard<'static, ()>, Client) {
    static ALONE: Mutex<()> = Mutex::new(());
    install_handlers();
    let alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the handlers are installed; the tests touch their own mappings.
    (alone, unsafe { Client::local() })
}

fn piece_at(first: u64, bytes: u64) -> Piece {
    let found = pieces(first, first + bytes - 1).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[test]
fn moved_memory_reads_as_before_and_is_the_file_s_from_then_on() {
    let (_alone, client) = alone();
    let memory = Mapping::anonymous(4 * PAGE).unwrap();
    memory.write(PAGE, b"before").unwrap();
    let (first, bytes) = (memory.base().0 + PAGE, 2 * PAGE);
    assert_eq!(piece_at(first, bytes).shared, None);
    let file = into_file(first, bytes, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    let mut back = [0; 6];
    memory.read(PAGE, &mut back).unwrap();
    assert_eq!(&back, b"before");
    let window = Window::reserve(bytes).unwrap();
    window.show(0, bytes, file.as_fd(), 0).unwrap();
    client.write(window.base(), b"device").unwrap();
    memory.read(PAGE, &mut back).unwrap();
    assert_eq!(&back, b"device");
    // Its neighbours are as private as before.
    assert_eq!(piece_at(memory.base().0, PAGE).shared, None);
    let origin = piece_at(first, bytes).shared.unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_ino, origin.inode);
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_dev, origin.device);
}

#[test]
fn shared_memory_is_found_by_what_it_is() {
    let file = fd::memfd("x", 4 * PAGE).unwrap();
    let memory = Mapping::of_file(file.as_fd(), 4 * PAGE, true).unwrap();
    let stat = rustix::fs::fstat(&file).unwrap();
    let origin = |offset| Origin {
        device: stat.st_dev,
        inode: stat.st_ino,
        offset,
    };
    let found = find(origin(PAGE), 2 * PAGE);
    assert_eq!(found, Some(UserAddr(memory.base().0 + PAGE)));
    assert_eq!(find(origin(3 * PAGE), 2 * PAGE), None);
}

#[test]
fn a_copy_takes_the_place_and_is_private() {
    let (_alone, client) = alone();
    let memory = Mapping::anonymous(PAGE).unwrap();
    memory.write(0, b"common").unwrap();
    let first = memory.base().0;
    let file = into_file(first, PAGE, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    let copy = Copy::new(piece_at(first, PAGE)).unwrap();
    client.write(UserAddr(first), b"later!").unwrap();
    copy.put().unwrap();
    let mut back = [0; 6];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"common");
    client.write(UserAddr(first), b"mine..").unwrap();
    rustix::io::pread(&file, &mut back, 0).unwrap();
    assert_eq!(&back, b"later!");
    assert_eq!(piece_at(first, PAGE).shared, None);
}

#[test]
fn renewed_memory_is_zero_and_no_longer_the_file_s() {
    let (_alone, _) = alone();
    let memory = Mapping::anonymous(PAGE).unwrap();
    memory.write(0, b"given up").unwrap();
    let first = memory.base().0;
    let file = into_file(first, PAGE, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    renew(piece_at(first, PAGE)).unwrap();
    let mut back = [1; 8];
    memory.read(0, &mut back).unwrap();
    assert_eq!(back, [0; 8]);
    rustix::io::pread(&file, &mut back, 0).unwrap();
    assert_eq!(&back, b"given up");
}

#[test]
fn a_fault_where_nothing_ever_moved_is_no_move_and_one_elsewhere_is_tried_once() {
    let (_alone, _) = alone();
    let memory = Mapping::anonymous(PAGE).unwrap();
    memory.write(0, b"x").unwrap();
    let first = memory.base().0;
    into_file(first, PAGE, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    assert!(!is_moving(8));
    assert!(is_moving(first + 8) && !is_moving(first + 8));
    into_file(first, PAGE, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    assert!(is_moving(first + 8) && !is_moving(first + 8));
}
