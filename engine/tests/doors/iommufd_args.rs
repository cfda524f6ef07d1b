//! Sizes, reserved fields, flags and pointers of every command of /dev/iommu, from one table.

use std::mem::offset_of;

use swiommu_abi::{Errno, iommufd};

use crate::support::iommufd::Iommu;
use crate::support::memory::{Memory, address_of};
use crate::support::{Model, World, machine};

/// What is known of a command's struct.
struct Row {
    cmd: u32,
    /// The least size, and the whole.
    least: usize,
    full: usize,
    /// Offsets of 32-bit words (or 16-bit, as their low half) that must be zero, with the answer when they are not.
    zero: &'static [(usize, Errno)],
    /// What a struct of zeros of full size answers, with no objects.
    of_zeros: Result<i32, Errno>,
}

/// Bytes up to and including a field.
macro_rules! through {
    ($struct:ty, $field:ident) => {
        offset_of!($struct, $field) + size_of_val(&<$struct>::default().$field)
    };
}

macro_rules! row {
    ($cmd:ident, $struct:ident, $last:ident, [$($zero:ident: $errno:ident),*], $of_zeros:expr) => {
        Row {
            cmd: iommufd::$cmd,
            least: through!(iommufd::$struct, $last),
            full: size_of::<iommufd::$struct>(),
            zero: &[$((offset_of!(iommufd::$struct, $zero), Errno::$errno)),*],
            of_zeros: $of_zeros,
        }
    };
}

fn rows() -> Vec<Row> {
    vec![
        row!(DESTROY, Destroy, id, [], Err(Errno::ENOENT)),
        row!(IOAS_ALLOC, IoasAlloc, out_ioas_id, [flags: EOPNOTSUPP], Ok(0)),
        row!(IOAS_ALLOW_IOVAS, IoasAllowIovas, allowed_iovas, [reserved: EOPNOTSUPP], Err(Errno::ENOENT)),
        row!(IOAS_COPY, IoasCopy, src_iova, [], Err(Errno::EINVAL)),
        row!(IOAS_IOVA_RANGES, IoasIovaRanges, out_iova_alignment, [reserved: EOPNOTSUPP], Err(Errno::ENOENT)),
        row!(IOAS_MAP, IoasMap, iova, [reserved: EOPNOTSUPP], Err(Errno::EINVAL)),
        row!(IOAS_UNMAP, IoasUnmap, length, [], Err(Errno::ENOENT)),
        row!(OPTION, IommuOption, val64, [reserved: EOPNOTSUPP], Ok(0)),
        row!(VFIO_IOAS, VfioIoas, reserved, [reserved: EOPNOTSUPP], Err(Errno::ENODEV)),
        row!(HWPT_ALLOC, HwptAlloc, reserved, [reserved: EOPNOTSUPP, data_len: EINVAL, data_type: EINVAL], Err(Errno::ENOENT)),
        row!(
            HWPT_SET_DIRTY_TRACKING,
            HwptSetDirtyTracking,
            reserved,
            [],
            Err(Errno::ENOENT)
        ),
        row!(HWPT_GET_DIRTY_BITMAP, HwptGetDirtyBitmap, data, [reserved: EOPNOTSUPP], Err(Errno::ENOENT)),
        row!(IOAS_MAP_FILE, IoasMapFile, iova, [], Err(Errno::EINVAL)),
        row!(IOAS_CHANGE_PROCESS, IoasChangeProcess, reserved, [reserved: EOPNOTSUPP], Ok(0)),
    ]
}

const P: u64 = 4096;

fn open() -> (World, Iommu) {
    let world = World::new(machine(Model::Scalable, []));
    let iommu = world.iommu();
    (world, iommu)
}

/// A struct of zeros with a size, in a page of which more follows.
fn call(iommu: &Iommu, cmd: u32, size: u32, change: impl FnOnce(&mut [u8])) -> Result<i32, Errno> {
    let mut bytes = [0u64; 512].map(u64::to_ne_bytes).concat();
    bytes[..4].copy_from_slice(&size.to_ne_bytes());
    change(&mut bytes);
    // aligned as a client's struct is
    let mut words: Vec<u64> = bytes
        .chunks(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
        .collect();
    iommu.fd.ioctl(cmd, address_of(&mut words[..]))
}

#[test]
fn a_struct_of_zeros_answers_what_its_fields_say() {
    for row in rows() {
        let (_world, iommu) = open();
        let answer = call(&iommu, row.cmd, row.full as u32, |_| {});
        assert_eq!(answer, row.of_zeros, "{:#x}", row.cmd);
    }
}

#[test]
fn a_struct_that_is_too_short_is_invalid_and_the_shortest_is_not() {
    for row in rows() {
        let (_world, iommu) = open();
        for size in [0, 4, row.least as u32 - 1] {
            let answer = call(&iommu, row.cmd, size, |_| {});
            assert_eq!(answer, Err(Errno::EINVAL), "{:#x} of {size}", row.cmd);
        }
        let answer = call(&iommu, row.cmd, row.least as u32, |_| {});
        assert_eq!(answer, row.of_zeros, "{:#x}", row.cmd);
    }
}

#[test]
fn what_a_longer_struct_has_behind_ours_must_be_zero() {
    for row in rows() {
        let (_world, iommu) = open();
        for more in [1, 8, 1000, 4096 - row.full] {
            let size = (row.full + more) as u32;
            let answer = call(&iommu, row.cmd, size, |_| {});
            assert_eq!(answer, row.of_zeros, "{:#x} of {size}", row.cmd);
            let answer = call(&iommu, row.cmd, size, |bytes| bytes[size as usize - 1] = 1);
            assert_eq!(answer, Err(Errno::E2BIG), "{:#x} of {size}", row.cmd);
            if row.of_zeros.is_ok() {
                let _ = iommu.destroy(1);
            }
        }
    }
}

#[test]
fn a_reserved_field_that_is_not_zero_is_refused() {
    for row in rows() {
        for &(at, errno) in row.zero {
            let (_world, iommu) = open();
            let answer = call(&iommu, row.cmd, row.full as u32, |bytes| bytes[at] = 1);
            assert_eq!(answer, Err(errno), "{:#x} at {at}", row.cmd);
        }
    }
}

#[test]
fn a_struct_that_cannot_be_read_whole_is_a_bad_address() {
    let memory = Memory::pages(1);
    for row in rows() {
        let (_world, iommu) = open();
        for at in [
            0,
            8,
            u64::MAX - 3,
            memory.base() + 4096,
            memory.base() + 4096 - 4,
        ] {
            if at == memory.base() + 4096 - 4 {
                memory.write(4092, &(row.full as u32).to_ne_bytes());
            }
            let answer = iommu.fd.ioctl(row.cmd, at);
            assert_eq!(answer, Err(Errno::EFAULT), "{:#x} at {at:#x}", row.cmd);
        }
        // longer than the memory it lies in
        memory.fill(0);
        let at = memory.base() + 4096 - row.full as u64;
        let size = row.full as u32 + 8;
        memory.write(4096 - row.full as u64, &size.to_ne_bytes());
        assert_eq!(
            iommu.fd.ioctl(row.cmd, at),
            Err(Errno::EFAULT),
            "{:#x}",
            row.cmd
        );
    }
}

#[test]
fn an_answer_that_cannot_be_written_leaves_no_object_behind() {
    let (_world, iommu) = open();
    let memory = Memory::pages(1);
    memory.write(0, &12u32.to_ne_bytes());
    memory.protect(true, false);
    let answer = iommu.fd.ioctl(iommufd::IOAS_ALLOC, memory.base());
    assert_eq!(answer, Err(Errno::EFAULT));
    assert_eq!(iommu.ioas(), 1, "the id is free again");
}

#[test]
fn a_number_that_is_no_command_is_none_whatever_its_argument() {
    let (_world, iommu) = open();
    for cmd in [0x3b95, 0x3bff, 0x3b00, 0x3b7f, 0xffff_ffff] {
        assert_eq!(iommu.fd.ioctl(cmd, 0), Err(Errno::ENOTTY), "{cmd:#x}");
    }
    // The number is right, the type or the direction is not: the size is looked at first.
    let mut size = 8u32;
    assert_eq!(iommu.fd.ioctl(0x3c80, 0), Err(Errno::EFAULT));
    assert_eq!(iommu.fd.ioctl_with(0x3c80, &mut size), Err(Errno::ENOTTY));
    assert_eq!(
        iommu.fd.ioctl_with(0xc000_3b81, &mut size),
        Err(Errno::ENOTTY)
    );
}

#[test]
fn unknown_flags_and_extreme_numbers_are_refused_in_order() {
    let (_world, iommu) = open();
    let map = |flags: u32, iova: u64, length: u64| {
        let mut cmd = iommufd::IoasMap {
            size: 40,
            flags,
            ioas_id: 9,
            length,
            iova,
            ..Default::default()
        };
        iommu.run(iommufd::IOAS_MAP, &mut cmd)
    };
    assert_eq!(map(8, u64::MAX, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(map(0, u64::MAX, 4096), Err(Errno::EOVERFLOW));
    assert_eq!(map(0, 0, u64::MAX), Err(Errno::EOVERFLOW));
    assert_eq!(map(1, 0, 4096), Err(Errno::EINVAL), "neither direction");
    assert_eq!(map(5, 0, 4096), Err(Errno::ENOENT), "no such space");
    let ioas = iommu.ioas();
    for (iova, length, errno) in [
        (u64::MAX, 1, Errno::EOVERFLOW),
        (P, u64::MAX, Errno::EOVERFLOW),
        (0, 0, Errno::EINVAL),
        (u64::MAX - 1, 3, Errno::EOVERFLOW),
        (4096, 4096, Errno::ENOENT),
    ] {
        assert_eq!(iommu.unmap(ioas, iova, length), Err(errno), "{iova:#x}");
    }
    for (op, val64, errno) in [(0, 2, Errno::EINVAL), (2, 0, Errno::EOPNOTSUPP)] {
        let huge = iommufd::OPTION_HUGE_PAGES;
        assert_eq!(iommu.option(huge, op, ioas, val64), Err(errno));
    }
    let mode = iommufd::OPTION_RLIMIT_MODE;
    assert_eq!(iommu.option(mode, 0, 0, 1), Err(Errno::EBUSY));
    assert_eq!(iommu.option(mode, 1, 1, 0), Err(Errno::EOPNOTSUPP));
    iommu.destroy(ioas).unwrap();
    assert_eq!(iommu.option(mode, 0, 0, 2), Err(Errno::EINVAL));
    assert_eq!(iommu.option(mode, 0, 0, 1), Ok(1));
    assert_eq!(iommu.option(mode, 1, 0, 0), Ok(1));
    assert_eq!(iommu.option(7, 1, 0, 0), Err(Errno::EOPNOTSUPP));
}
