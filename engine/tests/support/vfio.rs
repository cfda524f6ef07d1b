//! The calls of a VFIO client, one function each.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsRawFd, OwnedFd};

use swiommu_abi::{Errno, vfio};

use super::{Answered, Fd, World};

/// READ and WRITE.
pub const RW: u32 = vfio::DMA_MAP_FLAG_READ | vfio::DMA_MAP_FLAG_WRITE;
/// Where the region of an index lies in the file.
pub const fn region(index: u32) -> u64 {
    (index as u64) << vfio::PCI_OFFSET_SHIFT
}
/// Configuration space.
pub const CONFIG: u64 = region(vfio::PCI_CONFIG_REGION_INDEX);

impl World {
    /// Opens a container.
    pub fn container(&self) -> Fd {
        self.open("/dev/vfio/vfio").expect("a container")
    }

    /// Opens a group.
    pub fn group(&self, number: u32) -> Result<Fd, Errno> {
        self.open(&format!("/dev/vfio/{number}"))
    }

    /// A container with a group in it and an address space.
    pub fn joined(&self, group: u32, kind: u64) -> (Fd, Fd) {
        let (container, group) = (self.container(), self.group(group).expect("a free group"));
        group.set_container(&container).expect("SET_CONTAINER");
        container.ioctl(vfio::SET_IOMMU, kind).expect("SET_IOMMU");
        (container, group)
    }
}

impl Fd {
    /// SET_CONTAINER.
    pub fn set_container(&self, container: &Fd) -> Result<i32, Errno> {
        let mut number = container.number();
        self.ioctl_with(vfio::GROUP_SET_CONTAINER, &mut number)
    }

    /// GET_STATUS: the flags.
    pub fn status(&self) -> u32 {
        let mut status = vfio::GroupStatus { argsz: 8, flags: 0 };
        self.ioctl_with(vfio::GROUP_GET_STATUS, &mut status)
            .expect("GET_STATUS");
        status.flags
    }

    /// GET_DEVICE_FD.
    pub fn device(&self, name: &str) -> Result<Fd, Errno> {
        let mut name = [name.as_bytes(), b"\0"].concat();
        match self.ioctl_raw(vfio::GROUP_GET_DEVICE_FD, super::address_of(&mut name[..]))? {
            Answered::Fd(fd) => Ok(fd),
            Answered::Value(value) => panic!("GET_DEVICE_FD answered {value}"),
        }
    }

    /// MAP_DMA.
    pub fn map(&self, iova: u64, vaddr: u64, size: u64, flags: u32) -> Result<i32, Errno> {
        let argsz = size_of::<vfio::DmaMap>() as u32;
        self.ioctl_with(
            vfio::IOMMU_MAP_DMA,
            &mut vfio::DmaMap {
                argsz,
                flags,
                vaddr,
                iova,
                size,
            },
        )
    }

    /// UNMAP_DMA: the bytes unmapped.
    pub fn unmap(&self, iova: u64, size: u64) -> Result<u64, Errno> {
        self.unmap_with(iova, size, 0)
    }

    /// UNMAP_DMA with flags.
    pub fn unmap_with(&self, iova: u64, size: u64, flags: u32) -> Result<u64, Errno> {
        let argsz = size_of::<vfio::DmaUnmap>() as u32;
        let mut unmap = vfio::DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        };
        self.ioctl_with(vfio::IOMMU_UNMAP_DMA, &mut unmap)?;
        Ok(unmap.size)
    }

    /// How many more mappings GET_INFO says are possible.
    pub fn available(&self) -> u32 {
        let mut room = [0u64; 64];
        room[0] = 512;
        self.ioctl_with(vfio::IOMMU_GET_INFO, &mut room)
            .expect("GET_INFO");
        let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_le_bytes()).collect();
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut at = word(16) as usize;
        while half(at) != vfio::IOMMU_TYPE1_INFO_DMA_AVAIL {
            at = word(at + 4) as usize;
            assert!(at != 0, "no capability says how many mappings are left");
        }
        word(at + 8)
    }

    /// Reads a number of configuration space.
    pub fn config(&self, at: u64, bytes: usize) -> u64 {
        let mut raw = [0; 8];
        assert_eq!(self.pread(CONFIG + at, &mut raw[..bytes]), Ok(bytes as u64));
        u64::from_le_bytes(raw)
    }

    /// Writes a number to configuration space.
    pub fn set_config(&self, at: u64, bytes: usize, value: u64) {
        assert_eq!(
            self.pwrite(CONFIG + at, &value.to_le_bytes()[..bytes]),
            Ok(bytes as u64)
        );
    }

    /// Turns the bus master bit on or off.
    pub fn bus_master(&self, on: bool) {
        let command = self.config(4, 2);
        self.set_config(4, 2, if on { command | 4 } else { command & !4 });
    }

    /// SET_IRQS without data.
    pub fn irqs(&self, index: u32, action: u32, start: u32, count: u32) -> Result<i32, Errno> {
        self.irqs_raw(index, action | vfio::IRQ_SET_DATA_NONE, start, count, &[])
    }

    /// SET_IRQS that sets eventfds; -1 takes one away.
    pub fn eventfds(&self, index: u32, start: u32, fds: &[i32]) -> Result<i32, Errno> {
        let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
        let flags = vfio::IRQ_SET_DATA_EVENTFD | vfio::IRQ_SET_ACTION_TRIGGER;
        self.irqs_raw(index, flags, start, fds.len() as u32, &data)
    }

    /// SET_IRQS with a flag for each vector.
    pub fn irqs_bool(
        &self,
        index: u32,
        action: u32,
        start: u32,
        which: &[u8],
    ) -> Result<i32, Errno> {
        self.irqs_raw(
            index,
            action | vfio::IRQ_SET_DATA_BOOL,
            start,
            which.len() as u32,
            which,
        )
    }

    /// SET_IRQS as it comes.
    pub fn irqs_raw(
        &self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        data: &[u8],
    ) -> Result<i32, Errno> {
        let argsz = 20 + data.len() as u32;
        let mut set: Vec<u8> = [argsz, flags, index, start, count]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        set.extend_from_slice(data);
        self.ioctl_with(vfio::DEVICE_SET_IRQS, &mut set[..])
    }
}

/// An eventfd of the client.
pub struct Event(OwnedFd);

impl Event {
    /// A fresh one.
    pub fn new() -> Event {
        Event(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"))
    }

    /// Another descriptor of the same eventfd.
    pub fn twin(&self) -> Event {
        Event(rustix::io::dup(&self.0).expect("dup"))
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Adds one, as whoever else has it does.
    pub fn signal(&self) {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).expect("write");
    }

    /// As [`Event::count`], but waits for a signal of another thread.
    pub fn awaited(&self) -> u64 {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        while poll(&mut ready, None) == Err(rustix::io::Errno::INTR) {}
        self.count()
    }

    /// Waits until another thread has read it.
    pub fn until_taken(&self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        while poll(&mut ready, Some(&now)) != Ok(0) {
            std::thread::yield_now();
        }
    }

    /// How often it was signalled since the last look.
    pub fn count(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(errno) => panic!("an eventfd answered {errno}"),
        }
    }
}
