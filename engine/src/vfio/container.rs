//! `/dev/vfio/vfio`: a container, the unit of address space of the group interface.
//!
//! A container is nothing until a group joins it; then SET_IOMMU gives it an address space. When the last group leaves,
//! the address space goes with all its mappings (`drivers/vfio/container.c`).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::{Errno, vfio};
use swiommu_iommu::StreamId;

use super::noiommu;
use super::type1::{self, Type1};
use crate::door::{Answer, Call, CharDevice, File};
use crate::iommufd::{Ioas, Space, inject};
use crate::run::Run;

/// A container, shared by its descriptors and by the groups in it.
pub struct Container {
    run: Arc<Run>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: Vec<(u32, Vec<StreamId>)>,
    iommu: Option<Type1>,
    /// SET_IOMMU chose none.
    noiommu: bool,
}

impl Container {
    /// A fresh container.
    pub fn new(run: Arc<Run>) -> Arc<Container> {
        let container = Arc::new(Container {
            run,
            state: Mutex::default(),
        });
        container
            .run
            .containers
            .lock()
            .unwrap()
            .push(Arc::downgrade(&container));
        container
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether SET_IOMMU was done.
    pub fn has_iommu(&self) -> bool {
        let state = self.state();
        state.iommu.is_some() || state.noiommu
    }

    /// A group joins; its functions attach if the container has an address space.
    ///
    /// # Errors
    /// ENOMEM, by fault injection.
    pub fn join(&self, group: u32, streams: Vec<StreamId>) -> Result<(), Errno> {
        let mut state = self.state();
        if let Some(iommu) = &state.iommu {
            inject::point()?;
            for &stream in &streams {
                self.run.iommu.attach(stream, iommu.ioas.domain());
            }
        }
        state.groups.push((group, streams));
        Ok(())
    }

    /// A group leaves; its functions are blocked from here on.
    pub fn leave(&self, group: u32) {
        let mut state = self.state();
        let Some(at) = state.groups.iter().position(|(number, _)| *number == group) else {
            return;
        };
        let (_, streams) = state.groups.remove(at);
        if state.iommu.is_some() {
            for stream in streams {
                self.run.iommu.detach(stream);
            }
        }
        if state.groups.is_empty() {
            state.iommu = None;
            state.noiommu = false;
        }
    }

    fn set_iommu(&self, kind: u64) -> Result<(), Errno> {
        let mut state = self.state();
        if state.groups.is_empty() || state.iommu.is_some() || state.noiommu {
            return Err(Errno::EINVAL);
        }
        let machine = &self.run.machine;
        if machine.without_iommu() {
            noiommu::set_iommu(kind, machine.iommu.rawio)?;
            state.noiommu = true;
            return Ok(());
        }
        let v2 = match kind {
            vfio::TYPE1_IOMMU => false,
            vfio::TYPE1V2_IOMMU => true,
            // type1 answers for these extensions but is not opened by their names
            vfio::UNMAP_ALL => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENODEV),
        };
        inject::point()?;
        let iommu = Type1::new(&self.run, v2);
        for (_, streams) in &state.groups {
            for &stream in streams {
                self.run.iommu.attach(stream, iommu.ioas.domain());
            }
        }
        state.iommu = Some(iommu);
        Ok(())
    }
}

impl Container {
    /// CHECK_EXTENSION: of the IOMMU that is set, else of all that could be.
    fn check_extension(&self, extension: u64) -> i32 {
        let state = self.state();
        let none = self.run.machine.without_iommu();
        if none && noiommu::check_extension(extension) == 1 {
            return 1;
        }
        if none && !state.groups.is_empty() {
            return 0;
        }
        type1::check_extension(extension, state.iommu.is_some())
    }
}

impl Space for Container {
    fn show(&self, look: &mut dyn FnMut(&Ioas)) {
        if let Some(iommu) = &self.state().iommu {
            look(&iommu.ioas);
        }
    }
}

/// An open descriptor of a container.
pub struct ContainerFile {
    /// The container.
    pub container: Arc<Container>,
    _object: Option<OwnedFd>,
}

impl ContainerFile {
    /// Opens a fresh container.
    pub fn new(run: Arc<Run>) -> ContainerFile {
        ContainerFile {
            container: Container::new(run),
            _object: None,
        }
    }
}

impl File for ContainerFile {
    fn link(&self) -> String {
        "/dev/vfio/vfio".into()
    }

    fn char_device(&self) -> Option<CharDevice> {
        Some(CharDevice {
            major: 10,
            minor: 196,
        })
    }

    fn is_fresh(&self) -> bool {
        self.container.state().groups.is_empty()
    }

    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        match cmd {
            vfio::GET_API_VERSION => Ok(Answer::Value(vfio::API_VERSION as i32)),
            vfio::CHECK_EXTENSION => Ok(Answer::Value(self.container.check_extension(arg))),
            vfio::SET_IOMMU => self.container.set_iommu(arg).map(|()| Answer::Value(0)),
            _ => {
                let mut state = self.container.state();
                let refused = if state.noiommu {
                    Errno::ENOTTY
                } else {
                    Errno::EINVAL
                };
                match &mut state.iommu {
                    Some(iommu) => iommu.ioctl(&self.container.run, call, cmd, arg),
                    None => Err(refused),
                }
            }
        }
    }
}
