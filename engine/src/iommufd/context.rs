//! One open `/dev/iommu`: a table of objects (`drivers/iommu/iommufd/main.c`).
//!
//! An object is made in two steps: its id is reserved, all that can fail is done, and then it is published, after
//! which nothing may fail. A call that fails in between leaves the table as it was.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use swiommu_abi::Errno;

use super::inject;
use super::object::{AnyRef, Entry, Object, Ref};
use super::shared_pages::SharedPages;
use crate::run::Run;

/// The largest id.
const ID_MOST: usize = (1 << 31) - 1;

/// What an id stands for.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    /// Not published yet.
    Reserved,
    Live(Arc<Entry>),
    /// The object is gone and its id is not given out again.
    Tombstone,
}

#[derive(Default)]
struct Objects {
    /// By id - 1.
    slots: Vec<Slot>,
    /// Free ids below the highest.
    free: BTreeSet<u32>,
    /// The address space of the VFIO calls.
    vfio_ioas: Option<u32>,
    /// The calls of VFIO serve a device without an IOMMU.
    no_iommu: bool,
}

impl Objects {
    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        let index = (id as usize).checked_sub(1)?;
        self.slots.get_mut(index)
    }

    /// The lowest id that is free, reserved.
    fn reserve(&mut self) -> Option<u32> {
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if self.slots.len() < ID_MOST => {
                self.slots.push(Slot::Free);
                self.slots.len() as u32
            }
            None => return None,
        };
        *self.slot(id).expect("the id is in the table") = Slot::Reserved;
        Some(id)
    }

    /// Takes what an id stands for out of the table.
    fn clear(&mut self, id: u32, then: Slot) -> Slot {
        if self.vfio_ioas == Some(id) {
            self.vfio_ioas = None;
        }
        if matches!(then, Slot::Free) {
            self.free.insert(id);
        }
        std::mem::replace(self.slot(id).expect("the id is in the table"), then)
    }

    fn live(&mut self, id: u32) -> Option<&Arc<Entry>> {
        match self.slot(id)? {
            Slot::Live(entry) => Some(entry),
            _ => None,
        }
    }
}

/// An open `/dev/iommu`. It lives as long as its file or a device that is bound to it.
pub struct Context {
    run: Arc<Run>,
    objects: Mutex<Objects>,
    /// Pinned memory counts per process rather than per user.
    per_process: AtomicBool,
    /// Pages of its objects that the client can map.
    pub shared_pages: SharedPages,
    /// Held for writing while all address spaces are looked at together.
    pub(super) ioas_creation: RwLock<()>,
}

impl Context {
    /// An empty table.
    pub fn new(run: Arc<Run>) -> Arc<Context> {
        Arc::new(Context {
            run,
            objects: Mutex::default(),
            per_process: AtomicBool::new(false),
            shared_pages: SharedPages::default(),
            ioas_creation: RwLock::new(()),
        })
    }

    /// The engine it belongs to.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Whether it never had an object, and no option was set.
    pub fn is_fresh(&self) -> bool {
        let objects = self.objects();
        objects.slots.is_empty() && !objects.no_iommu && !self.per_process.load(Ordering::Relaxed)
    }

    /// Reserves the lowest free id.
    ///
    /// # Errors
    /// ENOMEM, by fault injection; EBUSY when there is no id left.
    pub fn reserve(&self) -> Result<Reservation<'_>, Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        let id = self.objects().reserve().ok_or(Errno::EBUSY)?;
        Ok(Reservation { context: self, id })
    }

    /// An object of any type.
    ///
    /// # Errors
    /// ENOENT: there is none.
    pub fn get_any(&self, id: u32) -> Result<AnyRef, Errno> {
        if inject::fails() {
            return Err(Errno::ENOENT);
        }
        self.objects()
            .live(id)
            .map(AnyRef::short)
            .ok_or(Errno::ENOENT)
    }

    /// An object of a certain type.
    ///
    /// # Errors
    /// ENOENT: there is none, or it is of another type.
    pub fn get<T: Object>(&self, id: u32) -> Result<Ref<T>, Errno> {
        self.get_any(id)?.downcast().ok_or(Errno::ENOENT)
    }

    /// Looks at the objects in the order of their ids, under the table's lock, until `look` finds something.
    pub fn find<R>(&self, mut look: impl FnMut(u32, &dyn Object) -> Option<R>) -> Option<R> {
        self.objects().slots.iter().find_map(|slot| match slot {
            Slot::Live(entry) => look(entry.id, &*entry.object),
            _ => None,
        })
    }

    /// References to all objects of a type, in the order of their ids.
    pub fn all<T: Object>(&self) -> Vec<Ref<T>> {
        let objects = self.objects();
        let live = objects.slots.iter().filter_map(|slot| match slot {
            Slot::Live(entry) => AnyRef::short(entry).downcast(),
            _ => None,
        });
        live.collect()
    }

    /// IOMMU_DESTROY.
    ///
    /// # Errors
    /// ENOENT: there is no such object. EBUSY: it is used.
    pub fn destroy(&self, id: u32) -> Result<(), Errno> {
        let entry = {
            let mut objects = self.objects();
            if !objects.live(id).ok_or(Errno::ENOENT)?.retire() {
                return Err(Errno::EBUSY);
            }
            objects.clear(id, Slot::Free)
        };
        self.bury(entry);
        Ok(())
    }

    /// The owner of an object destroys it: waits for calls that use it.
    ///
    /// # Errors
    /// EBUSY when others hold it; then it stays, without this user.
    pub fn destroy_user<T: Object>(&self, held: Ref<T>) -> Result<(), Errno> {
        self.remove_user(held.into_any(), Slot::Free)
    }

    /// As [`Context::destroy_user`], and the id is never given out again.
    ///
    /// # Errors
    /// As [`Context::destroy_user`].
    pub fn tombstone_user<T: Object>(&self, held: Ref<T>) -> Result<(), Errno> {
        self.remove_user(held.into_any(), Slot::Tombstone)
    }

    fn remove_user(&self, held: AnyRef, then: Slot) -> Result<(), Errno> {
        let entry = held.entry().clone();
        assert!(held.is_user() && !held.is_waiter(), "the owner's own user");
        let waiters = || entry.waiters.load(Ordering::Acquire);
        if entry.waiters.fetch_sub(1, Ordering::AcqRel) != 1 {
            entry.object.pre_destroy(self);
            for round in 0u32.. {
                if waiters() == 0 {
                    break;
                }
                match round {
                    0..100 => std::thread::yield_now(),
                    _ => std::thread::sleep(Duration::from_micros(50)),
                }
            }
        }
        let slot = {
            let mut objects = self.objects();
            drop(held);
            if !entry.retire() {
                entry.waiters.store(1, Ordering::Release);
                return Err(Errno::EBUSY);
            }
            objects.clear(entry.id, then)
        };
        drop(entry);
        self.bury(slot);
        Ok(())
    }

    /// Gives a user up and destroys the object if that was the last beside the table's.
    pub fn put_and_try_destroy<T: Object>(&self, held: Ref<T>) {
        let id = held.id();
        let held = held.into_any();
        let entry = held.entry().clone();
        let slot = {
            let mut objects = self.objects();
            drop(held);
            if !entry.retire() {
                return;
            }
            objects.clear(id, Slot::Free)
        };
        drop(entry);
        self.bury(slot);
    }

    /// Whether pinned memory counts per process (IOMMU_OPTION_RLIMIT_MODE 1) rather than per user.
    pub fn counts_per_process(&self) -> bool {
        self.per_process.load(Ordering::Relaxed)
    }

    /// Says how pinned memory counts.
    ///
    /// # Errors
    /// EBUSY when there are objects, EINVAL for an unknown mode.
    pub fn set_rlimit_mode(&self, mode: u64) -> Result<(), Errno> {
        let objects = self.objects();
        if objects.free.len() != objects.slots.len() {
            return Err(Errno::EBUSY);
        }
        match mode {
            0 | 1 => self.per_process.store(mode == 1, Ordering::Relaxed),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// The address space of the VFIO calls.
    ///
    /// # Errors
    /// ENODEV: there is none.
    pub fn vfio_ioas<T: Object>(&self) -> Result<Ref<T>, Errno> {
        let mut objects = self.objects();
        let id = objects.vfio_ioas.ok_or(Errno::ENODEV)?;
        let entry = objects.live(id).ok_or(Errno::ENODEV)?;
        AnyRef::short(entry).downcast().ok_or(Errno::ENODEV)
    }

    /// Says which address space the VFIO calls use.
    pub fn set_vfio_ioas(&self, id: Option<u32>) {
        self.objects().vfio_ioas = id;
    }

    /// Publishes `object` as the address space of the VFIO calls, unless there is one.
    ///
    /// # Errors
    /// EINVAL when a device without an IOMMU uses the VFIO calls.
    pub fn offer_vfio_ioas<T: Object>(
        &self,
        reserved: Reservation<'_>,
        object: T,
    ) -> Result<(), Errno> {
        {
            let mut objects = self.objects();
            if objects.no_iommu {
                return Err(Errno::EINVAL);
            }
            if objects.vfio_ioas.is_some() {
                return Ok(());
            }
            objects.vfio_ioas = Some(reserved.id());
        }
        reserved.commit(object);
        Ok(())
    }

    /// The VFIO calls serve a device without an IOMMU from here on.
    ///
    /// # Errors
    /// EINVAL when they have an address space.
    pub fn set_no_iommu(&self) -> Result<(), Errno> {
        let mut objects = self.objects();
        if objects.vfio_ioas.is_some() {
            return Err(Errno::EINVAL);
        }
        objects.no_iommu = true;
        Ok(())
    }

    /// Whether the VFIO calls serve a device without an IOMMU.
    pub fn is_no_iommu(&self) -> bool {
        self.objects().no_iommu
    }
}

impl Context {
    /// Destroys what was taken out of the table. A reference that another thread is just giving up may still be in its
    /// last step.
    fn bury(&self, slot: Slot) {
        let Slot::Live(mut entry) = slot else { return };
        entry.object.destroyed(self);
        loop {
            match Arc::try_unwrap(entry) {
                Ok(entry) => return drop(entry),
                Err(shared) => entry = shared,
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Context {
    /// The last user of the file is gone: objects nobody uses are destroyed, again and again, until none is left.
    fn drop(&mut self) {
        loop {
            let (mut left, mut destroyed) = (false, false);
            let ids = self.objects().slots.len() as u32;
            for id in 1..=ids {
                let slot = {
                    let mut objects = self.objects();
                    match objects.live(id).map(|entry| entry.retire()) {
                        Some(true) => objects.clear(id, Slot::Free),
                        Some(false) => {
                            left = true;
                            continue;
                        }
                        None => continue,
                    }
                };
                (left, destroyed) = (true, true);
                self.bury(slot);
            }
            if !left {
                return;
            }
            debug_assert!(destroyed, "objects that use each other");
            if !destroyed {
                return;
            }
        }
    }
}

/// A reserved id. Dropping it gives the id back.
pub struct Reservation<'a> {
    context: &'a Context,
    id: u32,
}

impl Reservation<'_> {
    /// The id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Publishes the object. Nothing of the call may fail after that.
    pub fn commit<T: Object>(self, object: T) -> Ref<T> {
        let entry = Arc::new(Entry {
            id: self.id,
            users: 1.into(),
            waiters: 1.into(),
            object: Box::new(object),
        });
        let any = AnyRef::short(&entry);
        let mut objects = self.context.objects();
        *objects.slot(self.id).expect("the id is in the table") = Slot::Live(entry);
        drop(objects);
        std::mem::forget(self);
        any.downcast().expect("it was made as such")
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.context.objects().clear(self.id, Slot::Free);
    }
}
