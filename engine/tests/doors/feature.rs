//! VFIO_DEVICE_FEATURE of devices that vfio-pci itself drives: low power, and BARs as dma-bufs.

use std::sync::Arc;

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::iommufd::pages::Revoked;

use crate::support::edu::Rig;
use crate::support::memory::address_of;
use crate::support::vfio::Event;
use crate::support::{Answered, Fd, Model, World, machine, stub};

const SET: u32 = vfio::DEVICE_FEATURE_SET;
const GET: u32 = vfio::DEVICE_FEATURE_GET;
const LOW: u32 = SET | vfio::DEVICE_FEATURE_LOW_POWER_ENTRY;
const LOW_WITH_WAKEUP: u32 = SET | vfio::DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
const EXIT: u32 = SET | vfio::DEVICE_FEATURE_LOW_POWER_EXIT;
const DMA_BUF: u32 = GET | vfio::DEVICE_FEATURE_DMA_BUF;

/// edu's identification register.
const IDENTITY: u64 = 0x010000ed;

fn feature(device: &Fd, flags: u32, data: &[u32]) -> Result<Answered, Errno> {
    let argsz = 8 + 4 * data.len() as u32;
    let mut ask = [&[argsz, flags], data].concat();
    device.ioctl_raw(vfio::DEVICE_FEATURE, address_of(&mut ask[..]))
}

fn set(device: &Fd, flags: u32, data: &[u32]) -> Result<(), Errno> {
    feature(device, flags, data).map(drop)
}

/// A dma-buf of one part of BAR 0.
fn export(device: &Fd, offset: u32, bytes: u32) -> Result<Fd, Errno> {
    let data = [0, 0, 0, 1, offset, 0, bytes, 0];
    match feature(device, DMA_BUF, &data)? {
        Answered::Fd(fd) => Ok(fd),
        Answered::Value(value) => panic!("DMA_BUF answered {value}"),
    }
}

/// What an IOMMU gets of a dma-buf: whether it may map it.
fn mappable(buffer: &Fd) -> Result<(), Errno> {
    struct Nobody;
    impl Revoked for Nobody {
        fn revoke(&self) {}
    }
    let importer: Arc<dyn Revoked> = Arc::new(Nobody);
    let buffer = buffer.file().dma_buf().expect("a dma-buf");
    buffer.attach(importer.clone())?;
    buffer.detach(&importer);
    Ok(())
}

#[test]
fn in_low_power_mapped_registers_do_not_answer_and_calls_do() {
    let rig = Rig::new(Model::Scalable);
    assert_eq!(rig.device.load(0, 4), IDENTITY);
    set(&rig.device, LOW, &[]).unwrap();
    assert_eq!(rig.device.try_load(0, 4), None);
    let mut raw = [0; 4];
    assert_eq!(rig.device.pread(0, &mut raw), Ok(4));
    assert_eq!(u64::from(u32::from_le_bytes(raw)), IDENTITY);
    assert_eq!(rig.device.try_load(0, 4), None, "it sleeps again");
    assert_eq!(set(&rig.device, LOW, &[]), Err(Errno::EINVAL));
    set(&rig.device, EXIT, &[]).unwrap();
    assert_eq!(rig.device.load(0, 4), IDENTITY);
}

#[test]
fn the_next_call_wakes_a_device_with_an_eventfd_and_signals_it_once() {
    let (rig, event) = (Rig::new(Model::Amd), Event::new());
    let entry = [event.number() as u32, 0];
    set(&rig.device, LOW_WITH_WAKEUP, &entry).unwrap();
    assert_eq!((event.count(), rig.device.try_load(0, 4)), (0, None));
    rig.device.config(0, 2);
    assert_eq!((event.count(), rig.device.load(0, 4)), (1, IDENTITY));
    rig.device.config(0, 2);
    assert_eq!(event.count(), 0);
    for again in [LOW_WITH_WAKEUP, EXIT] {
        set(&rig.device, LOW_WITH_WAKEUP, &entry).unwrap();
        set(&rig.device, again, &entry).unwrap();
        assert_eq!(event.count(), 1, "the call itself wakes it");
        set(&rig.device, EXIT, &[]).unwrap();
        event.count();
    }
}

#[test]
fn low_power_ends_with_the_last_file() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    set(&rig.device, LOW_WITH_WAKEUP, &[event.number() as u32, 0]).unwrap();
    let Rig { device, group, .. } = rig;
    drop(device);
    let device = group.device("0000:00:04.0").unwrap();
    assert_eq!(device.load(0, 4), IDENTITY);
    assert_eq!(event.count(), 0, "nobody is left to be told");
}

#[test]
fn a_dma_buf_is_revoked_while_its_device_answers_no_memory_access() {
    let world = World::new(machine(Model::Scalable, [stub(4, 4)]));
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:00:04.0").unwrap();
    let buffer = export(&device, 0x1000, 0x2000).unwrap();
    assert_eq!(mappable(&buffer), Ok(()));
    let command = device.config(4, 2);
    device.set_config(4, 2, command & !2);
    assert_eq!(mappable(&buffer), Err(Errno::ENODEV));
    let born_revoked = export(&device, 0, 0x1000).unwrap();
    assert_eq!(mappable(&born_revoked), Err(Errno::ENODEV));
    device.set_config(4, 2, command);
    assert_eq!(mappable(&buffer), Ok(()));
    assert_eq!(mappable(&born_revoked), Ok(()));
    set(&device, LOW, &[]).unwrap();
    assert_eq!(mappable(&buffer), Err(Errno::ENODEV));
    set(&device, EXIT, &[]).unwrap();
    assert_eq!(mappable(&buffer), Ok(()));
    device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
    assert_eq!(mappable(&buffer), Ok(()));
    drop(device);
    assert_eq!(mappable(&buffer), Err(Errno::ENODEV), "for good");
    let device = group.device("0000:00:04.0").unwrap();
    device.set_config(4, 2, command);
    assert_eq!(mappable(&buffer), Err(Errno::ENODEV));
}

#[test]
fn a_dma_buf_of_several_parts_is_no_single_place() {
    let rig = Rig::new(Model::Scalable);
    let parts = [0, 0, 0, 2, 0, 0, 0x1000, 0, 0x3000, 0, 0x1000, 0];
    let Ok(Answered::Fd(buffer)) = feature(&rig.device, DMA_BUF, &parts) else {
        panic!("no descriptor");
    };
    assert_eq!(mappable(&buffer), Err(Errno::EOPNOTSUPP));
}

#[test]
fn an_address_space_maps_a_dma_buf_until_it_is_revoked() {
    const AT: u64 = 0x10_0000;
    let world = World::new(machine(Model::Scalable, [stub(4, 4)]));
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:00:04.0").unwrap();
    let buffer = export(&device, 0x1000, 0x2000).unwrap();
    let iommu = world.iommu();
    let (ioas, bare) = (iommu.ioas(), iommu.bare());
    let hwpt = iommu.hwpt(bare, ioas, 0).unwrap();
    let flags = iommufd::IOAS_MAP_FIXED_IOVA | iommufd::IOAS_MAP_READABLE;
    let map = |at, bytes| iommu.map_file(ioas, flags, at, buffer.number(), 0, bytes);
    assert_eq!(map(AT, 0x3000), Err(Errno::EINVAL), "beyond its end");
    map(AT, 0x2000).unwrap();
    let first = iommu.lookup(hwpt, AT).unwrap();
    assert!(first >= 1 << 47, "not client memory");
    assert_eq!(iommu.lookup(hwpt, AT + 0x1008), Some(first + 0x1008));
    let command = device.config(4, 2);
    device.set_config(4, 2, command & !2);
    assert_eq!(iommu.lookup(hwpt, AT), None);
    assert_eq!(map(AT + 0x10000, 0x2000), Err(Errno::ENODEV));
    device.set_config(4, 2, command);
    assert_eq!(iommu.lookup(hwpt, AT), None, "it does not come back");
    map(AT + 0x10000, 0x2000).unwrap();
    assert_eq!(iommu.lookup(hwpt, AT + 0x10000), Some(first));
    drop(buffer);
    assert_eq!(
        iommu.lookup(hwpt, AT + 0x10000),
        Some(first),
        "the mapping holds it"
    );
    drop(device);
    assert_eq!(iommu.lookup(hwpt, AT + 0x10000), None);
    assert_eq!(iommu.unmap(ioas, 0, u64::MAX), Ok(0x4000));
}
