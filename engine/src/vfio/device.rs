//! A device descriptor: info, regions, interrupts, reset (`drivers/vfio/pci/vfio_pci_core.c`).

use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;

use super::argsz::{Chain, copy_in, copy_out, through};
use super::bound::Binding;
use super::group::GroupFile;
use super::vf_token::Admission;
use super::{cdev, hot_reset};
use crate::door::{Answer, Call, File, Mmio, Span};
use crate::hostdrv::lock::Lock;
use crate::iommufd::{Space, inject};
use crate::pci::Bar;
use crate::pci::function::Function;
use crate::pci::function::ioeventfd::RegisterWrite;
use crate::pci::irq::{Action, Data};
use crate::run::Run;

/// The open file of a device.
pub struct DeviceFile {
    run: Arc<Run>,
    function: Arc<Function>,
    user: User,
    /// The function cannot be unbound, nor its VF token pass for unused, before this file is closed.
    _held: (Lock, Admission),
}

/// By what right a device is open, which stays for as long as it is.
pub enum User {
    /// A group in a container.
    Group(Arc<GroupFile>),
    /// An iommufd, which a group has for its container, and the binding to it: without an IOMMU there is none.
    Iommufd(Option<Arc<Binding>>),
    /// A binding to an iommufd, by the device's own node.
    Node(Arc<Binding>),
}

impl DeviceFile {
    /// Opens a function for the client; the first opener resets it.
    ///
    /// # Errors
    /// What building the model gave: its medium cannot be opened.
    pub fn open(
        run: &Arc<Run>,
        function: &Arc<Function>,
        user: User,
        held: (Lock, Admission),
        space: Arc<dyn Space>,
        call: &Call<'_>,
    ) -> Result<(OwnedFd, DeviceFile), Errno> {
        inject::point()?;
        let object = function.open(run, space, call)?;
        let file = DeviceFile {
            run: run.clone(),
            function: function.clone(),
            user,
            _held: held,
        };
        Ok((object, file))
    }

    /// The binding to an iommufd, if it is open by the device's own node (`vfio_device_cdev_opened`).
    pub(super) fn node(&self) -> Option<&Binding> {
        match &self.user {
            User::Group(_) | User::Iommufd(_) => None,
            User::Node(binding) => Some(binding),
        }
    }

    /// The run it belongs to.
    pub(super) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The function behind the file.
    pub fn function(&self) -> &Arc<Function> {
        &self.function
    }

    fn get_info(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::DeviceInfo, num_irqs);
        let mut info: vfio::DeviceInfo = copy_in(call, arg, minsz)?;
        if (info.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        let answer = (info.argsz as usize).min(size_of::<vfio::DeviceInfo>());
        info.flags = vfio::DEVICE_FLAGS_PCI;
        if self.function.can_reset() {
            info.flags |= vfio::DEVICE_FLAGS_RESET;
        }
        info.num_regions = vfio::PCI_NUM_REGIONS;
        info.num_irqs = vfio::PCI_NUM_IRQS;
        copy_out(call, arg, &info, answer)
    }

    fn get_region_info(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::RegionInfo, offset);
        let mut info: vfio::RegionInfo = copy_in(call, arg, minsz)?;
        if (info.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        let mut chain = Chain::default();
        let identity = self.function.identity();
        info.flags = 0;
        info.size = 0;
        info.cap_offset = 0;
        match info.index {
            vfio::PCI_CONFIG_REGION_INDEX => {
                info.size = self.function.config_bytes();
                info.flags = vfio::REGION_INFO_FLAG_READ | vfio::REGION_INFO_FLAG_WRITE;
            }
            0..=vfio::PCI_BAR5_REGION_INDEX => {
                info.size = self.function.bar_bytes(info.index as u8);
                if info.size > 0 {
                    info.flags = vfio::REGION_INFO_FLAG_READ | vfio::REGION_INFO_FLAG_WRITE;
                }
                if mappable(&identity.bars[info.index as usize]) {
                    info.flags |= vfio::REGION_INFO_FLAG_MMAP;
                    if identity
                        .msix
                        .is_some_and(|msix| u32::from(msix.table.0) == info.index)
                    {
                        chain.add(vfio::REGION_INFO_CAP_MSIX_MAPPABLE, 1, &[]);
                    }
                }
            }
            vfio::PCI_ROM_REGION_INDEX => {}
            _ => return Err(Errno::EINVAL),
        }
        info.offset = u64::from(info.index) << vfio::PCI_OFFSET_SHIFT;
        if !chain.is_empty() {
            info.flags |= vfio::REGION_INFO_FLAG_CAPS;
            (info.argsz, info.cap_offset) =
                chain.place(call, arg, size_of::<vfio::RegionInfo>(), info.argsz)?;
        }
        copy_out(call, arg, &info, minsz)
    }

    fn get_irq_info(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::IrqInfo, count);
        let mut info: vfio::IrqInfo = copy_in(call, arg, minsz)?;
        if (info.argsz as usize) < minsz || info.index >= vfio::PCI_NUM_IRQS {
            return Err(Errno::EINVAL);
        }
        if info.index == vfio::PCI_ERR_IRQ_INDEX && !self.function.identity().express {
            return Err(Errno::EINVAL);
        }
        info.flags = vfio::IRQ_INFO_EVENTFD;
        info.count = self.function.irq_count(info.index);
        match info.index {
            vfio::PCI_INTX_IRQ_INDEX => {
                info.flags |= vfio::IRQ_INFO_MASKABLE | vfio::IRQ_INFO_AUTOMASKED
            }
            vfio::PCI_MSIX_IRQ_INDEX if info.count > 0 => {}
            _ => info.flags |= vfio::IRQ_INFO_NORESIZE,
        }
        copy_out(call, arg, &info, minsz)
    }

    fn set_irqs(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::IrqSet, count);
        let set: vfio::IrqSet = copy_in(call, arg, minsz)?;
        let item = self.check_irq_set(&set, minsz)?;
        let bytes = set.count as usize * item;
        if bytes > 0 {
            inject::point()?;
        }
        let mut raw = vec![0u8; bytes];
        call.client
            .read(UserAddr(arg + minsz as u64), &mut raw)
            .map_err(|_| Errno::EFAULT)?;
        let data = match item {
            0 => Data::None,
            1 => Data::Bool(raw),
            _ => Data::Eventfd(
                raw.chunks_exact(4)
                    .map(|b| i32::from_ne_bytes(b.try_into().expect("chunks of 4")))
                    .collect(),
            ),
        };
        let action = match set.flags & vfio::IRQ_SET_ACTION_TYPE_MASK {
            vfio::IRQ_SET_ACTION_MASK => Action::Mask,
            vfio::IRQ_SET_ACTION_UNMASK => Action::Unmask,
            vfio::IRQ_SET_ACTION_TRIGGER => Action::Trigger,
            _ => return Err(Errno::ENOTTY),
        };
        match set.index {
            // Any process may want the device back.
            vfio::PCI_REQ_IRQ_INDEX => self.run.serve(),
            vfio::PCI_MSI_IRQ_INDEX | vfio::PCI_MSIX_IRQ_INDEX => self.check_msi(&data)?,
            _ => {}
        }
        self.function
            .set_irqs(set.index, action, set.start, data, set.count)
    }

    /// Whether the kernel would give MSI or MSI-X vectors for eventfds: not while `msi_bus` forbids it. What a client
    /// has already is not taken away.
    ///
    /// # Errors
    /// EINVAL.
    fn check_msi(&self, data: &Data) -> Result<(), Errno> {
        let begins = matches!(data, Data::Eventfd(_)) && self.function.has_no_vectors();
        if begins && !self.run.host()?.allows_msi(self.function.index()) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// `vfio_set_irqs_validate_and_prepare`: the size of one vector's data.
    fn check_irq_set(&self, set: &vfio::IrqSet, minsz: usize) -> Result<usize, Errno> {
        let known = vfio::IRQ_SET_ACTION_TYPE_MASK | vfio::IRQ_SET_DATA_TYPE_MASK;
        if (set.argsz as usize) < minsz
            || set.index >= vfio::PCI_NUM_IRQS
            || set.count >= u32::MAX - set.start
            || set.flags & !known != 0
        {
            return Err(Errno::EINVAL);
        }
        let vectors = self.function.irq_count(set.index);
        if set.start >= vectors || set.start + set.count > vectors {
            return Err(Errno::EINVAL);
        }
        let item = match set.flags & vfio::IRQ_SET_DATA_TYPE_MASK {
            vfio::IRQ_SET_DATA_NONE => 0,
            vfio::IRQ_SET_DATA_BOOL => 1,
            vfio::IRQ_SET_DATA_EVENTFD => 4,
            _ => return Err(Errno::EINVAL),
        };
        if item > 0 && (set.argsz as usize - minsz) < set.count as usize * item {
            return Err(Errno::EINVAL);
        }
        Ok(item)
    }

    fn reset(&self) -> Result<(), Errno> {
        if !self.function.can_reset() {
            return Err(Errno::EINVAL);
        }
        self.function.reset();
        Ok(())
    }

    /// A physical function's configuration space is about to be read: it shows how many virtual functions there are.
    fn look_at_virtual_functions(&self) -> Result<(), Errno> {
        if self.function.config().total_vfs() > 0 {
            let number = self.run.host()?.numvfs(self.function.index());
            self.function.show_virtual_functions(number);
        }
        Ok(())
    }

    /// `vfio_pci_ioctl_ioeventfd`
    fn ioeventfd(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = offset_of!(vfio::DeviceIoeventfd, reserved);
        let ask: vfio::DeviceIoeventfd = copy_in(call, arg, minsz)?;
        let bytes = ask.flags & vfio::DEVICE_IOEVENTFD_SIZE_MASK;
        if (ask.argsz as usize) < minsz
            || ask.flags != bytes
            || !bytes.is_power_of_two()
            || ask.fd < -1
        {
            return Err(Errno::EINVAL);
        }
        let (region, at) = split(ask.offset);
        let write = RegisterWrite {
            region,
            at,
            bytes: bytes as u8,
            value: ask.data,
        };
        self.function.set_ioeventfd(write, ask.fd)
    }
}

/// vfio-pci maps memory BARs of a page or more.
fn mappable(bar: &Bar) -> bool {
    matches!(bar, Bar::Memory { bytes, .. } if *bytes >= 4096)
}

/// A file offset as region and offset in it.
fn split(offset: u64) -> (u32, u64) {
    (
        (offset >> vfio::PCI_OFFSET_SHIFT) as u32,
        offset & ((1 << vfio::PCI_OFFSET_SHIFT) - 1),
    )
}

impl File for DeviceFile {
    fn link(&self) -> String {
        "anon_inode:[vfio-device]".into()
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        self.function.wake();
        match cmd {
            vfio::DEVICE_GET_INFO => self.get_info(call, arg),
            vfio::DEVICE_GET_REGION_INFO => self.get_region_info(call, arg),
            vfio::DEVICE_GET_IRQ_INFO => self.get_irq_info(call, arg),
            vfio::DEVICE_SET_IRQS => self.set_irqs(call, arg),
            vfio::DEVICE_RESET => self.reset(),
            vfio::DEVICE_GET_PCI_HOT_RESET_INFO => hot_reset::info(self, call, arg),
            vfio::DEVICE_PCI_HOT_RESET => hot_reset::reset(self, call, arg),
            vfio::DEVICE_IOEVENTFD => self.ioeventfd(call, arg),
            vfio::DEVICE_FEATURE => return self.feature(call, arg),
            // for a device's own node alone
            vfio::DEVICE_BIND_IOMMUFD => cdev::read_bind(call, arg).and(Err(Errno::EINVAL)),
            _ => Err(Errno::ENOTTY),
        }
        .map(|()| Answer::Value(0))
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.function.wake();
        let (region, at) = split(offset);
        if region == vfio::PCI_CONFIG_REGION_INDEX {
            self.look_at_virtual_functions()?;
        }
        self.function.region_read(call, region, at, to, bytes)
    }

    fn pwrite(
        &self,
        call: &Call<'_>,
        from: UserAddr,
        bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        self.function.wake();
        let (region, at) = split(offset);
        self.function.region_write(call, region, at, from, bytes)
    }

    fn mmap(
        &self,
        _: &Call<'_>,
        offset: u64,
        bytes: u64,
        _write: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        let (region, at) = split(offset);
        let past = at.checked_add(bytes).ok_or(Errno::EINVAL)?;
        if region > vfio::PCI_BAR5_REGION_INDEX
            || !mappable(&self.function.identity().bars[region as usize])
            || past > self.function.bar_bytes(region as u8)
        {
            return Err(Errno::EINVAL);
        }
        Ok(vec![(bytes, Span::Trap)])
    }

    fn mmio(&self, call: &Call<'_>, offset: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let (region, at) = split(offset);
        self.function.mmio(call, region as u8, at, bytes, access)
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        self.function.close();
        if let User::Group(group) = &self.user {
            group.device_closed();
        }
    }
}
