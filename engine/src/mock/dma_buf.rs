//! Memory of a device that only IOMMU_IOAS_MAP_FILE understands, and that can be taken away while it is mapped.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use swiommu_abi::Errno;
use swiommu_abi::iommufd_test as test;
use swiommu_iommu::Pa;
use swiommu_mem::fd;
use swiommu_mem::{Mapping, PAGE};

use super::arguments;
use crate::door::{Answer, Call, File, NewFile};
use crate::iommufd::file::Command;
use crate::iommufd::inject;
use crate::iommufd::pages::{DmaBuf, Revoked};

/// The largest, in bytes.
const MOST: u64 = 512 * PAGE;

/// The memory.
struct MockDmaBuf {
    bytes: u64,
    memory: Mapping,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revoked: bool,
    importers: Vec<Arc<dyn Revoked>>,
}

impl DmaBuf for MockDmaBuf {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn attach(&self, importer: Arc<dyn Revoked>) -> Result<Pa, Errno> {
        let mut state = self.state.lock().unwrap();
        if state.revoked {
            return Err(Errno::ENODEV);
        }
        state.importers.push(importer);
        Ok(Pa(self.memory.base().0))
    }

    fn detach(&self, importer: &Arc<dyn Revoked>) {
        let mut state = self.state.lock().unwrap();
        state
            .importers
            .retain(|other| !Arc::ptr_eq(other, importer));
    }
}

impl MockDmaBuf {
    /// Takes it away from whoever maps it, or lets it be mapped again. Either way nobody who maps it now keeps it.
    fn revoke(&self, revoked: bool) {
        let importers = {
            let mut state = self.state.lock().unwrap();
            state.revoked = revoked;
            state.importers.clone()
        };
        for importer in importers {
            importer.revoke();
        }
    }
}

/// Its descriptor.
struct DmaBufFile(Arc<MockDmaBuf>);

impl File for DmaBufFile {
    fn link(&self) -> String {
        "/dmabuf:".into()
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }

    fn dma_buf(&self) -> Option<Arc<dyn DmaBuf>> {
        Some(self.0.clone())
    }
}

/// OP_DMABUF_GET: the descriptor is the call's value.
pub fn get(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let wanted: test::DmabufGet = arguments(cmd);
    let bytes = u64::from(wanted.length).next_multiple_of(PAGE);
    if bytes == 0 || bytes > MOST {
        return Err(Errno::EINVAL);
    }
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let object = fd::object(0)?;
    let memory = fd::memfd("dmabuf", bytes)?;
    let memory = Mapping::of_file_part(memory.as_fd(), 0, bytes, true)?;
    let file = DmaBufFile(Arc::new(MockDmaBuf {
        bytes,
        memory,
        state: Mutex::default(),
    }));
    command.answer(NewFile {
        object,
        file: Arc::new(file),
    });
    Ok(())
}

/// OP_DMABUF_REVOKE.
pub fn revoke(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let which: test::DmabufRevoke = arguments(cmd);
    let file = command.call.files.get(which.dmabuf_fd);
    let Some(file) = file else {
        let open = swiommu_mem::fd::is_open(which.dmabuf_fd);
        return Err(if open { Errno::EINVAL } else { Errno::EBADF });
    };
    let file: Arc<dyn std::any::Any + Send + Sync> = file;
    let file = file.downcast::<DmaBufFile>().map_err(|_| Errno::EINVAL)?;
    file.0.revoke(which.revoked != 0);
    Ok(())
}
