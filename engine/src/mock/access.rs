//! Accesses by the processor, each behind a descriptor (`iommufd_test_create_access` and what follows it).

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use swiommu_abi::Errno;
use swiommu_abi::iommufd_test as test;
use swiommu_iommu::Pa;
use swiommu_mem::fd::object;
use swiommu_mem::{PAGE, UserAddr};

use super::check::Resident;
use super::{arguments, respond};
use crate::door::{Answer, Call, File, NewFile};
use crate::iommufd::context::Context;
use crate::iommufd::file::Command;
use crate::iommufd::inject;
use crate::iommufd::ioas::UnmapNotice;
use crate::iommufd::object::{Kind, Object, Ref};
use crate::iommufd::space::{Access, IoasObject};

/// The most one operation pins or copies, in bytes.
const MOST: u64 = 16 << 20;

/// The access as an object: it has an id, and its descriptor destroys it.
struct AccessObject;

impl Object for AccessObject {
    fn kind(&self) -> Kind {
        Kind::Access
    }
}

/// What the object and its descriptor share.
struct Shared {
    access: Access,
    /// It pins pages rather than copies.
    pins: bool,
    items: Arc<Items>,
}

/// What an access has pinned.
struct Items {
    list: Mutex<List>,
    access: Weak<Shared>,
}

#[derive(Default)]
struct List {
    items: Vec<Item>,
    next: u32,
}

/// One thing that is pinned.
#[derive(Clone, Copy)]
struct Item {
    id: u32,
    iova: u64,
    bytes: u64,
}

impl Items {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap()
    }
}

impl UnmapNotice for Items {
    fn unmap(&self, iova: u64, bytes: u64) {
        let Some(shared) = self.access.upgrade() else {
            return;
        };
        let last = iova.saturating_add(bytes.saturating_sub(1));
        let mut list = self.lock();
        list.items.retain(|item| {
            let stays = iova > item.iova + (item.bytes - 1) || last < item.iova;
            if !stays {
                shared.access.unpin(item.iova, item.bytes);
            }
            stays
        });
    }
}

/// The descriptor of an access.
struct AccessFile {
    shared: Arc<Shared>,
    object: Mutex<Option<Ref<AccessObject>>>,
    context: Arc<Context>,
}

impl File for AccessFile {
    fn link(&self) -> String {
        "anon_inode:[iommufd_test_staccess]".into()
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }
}

impl Drop for AccessFile {
    fn drop(&mut self) {
        self.shared.items.unmap(0, u64::MAX);
        self.shared.access.close();
        let object = self.object.lock().unwrap().take();
        if let Some(object) = object {
            // Nobody else holds it.
            let _ = self.context.destroy_user(object);
        }
    }
}

/// OP_CREATE_ACCESS.
pub fn create(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let mut answer: test::CreateAccess = arguments(cmd);
    if answer.flags & !test::MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let object = object(0)?;
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let reserved = command.context.reserve()?;
    let pins = answer.flags != 0;
    let shared = Arc::new_cyclic(|access| {
        let items = Arc::new(Items {
            list: Mutex::default(),
            access: access.clone(),
        });
        let alignment = if pins { PAGE } else { 1 };
        Shared {
            access: Access::new(alignment, Some(items.clone())),
            pins,
            items,
        }
    });
    let ioas: Ref<IoasObject> = command.context.get(cmd.id)?;
    shared.access.attach(Some(&ioas))?;
    answer.out_access_fd = command.number(&object)?;
    respond(command, cmd, &answer)?;
    let held = reserved.commit(AccessObject).hold();
    command.open(NewFile {
        object,
        file: Arc::new(AccessFile {
            shared,
            object: Mutex::new(Some(held)),
            context: command.context.clone(),
        }),
    });
    Ok(())
}

/// The access behind a descriptor.
///
/// # Errors
/// EBADFD: it is another file, or not open.
fn of_descriptor(command: &Command<'_>, fd: u32) -> Result<Arc<Shared>, Errno> {
    let file = command.call.files.get(fd as i32).ok_or(Errno::EBADFD)?;
    let file: Arc<dyn std::any::Any + Send + Sync> = file;
    let file = file.downcast::<AccessFile>();
    file.map(|file| file.shared.clone())
        .map_err(|_| Errno::EBADFD)
}

/// OP_ACCESS_REPLACE_IOAS.
pub fn replace_ioas(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let to: test::PtId = arguments(cmd);
    let shared = of_descriptor(command, cmd.id)?;
    let ioas: Ref<IoasObject> = command.context.get(to.id)?;
    shared.access.replace(&ioas)
}

/// The address that `iova` means: with the flag it is the number of an area (low half) and an offset in it.
fn iova_of(command: &Command<'_>, shared: &Shared, iova: u64, flags: u32) -> u64 {
    if flags & test::MOCK_FLAGS_ACCESS_SYZ == 0 {
        return iova;
    }
    let ioas = shared
        .access
        .ioas_id()
        .and_then(|id| command.context.get::<IoasObject>(id).ok());
    let (nth, offset) = (iova as u32 as usize, iova >> 32);
    let first = ioas.and_then(|ioas| ioas.lock().areas().nth(nth).map(|(first, _)| first));
    first.map_or(0, |first| first + offset)
}

/// OP_ACCESS_PAGES.
pub fn pin(command: &Command<'_>, cmd: &mut test::TestCmd) -> Result<(), Errno> {
    let mut pages: test::AccessPages = arguments(cmd);
    if pages.length > MOST {
        return Err(Errno::ENOMEM);
    }
    let flags = test::MOCK_FLAGS_ACCESS_WRITE | test::MOCK_FLAGS_ACCESS_SYZ;
    if pages.flags & !flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let shared = of_descriptor(command, cmd.id)?;
    if !shared.pins {
        return Err(Errno::EOPNOTSUPP);
    }
    let iova = iova_of(command, &shared, pages.iova, pages.flags);
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let mut list = shared.items.lock();
    let write = pages.flags & test::MOCK_FLAGS_ACCESS_WRITE != 0;
    let places = shared.access.pin(iova, pages.length, write)?;
    let item = Item {
        id: list.next,
        iova,
        bytes: pages.length,
    };
    pages.out_access_pages_id = item.id;
    list.items.push(item);
    list.next += 1;
    let checked = match pages.uptr {
        0 => Ok(()),
        at => same_pages(command, at.wrapping_sub(iova % PAGE), &places),
    };
    checked
        .and_then(|()| respond(command, cmd, &pages))
        .inspect_err(|_| {
            list.items.pop();
            shared.access.unpin(iova, pages.length);
        })
}

/// Whether pinned pages are the very pages that client memory has.
///
/// # Errors
/// EBADE: not so. EFAULT.
fn same_pages(command: &Command<'_>, at: u64, places: &[Pa]) -> Result<(), Errno> {
    let mut resident = Resident::new(command);
    for (index, place) in places.iter().enumerate() {
        let va = UserAddr(at.wrapping_add(index as u64 * PAGE));
        if !resident.is_at(va, *place)? {
            return Err(Errno::EBADE);
        }
    }
    Ok(())
}

/// OP_DESTROY_ACCESS_PAGES.
pub fn unpin(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let which: test::AccessPagesId = arguments(cmd);
    let shared = of_descriptor(command, cmd.id)?;
    let mut list = shared.items.lock();
    let at = list
        .items
        .iter()
        .position(|item| item.id == which.access_pages_id);
    let item = list.items.remove(at.ok_or(Errno::ENOENT)?);
    shared.access.unpin(item.iova, item.bytes);
    Ok(())
}

/// OP_ACCESS_RW. The kernel's slower way is for memory of another process; the effect is the same.
pub fn read_write(command: &Command<'_>, cmd: &test::TestCmd) -> Result<(), Errno> {
    let copy: test::AccessRw = arguments(cmd);
    if copy.length > MOST {
        return Err(Errno::ENOMEM);
    }
    let flags =
        test::MOCK_ACCESS_RW_WRITE | test::MOCK_ACCESS_RW_SLOW_PATH | test::MOCK_FLAGS_ACCESS_SYZ;
    if copy.flags & !flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let shared = of_descriptor(command, cmd.id)?;
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let mut data = vec![0; copy.length as usize];
    let (client, at) = (&command.call.client, UserAddr(copy.uptr));
    let write = copy.flags & test::MOCK_ACCESS_RW_WRITE != 0;
    if write {
        client.read(at, &mut data).map_err(|_| Errno::EFAULT)?;
    }
    let iova = iova_of(command, &shared, copy.iova, copy.flags);
    shared.access.rw(iova, &mut data, write)?;
    if !write {
        client.write(at, &data).map_err(|_| Errno::EFAULT)?;
    }
    Ok(())
}
