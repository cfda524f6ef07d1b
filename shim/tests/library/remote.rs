//! Files that several processes have, and what is sent to the process that answers for them.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use crate::run::{Run, program, text};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use swiommu_engine::service::{self, Head, Wire, op};

fn lines(mode: &str) -> String {
    let run = Run::new();
    text(run.command(program("remote")).arg(mode).output().unwrap())
}

#[test]
fn a_file_whose_opener_has_ended_answers_enodev() {
    let said = lines("orphan");
    let expected =
        "alive 0\nioctl -1 ENODEV 1\npread -1 ENODEV 1\nregister ffffffff\nclose 0\nmine 0\n";
    assert_eq!(said, expected);
}

#[test]
fn children_that_are_killed_in_the_middle_of_calls_leave_nothing_open() {
    assert_eq!(lines("killed"), "free 1\n");
}

#[test]
fn a_group_is_free_when_the_last_process_has_closed_it_and_not_before() {
    let run = Run::new();
    let mut command = run.command(program("remote"));
    let output = command.arg("last").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "busy 1\nfree 1\n");
}

/// A program that has files open and answers for them, and its process id.
fn served(
    run: &Run,
) -> (
    std::process::Child,
    BufReader<std::process::ChildStdout>,
    u32,
) {
    let mut command: Command = run.command(program("remote"));
    let mut child = command
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    (child, said, line.trim().parse().unwrap())
}

#[derive(Debug, Clone)]
enum Sent {
    Packet(Head, Vec<u8>, usize),
    Bytes(Vec<u8>),
}

fn anything() -> impl Strategy<Value = Sent> {
    let operation = prop_oneof![
        0..8u32,
        Just(op::FETCH),
        Just(op::PIN),
        Just(op::ENGINE),
        any::<u32>()
    ];
    let number = prop_oneof![0..8u64, Just(4096), Just(u64::MAX), any::<u64>()];
    let head =
        (operation, any::<u64>(), prop::array::uniform4(number)).prop_map(|(op, file, args)| {
            Head {
                op,
                file,
                args,
                ..Head::default()
            }
        });
    prop_oneof![
        8 => (head, prop::collection::vec(any::<u8>(), 0..64), 0..3usize)
            .prop_map(|(head, body, fds)| Sent::Packet(head, body, fds)),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Sent::Bytes),
    ]
}

fn send(wire: &Wire, sent: &Sent) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let _ = match sent {
        Sent::Packet(head, body, fds) => wire.send(head, body, &vec![null.as_fd(); *fds]),
        Sent::Bytes(bytes) => {
            let _ = rustix::net::send(wire, bytes, rustix::net::SendFlags::NOSIGNAL);
            Ok(())
        }
    };
}

#[test]
fn whatever_is_sent_to_the_owner_it_answers_on() {
    let run = Run::new();
    let (mut child, mut said, pid) = served(&run);
    let inodes = inodes(pid);
    let mut runner = TestRunner::new(Config::with_cases(200));
    let stories = prop::collection::vec(
        (anything(), prop::sample::select(inodes), any::<bool>()),
        1..12,
    );
    runner
        .run(&stories, |story| {
            let wire = service::connect(run.path(), pid).unwrap();
            wire.wait_at_most(std::time::Duration::from_secs(20));
            for (mut sent, inode, waits) in story {
                if let Sent::Packet(head, ..) = &mut sent
                    && !head.file.is_multiple_of(4)
                {
                    // a file that exists
                    head.file = inode;
                }
                // A request for memory of the process's own is granted: it is its user's.
                send(&wire, &sent);
                if waits && wire.receive().is_none() {
                    break;
                }
            }
            Ok(())
        })
        .unwrap();
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "0 0 0\n");
    assert!(child.wait().unwrap().success());
}

/// The kernel objects of a process's files.
fn inodes(pid: u32) -> Vec<u64> {
    use std::os::unix::fs::MetadataExt;
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let ours = numbers.flatten().filter(|entry| {
        let name = std::fs::read_link(entry.path()).unwrap_or_default();
        name.to_string_lossy().starts_with("/memfd:swiommu:")
    });
    let inodes: Vec<u64> = ours
        .filter_map(|entry| Some(std::fs::metadata(entry.path()).ok()?.ino()))
        .collect();
    assert!(!inodes.is_empty());
    inodes
}
