use super::*;
use std::thread;

fn run() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Answers one request with what `answer` makes of it.
fn serve_one(listener: Listener, answer: impl FnOnce(Packet) -> (Head, Vec<u8>) + Send + 'static) {
    thread::spawn(move || {
        let wire = listener.accept().expect("a connection");
        let (head, body) = answer(wire.receive().expect("a request"));
        wire.send(&head, &body, &[]).expect("an answer");
        // Stays until the other end has read it.
        assert!(wire.receive().is_none());
    });
}

#[test]
fn a_message_arrives_with_its_kind_and_comes_back_with_its_answer() {
    let run = run();
    let listener = Listener::new(run.path()).unwrap();
    assert_eq!(processes(run.path()), [std::process::id()]);
    serve_one(listener, |packet| {
        assert_eq!((packet.head.op, packet.head.args[0]), (op::ENGINE, 7));
        (Head::default(), [&packet.body[..], b" back"].concat())
    });
    let answer = ask(run.path(), std::process::id(), 7, b"there and").unwrap();
    assert_eq!(answer, b"there and back");
}

#[test]
fn an_errno_of_the_other_engine_is_the_answer() {
    let run = run();
    let listener = Listener::new(run.path()).unwrap();
    serve_one(listener, |_| {
        let head = Head {
            op: Errno::EBUSY.raw() as u32,
            ..Head::default()
        };
        (head, Vec::new())
    });
    let answer = ask(run.path(), std::process::id(), 7, b"");
    assert_eq!(answer, Err(Errno::EBUSY));
}

#[test]
fn a_process_that_is_not_there_is_no_process_and_leaves_no_socket() {
    let run = run();
    assert!(connect(run.path(), 1).is_err());
    drop(Listener::new(run.path()).unwrap());
    assert!(processes(run.path()).is_empty());
    // A socket nobody listens at any more, as after a kill.
    let dead = super::socket().unwrap();
    at(run.path(), 77, |address| rustix::net::bind(&dead, address)).unwrap();
    drop(dead);
    assert_eq!(processes(run.path()), [77]);
    assert_eq!(connect(run.path(), 77).unwrap_err(), Errno::ECONNREFUSED);
    assert!(processes(run.path()).is_empty());
}

#[test]
fn who_took_a_file_over_is_known_by_its_opener_and_key() {
    let run = run();
    Listener::new(run.path()).unwrap();
    assert_eq!(owner(run.path(), 5, 77), None);
    take_over(run.path(), 5, 77).unwrap();
    assert_eq!(owner(run.path(), 5, 77), Some(std::process::id()));
    assert_eq!(owner(run.path(), 6, 77), None);
    assert!(processes(run.path()).is_empty());
}

#[test]
fn a_directory_whose_path_is_longer_than_a_socket_s_address_serves() {
    let run = run();
    let long = run.path().join("x".repeat(120));
    fs::create_dir(&long).unwrap();
    let listener = Listener::new(&long).unwrap();
    connect(&long, std::process::id()).unwrap();
    drop(listener);
}

#[test]
fn descriptors_arrive_and_a_packet_that_is_no_packet_ends_the_connection() {
    let run = run();
    let listener = Listener::new(run.path()).unwrap();
    let (ours, theirs) = (
        connect(run.path(), std::process::id()).unwrap(),
        listener.accept().unwrap(),
    );
    assert_eq!(theirs.peer(), Some(std::process::id()));
    let file = swiommu_mem::fd::memfd("x", 8192).unwrap();
    ours.send(&Head::default(), b"", &[file.as_fd(), file.as_fd()])
        .unwrap();
    let packet = theirs.receive().unwrap();
    let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
    assert_eq!(packet.fds.len(), 2);
    assert_eq!(inode(packet.fds[1].as_fd()), inode(file.as_fd()));
    rustix::net::send(&ours, b"short", rustix::net::SendFlags::empty()).unwrap();
    assert!(theirs.receive().is_none());
    let large = vec![0u8; BODY_MOST + 1];
    let sent = ours.send(&Head::default(), &large, &[]);
    assert_eq!(sent, Err(Errno::EMSGSIZE));
}
