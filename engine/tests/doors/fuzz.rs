//! Fuzz bodies of the door: whatever a client passes in, it gets an errno or an answer, never a crash.
//!
//! Each body is a plain function of bytes, so any fuzzer can drive it; here proptest does, `cargo xtask fuzz` for longer.

use proptest::prelude::*;
use swiommu_abi::iommufd_test as test;
use swiommu_abi::{iommufd, vfio};

use crate::support::memory::{Memory, address_of};
use crate::support::mock::Mock;
use crate::support::nvme::{self, Driver};
use crate::support::vfio::{CONFIG, RW, region};
use crate::support::{Answered, Fd, Model, World, edu, machine, stub};

/// One open file of each kind, and memory whose addresses the input can name.
struct Target {
    container: Fd,
    fresh: Fd,
    group: Fd,
    devices: Vec<Fd>,
    memory: Memory,
    _others: Vec<Fd>,
    _world: World,
}

impl Target {
    fn new(model: Model) -> Target {
        let world = World::new(machine(
            model,
            [edu(4, 4), stub(5, 5), crate::support::nvme(6, 6)],
        ));
        let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let mut devices = vec![group.device("0000:00:04.0").unwrap()];
        let mut others = Vec::new();
        for number in [5, 6] {
            let other = world.group(number).unwrap();
            other.set_container(&container).unwrap();
            devices.push(other.device(&format!("0000:00:0{number}.0")).unwrap());
            others.push(other);
        }
        let memory = Memory::pages(8);
        container.map(0, memory.base(), 8 * 4096, RW).unwrap();
        devices.iter().for_each(|device| device.bus_master(true));
        Target {
            fresh: world.container(),
            container,
            group,
            devices,
            memory,
            _others: others,
            _world: world,
        }
    }

    fn file(&self, which: u8) -> &Fd {
        match which % 6 {
            0 => &self.container,
            1 => &self.fresh,
            2 => &self.group,
            which => &self.devices[usize::from(which) - 3],
        }
    }

    /// Still alive: a container answers as ever.
    fn check(&self) {
        assert_eq!(self.container.ioctl(vfio::GET_API_VERSION, 0), Ok(0));
    }
}

/// A number of the input: often one that means something.
fn number(target: &Target, pick: u8, raw: u64) -> u64 {
    match pick % 8 {
        0 => target.memory.base() + raw % (8 * 4096),
        1 => raw % (16 * 4096) / 4096 * 4096,
        2 => raw % 64,
        3 => u64::MAX - raw % 8192,
        4 => (1 << 47) - raw % 8192,
        5 => 1 << (raw % 64),
        _ => raw,
    }
}

/// Body: an ioctl on a file; its argument points at words made from the input, or is one of them.
fn any_ioctl(target: &Target, which: u8, cmd: u32, direct: bool, words: &[(u8, u64)]) {
    let file = target.file(which);
    let values: Vec<u64> = words
        .iter()
        .map(|(pick, raw)| number(target, *pick, *raw))
        .collect();
    // the last page, so that an argument may run into what is not mapped
    let at = 8 * 4096 - values.len() as u64 * 8;
    for (index, value) in values.iter().enumerate() {
        target
            .memory
            .write(at + index as u64 * 8, &value.to_le_bytes());
    }
    let arg = if direct {
        values.first().copied().unwrap_or(0)
    } else {
        target.memory.base() + at
    };
    // UNSET_CONTAINER and the like change the target for good; it is made anew for each case
    if let Ok(Answered::Fd(opened)) = file.ioctl_raw(cmd, arg) {
        drop(opened);
    }
}

/// Body: SET_IRQS with a plausible header.
fn any_irqs(
    target: &Target,
    which: u8,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    data: &[u8],
) {
    let _ = target.devices[usize::from(which % 3)].irqs_raw(index, flags, start, count, data);
}

/// Body: a register access anywhere in the file.
fn any_register(target: &Target, which: u8, bar: u32, offset: u64, bytes: u8, write: Option<u64>) {
    let (device, bytes) = (&target.devices[usize::from(which % 3)], 1 << (bytes % 4));
    match write {
        Some(value) => device.store(region(bar) + offset, bytes, value),
        None => drop(std::hint::black_box(
            device.try_load(region(bar) + offset, bytes),
        )),
    }
}

/// Body: configuration space and regions through the file.
fn any_file_access(target: &Target, which: u8, offset: u64, data: &[u8], write: bool) {
    let device = &target.devices[usize::from(which % 3)];
    let mut data = data.to_vec();
    let _ = if write {
        device.pwrite(offset, &data)
    } else {
        device.pread(offset, &mut data)
    };
    let _ = device.mmap(offset, data.len() as u64 * 4096);
}

/// Goes to a migration state; the transfer, if one begins.
fn go(device: &Fd, to: u32) -> Option<Fd> {
    let flags = vfio::DEVICE_FEATURE_MIG_DEVICE_STATE | vfio::DEVICE_FEATURE_SET;
    let mut ask = [16u32, flags, to, 0];
    match device.ioctl_raw(vfio::DEVICE_FEATURE, address_of(&mut ask[..])) {
        Ok(Answered::Fd(fd)) => Some(fd),
        _ => None,
    }
}

/// Body: the state of a controller at work, with some bytes changed, is given back to it, and it works on.
fn any_state(target: &Target, changes: &[(u16, u8)], cut: Option<u16>) -> bool {
    let device = &target.devices[2];
    let mut driver = Driver::new(1 << 20);
    let bytes = nvme::PAGES * 4096;
    target
        .container
        .map(1 << 20, driver.memory.base(), bytes, RW)
        .unwrap();
    driver.start(device);
    driver.put_block(false, 1, 1, 0);
    let out = go(device, vfio::DEVICE_STATE_STOP_COPY).expect("a transfer");
    let mut state = vec![0; 1 << 16];
    let bytes = out.pread(0, &mut state).unwrap() as usize;
    state.truncate(bytes);
    for (at, value) in changes {
        let at = usize::from(*at) % bytes;
        state[at] ^= value;
    }
    state.truncate(cut.map_or(bytes, |cut| usize::from(cut) % bytes));
    let into = go(device, vfio::DEVICE_STATE_RESUMING).expect("a transfer");
    into.pwrite(0, &state).unwrap();
    go(device, vfio::DEVICE_STATE_RUNNING);
    for queue in 0..2 {
        driver.ring(device, queue);
        driver.done(device, queue);
    }
    for register in [0x14, 0x1c] {
        device.try_load(register, 4);
    }
    let mut ask = [
        16u32,
        vfio::DEVICE_FEATURE_MIG_DEVICE_STATE | vfio::DEVICE_FEATURE_GET,
        0,
        0,
    ];
    device.ioctl_with(vfio::DEVICE_FEATURE, &mut ask).unwrap();
    ask[2] == vfio::DEVICE_STATE_RUNNING
}

fn model() -> impl Strategy<Value = Model> {
    prop_oneof![Just(Model::Legacy), Just(Model::Scalable), Just(Model::Amd)]
}

fn command() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0x3b64u32..0x3b78, 1 => any::<u32>()]
}

fn words() -> impl Strategy<Value = Vec<(u8, u64)>> {
    proptest::collection::vec(any::<(u8, u64)>(), 0..8)
}

/// Words whose first is a sensible argsz with flags.
fn plausible() -> impl Strategy<Value = Vec<(u8, u64)>> {
    (0..80u64, 0..64u64, words()).prop_map(|(argsz, flags, mut words)| {
        words.insert(0, (7, argsz | flags << 32));
        words
    })
}

fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() {
        asked.cases
    } else {
        64
    };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..asked
    }
}

/// Body: records written to and read from the descriptors of a guest's IOMMU, and requests to invalidate, of any size
/// and content.
fn any_guest(steps: &[(u8, u32, Vec<u8>)]) {
    let mock = Mock::new();
    let ioas = mock.iommu.ioas();
    let device = mock.device(ioas, 0).unwrap();
    let parent = iommufd::HWPT_ALLOC_NEST_PARENT;
    let parent = mock.iommu.hwpt(device.id, ioas, parent).unwrap();
    let viommu = mock.viommu(device.id, parent, None).unwrap();
    let (queue, faults) = mock.fault_queue();
    let flags = iommufd::HWPT_FAULT_ID_VALID;
    let nested = mock.nested(device.id, viommu, flags, queue).unwrap();
    mock.vdevice(viommu, device.id, 3).unwrap();
    mock.replace(device, nested).unwrap();
    let events = mock.veventq(viommu, 2).unwrap();
    for (which, number, bytes) in steps {
        match which % 7 {
            0 => mock.page_request(device.id, number % 3, u64::from(*number)),
            1 => drop(faults.pread(0, &mut bytes.clone())),
            2 => drop(faults.pwrite(0, bytes)),
            3 => drop(events.pread(0, &mut bytes.clone())),
            4 => drop(mock.op(test::OP_TRIGGER_VEVENT, 0, test::PtId { id: device.id })),
            which => {
                let target = if which == 5 { nested } else { viommu };
                let mut bytes = bytes.clone();
                let mut cmd = iommufd::HwptInvalidate {
                    size: 32,
                    hwpt_id: target,
                    data_uptr: address_of(&mut bytes[..]),
                    data_type: test::HWPT_INVALIDATE_DATA_SELFTEST,
                    entry_len: number % 24,
                    entry_num: bytes.len() as u32 / (number % 24).max(1),
                    ..Default::default()
                };
                let asked = cmd.entry_num;
                let result = mock.iommu.run(iommufd::HWPT_INVALIDATE, &mut cmd);
                assert!(cmd.entry_num <= asked && (result.is_err() || cmd.entry_num == asked));
            }
        }
    }
    // Whatever was answered, what is asked next is read in order.
    mock.page_request(device.id, 0, 1);
    let mut all = vec![0; 40 * (steps.len() + 1)];
    let read = faults.pread(0, &mut all).unwrap() as usize;
    assert!(read >= 40 && read.is_multiple_of(40));
    assert_eq!(
        u64::from_ne_bytes(all[read - 16..read - 8].try_into().unwrap()),
        1
    );
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fuzz_any_ioctl_on_any_file_is_answered(
        model in model(),
        calls in proptest::collection::vec((any::<u8>(), command(), any::<bool>(), prop_oneof![words(), plausible()]), 1..60),
    ) {
        let target = Target::new(model);
        for (which, cmd, direct, words) in &calls {
            any_ioctl(&target, *which, *cmd, *direct, words);
        }
        target.check();
    }

    #[test]
    fn fuzz_any_interrupt_set_is_answered(
        calls in proptest::collection::vec(
            (any::<u8>(), prop_oneof![0..64u32, any::<u32>()], 0..7u32, prop_oneof![0..10u32, any::<u32>()],
             prop_oneof![0..10u32, any::<u32>()], proptest::collection::vec(any::<u8>(), 0..40)), 1..80),
    ) {
        let target = Target::new(Model::Scalable);
        for (which, flags, index, start, count, data) in &calls {
            any_irqs(&target, *which, *flags, *index, *start, *count, data);
        }
        target.check();
    }

    #[test]
    fn fuzz_any_register_access_is_answered(
        model in model(),
        accesses in proptest::collection::vec(
            (any::<u8>(), 0..10u32, prop_oneof![0..0x200u64, 0..0x20000u64, 0..1u64 << 40], any::<u8>(),
             proptest::option::of(prop_oneof![0..0x8000u64, any::<u64>()])), 1..120),
    ) {
        let target = Target::new(model);
        for (which, bar, offset, bytes, write) in &accesses {
            any_register(&target, *which, *bar, *offset, *bytes, *write);
        }
        target.check();
    }

    #[test]
    fn fuzz_any_file_access_is_answered(
        model in model(),
        accesses in proptest::collection::vec(
            (any::<u8>(), prop_oneof![4 => (0..0x1010u64).prop_map(|at| CONFIG + at),
             1 => (0..10u32, 0..0x20010u64).prop_map(|(bar, at)| region(bar) + at), 1 => any::<u64>()],
             proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 1..120),
    ) {
        let target = Target::new(model);
        for (which, offset, data, write) in &accesses {
            any_file_access(&target, *which, *offset, data, *write);
        }
        target.check();
    }

    #[test]
    fn fuzz_any_migration_state_is_taken_or_refused(
        model in model(),
        changes in proptest::collection::vec((prop_oneof![0..400u16, any::<u16>()], any::<u8>()), 0..6),
        cut in prop_oneof![6 => Just(None), 1 => any::<u16>().prop_map(Some)],
    ) {
        let target = Target::new(model);
        let taken = any_state(&target, &changes, cut);
        if cut.is_some() {
            prop_assert!(!taken, "a part of a state was taken");
        }
        if changes.is_empty() && cut.is_none() {
            prop_assert!(taken, "its own state was refused");
        }
        target.check();
    }

    #[test]
    fn fuzz_of_a_guests_iommu(
        steps in prop::collection::vec(
            (any::<u8>(), any::<u32>(), prop::collection::vec(0..8u8, 1..120)),
            1..24,
        ),
    ) {
        any_guest(&steps);
    }
}
