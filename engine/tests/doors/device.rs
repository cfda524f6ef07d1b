//! A device file: configuration space as vfio-pci virtualises it, regions, mappings.

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::door::Span;

use crate::support::edu::Rig;
use crate::support::memory::Memory;
use crate::support::vfio::{CONFIG, RW, region};
use crate::support::{Fd, Model, World, machine, stub};

fn opened(devices: Vec<swiommu_engine::machine::DeviceConfig>) -> (Fd, [Fd; 2], World) {
    let world = World::new(machine(Model::Scalable, devices));
    let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let device = group.device("0000:00:04.0").unwrap();
    (device, [container, group], world)
}

#[test]
fn a_bar_can_be_sized_and_the_function_stays_where_it_is() {
    let rig = Rig::new(Model::Scalable);
    let base = rig.device.config(0x10, 4);
    assert_ne!(base, 0);
    rig.device.set_config(0x10, 4, 0xffff_ffff);
    assert_eq!(rig.device.config(0x10, 4), 0xfff0_0000, "1 MiB");
    assert_eq!(
        rig.device.load(0, 4),
        0x0100_00ed,
        "the registers answer where they were"
    );
    rig.device.set_config(0x10, 4, base);
    assert_eq!(rig.device.config(0x10, 4), base);
    rig.device.set_config(0x14, 4, 0xffff_ffff);
    assert_eq!(rig.device.config(0x14, 4), 0, "no such BAR");
}

#[test]
fn identity_cannot_be_written_and_scratch_bytes_can() {
    let rig = Rig::new(Model::Scalable);
    for at in [0x00, 0x08, 0x2c, 0x34, 0x40] {
        let before = rig.device.config(at, 4);
        rig.device.set_config(at, 4, !before);
        assert_eq!(
            rig.device.config(at, 4) as u8,
            before as u8,
            "offset {at:#x}"
        );
    }
    rig.device.set_config(0x3c, 1, 0x42);
    assert_eq!(rig.device.config(0x3c, 1), 0x42, "interrupt line");
}

#[test]
fn configuration_space_ends_where_it_ends() {
    let (device, _files, _world) = opened(vec![stub(4, 4)]);
    let conventional = Rig::new(Model::Scalable);
    for (device, end) in [(&device, 4096), (&conventional.device, 256)] {
        let mut four = [0; 4];
        assert_eq!(device.pread(CONFIG + end - 4, &mut four), Ok(4));
        assert_eq!(
            device.pread(CONFIG + end - 2, &mut four),
            Err(Errno::EFAULT)
        );
        assert_eq!(device.pwrite(CONFIG + end, &four), Err(Errno::EFAULT));
    }
}

#[test]
fn registers_are_not_there_while_decoding_is_off() {
    let rig = Rig::new(Model::Scalable);
    let command = rig.device.config(4, 2);
    rig.device.store(4, 4, 0x1111_1111);
    rig.device.set_config(4, 2, command & !2);
    let mut four = [0; 4];
    assert_eq!(rig.device.pread(4, &mut four), Err(Errno::EIO));
    assert_eq!(rig.device.pwrite(4, &four), Err(Errno::EIO));
    assert_eq!(rig.device.try_load(4, 4), None, "SIGBUS");
    rig.device.store(4, 4, 0);
    rig.device.set_config(4, 2, command);
    assert_eq!(rig.device.load(4, 4), 0xeeee_eeee, "the store was lost");
}

#[test]
fn a_region_is_read_up_to_its_end() {
    let (device, _files, _world) = opened(vec![stub(4, 4)]);
    let mut eight = [0xaa; 8];
    assert_eq!(
        device.pread(region(0) + (128 << 10) - 4, &mut eight),
        Ok(4),
        "what lies inside"
    );
    assert_eq!(
        device.pread(region(0) + (128 << 10), &mut eight),
        Err(Errno::EINVAL),
        "nothing does"
    );
    assert_eq!(
        device.pread(region(1), &mut eight),
        Err(Errno::EINVAL),
        "no such BAR"
    );
    assert_eq!(device.pread(region(2) + 28, &mut eight), Ok(4), "I/O");
    assert_eq!(
        device.pread(region(vfio::PCI_ROM_REGION_INDEX), &mut eight),
        Err(Errno::EINVAL)
    );
    assert_eq!(device.pread(region(9), &mut eight), Err(Errno::EINVAL));
    assert_eq!(
        device.pread(region(1), &mut []),
        Ok(0),
        "no bytes are no error"
    );
}

#[test]
fn memory_that_cannot_be_touched_ends_an_access() {
    let rig = Rig::new(Model::Scalable);
    let (file, memory) = (rig.device.file(), Memory::pages(1));
    memory.protect(true, false);
    let client = crate::support::memory::client();
    struct None_;
    impl swiommu_engine::door::Files for None_ {
        fn get(&self, _: i32) -> Option<std::sync::Arc<dyn swiommu_engine::door::File>> {
            None
        }
    }
    let call = swiommu_engine::door::Call {
        client: client.into(),
        thread: 1,
        site: 0,
        files: &None_,
    };
    let at = swiommu_mem::UserAddr;
    assert_eq!(
        file.pread(&call, at(memory.base()), 4, 0),
        Err(Errno::EFAULT)
    );
    assert_eq!(file.pread(&call, at(8), 4, CONFIG), Err(Errno::EFAULT));
    assert_eq!(file.pwrite(&call, at(8), 4, 4), Err(Errno::EFAULT));
    assert_eq!(
        file.pwrite(&call, at(memory.base()), 4, 4),
        Ok(4),
        "it can be read"
    );
}

#[test]
fn memory_bars_map_as_registers_and_nothing_else_maps() {
    let (device, _files, _world) = opened(vec![stub(4, 4)]);
    assert_eq!(
        device.mmap(region(0), 128 << 10),
        Ok(vec![(128 << 10, Span::Trap)])
    );
    assert_eq!(
        device.mmap(region(0) + 4096, 4096),
        Ok(vec![(4096, Span::Trap)])
    );
    for (what, offset, bytes) in [
        ("beyond its end", region(0) + 4096, 128 << 10),
        ("I/O", region(2), 4096),
        ("no BAR", region(1), 4096),
        ("configuration space", CONFIG, 4096),
        ("no region", region(9), 4096),
        ("a range that wraps", region(0) + 4096, u64::MAX),
    ] {
        assert_eq!(device.mmap(offset, bytes), Err(Errno::EINVAL), "{what}");
    }
}

#[test]
fn the_msix_table_remembers_what_is_mapped_in_and_is_kept_from_the_file() {
    let (device, _files, _world) = opened(vec![stub(4, 4)]);
    let table = (128 << 10) - 8 - 8 * 16;
    device.store(table, 4, 0xfee0_0000);
    assert_eq!(device.load(table, 4), 0xfee0_0000);
    assert_eq!(device.load(table + 12, 4), 1, "masked from the start");
    let mut four = [0; 4];
    device.pread(table, &mut four).unwrap();
    assert_eq!(four, [0xff; 4], "the file shows nothing");
    device.pwrite(table, &[0; 4]).unwrap();
    assert_eq!(device.load(table, 4), 0xfee0_0000, "and changes nothing");
    device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
    assert_eq!(
        (device.load(table, 4), device.load(table + 12, 4)),
        (0, 1),
        "reset"
    );
}

#[test]
fn a_reset_keeps_configuration_space_and_forgets_registers() {
    let (device, files, _world) = opened(vec![stub(4, 4)]);
    let memory = Memory::pages(1);
    files[0].map(0x10000, memory.base(), 4096, RW).unwrap();
    device.bus_master(true);
    device.set_config(0x3c, 1, 0x55);
    device.ioctl(vfio::DEVICE_RESET, 0).unwrap();
    assert_eq!((device.config(4, 2) & 4, device.config(0x3c, 1)), (4, 0x55));
    assert_eq!(
        files[0].unmap(0x10000, 4096),
        Ok(4096),
        "mappings are the container's"
    );
}

#[test]
fn what_is_not_supported_fails_and_is_named_once() {
    let (device, _files, world) = opened(vec![stub(4, 4), stub(5, 5)]);
    let iommu = world.iommu();
    let (_device, id) = world.bound(1, &iommu);
    let (ioas, nest) = (iommu.ioas(), iommufd::HWPT_ALLOC_NEST_PARENT);
    for _ in 0..2 {
        assert_eq!(iommu.hwpt(id, ioas, nest), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(world.kinds(), ["not-supported"]);
    let mut feature = [8u32, 1 << 16 | 6];
    assert_eq!(
        device.ioctl_with(vfio::DEVICE_FEATURE, &mut feature),
        Err(Errno::ENOTTY),
        "vfio-pci has no such feature either"
    );
    assert_eq!(device.ioctl(0x3bff, 0), Err(Errno::ENOTTY));
    assert_eq!(world.kinds().len(), 1);
}
