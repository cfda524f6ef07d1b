//! A client of the mock IOMMU: IOMMU_TEST_CMD, and the calls of a guest's IOMMU.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use swiommu_abi::iommufd_test as test;
use swiommu_abi::{Errno, iommufd};
use swiommu_engine::machine::Machine;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::iommufd::Iommu;
use super::memory::address_of;
use super::{Answered, Fd, Model, World, edu, machine};

/// A machine with test equipment.
pub fn mock_machine() -> Machine {
    Machine {
        mock: true,
        ..machine(Model::Scalable, [edu(4, 4)])
    }
}

/// A /dev/iommu of a machine with test equipment.
pub struct Mock {
    pub iommu: Iommu,
    pub world: World,
}

/// A mock device.
#[derive(Clone, Copy)]
pub struct Device {
    /// What is destroyed to take it away.
    pub selftest: u32,
    pub hwpt: u32,
    pub id: u32,
}

impl Mock {
    pub fn new() -> Mock {
        let world = World::new(mock_machine());
        let iommu = world.iommu();
        Mock { iommu, world }
    }

    /// An operation: its answers replace the arguments; a descriptor if there is a new one.
    pub fn open<T>(&self, op: u32, id: u32, arguments: &mut T) -> Result<Option<Fd>, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let mut cmd = test::TestCmd {
            size: 72,
            op,
            id,
            ..Default::default()
        };
        let bytes = size_of::<T>();
        cmd.arguments.as_mut_bytes()[..bytes].copy_from_slice(arguments.as_bytes());
        let answered = self
            .iommu
            .fd
            .ioctl_raw(test::TEST_CMD, address_of(&mut cmd))?;
        let answer = &cmd.arguments.as_bytes()[..bytes];
        *arguments = T::read_from_bytes(answer).expect("the size is right");
        Ok(match answered {
            Answered::Value(_) => None,
            Answered::Fd(fd) => Some(fd),
        })
    }

    /// An operation without a descriptor.
    pub fn op<T>(&self, op: u32, id: u32, mut arguments: T) -> Result<T, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let fd = self.open(op, id, &mut arguments)?;
        assert!(fd.is_none(), "a descriptor where none was expected");
        Ok(arguments)
    }

    /// A mock device, attached.
    pub fn device(&self, pt: u32, flags: u32) -> Result<Device, Errno> {
        let wanted = test::MockDomain {
            dev_flags: flags,
            ..Default::default()
        };
        let answer = self.op(test::OP_MOCK_DOMAIN_FLAGS, pt, wanted)?;
        Ok(Device {
            selftest: answer.out_stdev_id,
            hwpt: answer.out_hwpt_id,
            id: answer.out_idev_id,
        })
    }

    /// Attaches a device elsewhere.
    pub fn replace(&self, device: Device, pt: u32) -> Result<u32, Errno> {
        let to = test::PtId { id: pt };
        let answer = self.op(test::OP_MOCK_DOMAIN_REPLACE, device.selftest, to)?;
        Ok(answer.id)
    }

    /// A nested page table.
    pub fn nested(&self, device: u32, pt: u32, flags: u32, fault: u32) -> Result<u32, Errno> {
        let mut data = test::HwptSelftest {
            iotlb: test::IOTLB_DEFAULT,
            pagetable_type: 0,
        };
        let mut cmd = iommufd::HwptAlloc {
            size: 48,
            flags,
            dev_id: device,
            pt_id: pt,
            data_type: test::HWPT_DATA_SELFTEST,
            data_len: size_of_val(&data) as u32,
            data_uptr: address_of(&mut data),
            fault_id: fault,
            ..Default::default()
        };
        self.iommu.run(iommufd::HWPT_ALLOC, &mut cmd)?;
        Ok(cmd.out_hwpt_id)
    }

    /// A fault queue: its id and descriptor.
    pub fn fault_queue(&self) -> (u32, Fd) {
        let mut cmd = iommufd::FaultQueueAlloc {
            size: 16,
            ..Default::default()
        };
        let fd = self
            .with_fd(iommufd::FAULT_QUEUE_ALLOC, &mut cmd)
            .expect("a queue");
        assert_eq!(cmd.out_fault_fd, fd.number() as u32);
        (cmd.out_fault_id, fd)
    }

    /// A command that makes a descriptor.
    pub fn with_fd<T>(&self, cmd: u32, value: &mut T) -> Result<Fd, Errno> {
        match self.iommu.fd.ioctl_raw(cmd, address_of(value))? {
            Answered::Fd(fd) => Ok(fd),
            Answered::Value(value) => panic!("{value} where a descriptor was expected"),
        }
    }

    /// A virtual IOMMU; with data it answers.
    pub fn viommu(
        &self,
        device: u32,
        hwpt: u32,
        data: Option<&mut test::ViommuSelftest>,
    ) -> Result<u32, Errno> {
        let mut cmd = iommufd::ViommuAlloc {
            size: 40,
            kind: test::VIOMMU_TYPE_SELFTEST,
            dev_id: device,
            hwpt_id: hwpt,
            ..Default::default()
        };
        if let Some(data) = data {
            cmd.data_len = 24;
            cmd.data_uptr = address_of(data);
        }
        self.iommu.run(iommufd::VIOMMU_ALLOC, &mut cmd)?;
        Ok(cmd.out_viommu_id)
    }

    /// A device's place on a virtual IOMMU.
    pub fn vdevice(&self, viommu: u32, device: u32, virt_id: u64) -> Result<u32, Errno> {
        let mut cmd = iommufd::VdeviceAlloc {
            size: 24,
            viommu_id: viommu,
            dev_id: device,
            virt_id,
            ..Default::default()
        };
        self.iommu.run(iommufd::VDEVICE_ALLOC, &mut cmd)?;
        Ok(cmd.out_vdevice_id)
    }

    /// A queue of events.
    pub fn veventq(&self, viommu: u32, depth: u32) -> Result<Fd, Errno> {
        let mut cmd = iommufd::VeventqAlloc {
            size: 32,
            viommu_id: viommu,
            kind: test::VEVENTQ_TYPE_SELFTEST,
            veventq_depth: depth,
            ..Default::default()
        };
        self.with_fd(iommufd::VEVENTQ_ALLOC, &mut cmd)
    }

    /// A queue in client memory.
    pub fn hw_queue(&self, viommu: u32, index: u32, iova: u64, bytes: u64) -> Result<u32, Errno> {
        let mut cmd = iommufd::HwQueueAlloc {
            size: 40,
            viommu_id: viommu,
            kind: test::HW_QUEUE_TYPE_SELFTEST,
            index,
            nesting_parent_iova: iova,
            length: bytes,
            ..Default::default()
        };
        self.iommu.run(iommufd::HW_QUEUE_ALLOC, &mut cmd)?;
        Ok(cmd.out_hw_queue_id)
    }

    /// HWPT_INVALIDATE of requests: how many were done, and the result.
    pub fn invalidate<T: IntoBytes + Immutable>(
        &self,
        hwpt: u32,
        requests: &mut [T],
    ) -> (u32, Result<i32, Errno>) {
        let mut cmd = iommufd::HwptInvalidate {
            size: 32,
            hwpt_id: hwpt,
            data_type: test::HWPT_INVALIDATE_DATA_SELFTEST,
            entry_len: size_of::<T>() as u32,
            entry_num: requests.len() as u32,
            data_uptr: address_of(requests),
            ..Default::default()
        };
        let result = self.iommu.run(iommufd::HWPT_INVALIDATE, &mut cmd);
        (cmd.entry_num, result)
    }

    /// Lets a device ask for a page.
    pub fn page_request(&self, device: u32, pasid: u32, addr: u64) {
        let request = test::TriggerIopf {
            dev_id: device,
            pasid,
            grpid: 5,
            perm: iommufd::PGFAULT_PERM_READ,
            addr,
        };
        self.op(test::OP_TRIGGER_IOPF, 0, request)
            .expect("it always works");
    }

    /// Whether a cache entry of a nested page table, or with OP_DEV_CHECK_CACHE of a device, holds `value`.
    pub fn holds(&self, op: u32, id: u32, index: u32, value: u32) -> bool {
        self.op(op, id, test::CacheEntry { index, value }).is_ok()
    }
}

/// What a poll of a descriptor says.
pub fn polled(fd: &Fd) -> PollFlags {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut ready = [PollFd::new(fd.object(), PollFlags::IN | PollFlags::OUT)];
    poll(&mut ready, Some(&now)).expect("poll");
    ready[0].revents()
}
