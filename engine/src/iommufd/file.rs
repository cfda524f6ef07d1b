//! `/dev/iommu`: its commands, and the size rule of their structs (`drivers/iommu/iommufd/main.c`).
//!
//! Every struct begins with the size of the caller's. A command names the least it needs: less is EINVAL. What a longer
//! caller has beyond our struct must be zero, else E2BIG; what a shorter one does not have is zero.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use swiommu_abi::{Errno, iommufd, iommufd_test};
use swiommu_mem::UserAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::context::Context;
use super::device::Device;
use super::object::AnyRef;
use super::{
    change_process, compat, dirty, fault, hw_info, hw_queue, hwpt, ioas_commands as ioas, nested,
};
use super::{option, vdevice, veventq, viommu};
use crate::argsz::through;
use crate::calls::CallRecord;
use crate::door::{Answer, Call, CharDevice, File, NewFile, Span};
use crate::machine::tree::IOMMU_DEVICE;
use crate::mock;
use crate::run::Run;

/// An open `/dev/iommu`.
pub struct IommuFile {
    context: Arc<Context>,
}

impl IommuFile {
    /// Opens it, with no objects.
    pub fn new(run: Arc<Run>) -> IommuFile {
        IommuFile {
            context: Context::new(run),
        }
    }

    /// Its objects.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

/// A command under way.
pub struct Command<'a> {
    /// The objects.
    pub context: &'a Arc<Context>,
    /// The call.
    pub call: &'a Call<'a>,
    arg: u64,
    user_size: u32,
    opened: RefCell<Option<Answer>>,
}

impl Command<'_> {
    /// Tells that a device's IOMMU does not translate in two stages, if it does not: the command will fail for that.
    pub fn look_for_nesting(&self, device: &dyn Device, what: &str) {
        if device.nesting().is_none() {
            let reports = &self.context.run().reports;
            reports.unsupported(self.call, format_args!("{what} on this IOMMU"));
        }
    }

    /// Copies the answer out, as much of it as the caller has room for.
    ///
    /// # Errors
    /// EFAULT.
    pub fn respond<T: IntoBytes + Immutable>(&self, answer: &T) -> Result<(), Errno> {
        let bytes = answer.as_bytes();
        let room = bytes.len().min(self.user_size as usize);
        self.write(0, &bytes[..room])
    }

    /// Copies a part of the answer out.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let at = self.arg.checked_add(offset).ok_or(Errno::EFAULT)?;
        self.call
            .client
            .write(UserAddr(at), bytes)
            .map_err(|_| Errno::EFAULT)
    }

    /// The number that a new descriptor will have.
    ///
    /// # Errors
    /// EMFILE.
    pub fn number(&self, object: &OwnedFd) -> Result<u32, Errno> {
        Ok(self.call.files.number(object.as_fd())? as u32)
    }

    /// The client gets a descriptor whose number is in the answer already.
    pub fn open(&self, file: NewFile) {
        *self.opened.borrow_mut() = Some(Answer::Also(file));
    }

    /// The client gets a descriptor, and its number is the value of the call.
    pub fn answer(&self, file: NewFile) {
        *self.opened.borrow_mut() = Some(Answer::Open(file));
    }

    /// The call, numbered.
    pub fn record(&self, cmd: u32) -> CallRecord {
        let name = iommufd::command_name(cmd).unwrap_or("an iommufd command");
        CallRecord::new(self.call, name, &self.context.run().options)
    }

    /// Copies the caller's struct in.
    fn fetch<T>(&self, least: usize) -> Result<T, Errno>
    where
        T: FromBytes + IntoBytes + Default,
    {
        let size = self.user_size as usize;
        if size < least {
            return Err(Errno::EINVAL);
        }
        let mut value = T::default();
        if size > size_of::<T>() {
            self.check_zero(size_of::<T>() as u64, size as u64)?;
        }
        let known = size.min(size_of::<T>());
        let bytes = &mut value.as_mut_bytes()[..known];
        self.call
            .client
            .read(UserAddr(self.arg), bytes)
            .map_err(|_| Errno::EFAULT)?;
        Ok(value)
    }

    /// `check_zeroed_user` of the bytes `from..to` of the argument.
    fn check_zero(&self, from: u64, to: u64) -> Result<(), Errno> {
        let mut at = from;
        while at < to {
            let mut part = [0u8; 256];
            let bytes = (to - at).min(part.len() as u64);
            let part = &mut part[..bytes as usize];
            let first = self.arg.checked_add(at).ok_or(Errno::EFAULT)?;
            let read = self.call.client.read(UserAddr(first), part);
            let done = read.map_or_else(|fault| fault.done, |()| bytes) as usize;
            if part[..done].iter().any(|byte| *byte != 0) {
                return Err(Errno::E2BIG);
            }
            read.map_err(|_| Errno::EFAULT)?;
            at += bytes;
        }
        Ok(())
    }
}

/// Runs a handler on the caller's struct, of which it must have all up to and including a field.
macro_rules! run {
    ($command:expr, $struct:ident, $last:ident, $handler:path) => {{
        let mut value = $command.fetch(through!(iommufd::$struct, $last))?;
        $handler($command, &mut value)
    }};
}

impl IommuFile {
    fn command(&self, command: &Command<'_>, cmd: u32) -> Result<Answer, Errno> {
        match cmd {
            iommufd::DESTROY => run!(command, Destroy, id, destroy),
            iommufd::IOAS_ALLOC => run!(command, IoasAlloc, out_ioas_id, ioas::alloc),
            iommufd::IOAS_ALLOW_IOVAS => {
                run!(command, IoasAllowIovas, allowed_iovas, ioas::allow_iovas)
            }
            iommufd::IOAS_COPY => run!(command, IoasCopy, src_iova, ioas::copy),
            iommufd::IOAS_IOVA_RANGES => {
                run!(
                    command,
                    IoasIovaRanges,
                    out_iova_alignment,
                    ioas::iova_ranges
                )
            }
            iommufd::IOAS_MAP => run!(command, IoasMap, iova, ioas::map),
            iommufd::IOAS_UNMAP => run!(command, IoasUnmap, length, ioas::unmap),
            iommufd::OPTION => run!(command, IommuOption, val64, option::option),
            iommufd::VFIO_IOAS => run!(command, VfioIoas, reserved, compat::vfio_ioas),
            iommufd::HWPT_ALLOC => run!(command, HwptAlloc, reserved, hwpt::alloc),
            iommufd::HWPT_SET_DIRTY_TRACKING => {
                run!(command, HwptSetDirtyTracking, reserved, dirty::set_tracking)
            }
            iommufd::HWPT_GET_DIRTY_BITMAP => {
                run!(command, HwptGetDirtyBitmap, data, dirty::get_bitmap)
            }
            iommufd::GET_HW_INFO => run!(command, HwInfo, reserved, hw_info::get),
            iommufd::HWPT_INVALIDATE => {
                run!(command, HwptInvalidate, reserved, nested::invalidate)
            }
            iommufd::FAULT_QUEUE_ALLOC => {
                run!(command, FaultQueueAlloc, out_fault_fd, fault::alloc)
            }
            iommufd::VIOMMU_ALLOC => run!(command, ViommuAlloc, out_viommu_id, viommu::alloc),
            iommufd::VDEVICE_ALLOC => run!(command, VdeviceAlloc, virt_id, vdevice::alloc),
            iommufd::VEVENTQ_ALLOC => run!(command, VeventqAlloc, out_veventq_fd, veventq::alloc),
            iommufd::HW_QUEUE_ALLOC => run!(command, HwQueueAlloc, length, hw_queue::alloc),
            iommufd_test::TEST_CMD if self.context.run().machine.mock => {
                let mut cmd = command.fetch(iommufd_test::TEST_CMD_MIN)?;
                mock::run(command, &mut cmd)
            }
            iommufd::IOAS_MAP_FILE => run!(command, IoasMapFile, iova, ioas::map_file),
            iommufd::IOAS_CHANGE_PROCESS => {
                run!(command, IoasChangeProcess, reserved, change_process::change)
            }
            _ => Err(Errno::ENOTTY),
        }
        .map(|()| command.opened.take().unwrap_or(Answer::Value(0)))
    }
}

impl File for IommuFile {
    fn link(&self) -> String {
        "/dev/iommu".into()
    }

    fn char_device(&self) -> Option<CharDevice> {
        let (major, minor) = IOMMU_DEVICE;
        Some(CharDevice { major, minor })
    }

    fn is_fresh(&self) -> bool {
        self.context.is_fresh()
    }

    fn mmap(
        &self,
        _: &Call<'_>,
        offset: u64,
        bytes: u64,
        _: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        let shared = self.context.shared_pages.find(offset, bytes)?;
        let owner = self.context.get_any(shared.owner);
        owner.map_err(|_| Errno::ENXIO)?;
        let span = Span::Elsewhere {
            object: shared.object().as_raw_fd(),
            offset: 0,
        };
        Ok(vec![(bytes, span)])
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        let last = match self.context.run().machine.mock {
            true => iommufd_test::TEST_CMD,
            false => iommufd::HW_QUEUE_ALLOC,
        };
        if cmd & 0xff < iommufd::CMD_BASE || cmd & 0xff > last & 0xff {
            return compat::ioctl(&self.context, call, cmd, arg);
        }
        let size = call.client.read_obj(UserAddr(arg));
        let command = Command {
            context: &self.context,
            call,
            arg,
            user_size: size.map_err(|_| Errno::EFAULT)?,
            opened: RefCell::default(),
        };
        self.command(&command, cmd)
    }
}

impl IommuFile {
    /// What stays as long as the pages at an offset are mapped.
    pub fn owner(&self, offset: u64, bytes: u64) -> Option<AnyRef> {
        let shared = self.context.shared_pages.find(offset, bytes).ok()?;
        Some(self.context.get_any(shared.owner).ok()?.hold())
    }
}

fn destroy(command: &Command<'_>, destroy: &mut iommufd::Destroy) -> Result<(), Errno> {
    command.context.destroy(destroy.id)
}
