//! `/dev/vfio/devices/vfioN`: a device's own node (`drivers/vfio/device_cdev.c`).
//!
//! Anybody may open it; it does nothing before it is bound to an iommufd. From then on it answers as any device file
//! does, and says which page table the device goes through.

use std::sync::{Arc, Mutex, OnceLock};

use swiommu_abi::{Errno, vfio};
use swiommu_mem::UserAddr;
use swiommu_mem::fd;
use zerocopy::IntoBytes;

use super::argsz::{copy_in, through};
use super::bound::Binding;
use super::device::{DeviceFile, User};
use super::vf_token::{self, Admission};
use crate::door::{Answer, Call, CharDevice, File, Mmio, NewFile, Span};
use crate::hostdrv::group_lock;
use crate::hostdrv::lock::Lock;
use crate::iommufd::file::IommuFile;
use crate::machine::tree::CDEV_MAJOR;
use crate::pci::function::Function;
use crate::run::Run;

/// An open device node.
pub struct CdevFile {
    run: Arc<Run>,
    function: Arc<Function>,
    bound: OnceLock<Bound>,
    binding: Mutex<()>,
    /// The function cannot be unbound before this file is closed.
    _held: Lock,
}

/// What a binding brings. The device closes first.
struct Bound {
    device: DeviceFile,
    binding: Arc<Binding>,
    /// Nobody can open the device's group.
    _group: Lock,
}

impl CdevFile {
    /// Opens a device's node.
    ///
    /// # Errors
    /// ENODEV when the device is not bound to VFIO, or what making its kernel object gave.
    pub fn open(run: &Arc<Run>, function: &Arc<Function>) -> Result<NewFile, Errno> {
        let bytes = u64::from(vfio::PCI_NUM_REGIONS) << vfio::PCI_OFFSET_SHIFT;
        let file = CdevFile {
            run: run.clone(),
            function: function.clone(),
            bound: OnceLock::new(),
            binding: Mutex::default(),
            _held: run.hold(function)?,
        };
        Ok(NewFile {
            object: fd::node_object(&file.link(), bytes)?,
            file: Arc::new(file),
        })
    }

    /// The function behind the file.
    pub fn function(&self) -> &Arc<Function> {
        &self.function
    }

    /// # Errors
    /// EINVAL before it is bound.
    fn bound(&self) -> Result<&Bound, Errno> {
        self.bound.get().ok_or(Errno::EINVAL)
    }

    /// The device file inside, once it is bound.
    pub fn device(&self) -> Option<&DeviceFile> {
        self.bound.get().map(|bound| &bound.device)
    }

    fn bind(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let bind = read_bind(call, arg)?;
        let group = &self.run.groups[&self.function.config().group];
        // its file is there, because the device is VFIO's
        let lock = Lock::share_existing(self.run.dir(), &group_lock(group.number))
            .map_err(|_| Errno::EBUSY)?;
        let _binding = self.binding.lock().unwrap();
        if self.bound.get().is_some() {
            return Err(Errno::EINVAL);
        }
        let admitted = self.check_token(call, &bind)?;
        let context = match call.files.get(bind.iommufd) {
            Some(file) => iommufd(file).ok_or(Errno::EBADFD)?,
            None if fd::is_open(bind.iommufd) => return Err(Errno::EBADFD),
            None => return Err(Errno::EBADF),
        };
        let binding = Binding::new(&self.run, context.context(), group, &self.function)?;
        let binding = Arc::new(binding);
        let user = User::Node(binding.clone());
        let held = (self.run.hold(&self.function)?, admitted);
        let (_, device) =
            DeviceFile::open(&self.run, &self.function, user, held, binding.clone(), call)?;
        let at = std::mem::offset_of!(vfio::DeviceBindIommufd, out_devid) as u64;
        call.client
            .write(UserAddr(arg + at), binding.id().as_bytes())
            .map_err(|_| Errno::EFAULT)?;
        let bound = Bound {
            device,
            binding,
            _group: lock,
        };
        assert!(self.bound.set(bound).is_ok(), "one thread binds at a time");
        Ok(())
    }

    /// # Errors
    /// As [`vf_token::admit`]; EFAULT.
    fn check_token(
        &self,
        call: &Call<'_>,
        bind: &vfio::DeviceBindIommufd,
    ) -> Result<Admission, Errno> {
        if bind.flags & vfio::DEVICE_BIND_FLAG_TOKEN == 0 {
            return vf_token::admit(&self.run, &self.function, None);
        }
        let mut token = [0; 16];
        call.client
            .read(UserAddr(bind.token_uuid_ptr), &mut token)
            .map_err(|_| Errno::EFAULT)?;
        vf_token::admit(&self.run, &self.function, Some(&token))
    }
}

fn iommufd(file: Arc<dyn File>) -> Option<Arc<IommuFile>> {
    let file: Arc<dyn std::any::Any + Send + Sync> = file;
    file.downcast().ok()
}

/// Copies the struct of BIND_IOMMUFD in.
///
/// # Errors
/// EINVAL: it is too short, has unknown flags or no descriptor. E2BIG: something follows it. EFAULT.
pub fn read_bind(call: &Call<'_>, arg: u64) -> Result<vfio::DeviceBindIommufd, Errno> {
    let least = through!(vfio::DeviceBindIommufd, out_devid);
    let argsz: u32 = call
        .client
        .read_obj(UserAddr(arg))
        .map_err(|_| Errno::EFAULT)?;
    let (argsz, known) = (argsz as usize, size_of::<vfio::DeviceBindIommufd>());
    if argsz < least {
        return Err(Errno::EINVAL);
    }
    let mut at = known;
    while at < argsz {
        let mut part = [0; 64];
        let part = &mut part[..(argsz - at).min(64)];
        let from = arg.checked_add(at as u64).ok_or(Errno::EFAULT)?;
        call.client
            .read(UserAddr(from), part)
            .map_err(|_| Errno::EFAULT)?;
        if part.iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        at += part.len();
    }
    let bind: vfio::DeviceBindIommufd = copy_in(call, arg, argsz.min(known))?;
    if bind.iommufd < 0 || bind.flags & !vfio::DEVICE_BIND_FLAG_TOKEN != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(bind)
}

impl Bound {
    fn attach(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::DeviceAttachIommufdPt, pt_id);
        let mut attach: vfio::DeviceAttachIommufdPt = copy_in(call, arg, minsz)?;
        if (attach.argsz as usize) < minsz || attach.flags & !vfio::DEVICE_ATTACH_PASID != 0 {
            return Err(Errno::EINVAL);
        }
        let pasid = attach.flags & vfio::DEVICE_ATTACH_PASID != 0;
        attach.pt_id = if pasid {
            let all = size_of::<vfio::DeviceAttachIommufdPt>();
            if (attach.argsz as usize) < all {
                return Err(Errno::EINVAL);
            }
            let whole: vfio::DeviceAttachIommufdPt = copy_in(call, arg, all)?;
            self.binding.attach_pasid(whole.pasid, attach.pt_id)?
        } else {
            self.binding.attach(attach.pt_id)?
        };
        let at = std::mem::offset_of!(vfio::DeviceAttachIommufdPt, pt_id) as u64;
        let told = call
            .client
            .write(UserAddr(arg + at), attach.pt_id.as_bytes());
        told.map_err(|_| {
            self.binding.detach();
            Errno::EFAULT
        })
    }

    fn detach(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = through!(vfio::DeviceDetachIommufdPt, flags);
        let detach: vfio::DeviceDetachIommufdPt = copy_in(call, arg, minsz)?;
        if (detach.argsz as usize) < minsz || detach.flags & !vfio::DEVICE_DETACH_PASID != 0 {
            return Err(Errno::EINVAL);
        }
        if detach.flags & vfio::DEVICE_DETACH_PASID == 0 {
            self.binding.detach();
            return Ok(());
        }
        let all = size_of::<vfio::DeviceDetachIommufdPt>();
        if (detach.argsz as usize) < all {
            return Err(Errno::EINVAL);
        }
        let whole: vfio::DeviceDetachIommufdPt = copy_in(call, arg, all)?;
        self.binding.detach_pasid(whole.pasid);
        Ok(())
    }
}

impl File for CdevFile {
    fn link(&self) -> String {
        format!("/dev/vfio/devices/vfio{}", self.function.index())
    }

    fn char_device(&self) -> Option<CharDevice> {
        Some(CharDevice {
            major: CDEV_MAJOR,
            minor: self.function.index() as u32,
        })
    }

    fn is_fresh(&self) -> bool {
        self.bound.get().is_none()
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        if cmd == vfio::DEVICE_BIND_IOMMUFD {
            return self.bind(call, arg).map(|()| Answer::Value(0));
        }
        let bound = self.bound()?;
        match cmd {
            vfio::DEVICE_ATTACH_IOMMUFD_PT => bound.attach(call, arg).map(|()| Answer::Value(0)),
            vfio::DEVICE_DETACH_IOMMUFD_PT => bound.detach(call, arg).map(|()| Answer::Value(0)),
            _ => bound.device.ioctl(call, cmd, arg),
        }
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.bound()?.device.pread(call, to, bytes, offset)
    }

    fn pwrite(
        &self,
        call: &Call<'_>,
        from: UserAddr,
        bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        self.bound()?.device.pwrite(call, from, bytes, offset)
    }

    fn mmap(
        &self,
        call: &Call<'_>,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        self.bound()?.device.mmap(call, offset, bytes, write)
    }

    fn mmio(&self, call: &Call<'_>, offset: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let bound = self.bound.get()?;
        bound.device.mmio(call, offset, bytes, access)
    }
}
