//! `/dev/vfio/N`: an IOMMU group, the unit of ownership (`drivers/vfio/group.c`).
//!
//! One process of the run holds a group at a time, and within it one open file. Device files keep the group file
//! alive: a group is free again when the last of them has closed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use swiommu_abi::{Errno, vfio};
use swiommu_iommu::StreamId;
use swiommu_mem::UserAddr;

use super::argsz::{copy_in, copy_out};
use super::bound::Binding;
use super::container::{Container, ContainerFile};
use super::device::{DeviceFile, User};
use super::noiommu::{self, Untranslated};
use super::owner::{Owner, Ownership};
use super::vf_token::{self, Admission, Token};
use crate::door::{Answer, Call, CharDevice, File, NewFile};
use crate::hostdrv::lock::Lock;
use crate::iommufd::context::Context;
use crate::iommufd::file::IommuFile;
use crate::iommufd::space::IoasObject;
use crate::iommufd::{attach, compat};
use crate::machine::Machine;
use crate::pci::function::Function;
use crate::run::Run;

/// A group of the machine.
pub struct Group {
    /// Its number.
    pub number: u32,
    /// The name of its node in /dev/vfio.
    pub node: String,
    /// Its functions.
    pub functions: Vec<Arc<Function>>,
    /// Who owns its DMA.
    pub ownership: Ownership,
    /// What its devices go through while an iommufd owns it: each part of it, by the part's first requester id.
    attachments: Mutex<BTreeMap<StreamId, Weak<attach::Group>>>,
    /// The functions that a group's file opened on an iommufd.
    bindings: Mutex<BTreeMap<usize, Weak<Binding>>>,
}

impl Group {
    /// A group nobody has opened.
    pub fn new(number: u32, node: String, functions: Vec<Arc<Function>>) -> Group {
        Group {
            number,
            node,
            functions,
            ownership: Ownership::default(),
            attachments: Mutex::default(),
            bindings: Mutex::default(),
        }
    }

    /// The part of the group that goes through one page table with this function while an iommufd owns the group: all of
    /// it, or at `multi_device_groups=3` what the IOMMU cannot tell from the function. Its requester ids, and what it
    /// goes through.
    pub fn part(
        &self,
        function: &Function,
        machine: &Machine,
    ) -> (Vec<StreamId>, Arc<attach::Group>) {
        let streams = match machine.vfio.multi_device_groups {
            3 => vec![function.stream()],
            _ => self.streams(),
        };
        let mut parts = self.attachments.lock().unwrap();
        let part = parts.entry(streams[0]).or_default();
        let attachments = part.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *part = Arc::downgrade(&fresh);
            fresh
        });
        (streams, attachments)
    }

    /// The requester ids of its functions, each once.
    pub fn streams(&self) -> Vec<StreamId> {
        let streams = self.functions.iter().map(|function| function.stream());
        streams.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The open file of a group.
pub struct GroupFile {
    run: Arc<Run>,
    group: Arc<Group>,
    this: Weak<GroupFile>,
    state: Mutex<State>,
    /// Held until the last file of the group closes: nobody else can open it. Stale when the last device of the
    /// group has left VFIO.
    lock: Lock,
}

#[derive(Default)]
struct State {
    backing: Option<Backing>,
    devices: usize,
}

/// What stands for the container.
enum Backing {
    Container(Arc<Container>),
    Iommufd(Arc<Context>),
}

impl GroupFile {
    /// Opens a group.
    ///
    /// # Errors
    /// EPERM in no-IOMMU mode without CAP_SYS_RAWIO, EBUSY while a file of it is open or a device of it is bound by its
    /// own node, here or in another process, ENODEV while no device of it is bound to VFIO.
    pub fn open(run: &Arc<Run>, group: &Arc<Group>) -> Result<Arc<GroupFile>, Errno> {
        if run.machine.without_iommu() && !run.machine.iommu.rawio {
            return Err(Errno::EPERM);
        }
        let lock = run.lock_group(group.number)?;
        Ok(Arc::new_cyclic(|this| GroupFile {
            run: run.clone(),
            group: group.clone(),
            this: this.clone(),
            state: Mutex::default(),
            lock,
        }))
    }

    /// The group's number.
    pub fn number(&self) -> u32 {
        self.group.number
    }

    /// The state, as far as the group is still there: without it, what it had is gone.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        if state.backing.is_some() && self.lock.is_stale() {
            self.leave(&mut state);
        }
        state
    }

    /// The group leaves its container, if it is in one, and its DMA is nobody's.
    fn leave(&self, state: &mut State) {
        if let Some(Backing::Container(container)) = state.backing.take() {
            container.leave(self.group.number);
            self.group.ownership.release(Owner::Group);
        }
    }

    /// A device file closed.
    pub fn device_closed(&self) {
        self.state.lock().unwrap().devices -= 1;
    }

    fn get_status(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let minsz = size_of::<vfio::GroupStatus>();
        let mut status: vfio::GroupStatus = copy_in(call, arg, minsz)?;
        if (status.argsz as usize) < minsz {
            return Err(Errno::EINVAL);
        }
        let state = self.state();
        if self.lock.is_stale() {
            return Err(Errno::ENODEV);
        }
        status.flags = 0;
        if state.backing.is_some() {
            status.flags |= vfio::GROUP_FLAGS_VIABLE | vfio::GROUP_FLAGS_CONTAINER_SET;
        } else if self.group.ownership.is_free(&self.run, self.group.number)? {
            status.flags |= vfio::GROUP_FLAGS_VIABLE;
        }
        copy_out(call, arg, &status, minsz)
    }

    fn set_container(&self, call: &Call<'_>, arg: u64) -> Result<(), Errno> {
        let fd: i32 = call
            .client
            .read_obj(UserAddr(arg))
            .map_err(|_| Errno::EFAULT)?;
        let file = call.files.get(fd);
        if file.is_none() && !swiommu_mem::fd::is_open(fd) {
            return Err(Errno::EBADF);
        }
        let mut state = self.state();
        if state.backing.is_some() {
            return Err(Errno::EINVAL);
        }
        if self.lock.is_stale() {
            return Err(Errno::ENODEV);
        }
        let file: Arc<dyn std::any::Any + Send + Sync> = file.ok_or(Errno::EBADFD)?;
        let file = match file.downcast::<ContainerFile>() {
            Ok(file) => {
                let (run, number) = (&self.run, self.group.number);
                self.group.ownership.claim(run, number, Owner::Group)?;
                let joined = file.container.join(number, self.group.streams());
                joined.inspect_err(|_| self.group.ownership.release(Owner::Group))?;
                state.backing = Some(Backing::Container(file.container.clone()));
                return Ok(());
            }
            Err(file) => file,
        };
        let file = file.downcast::<IommuFile>().map_err(|_| Errno::EBADFD)?;
        if !self.run.machine.takes_iommufd(self.group.number) {
            return Err(Errno::EINVAL);
        }
        match self.run.machine.without_iommu() {
            true => file.context().set_no_iommu()?,
            false => compat::ensure_ioas(file.context())?,
        }
        state.backing = Some(Backing::Iommufd(file.context().clone()));
        Ok(())
    }

    fn unset_container(&self) -> Result<(), Errno> {
        let mut state = self.state();
        match &state.backing {
            None => return Err(Errno::EINVAL),
            Some(Backing::Container(_)) if state.devices > 0 => return Err(Errno::EBUSY),
            Some(_) => {}
        }
        self.leave(&mut state);
        Ok(())
    }

    fn get_device_fd(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let name = read_name(call, arg)?;
        let (function, token) = self.named(&name)?;
        let held = self.run.hold(function)?;
        let admitted = vf_token::admit(&self.run, function, token.as_ref())?;
        let mut state = self.state();
        let held = (held, admitted);
        let (object, file) = match &state.backing {
            Some(Backing::Container(container)) if container.has_iommu() => {
                let this = self.this.upgrade();
                let this = this.expect("the file is in use by this call");
                let user = User::Group(this);
                let opened =
                    DeviceFile::open(&self.run, function, user, held, container.clone(), call)?;
                state.devices += 1;
                opened
            }
            Some(Backing::Iommufd(context)) if self.run.machine.without_iommu() => {
                noiommu::may_open(function, context)?;
                let (user, space) = (User::Iommufd(None), Arc::new(Untranslated));
                DeviceFile::open(&self.run, function, user, held, space, call)?
            }
            Some(Backing::Iommufd(context)) => self.open_bound(context, function, held, call)?,
            _ => return Err(Errno::EINVAL),
        };
        let file = Arc::new(file);
        Ok(Answer::Open(NewFile { object, file }))
    }

    /// Opens a function whose group has an iommufd for a container. The first opening binds it and attaches it to the
    /// address space of the VFIO calls.
    fn open_bound(
        &self,
        context: &Arc<Context>,
        function: &Arc<Function>,
        held: (Lock, Admission),
        call: &Call<'_>,
    ) -> Result<(OwnedFd, DeviceFile), Errno> {
        let mut bindings = self.group.bindings.lock().unwrap();
        let before = bindings.get(&function.index()).and_then(Weak::upgrade);
        let first = before.is_none();
        let binding = match before {
            Some(binding) => binding,
            None => Arc::new(Binding::new(&self.run, context, &self.group, function)?),
        };
        let user = User::Iommufd(Some(binding.clone()));
        let opened = DeviceFile::open(&self.run, function, user, held, binding.clone(), call)?;
        if first {
            binding.attach(context.vfio_ioas::<IoasObject>()?.id())?;
            bindings.insert(function.index(), Arc::downgrade(&binding));
        }
        Ok(opened)
    }

    /// The function of this group that a device name means, and the VF token in it: `BDF [vf_token=UUID]`.
    fn named(&self, name: &str) -> Result<(&Arc<Function>, Option<Token>), Errno> {
        let (bdf, options) = name.split_once(' ').unwrap_or((name, ""));
        let is_meant = |function: &&Arc<Function>| function.bdf().to_string() == bdf;
        let function = self.group.functions.iter().find(is_meant);
        let function = function.ok_or(Errno::ENODEV)?;
        let mut token = None;
        for option in options.split(' ').filter(|option| !option.is_empty()) {
            let uuid = option.strip_prefix("vf_token=").filter(|_| token.is_none());
            token = uuid.and_then(vf_token::parse);
            if token.is_none() {
                return Err(Errno::EINVAL);
            }
        }
        Ok((function, token))
    }
}

/// Copies a string of less than a page in, as `strndup_user` does.
fn read_name(call: &Call<'_>, arg: u64) -> Result<String, Errno> {
    let mut name = Vec::new();
    loop {
        let at = arg.checked_add(name.len() as u64).ok_or(Errno::EFAULT)?;
        let byte: u8 = call
            .client
            .read_obj(UserAddr(at))
            .map_err(|_| Errno::EFAULT)?;
        match byte {
            0 => return String::from_utf8(name).map_err(|_| Errno::ENODEV),
            _ if name.len() + 1 == 4096 => return Err(Errno::EINVAL),
            _ => name.push(byte),
        }
    }
}

impl File for GroupFile {
    fn link(&self) -> String {
        format!("/dev/vfio/{}", self.group.node)
    }

    fn char_device(&self) -> Option<CharDevice> {
        Some(CharDevice {
            major: 511,
            minor: self.group.number,
        })
    }

    fn is_fresh(&self) -> bool {
        let state = self.state();
        state.backing.is_none() && state.devices == 0
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        match cmd {
            vfio::GROUP_GET_DEVICE_FD => return self.get_device_fd(call, arg),
            vfio::GROUP_GET_STATUS => self.get_status(call, arg),
            vfio::GROUP_SET_CONTAINER => self.set_container(call, arg),
            vfio::GROUP_UNSET_CONTAINER => self.unset_container(),
            _ => Err(Errno::ENOTTY),
        }
        .map(|()| Answer::Value(0))
    }
}

impl Drop for GroupFile {
    fn drop(&mut self) {
        let mut state = std::mem::take(self.state.get_mut().unwrap());
        self.leave(&mut state);
    }
}
