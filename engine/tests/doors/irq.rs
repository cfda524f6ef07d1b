//! Interrupts with real eventfds: what SET_IRQS accepts, and what is left when it refuses.

use swiommu_abi::{Errno, vfio};

use crate::support::edu::Rig;
use crate::support::vfio::Event;
use crate::support::{Fd, Model, World, edu, machine, stub};

const INTX: u32 = vfio::PCI_INTX_IRQ_INDEX;
const MSI: u32 = vfio::PCI_MSI_IRQ_INDEX;
const MSIX: u32 = vfio::PCI_MSIX_IRQ_INDEX;
const ERR: u32 = vfio::PCI_ERR_IRQ_INDEX;
const REQ: u32 = vfio::PCI_REQ_IRQ_INDEX;
const MASK: u32 = vfio::IRQ_SET_ACTION_MASK;
const UNMASK: u32 = vfio::IRQ_SET_ACTION_UNMASK;
const TRIGGER: u32 = vfio::IRQ_SET_ACTION_TRIGGER;
/// DisINTx in the command register.
const DISINTX: u64 = 0x400;

/// A stub with every kind of interrupt, and what keeps it alive.
struct Stub {
    device: Fd,
    _files: (Fd, Fd, World),
}

fn stub_device() -> Stub {
    let world = World::new(machine(Model::Scalable, [stub(4, 4)]));
    let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:00:04.0").unwrap();
    Stub {
        device,
        _files: (container, group, world),
    }
}

fn raise(rig: &Rig) {
    rig.device.store(0x60, 4, 1);
}

fn acknowledge(rig: &Rig) {
    rig.device.store(0x64, 4, 0xffff_ffff);
}

fn line_status(rig: &Rig) -> bool {
    rig.device.config(6, 2) & 8 != 0
}

#[test]
fn a_line_interrupt_masks_itself_and_fires_again_on_unmask_while_it_is_asserted() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    raise(&rig);
    assert_eq!((event.count(), line_status(&rig)), (1, true));
    raise(&rig);
    assert_eq!(event.count(), 0, "it is masked");
    rig.device.irqs(INTX, UNMASK, 0, 1).unwrap();
    assert_eq!(event.count(), 1, "still asserted");
    acknowledge(&rig);
    assert!(!line_status(&rig));
    rig.device.irqs(INTX, UNMASK, 0, 1).unwrap();
    assert_eq!(event.count(), 0, "no longer asserted");
    raise(&rig);
    assert_eq!(event.count(), 1);
}

#[test]
fn a_masked_line_is_delivered_when_it_is_unmasked() {
    let (rig, event) = (Rig::new(Model::Amd), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    rig.device.irqs_bool(INTX, MASK, 0, &[0]).unwrap();
    raise(&rig);
    assert_eq!(event.count(), 1, "a flag of 0 masks nothing");
    acknowledge(&rig);
    rig.device.irqs_bool(INTX, MASK, 0, &[1]).unwrap();
    raise(&rig);
    assert_eq!(event.count(), 0);
    rig.device.irqs_bool(INTX, UNMASK, 0, &[1]).unwrap();
    assert_eq!(event.count(), 1);
}

#[test]
fn a_line_that_rises_before_the_eventfd_is_set_is_not_lost() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    raise(&rig);
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    assert_eq!(event.count(), 1);
}

/// UNMASK of INTx with an eventfd, or -1.
fn unmask_by(device: &Fd, event: i32) -> Result<i32, Errno> {
    let flags = vfio::IRQ_SET_DATA_EVENTFD | UNMASK;
    device.irqs_raw(INTX, flags, 0, 1, &event.to_ne_bytes())
}

#[test]
fn a_write_to_the_unmask_eventfd_unmasks_and_fires_while_the_line_is_asserted() {
    let (rig, event, unmask) = (Rig::new(Model::Scalable), Event::new(), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    unmask_by(&rig.device, unmask.number()).unwrap();
    raise(&rig);
    assert_eq!(event.awaited(), 1);
    for _ in 0..3 {
        unmask.signal();
        assert_eq!(event.awaited(), 1, "still asserted");
        assert_eq!(unmask.count(), 0, "the device took it");
    }
    acknowledge(&rig);
    unmask.signal();
    unmask.until_taken();
    assert_eq!(event.count(), 0, "no longer asserted");
    raise(&rig);
    assert_eq!(event.count(), 1, "and not masked");
}

#[test]
fn an_unmask_eventfd_that_was_written_before_counts_and_keeps_its_count() {
    let (rig, event, unmask) = (Rig::new(Model::Scalable), Event::new(), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    raise(&rig);
    assert_eq!(event.count(), 1);
    unmask.signal();
    unmask_by(&rig.device, unmask.number()).unwrap();
    assert_eq!((event.count(), unmask.count()), (1, 1));
}

#[test]
fn an_unmask_eventfd_that_was_taken_away_is_nobodys() {
    let (rig, event, unmask) = (Rig::new(Model::Scalable), Event::new(), Event::new());
    for disable in [false, true] {
        rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
        unmask_by(&rig.device, unmask.number()).unwrap();
        if disable {
            rig.device.irqs(INTX, TRIGGER, 0, 0).unwrap();
            rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
        } else {
            unmask_by(&rig.device, -1).unwrap();
        }
        raise(&rig);
        assert_eq!(event.count(), 1);
        unmask.signal();
        assert_eq!(unmask_by(&rig.device, unmask.number()), Ok(0));
        assert_eq!((event.count(), unmask.count()), (1, 1), "found as written");
        unmask_by(&rig.device, -1).unwrap();
        acknowledge(&rig);
        rig.device.irqs(INTX, TRIGGER, 0, 0).unwrap();
    }
}

#[test]
fn a_second_unmask_eventfd_is_refused_until_the_first_is_closed() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    let (first, second) = (Event::new(), Event::new());
    assert_eq!(
        unmask_by(&rig.device, first.number()),
        Err(Errno::EINVAL),
        "INTx is off"
    );
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    assert_eq!(unmask_by(&rig.device, 9999), Err(Errno::EBADF));
    unmask_by(&rig.device, first.number()).unwrap();
    assert_eq!(unmask_by(&rig.device, 9999), Err(Errno::EBADF));
    for busy in [&first, &second] {
        assert_eq!(unmask_by(&rig.device, busy.number()), Err(Errno::EBUSY));
    }
    drop(first);
    assert_eq!(unmask_by(&rig.device, second.number()), Ok(0));
    raise(&rig);
    assert_eq!(event.count(), 1);
    second.signal();
    assert_eq!(event.awaited(), 1);
}

#[test]
fn while_the_command_register_disables_the_line_nothing_unmasks_or_fires_it() {
    let (rig, event, unmask) = (Rig::new(Model::Scalable), Event::new(), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    unmask_by(&rig.device, unmask.number()).unwrap();
    let command = rig.device.config(4, 2);
    rig.device.set_config(4, 2, command | DISINTX);
    raise(&rig);
    rig.device.irqs(INTX, UNMASK, 0, 1).unwrap();
    rig.device.irqs(INTX, TRIGGER, 0, 1).unwrap();
    unmask.signal();
    unmask.until_taken();
    assert_eq!(event.count(), 0);
    rig.device.set_config(4, 2, command);
    assert_eq!(event.count(), 1);
}

#[test]
fn the_commands_disable_bit_holds_the_line_back() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    let command = rig.device.config(4, 2);
    rig.device.set_config(4, 2, command | DISINTX);
    raise(&rig);
    assert_eq!((event.count(), line_status(&rig)), (0, true));
    rig.device.set_config(4, 2, command);
    assert_eq!(event.count(), 1);
}

#[test]
fn a_line_that_is_disabled_in_the_command_register_is_masked_when_it_is_set_up() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    let command = rig.device.config(4, 2);
    rig.device.set_config(4, 2, command | DISINTX);
    raise(&rig);
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    assert_eq!(event.count(), 0);
    rig.device.set_config(4, 2, command);
    assert_eq!(event.count(), 1);
}

#[test]
fn an_interrupt_without_messages_needs_no_bus_master() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.bus_master(false);
    rig.device.eventfds(INTX, 0, &[event.number()]).unwrap();
    raise(&rig);
    assert_eq!(event.count(), 1);
    assert_eq!(rig.world.kinds(), [""; 0]);
}

#[test]
fn a_message_without_bus_master_is_not_sent_and_reported() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(MSI, 0, &[event.number()]).unwrap();
    rig.device.bus_master(false);
    raise(&rig);
    assert_eq!(
        (event.count(), rig.world.kinds()),
        (0, vec!["bus-master-off".to_owned()])
    );
    rig.device.bus_master(true);
    raise(&rig);
    assert_eq!(event.count(), 1);
}

#[test]
fn messages_do_not_drive_the_line() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(MSI, 0, &[event.number()]).unwrap();
    raise(&rig);
    raise(&rig);
    assert_eq!((event.count(), line_status(&rig)), (2, false));
}

#[test]
fn one_kind_is_active_at_a_time() {
    let (stub, event) = (stub_device(), Event::new());
    let device = &stub.device;
    for (active, others) in [
        (INTX, [MSI, MSIX]),
        (MSI, [INTX, MSIX]),
        (MSIX, [INTX, MSI]),
    ] {
        device.eventfds(active, 0, &[event.number()]).unwrap();
        for other in others {
            assert_eq!(
                device.eventfds(other, 0, &[event.number()]),
                Err(Errno::EINVAL),
                "{other} beside {active}"
            );
            assert_eq!(
                device.irqs(other, TRIGGER, 0, 0),
                Err(Errno::EINVAL),
                "{other} is not on to be turned off"
            );
        }
        device.irqs(active, TRIGGER, 0, 1).unwrap();
        assert_eq!(event.count(), 1, "{active} is as it was");
        device.irqs(active, TRIGGER, 0, 0).unwrap();
        assert_eq!(
            device.irqs(active, TRIGGER, 0, 1),
            Err(Errno::EINVAL),
            "{active} is off"
        );
        assert_eq!(event.count(), 0);
    }
}

#[test]
fn vectors_loop_back_one_by_one() {
    let (stub, events) = (stub_device(), [Event::new(), Event::new(), Event::new()]);
    let fds: Vec<i32> = events.iter().map(Event::number).collect();
    stub.device.eventfds(MSIX, 2, &fds).unwrap();
    stub.device.irqs(MSIX, TRIGGER, 2, 2).unwrap();
    assert_eq!(events.each_ref().map(Event::count), [1, 1, 0]);
    stub.device.irqs_bool(MSIX, TRIGGER, 2, &[1, 0, 1]).unwrap();
    assert_eq!(events.each_ref().map(Event::count), [1, 0, 1]);
    stub.device.irqs(MSIX, TRIGGER, 0, 8).unwrap();
    assert_eq!(
        events.each_ref().map(Event::count),
        [1, 1, 1],
        "vectors without an eventfd are passed over"
    );
    stub.device.eventfds(MSIX, 3, &[-1]).unwrap();
    stub.device.irqs(MSIX, TRIGGER, 2, 3).unwrap();
    assert_eq!(events.each_ref().map(Event::count), [1, 0, 1]);
}

#[test]
fn msix_grows_and_msi_does_not() {
    let (stub, event) = (stub_device(), Event::new());
    stub.device.eventfds(MSIX, 0, &[event.number()]).unwrap();
    assert_eq!(stub.device.eventfds(MSIX, 7, &[event.number()]), Ok(0));
    stub.device.irqs(MSIX, TRIGGER, 0, 0).unwrap();
    stub.device.eventfds(MSI, 0, &[event.number(), -1]).unwrap();
    assert_eq!(
        stub.device.eventfds(MSI, 1, &[event.number()]),
        Ok(0),
        "the vector exists"
    );
    assert_eq!(
        stub.device.eventfds(MSI, 2, &[event.number()]),
        Err(Errno::EINVAL)
    );
    stub.device.irqs(MSI, TRIGGER, 0, 2).unwrap();
    assert_eq!(event.count(), 2, "the refusal changed nothing");
}

#[test]
fn an_eventfd_that_is_none_refuses_the_call_and_enables_nothing() {
    let (stub, event) = (stub_device(), Event::new());
    let (file, closed) = (swiommu_mem::fd::memfd("x", 0).unwrap(), 1 << 20);
    let file = std::os::fd::AsRawFd::as_raw_fd(&file);
    for index in [INTX, MSI, MSIX] {
        assert_eq!(
            stub.device.eventfds(index, 0, &[file]),
            Err(Errno::EINVAL),
            "a memory file, index {index}"
        );
        assert_eq!(
            stub.device.eventfds(index, 0, &[closed]),
            Err(Errno::EBADF),
            "closed, index {index}"
        );
        assert_eq!(
            stub.device.irqs(index, TRIGGER, 0, 1),
            Err(Errno::EINVAL),
            "index {index} is off"
        );
    }
    stub.device
        .eventfds(MSIX, 0, &[event.number(), closed])
        .unwrap_err();
    assert_eq!(
        stub.device.eventfds(INTX, 0, &[event.number()]),
        Ok(0),
        "nothing stands in the way"
    );
}

#[test]
fn an_eventfd_is_held_after_the_client_closes_it() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(MSI, 0, &[event.number()]).unwrap();
    let twin = event.twin();
    drop(event);
    raise(&rig);
    assert_eq!(twin.count(), 1);
}

#[test]
fn requests_and_errors_loop_back_and_are_taken_away() {
    let (stub, event) = (stub_device(), Event::new());
    for index in [ERR, REQ] {
        let device = &stub.device;
        assert_eq!(
            device.irqs(index, TRIGGER, 0, 1),
            Err(Errno::EINVAL),
            "nothing to signal"
        );
        device.eventfds(index, 0, &[event.number()]).unwrap();
        device.irqs(index, TRIGGER, 0, 1).unwrap();
        device.irqs_bool(index, TRIGGER, 0, &[1]).unwrap();
        device.irqs_bool(index, TRIGGER, 0, &[0]).unwrap();
        assert_eq!(event.count(), 2);
        assert_eq!(device.irqs(index, MASK, 0, 1), Err(Errno::ENOTTY));
        assert_eq!(
            device.eventfds(index, 1, &[event.number()]),
            Err(Errno::EINVAL),
            "there is one"
        );
        device.eventfds(index, 0, &[-1]).unwrap();
        assert_eq!(
            device.irqs(index, TRIGGER, 0, 1),
            Err(Errno::EINVAL),
            "taken away"
        );
    }
}

#[test]
fn a_conventional_device_has_no_error_interrupt() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    assert_eq!(
        rig.device.eventfds(ERR, 0, &[event.number()]),
        Err(Errno::EINVAL)
    );
    assert_eq!(rig.device.eventfds(REQ, 0, &[event.number()]), Ok(0));
}

#[test]
fn a_malformed_header_is_refused_before_anything_else() {
    let (stub, event) = (stub_device(), Event::new());
    let fd = event.number().to_ne_bytes();
    let eventfd = vfio::IRQ_SET_DATA_EVENTFD | TRIGGER;
    let refused = [
        ("no data flag", INTX, TRIGGER, 0, 1, &fd[..], Errno::EINVAL),
        (
            "two data flags",
            INTX,
            TRIGGER | 3,
            0,
            1,
            &fd,
            Errno::EINVAL,
        ),
        (
            "an unknown flag",
            INTX,
            eventfd | 64,
            0,
            1,
            &fd,
            Errno::EINVAL,
        ),
        (
            "no action",
            INTX,
            vfio::IRQ_SET_DATA_EVENTFD,
            0,
            1,
            &fd,
            Errno::ENOTTY,
        ),
        (
            "two actions",
            INTX,
            eventfd | MASK,
            0,
            1,
            &fd,
            Errno::ENOTTY,
        ),
        ("no such index", 5, eventfd, 0, 1, &fd, Errno::EINVAL),
        ("beyond the vectors", MSI, eventfd, 4, 1, &fd, Errno::EINVAL),
        (
            "more than the vectors",
            INTX,
            eventfd,
            0,
            2,
            &[0; 8],
            Errno::EINVAL,
        ),
        (
            "a count that wraps",
            MSIX,
            vfio::IRQ_SET_DATA_NONE | TRIGGER,
            1,
            u32::MAX,
            &[],
            Errno::EINVAL,
        ),
        (
            "less data than vectors",
            MSIX,
            eventfd,
            0,
            2,
            &fd,
            Errno::EINVAL,
        ),
    ];
    for (what, index, flags, start, count, data, errno) in refused {
        assert_eq!(
            stub.device.irqs_raw(index, flags, start, count, data),
            Err(errno),
            "{what}"
        );
    }
    assert_eq!(
        stub.device.eventfds(MSIX, 0, &[event.number()]),
        Ok(0),
        "nothing was set up"
    );
}

#[test]
fn closing_the_device_lets_all_eventfds_go() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device.eventfds(MSI, 0, &[event.number()]).unwrap();
    rig.device.eventfds(REQ, 0, &[event.number()]).unwrap();
    let Rig { device, group, .. } = rig;
    drop(device);
    let device = group.device("0000:00:04.0").unwrap();
    assert_eq!(device.irqs(MSI, TRIGGER, 0, 1), Err(Errno::EINVAL));
    assert_eq!(device.irqs(REQ, TRIGGER, 0, 1), Err(Errno::EINVAL));
    assert_eq!(event.count(), 0);
}

#[test]
fn a_reset_keeps_the_eventfds() {
    let (stub, event) = (stub_device(), Event::new());
    stub.device.eventfds(MSIX, 0, &[event.number()]).unwrap();
    stub.device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
    stub.device.irqs(MSIX, TRIGGER, 0, 1).unwrap();
    assert_eq!(event.count(), 1);
}

#[test]
fn a_conventional_device_cannot_be_reset() {
    let rig = Rig::on(World::new(machine(Model::Scalable, [edu(4, 4)])));
    assert_eq!(rig.device.ioctl(vfio::DEVICE_RESET, 0), Err(Errno::EINVAL));
}
