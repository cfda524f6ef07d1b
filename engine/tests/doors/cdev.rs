//! Devices by their own nodes: who may bind them, what they go through, and what DMA does meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use swiommu_abi::{Errno, iommufd, vfio};

use crate::support::edu::{load, store};
use crate::support::iommufd::{FIXED, Iommu};
use crate::support::memory::{Memory, address_of};
use crate::support::vfio::CONFIG;
use crate::support::{Fd, Model, World, edu, machine, stub};

const IOVA: u64 = 0x100_0000;

/// An edu alone in group 4, an edu and a stub in group 5.
fn world(model: Model) -> World {
    World::new(machine(model, [edu(4, 4), edu(5, 5), stub(6, 5)]))
}

fn hwpt(iommu: &Iommu, device: u32, ioas: u32, flags: u32) -> Result<u32, Errno> {
    let mut cmd = iommufd::HwptAlloc {
        size: size_of::<iommufd::HwptAlloc>() as u32,
        flags,
        dev_id: device,
        pt_id: ioas,
        ..Default::default()
    };
    iommu.run(iommufd::HWPT_ALLOC, &mut cmd)?;
    Ok(cmd.out_hwpt_id)
}

/// What the device reads at an address, into its buffer and out to `out`, which is mapped at `IOVA + 0x10_0000`.
fn reads(device: &Fd, iova: u64, out: &Memory) -> Vec<u8> {
    load(device, iova, 8);
    store(device, IOVA + 0x10_0000, 8);
    out.read(0, 8)
}

#[test]
fn a_node_does_nothing_before_it_is_bound() {
    let world = world(Model::Scalable);
    let device = world.node(0);
    assert_eq!(device.info(), Err(Errno::EINVAL));
    assert_eq!(device.attach(1), Err(Errno::EINVAL));
    assert_eq!(device.pread(CONFIG, &mut [0; 4]), Err(Errno::EINVAL));
    assert_eq!(device.pwrite(CONFIG, &[0; 4]), Err(Errno::EINVAL));
    assert_eq!(device.mmap(0, 4096), Err(Errno::EINVAL));
    assert_eq!(device.try_load(0, 4), None);
    let iommu = world.iommu();
    assert_eq!(device.bind(&iommu), Ok(1));
    assert_eq!(device.info(), Ok(0));
    assert_eq!(device.pread(CONFIG, &mut [0; 4]), Ok(4));
    assert!(device.mmap(0, 4096).is_ok());
}

#[test]
fn the_machine_has_no_more_nodes_than_devices() {
    let world = world(Model::Scalable);
    for name in ["vfio3", "vfio", "vfio-1", "3"] {
        let path = format!("/dev/vfio/devices/{name}");
        assert_eq!(world.open(&path).err(), Some(Errno::ENOENT), "{path}");
    }
}

#[test]
fn a_bound_device_moves_data_through_what_it_is_attached_to() {
    for model in [Model::Scalable, Model::Legacy, Model::Amd] {
        let world = world(model);
        let iommu = world.iommu();
        let (device, _) = world.bound(0, &iommu);
        let (ioas, page) = (iommu.ioas(), Memory::pages(2));
        page.write(0, b"attached");
        iommu.map(ioas, FIXED, IOVA, page.base(), 8192).unwrap();
        device.bus_master(true);
        load(&device, IOVA, 8);
        device.attach(ioas).unwrap();
        load(&device, IOVA, 8);
        store(&device, IOVA + 4096, 8);
        assert_eq!(page.read(4096, 8), b"attached");
        device.detach().unwrap();
        page.write(4096, b"--------");
        store(&device, IOVA + 4096, 8);
        assert_eq!(
            page.read(4096, 8),
            b"--------",
            "a detached device is blocked"
        );
    }
}

#[test]
fn replacing_moves_a_group_at_once_and_a_failure_leaves_it() {
    let world = world(Model::Scalable);
    let iommu = world.iommu();
    let ((one, _), (two, two_id)) = (world.bound(1, &iommu), world.bound(2, &iommu));
    let (first, second, pages) = (iommu.ioas(), iommu.ioas(), Memory::pages(3));
    pages.write(0, b"1st");
    pages.write(4096, b"2nd");
    let out = Memory::pages(1);
    for (ioas, at) in [(first, 0), (second, 4096)] {
        let base = pages.base() + at;
        iommu.map(ioas, FIXED, IOVA, base, 4096).unwrap();
        let to = IOVA + 0x10_0000;
        iommu.map(ioas, FIXED, to, out.base(), 4096).unwrap();
    }
    one.bus_master(true);
    let table = one.attach(first).unwrap();
    assert_eq!(
        two.attach(second),
        Err(Errno::EINVAL),
        "one group, one page table"
    );
    assert_eq!(two.attach(first), Ok(table));
    assert_eq!(&reads(&one, IOVA, &out)[..3], b"1st");
    let other = hwpt(&iommu, two_id, second, 0).unwrap();
    assert_eq!(two.attach(other), Ok(other));
    assert_eq!(
        &reads(&one, IOVA, &out)[..3],
        b"2nd",
        "the other device moved along"
    );
    assert_eq!(
        iommu.destroy(table),
        Err(Errno::ENOENT),
        "it went with the last device"
    );
    // what is mapped where the devices' window lies keeps them out
    iommu
        .map(first, FIXED, 0xfee0_0000, pages.base(), 4096)
        .unwrap();
    assert_eq!(one.attach(first), Err(Errno::EADDRINUSE));
    assert_eq!(&reads(&one, IOVA, &out)[..3], b"2nd");
    let free = iommu.ranges(second, 8).unwrap().0;
    assert!(
        free.iter()
            .all(|&(lo, hi)| hi < 0xfee0_0000 || lo > 0xfeef_ffff),
        "{free:x?}"
    );
    assert_eq!(one.detach(), Ok(0));
    assert_eq!(
        iommu.destroy(other),
        Err(Errno::EBUSY),
        "the second device still uses it"
    );
    assert_eq!(two.detach(), Ok(0));
    assert_eq!(iommu.destroy(other), Ok(0));
}

#[test]
fn a_device_that_is_moved_is_never_without_translation() {
    let world = world(Model::Scalable);
    let iommu = world.iommu();
    let (device, _) = world.bound(0, &iommu);
    let (spaces, page) = ([iommu.ioas(), iommu.ioas()], Memory::pages(1));
    for ioas in spaces {
        iommu.map(ioas, FIXED, IOVA, page.base(), 4096).unwrap();
    }
    device.attach(spaces[0]).unwrap();
    device.bus_master(true);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                device.attach(spaces[(round + 1) % 2]).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            load(&device, IOVA, 64);
            store(&device, IOVA, 64);
        }
    });
    let blocked = |kind: &String| kind == "blocked-dma";
    assert!(!world.kinds().iter().any(blocked), "{:?}", world.kinds());
}

#[test]
fn a_group_and_its_devices_nodes_exclude_each_other_over_processes() {
    let world = world(Model::Scalable);
    let other = world.beside();
    for owner in [&world, &other] {
        let iommu = world.iommu();
        let group = owner.group(5).unwrap();
        let device = world.node(1);
        assert_eq!(device.bind(&iommu), Err(Errno::EBUSY));
        drop(group);
        assert_eq!(device.bind(&iommu), Ok(1));
        assert_eq!(owner.group(5).err(), Some(Errno::EBUSY));
        assert!(owner.group(4).is_ok(), "another group is free");
        drop(device);
        assert!(owner.group(5).is_ok());
    }
}

#[test]
fn a_group_belongs_to_one_iommufd_of_the_run() {
    let world = world(Model::Scalable);
    let beside = world.beside();
    for far in [&world, &beside] {
        let (owner, other) = (world.iommu(), far.iommu());
        let (device, _) = world.bound(1, &owner);
        assert_eq!(world.node(1).bind(&owner), Err(Errno::EINVAL), "it is open");
        assert_eq!(far.node(1).bind(&other), Err(Errno::EINVAL), "it is open");
        let second = far.node(2);
        assert_eq!(
            second.bind(&other),
            Err(Errno::EPERM),
            "its group is another's"
        );
        drop(device);
        assert_eq!(second.bind(&other), Ok(1));
    }
}

#[test]
fn a_device_outlives_the_iommufd_s_own_file_and_takes_its_objects_along() {
    let world = world(Model::Scalable);
    let iommu = world.iommu();
    let (device, id) = world.bound(0, &iommu);
    let (ioas, page) = (iommu.ioas(), Memory::pages(1));
    iommu.map(ioas, FIXED, IOVA, page.base(), 4096).unwrap();
    let table = device.attach(ioas).unwrap();
    for busy in [id, ioas, table] {
        assert_eq!(iommu.destroy(busy), Err(Errno::EBUSY), "{busy}");
    }
    let context = std::sync::Arc::downgrade(&iommu.context());
    drop(iommu);
    device.bus_master(true);
    page.write(0, b"alive---");
    load(&device, IOVA, 8);
    page.write(0, b"--------");
    store(&device, IOVA, 8);
    assert_eq!(page.read(0, 8), b"alive---");
    drop(device);
    assert!(context.upgrade().is_none(), "nothing keeps it");
}

#[test]
fn a_failed_binding_leaves_the_device_free() {
    let world = world(Model::Scalable);
    let iommu = world.iommu();
    let device = world.node(0);
    let mut bind = vfio::DeviceBindIommufd {
        argsz: 24,
        flags: vfio::DEVICE_BIND_FLAG_TOKEN,
        iommufd: iommu.fd.number(),
        ..Default::default()
    };
    let run = |bind: &mut _| device.ioctl_with(vfio::DEVICE_BIND_IOMMUFD, bind);
    assert_eq!(run(&mut bind), Err(Errno::EFAULT), "no token there");
    let mut token = [1u8; 16];
    bind.token_uuid_ptr = address_of(&mut token);
    assert_eq!(run(&mut bind), Err(Errno::EINVAL), "the device wants none");
    bind.flags = 0;
    bind.iommufd = device.number();
    assert_eq!(run(&mut bind), Err(Errno::EBADFD));
    assert!(world.group(4).is_ok(), "the group is not blocked");
    assert_eq!(device.bind(&iommu), Ok(1));
}

#[test]
fn hardware_information_is_cut_to_the_room_and_the_rest_is_zeroed() {
    for (model, kind, size) in [
        (Model::Scalable, iommufd::HW_INFO_TYPE_INTEL_VTD, 24u32),
        (Model::Amd, iommufd::HW_INFO_TYPE_AMD, 16),
    ] {
        let world = world(model);
        let iommu = world.iommu();
        let (_device, id) = world.bound(0, &iommu);
        let mut room = [0xffu8; 32];
        let mut ask = |data_len: u32, flags: u32, data_type: u32| {
            room = [0xff; 32];
            let mut cmd = iommufd::HwInfo {
                size: size_of::<iommufd::HwInfo>() as u32,
                flags,
                dev_id: id,
                data_len,
                data_uptr: address_of(&mut room),
                data_type,
                ..Default::default()
            };
            let answer = iommu.run(iommufd::GET_HW_INFO, &mut cmd);
            answer.map(|_| (cmd, room))
        };
        let (info, whole) = ask(32, 0, 99).unwrap();
        assert_eq!((info.data_type, info.data_len), (kind, size));
        assert_ne!(info.out_capabilities & iommufd::HW_CAP_DIRTY_TRACKING, 0);
        assert!(whole[size as usize..].iter().all(|byte| *byte == 0));
        if model == Model::Scalable {
            let flags = iommufd::HW_INFO_VTD_ERRATA_772415_SPR17;
            assert_eq!(whole[..4], flags.to_ne_bytes());
        }
        let (info, part) = ask(8, 0, 0).unwrap();
        assert_eq!(info.data_len, size, "what there is, not what was told");
        assert_eq!((&part[..8], &part[8..]), (&whole[..8], &[0xff; 24][..]));
        let typed = iommufd::HW_INFO_FLAG_INPUT_TYPE;
        assert!(ask(0, typed, kind).is_ok());
        let other = iommufd::HW_INFO_TYPE_ARM_SMMUV3;
        assert_eq!(ask(0, typed, other).err(), Some(Errno::EOPNOTSUPP));
    }
}

#[test]
fn what_no_modelled_iommu_has_is_refused() {
    for model in [Model::Scalable, Model::Amd] {
        let world = world(model);
        let iommu = world.iommu();
        let (_device, id) = world.bound(0, &iommu);
        let ioas = iommu.ioas();
        let plain = hwpt(&iommu, id, ioas, 0).unwrap();
        let nest = iommufd::HWPT_ALLOC_NEST_PARENT;
        assert_eq!(hwpt(&iommu, id, ioas, nest), Err(Errno::EOPNOTSUPP));
        for (kind, parent) in (1..=3).flat_map(|kind| [(kind, ioas), (kind, plain)]) {
            let mut data = iommufd::HwptVtdS1 {
                flags: iommufd::VTD_S1_SRE | iommufd::VTD_S1_EAFE | iommufd::VTD_S1_WPE,
                ..Default::default()
            };
            let mut cmd = iommufd::HwptAlloc {
                size: 48,
                dev_id: id,
                pt_id: parent,
                data_type: kind,
                data_len: 24,
                data_uptr: address_of(&mut data),
                ..Default::default()
            };
            let answer = iommu.run(iommufd::HWPT_ALLOC, &mut cmd);
            assert_eq!(answer, Err(Errno::EOPNOTSUPP), "page table of type {kind}");
        }
        for kind in 0..=1 {
            let mut cmd = iommufd::HwptInvalidate {
                size: 32,
                hwpt_id: plain,
                data_type: kind,
                ..Default::default()
            };
            let answer = iommu.run(iommufd::HWPT_INVALIDATE, &mut cmd);
            assert_eq!(answer, Err(Errno::EINVAL), "it caches nothing");
        }
        for kind in 0..=2 {
            let mut cmd = iommufd::ViommuAlloc {
                size: 40,
                kind,
                dev_id: id,
                hwpt_id: plain,
                ..Default::default()
            };
            let answer = iommu.run(iommufd::VIOMMU_ALLOC, &mut cmd);
            assert_eq!(answer, Err(Errno::EOPNOTSUPP), "virtual IOMMU {kind}");
            // without one there is nothing to make these for
            let errno = match kind {
                0 => Errno::EOPNOTSUPP,
                _ => Errno::ENOENT,
            };
            let mut cmd = iommufd::VeventqAlloc {
                size: 32,
                kind,
                veventq_depth: 1,
                ..Default::default()
            };
            let answer = iommu.run(iommufd::VEVENTQ_ALLOC, &mut cmd);
            assert_eq!(answer, Err(errno), "event queue {kind}");
            let mut cmd = iommufd::HwQueueAlloc {
                size: 40,
                kind: kind.min(1),
                length: 4096,
                ..Default::default()
            };
            let answer = iommu.run(iommufd::HW_QUEUE_ALLOC, &mut cmd);
            assert_eq!(answer, Err(errno), "hardware queue {kind}");
        }
    }
}

#[test]
fn a_group_uses_an_iommufd_for_its_container() {
    let world = world(Model::Scalable);
    let iommu = world.iommu();
    let group = world.group(4).unwrap();
    assert_eq!(group.device("0000:00:04.0").err(), Some(Errno::EINVAL));
    assert_eq!(group.set_container(&iommu.fd), Ok(0));
    assert_eq!(
        group.status(),
        vfio::GROUP_FLAGS_VIABLE | vfio::GROUP_FLAGS_CONTAINER_SET
    );
    let ioas = iommu.vfio_ioas(iommufd::VFIO_IOAS_GET, 0).unwrap();
    let page = Memory::pages(1);
    iommu.map(ioas, FIXED, IOVA, page.base(), 4096).unwrap();
    let device = group.device("0000:00:04.0").unwrap();
    let second = group.device("0000:00:04.0").unwrap();
    device.bus_master(true);
    page.write(0, b"compat--");
    load(&device, IOVA, 8);
    page.write(0, b"--------");
    store(&second, IOVA, 8);
    assert_eq!(page.read(0, 8), b"compat--");
    assert_eq!(
        device.bind(&iommu),
        Err(Errno::EINVAL),
        "no node of its own"
    );
    assert_eq!(iommu.destroy(ioas), Err(Errno::EBUSY));
    drop((device, second));
    assert_eq!(iommu.destroy(ioas), Ok(0));
    assert_eq!(
        group.device("0000:00:04.0").err(),
        Some(Errno::ENODEV),
        "no address space"
    );
    assert_eq!(group.ioctl(vfio::GROUP_UNSET_CONTAINER, 0), Ok(0));
    assert_eq!(group.status(), vfio::GROUP_FLAGS_VIABLE);
}
