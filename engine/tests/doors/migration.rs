//! Migration: the states of an NVMe controller with a variant driver, its state on the way to another one, and what is
//! refused on the way.

use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{DeviceConfig, DeviceKind, Medium, Migration, NvmeConfig};

use crate::support::memory::address_of;
use crate::support::nvme::{DATA, Driver, PAGES};
use crate::support::vfio::{Event, RW};
use crate::support::{Answered, Fd, Model, World, device, edu, machine};

const IOVA: u64 = 0x10_0000;

const ERROR: u32 = vfio::DEVICE_STATE_ERROR;
const STOP: u32 = vfio::DEVICE_STATE_STOP;
const RUNNING: u32 = vfio::DEVICE_STATE_RUNNING;
const STOP_COPY: u32 = vfio::DEVICE_STATE_STOP_COPY;
const RESUMING: u32 = vfio::DEVICE_STATE_RESUMING;
const RUNNING_P2P: u32 = vfio::DEVICE_STATE_RUNNING_P2P;
const PRE_COPY: u32 = vfio::DEVICE_STATE_PRE_COPY;
const PRE_COPY_P2P: u32 = vfio::DEVICE_STATE_PRE_COPY_P2P;

/// A source at slot 5 and a target at slot 6 on one medium, and an edu; each in a group of its own.
fn both(migration: Migration) -> (World, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let nvme = |serial: &str, queues| {
        DeviceKind::Nvme(NvmeConfig {
            namespaces: vec![Medium {
                path: file.path().to_owned(),
                bytes: 1 << 20,
                read_only: false,
            }],
            serial: serial.into(),
            queues,
            migration,
            ..NvmeConfig::default()
        })
    };
    let devices: [DeviceConfig; 4] = [
        edu(4, 4),
        device(5, 5, nvme("source", 2)),
        device(6, 6, nvme("target", 2)),
        device(7, 7, nvme("larger", 3)),
    ];
    (World::new(machine(Model::Scalable, devices)), file)
}

/// A controller behind a container of its own, with the driver's memory mapped.
struct Controller {
    device: Fd,
    _files: (Fd, Fd),
}

impl Controller {
    fn open(world: &World, slot: u32, driver: &Driver) -> Controller {
        let (container, group) = world.joined(slot, vfio::TYPE1V2_IOMMU);
        let device = group.device(&format!("0000:00:0{slot}.0")).unwrap();
        container
            .map(IOVA, driver.memory.base(), PAGES * 4096, RW)
            .unwrap();
        device.bus_master(true);
        Controller {
            device,
            _files: (container, group),
        }
    }
}

fn feature(device: &Fd, flags: u32, data: &mut [u32]) -> Result<Answered, Errno> {
    let mut ask = [&[8 + 4 * data.len() as u32, flags], &*data].concat();
    let answer = device.ioctl_raw(vfio::DEVICE_FEATURE, address_of(&mut ask[..]));
    data.copy_from_slice(&ask[2..]);
    answer
}

fn state(device: &Fd) -> u32 {
    let flags = vfio::DEVICE_FEATURE_MIG_DEVICE_STATE | vfio::DEVICE_FEATURE_GET;
    let mut data = [77, 0];
    feature(device, flags, &mut data).map(drop).unwrap();
    assert_eq!(data[1] as i32, -1);
    data[0]
}

/// Goes to a state: the descriptor of a transfer that begins.
pub fn go(device: &Fd, to: u32) -> Result<Option<Fd>, Errno> {
    let flags = vfio::DEVICE_FEATURE_MIG_DEVICE_STATE | vfio::DEVICE_FEATURE_SET;
    let mut data = [to, 0];
    match feature(device, flags, &mut data) {
        Ok(Answered::Fd(fd)) => {
            assert_eq!(data[1] as i32, fd.number());
            Ok(Some(fd))
        }
        other => {
            assert_eq!(data[1] as i32, -1);
            other.map(|_| None)
        }
    }
}

fn transfer(device: &Fd, to: u32) -> Fd {
    go(device, to).unwrap().expect("a transfer begins")
}

/// All that can be read now, in pieces; and how it ended.
fn read_on(stream: &Fd) -> (Vec<u8>, Result<u64, Errno>) {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match stream.pread(0, &mut piece) {
            Ok(bytes) if bytes > 0 => all.extend_from_slice(&piece[..bytes as usize]),
            end => return (all, end),
        }
    }
}

fn read_all(stream: &Fd) -> Vec<u8> {
    let (all, end) = read_on(stream);
    assert_eq!(end, Ok(0));
    all
}

fn write_all(stream: &Fd, bytes: &[u8]) {
    for piece in bytes.chunks(777) {
        assert_eq!(stream.pwrite(0, piece), Ok(piece.len() as u64));
    }
}

/// PRECOPY_INFO: initial and dirty bytes.
pub fn precopy(stream: &Fd) -> Result<(u64, u64), Errno> {
    let mut info = [24u64, 0, 0];
    stream.ioctl_with(vfio::MIG_GET_PRECOPY_INFO, &mut info)?;
    Ok((info[1], info[2]))
}

#[test]
fn a_controller_moves_in_the_middle_of_its_work_and_nothing_is_lost() {
    let (world, _medium) = both(Migration::All);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    for block in 0..20u8 {
        driver.memory.write(DATA, &[block + 1; 512]);
        driver.put_block(true, block.into(), block.into(), 0);
        driver.ring(&source.device, 1);
        assert_eq!(driver.done(&source.device, 1), Some((block.into(), 0)));
    }
    // an asynchronous event request stays outstanding
    driver.put(0, 0x0c, 500, [0; 2], [0; 3]);
    driver.ring(&source.device, 0);
    assert_eq!(driver.done(&source.device, 0), None);

    let stream = transfer(&source.device, PRE_COPY);
    let (mut moved, end) = read_on(&stream);
    assert_eq!(end, Err(Errno::ENOMSG));
    driver.memory.write(DATA, &[0xaa; 512]);
    driver.put_block(true, 100, 3, 0);
    driver.ring(&source.device, 1);
    assert_eq!(driver.done(&source.device, 1), Some((100, 0)), "it runs");
    assert_eq!(go(&source.device, PRE_COPY_P2P).map(|_| ()), Ok(()));
    // commands that the source takes and does not execute
    for (cid, block) in [(200u16, 4u32), (201, 5)] {
        driver
            .memory
            .write(DATA + u64::from(block) * 512, &[0xbb; 512]);
        driver.put_block(true, cid, block, u64::from(block) * 512);
    }
    driver.ring(&source.device, 1);
    assert_eq!(driver.done(&source.device, 1), None, "it is quiet");
    assert_eq!(go(&source.device, STOP_COPY).map(|_| ()), Ok(()));
    moved.extend(read_all(&stream));

    let target = Controller::open(&world, 6, &driver);
    let stream = transfer(&target.device, RESUMING);
    write_all(&stream, &moved);
    go(&target.device, RUNNING).unwrap();
    assert_eq!(driver.done(&target.device, 1), Some((200, 0)));
    assert_eq!(driver.done(&target.device, 1), Some((201, 0)));
    drop(source);
    for block in 0..20u8 {
        let expected = match block {
            3 => 0xaa,
            4 | 5 => 0xbb,
            _ => block + 1,
        };
        let found = driver.read_block(&target.device, block.into());
        assert_eq!(found, [expected; 512], "block {block}");
    }
    // the event request arrived too: a bad doorbell completes it
    target.device.store(0x1000 + 3 * 8, 4, 1);
    assert_eq!(driver.done(&target.device, 0), Some((500, 0)));
    driver.put(0, 6, 600, [IOVA + DATA, 0], [1, 0, 0]);
    driver.ring(&target.device, 0);
    assert_eq!(driver.done(&target.device, 0), Some((600, 0)));
    assert_eq!(&driver.memory.read(DATA + 4, 6), b"source", "its serial");
}

#[test]
fn a_state_moves_between_two_processes_of_a_run() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    driver.memory.write(DATA, &[0x5a; 512]);
    driver.put_block(true, 1, 7, 0);
    driver.ring(&source.device, 1);
    assert_eq!(driver.done(&source.device, 1), Some((1, 0)));
    let moved = read_all(&transfer(&source.device, STOP_COPY));
    let beside = world.beside();
    let target = Controller::open(&beside, 6, &driver);
    write_all(&transfer(&target.device, RESUMING), &moved);
    go(&target.device, RUNNING).unwrap();
    assert_eq!(driver.read_block(&target.device, 7), [0x5a; 512]);
}

#[test]
fn a_migration_that_is_given_up_goes_on_where_it_was() {
    let (world, _medium) = both(Migration::All);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let event = Event::new();
    source
        .device
        .eventfds(vfio::PCI_MSIX_IRQ_INDEX, 1, &[event.number()])
        .unwrap();
    go(&source.device, RUNNING_P2P).unwrap();
    driver.put_block(true, 1, 1, 0);
    driver.ring(&source.device, 1);
    let stream = transfer(&source.device, STOP_COPY);
    assert_eq!((driver.done(&source.device, 1), event.count()), (None, 0));
    go(&source.device, RUNNING).unwrap();
    assert_eq!(event.count(), 1);
    assert_eq!(driver.done(&source.device, 1), Some((1, 0)));
    assert_eq!(
        stream.pread(0, &mut [0; 8]),
        Err(Errno::ENODEV),
        "it is over"
    );
    assert_eq!(precopy(&stream), Err(Errno::EINVAL));
}

#[test]
fn a_stopped_controller_ignores_writes_and_that_is_reported() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    go(&source.device, STOP).unwrap();
    assert_eq!(source.device.load(0x1c, 4), 1, "reads are answered");
    assert_eq!(world.kinds(), [""; 0]);
    driver.put_block(true, 1, 1, 0);
    driver.ring(&source.device, 1);
    assert_eq!(world.kinds().len(), 1);
    go(&source.device, RUNNING).unwrap();
    assert_eq!(driver.done(&source.device, 1), None);
    driver.ring(&source.device, 1);
    assert_eq!(driver.done(&source.device, 1), Some((1, 0)));
}

#[test]
fn pre_copy_tells_how_much_is_left_and_begins_anew_when_the_device_changes() {
    let (world, _medium) = both(Migration::PreCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let stream = transfer(&source.device, PRE_COPY);
    let (initial, dirty) = precopy(&stream).unwrap();
    assert!(initial > 100 && dirty == 0);
    assert_eq!(stream.pread(0, &mut [0; 60]), Ok(60));
    assert_eq!(precopy(&stream), Ok((initial - 60, 0)));
    let (first, end) = read_on(&stream);
    assert_eq!(
        (first.len() as u64 + 60, end),
        (initial, Err(Errno::ENOMSG))
    );
    assert_eq!(precopy(&stream), Ok((0, 0)));
    driver.put_block(false, 1, 1, 0);
    driver.ring(&source.device, 1);
    assert_eq!(precopy(&stream), Ok((0, initial)));
    let (again, end) = read_on(&stream);
    assert_eq!((again.len() as u64, end), (initial, Err(Errno::ENOMSG)));
    go(&source.device, STOP_COPY).unwrap();
    assert_eq!(precopy(&stream), Err(Errno::EINVAL), "it no longer runs");
    assert_eq!(read_all(&stream).len() as u64, initial);
    assert_eq!(stream.pread(0, &mut [0; 8]), Ok(0), "for ever");
}

#[test]
fn states_are_reached_on_the_ways_that_there_are() {
    let (world, _medium) = both(Migration::StopCopy);
    let driver = Driver::new(IOVA);
    let Controller { device, _files } = Controller::open(&world, 5, &driver);
    assert_eq!(state(&device), RUNNING);
    for absent in [ERROR, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P, 8, u32::MAX] {
        assert_eq!(go(&device, absent).err(), Some(Errno::EINVAL), "{absent}");
    }
    assert_eq!(state(&device), RUNNING);
    assert!(go(&device, STOP_COPY).unwrap().is_some());
    assert!(
        go(&device, STOP_COPY).unwrap().is_none(),
        "it is there already"
    );
    assert!(go(&device, RESUMING).unwrap().is_some());
    assert_eq!(state(&device), RESUMING);
    device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
    assert_eq!(state(&device), RUNNING);
}

#[test]
fn what_is_not_a_state_of_such_a_controller_is_refused_and_only_a_reset_helps() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let good = read_all(&transfer(&source.device, STOP_COPY));
    let target = Controller::open(&world, 6, &driver);
    let larger = Controller::open(&world, 7, &driver);
    let long = [&good[..], b"x"].concat();
    let mut version = good.clone();
    version[8] += 1;
    let refused: [(&str, &Fd, &[u8]); 5] = [
        ("nothing", &target.device, b""),
        ("too little", &target.device, &good[..good.len() - 1]),
        ("too much", &target.device, &long),
        ("another version", &target.device, &version),
        ("another controller's", &larger.device, &good),
    ];
    for (what, device, bytes) in refused {
        write_all(&transfer(device, RESUMING), bytes);
        assert_eq!(go(device, RUNNING).err(), Some(Errno::EINVAL), "{what}");
        assert_eq!(state(device), ERROR);
        assert_eq!(go(device, RUNNING).err(), Some(Errno::EINVAL));
        device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
        assert_eq!(state(device), RUNNING);
    }
    write_all(&transfer(&target.device, RESUMING), &good);
    go(&target.device, RUNNING).unwrap();
    assert_eq!(target.device.load(0x1c, 4), 1, "ready");
}

#[test]
fn a_transfer_goes_one_way() {
    let (world, _medium) = both(Migration::StopCopy);
    let driver = Driver::new(IOVA);
    let Controller { device, _files } = Controller::open(&world, 5, &driver);
    let out = transfer(&device, STOP_COPY);
    assert_eq!(out.pwrite(0, b"x"), Err(Errno::EBADF));
    assert_eq!(out.ioctl(vfio::DEVICE_RESET, 0), Err(Errno::ENOTTY));
    let into = transfer(&device, RESUMING);
    assert_eq!(into.pread(0, &mut [0; 8]), Err(Errno::EBADF));
    assert_eq!(out.pread(0, &mut [0; 8]), Err(Errno::ENODEV));
    let most = vec![0; 16 << 20];
    assert_eq!(into.pwrite(0, &most), Ok(16 << 20));
    assert_eq!(into.pwrite(0, b"x"), Err(Errno::ENOMEM));
}

#[test]
fn a_device_that_stays_has_no_migration_and_one_that_goes_says_how() {
    let (world, _medium) = both(Migration::All);
    let driver = Driver::new(IOVA);
    let Controller { device, _files } = Controller::open(&world, 5, &driver);
    let get = vfio::DEVICE_FEATURE_GET;
    let mut flags = [0, 0];
    let ask = get | vfio::DEVICE_FEATURE_MIGRATION;
    feature(&device, ask, &mut flags).map(drop).unwrap();
    assert_eq!(flags, [7, 0]);
    assert_eq!(feature(&device, ask, &mut [0]).err(), Some(Errno::EINVAL));
    let mut size = [0, 0];
    let ask = get | vfio::DEVICE_FEATURE_MIG_DATA_SIZE;
    feature(&device, ask, &mut size).map(drop).unwrap();
    let moved = read_all(&transfer(&device, STOP_COPY));
    assert_eq!(size, [moved.len() as u32, 0]);
    let v2 = vfio::DEVICE_FEATURE_MIG_PRECOPY_INFOV2;
    let set = vfio::DEVICE_FEATURE_SET;
    feature(&device, set | v2, &mut []).map(drop).unwrap();
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let edu = group.device("0000:00:04.0").unwrap();
    for index in [
        vfio::DEVICE_FEATURE_MIGRATION,
        vfio::DEVICE_FEATURE_MIG_DEVICE_STATE,
        vfio::DEVICE_FEATURE_MIG_DATA_SIZE,
    ] {
        assert_eq!(
            feature(&edu, get | index, &mut [0, 0]).err(),
            Some(Errno::ENOTTY)
        );
    }
    assert_eq!(feature(&edu, set | v2, &mut []).err(), Some(Errno::EINVAL));
}

/// START: the page size taken.
pub fn start_log(device: &Fd, page: u64, ranges: &[(u64, u64)]) -> Result<u64, Errno> {
    let mut ranges: Vec<u64> = ranges
        .iter()
        .flat_map(|(at, bytes)| [*at, *bytes])
        .collect();
    let count = ranges.len() as u32 / 2;
    let at = address_of(&mut ranges[..]);
    let flags = vfio::DEVICE_FEATURE_DMA_LOGGING_START | vfio::DEVICE_FEATURE_SET;
    let mut data = [
        page as u32,
        (page >> 32) as u32,
        count,
        0,
        at as u32,
        (at >> 32) as u32,
    ];
    feature(device, flags, &mut data)?;
    Ok(u64::from(data[0]))
}

/// REPORT of the driver's memory: one bit a page, on top of what `bitmap` has.
fn report(device: &Fd, bitmap: &mut [u64; 2]) -> Result<(), Errno> {
    let at = address_of(bitmap);
    report_to(device, [IOVA, PAGES * 4096, 4096, at])
}

fn report_to(device: &Fd, report: [u64; 4]) -> Result<(), Errno> {
    let flags = vfio::DEVICE_FEATURE_DMA_LOGGING_REPORT | vfio::DEVICE_FEATURE_GET;
    let mut data: Vec<u32> = report
        .iter()
        .flat_map(|word| [*word as u32, (word >> 32) as u32])
        .collect();
    feature(device, flags, &mut data).map(drop)
}

fn stop_log(device: &Fd) -> Result<(), Errno> {
    let flags = vfio::DEVICE_FEATURE_DMA_LOGGING_STOP | vfio::DEVICE_FEATURE_SET;
    feature(device, flags, &mut []).map(drop)
}

#[test]
fn the_log_is_exactly_the_pages_that_were_written() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let whole = [(IOVA, PAGES * 4096)];
    assert_eq!(start_log(&source.device, 4096, &whole), Ok(4096));
    let mut bits = [1 << 40, 1];
    report(&source.device, &mut bits).unwrap();
    assert_eq!(
        bits,
        [1 << 40, 1],
        "nothing was written, and no bit is cleared"
    );
    // a block to page 10, its completion to page 3
    driver.put_block(false, 1, 1, 0x2000);
    driver.ring(&source.device, 1);
    assert_eq!(driver.done(&source.device, 1), Some((1, 0)));
    let mut bits = [0, 0];
    let bad = [IOVA, PAGES * 4096, 4096, 8];
    assert_eq!(report_to(&source.device, bad), Err(Errno::EFAULT));
    report(&source.device, &mut bits).unwrap();
    assert_eq!(bits, [1 << 3 | 1 << 10, 0]);
    let mut bits = [0, 0];
    report(&source.device, &mut bits).unwrap();
    assert_eq!(bits, [0, 0], "it was told already");
    // what the device reads is not written: page 9 to the medium
    driver.put_block(true, 2, 1, 0x1000);
    driver.ring(&source.device, 1);
    driver.done(&source.device, 1).unwrap();
    report(&source.device, &mut bits).unwrap();
    assert_eq!(bits, [1 << 3, 0]);
}

#[test]
fn of_a_blocked_dma_the_pages_before_the_fault_are_logged() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let last = PAGES * 4096;
    start_log(&source.device, 4096, &[(0, 1 << 40)]).unwrap();
    // 16 blocks: the last page of the memory, and one behind it
    let prps = [IOVA + last - 4096, IOVA + last];
    driver.put(1, 2, 1, prps, [0, 0, 15]);
    driver.ring(&source.device, 1);
    assert!(matches!(driver.done(&source.device, 1), Some((1, status)) if status != 0));
    let mut bits = [0u64; 2];
    let all = [IOVA, 2 * last, 4096, address_of(&mut bits)];
    report_to(&source.device, all).unwrap();
    assert_eq!(bits, [1 << 3 | 1 << (PAGES - 1), 0]);
}

#[test]
fn logging_ends_when_it_is_told_to() {
    let (world, _medium) = both(Migration::StopCopy);
    let mut driver = Driver::new(IOVA);
    let source = Controller::open(&world, 5, &driver);
    driver.start(&source.device);
    let mut bits = [0, 0];
    assert_eq!(report(&source.device, &mut bits), Err(Errno::EINVAL), "off");
    assert_eq!(stop_log(&source.device), Ok(()));
    start_log(&source.device, 4096, &[(IOVA, 4096)]).unwrap();
    assert_eq!(
        start_log(&source.device, 4096, &[(IOVA, 4096)]),
        Err(Errno::EINVAL)
    );
    driver.put_block(false, 1, 1, 0);
    driver.ring(&source.device, 1);
    report(&source.device, &mut bits).unwrap();
    assert_eq!(bits, [0, 0], "outside the ranges");
    stop_log(&source.device).unwrap();
    assert_eq!(report(&source.device, &mut bits), Err(Errno::EINVAL));
    start_log(&source.device, 4096, &[(IOVA, PAGES * 4096)]).unwrap();
    report(&source.device, &mut bits).unwrap();
    assert_eq!(bits, [0, 0], "it begins empty");
}

#[test]
fn dma_logging_refuses_what_the_kernel_refuses() {
    let (world, _medium) = both(Migration::StopCopy);
    let driver = Driver::new(IOVA);
    let Controller { device, _files } = Controller::open(&world, 5, &driver);
    let many = |count: u64| (0..count).map(|at| (at << 20, 4096)).collect::<Vec<_>>();
    type Ranges = Vec<(u64, u64)>;
    let refused: [(&str, u64, Ranges, Errno); 6] = [
        ("no range", 4096, vec![], Errno::EINVAL),
        ("too many", 4096, many(257), Errno::E2BIG),
        ("unaligned", 4096, vec![(16, 4096)], Errno::EINVAL),
        (
            "a length that is not whole",
            8192,
            vec![(0, 4096)],
            Errno::EINVAL,
        ),
        (
            "overlap",
            4096,
            vec![(0, 8192), (4096, 4096)],
            Errno::EINVAL,
        ),
        ("wraps", 4096, vec![(!4095, 8192)], Errno::EOVERFLOW),
    ];
    for (what, page, ranges, errno) in refused {
        assert_eq!(start_log(&device, page, &ranges), Err(errno), "{what}");
    }
    assert_eq!(start_log(&device, 65536, &[(0, 65536)]), Ok(65536));
    stop_log(&device).unwrap();
    assert_eq!(start_log(&device, 4096, &many(256)), Ok(4096));
    let mut bits = [0u64; 2];
    let at = address_of(&mut bits);
    for (asked, errno) in [
        ([0, 4096, 2048, at], Errno::EINVAL),
        ([0, 4096, 12288, at], Errno::EINVAL),
        ([u64::MAX, 4096, 4096, at], Errno::EOVERFLOW),
    ] {
        assert_eq!(report_to(&device, asked), Err(errno));
    }
    assert_eq!(report_to(&device, [0, 0, 4096, at]), Ok(()));
}
