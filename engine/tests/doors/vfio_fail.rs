//! The n-th allocation of every command of containers, groups, devices and transfers fails: the call says so, nothing is
//! left behind or gone, and the same call then succeeds.

use swiommu_abi::vfio::{CONTAINER_COMMANDS, DEVICE_COMMANDS, GROUP_COMMANDS, TRANSFER_COMMANDS};
use swiommu_abi::{Errno, vfio};

use crate::iommufd_fail::{State, Tried, state};
use crate::migration::{go, precopy, start_log};
use crate::support::iommufd::Iommu;
use crate::support::memory::{Memory, address_of};
use crate::support::vfio::{Event, RW};
use crate::support::{Answered, Fd, Model, World, edu, machine, nvme, stub};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// What must be as before: the objects of an iommufd, what is pinned, whose the groups are.
type Before = (State, Vec<Option<u32>>);

/// A machine of one group each, and a watch on it.
struct Rig {
    iommu: Iommu,
    memory: Memory,
    world: World,
}

impl Rig {
    fn new() -> Rig {
        // the last is behind a port, which can reset it
        let mut behind = stub(7, 7);
        behind.bdf = "0000:05:00.0".into();
        let devices = [edu(4, 4), edu(5, 5), nvme(6, 6), behind];
        let world = World::new(machine(Model::Scalable, devices));
        let iommu = world.iommu();
        let memory = Memory::pages(4);
        Rig {
            iommu,
            memory,
            world,
        }
    }

    fn now<'a>(&'a self, groups: &'a [&Fd]) -> impl Fn() -> Before + 'a {
        || {
            let status = groups.iter().map(|group| Some(group.status())).collect();
            (state(&self.iommu), status)
        }
    }
}

/// A command that no file of this machine knows.
fn unknown(answer: Result<i32, Errno>) -> Result<(), Errno> {
    assert_eq!(answer, Err(Errno::ENOTTY));
    Ok(())
}

fn containers_and_groups(tried: &mut Tried) {
    let rig = Rig::new();
    let (container, group) = (rig.world.container(), rig.world.group(4).unwrap());
    let second = rig.world.group(5).unwrap();
    let now = || rig.now(&[&group, &second])();
    let ioctl = |fd: &Fd, cmd: u32, arg: u64| fd.ioctl(cmd, arg).map(drop);
    tried.run("VFIO_GET_API_VERSION", 0, now, || {
        ioctl(&container, vfio::GET_API_VERSION, 0)
    });
    tried.run("VFIO_CHECK_EXTENSION", 0, now, || {
        ioctl(&container, vfio::CHECK_EXTENSION, 1)
    });
    tried.run("VFIO_GROUP_GET_STATUS", 0, now, || {
        group.status();
        Ok(())
    });
    tried.run("VFIO_GROUP_SET_CONTAINER", 0, now, || {
        group.set_container(&container).map(drop)
    });
    tried.run("VFIO_SET_IOMMU", 1, now, || {
        ioctl(&container, vfio::SET_IOMMU, vfio::TYPE1V2_IOMMU)
    });
    tried.run("VFIO_GROUP_SET_CONTAINER with devices", 1, now, || {
        second.set_container(&container).map(drop)
    });
    tried.run("VFIO_IOMMU_GET_INFO", 1, now, || {
        let mut info = [512u64; 64];
        let answer = container.ioctl_with(vfio::IOMMU_GET_INFO, &mut info);
        answer.map(drop)
    });
    tried.run("VFIO_IOMMU_MAP_DMA", 4, now, || {
        container.map(AT, rig.memory.base(), 4 * P, RW).map(drop)
    });
    for flags in [vfio::DIRTY_PAGES_FLAG_START, vfio::DIRTY_PAGES_FLAG_STOP] {
        let least = u32::from(flags == vfio::DIRTY_PAGES_FLAG_START);
        tried.run("VFIO_IOMMU_DIRTY_PAGES", least, now, || {
            let mut dirty = vfio::DirtyBitmap { argsz: 8, flags };
            let answer = container.ioctl_with(vfio::IOMMU_DIRTY_PAGES, &mut dirty);
            answer.map(drop)
        });
    }
    tried.run("VFIO_IOMMU_UNMAP_DMA", 0, now, || {
        assert_eq!(container.unmap(AT, 4 * P), Ok(4 * P));
        Ok(())
    });
    tried.run("VFIO_IOMMU_ENABLE", 0, now, || {
        unknown(container.ioctl(vfio::IOMMU_ENABLE, 0))
    });
    tried.run("VFIO_IOMMU_DISABLE", 0, now, || {
        unknown(container.ioctl(vfio::IOMMU_DISABLE, 0))
    });
    let mut device = None;
    tried.run("VFIO_GROUP_GET_DEVICE_FD", 1, now, || {
        device = Some(group.device("0000:00:04.0")?);
        Ok(())
    });
    drop(device);
    tried.run("VFIO_GROUP_UNSET_CONTAINER", 0, now, || {
        ioctl(&group, vfio::GROUP_UNSET_CONTAINER, 0)
    });
    tried.run("VFIO_GROUP_SET_CONTAINER an iommufd", 1, now, || {
        group.set_container(&rig.iommu.fd).map(drop)
    });
    // its object, and a page table that is made for it
    let mut device = None;
    tried.run("VFIO_GROUP_GET_DEVICE_FD of an iommufd", 4, now, || {
        device = Some(group.device("0000:00:04.0")?);
        Ok(())
    });
}

fn nodes(tried: &mut Tried) {
    let rig = Rig::new();
    let (device, now) = (rig.world.node(0), || rig.now(&[])());
    let ioas = rig.iommu.ioas();
    rig.iommu.map(ioas, 7, AT, rig.memory.base(), P).unwrap();
    tried.run("VFIO_DEVICE_BIND_IOMMUFD", 2, now, || {
        device.bind(&rig.iommu).map(drop)
    });
    // a page table, which is filled
    tried.run("VFIO_DEVICE_ATTACH_IOMMUFD_PT", 5, now, || {
        device.attach(ioas).map(drop)
    });
    let other = rig.iommu.ioas();
    tried.run("VFIO_DEVICE_ATTACH_IOMMUFD_PT elsewhere", 4, now, || {
        device.attach(other).map(drop)
    });
    tried.run("VFIO_DEVICE_DETACH_IOMMUFD_PT", 0, now, || {
        device.detach().map(drop)
    });
}

fn devices(tried: &mut Tried) {
    let rig = Rig::new();
    let (container, group) = rig.world.joined(6, vfio::TYPE1V2_IOMMU);
    let last = rig.world.group(7).unwrap();
    last.set_container(&container).unwrap();
    let nvme = group.device("0000:00:06.0").unwrap();
    let stub = last.device("0000:05:00.0").unwrap();
    let now = || rig.now(&[&group, &last])();
    let with = |device: &Fd, cmd: u32, arg: &mut [u32]| device.ioctl_with(cmd, arg).map(drop);
    tried.run("VFIO_DEVICE_GET_INFO", 0, now, || nvme.info().map(drop));
    // with the capability of a BAR that has the MSI-X table
    tried.run("VFIO_DEVICE_GET_REGION_INFO", 1, now, || {
        let mut info = [0u32; 16];
        info[0] = 64;
        with(&nvme, vfio::DEVICE_GET_REGION_INFO, &mut info)
    });
    tried.run("VFIO_DEVICE_GET_IRQ_INFO", 0, now, || {
        with(&nvme, vfio::DEVICE_GET_IRQ_INFO, &mut [16, 0, 2, 0])
    });
    let event = Event::new();
    tried.run("VFIO_DEVICE_SET_IRQS", 1, now, || {
        let index = vfio::PCI_MSIX_IRQ_INDEX;
        nvme.eventfds(index, 0, &[event.number()]).map(drop)
    });
    tried.run("VFIO_DEVICE_RESET", 0, now, || {
        nvme.ioctl(vfio::DEVICE_RESET, 0).map(drop)
    });
    tried.run("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 1, now, || {
        let mut info = [0u32; 16];
        info[0] = 64;
        with(&stub, vfio::DEVICE_GET_PCI_HOT_RESET_INFO, &mut info)
    });
    tried.run("VFIO_DEVICE_PCI_HOT_RESET", 1, now, || {
        let mut reset = [16, 0, 1, last.number() as u32];
        with(&stub, vfio::DEVICE_PCI_HOT_RESET, &mut reset)
    });
    for (what, cmd) in [
        ("VFIO_DEVICE_QUERY_GFX_PLANE", vfio::DEVICE_QUERY_GFX_PLANE),
        ("VFIO_DEVICE_GET_GFX_DMABUF", vfio::DEVICE_GET_GFX_DMABUF),
    ] {
        tried.run(what, 0, now, || {
            unknown(nvme.ioctl_with(cmd, &mut [64u32; 16]))
        });
    }
    let event = Event::new();
    for (data, least) in [(1, 1), (2, 1)] {
        tried.run("VFIO_DEVICE_IOEVENTFD", least, now, || {
            let mut ask = vfio::DeviceIoeventfd {
                argsz: 32,
                flags: 4,
                offset: 0x14,
                data,
                fd: event.number(),
                ..Default::default()
            };
            nvme.ioctl_with(vfio::DEVICE_IOEVENTFD, &mut ask).map(drop)
        });
    }
    features(tried, &nvme, now);
}

fn features(tried: &mut Tried, nvme: &Fd, now: impl Fn() -> Before + Copy) {
    tried.run("VFIO_DEVICE_FEATURE DMA_BUF", 2, now, || {
        let flags = vfio::DEVICE_FEATURE_DMA_BUF | vfio::DEVICE_FEATURE_GET;
        // BAR 0, no flags, one range: a page from 0
        let mut ask = [40u32, flags, 0, 0, 0, 1, 0, 0, P as u32, 0];
        let answer = nvme.ioctl_raw(vfio::DEVICE_FEATURE, address_of(&mut ask[..]))?;
        assert!(matches!(answer, Answered::Fd(_)));
        Ok(())
    });
    tried.run("VFIO_DEVICE_FEATURE DMA_LOGGING_START", 1, now, || {
        start_log(nvme, P, &[(0, 4 * P)]).map(drop)
    });
    let mut transfer = None;
    tried.run("VFIO_DEVICE_FEATURE MIG_DEVICE_STATE", 1, now, || {
        transfer = go(nvme, vfio::DEVICE_STATE_PRE_COPY)?;
        Ok(())
    });
    let transfer = transfer.expect("one begins");
    tried.run("VFIO_MIG_GET_PRECOPY_INFO", 0, now, || {
        precopy(&transfer).map(drop)
    });
}

#[test]
fn every_command_of_containers_groups_and_devices_fails_whole() {
    let mut tried = Tried::default();
    containers_and_groups(&mut tried);
    nodes(&mut tried);
    devices(&mut tried);
    let lists = [
        CONTAINER_COMMANDS,
        GROUP_COMMANDS,
        DEVICE_COMMANDS,
        TRANSFER_COMMANDS,
    ];
    tried.are_all(lists.into_iter().flatten());
}
