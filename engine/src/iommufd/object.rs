//! Objects of a [`Context`](super::context::Context) and references to them.
//!
//! A reference counts in two ways. A *user* keeps an object from being destroyed: IOMMU_DESTROY answers EBUSY while it
//! has one. A *waiter* only makes the destruction by the kernel's own side wait. What a call looks up is both; what one
//! object holds of another for as long as it lives is a user ([`Ref::hold`]); a child that its parent destroys is a
//! waiter of the parent ([`Ref::guard`]).

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::attach::Translation;
use super::context::Context;
use super::device::Device;

/// What an object is (`enum iommufd_object_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A bound device.
    Device,
    /// A page table that mirrors an address space.
    HwptPaging,
    /// A page table of the client's own.
    HwptNested,
    /// An address space.
    Ioas,
    /// Access by the processor rather than a device.
    Access,
    /// A queue of page faults.
    Fault,
    /// A virtual IOMMU.
    Viommu,
    /// A device of a virtual IOMMU.
    Vdevice,
    /// A queue of events of a virtual IOMMU.
    Veventq,
    /// A hardware queue of a virtual IOMMU.
    HwQueue,
    /// The kernel selftest's own.
    Selftest,
}

/// An object. Its destruction is its drop, which runs without any lock of the table.
pub trait Object: Any + Send + Sync {
    /// What it is.
    fn kind(&self) -> Kind;
    /// Its owner is about to destroy it and found waiters: it takes them away.
    fn pre_destroy(&self, context: &Context) {
        let _ = context;
    }
    /// It is out of the table and about to be dropped: it takes along what it owns there.
    fn destroyed(&self, context: &Context) {
        let _ = context;
    }
    /// The device, if it is one.
    fn as_device(&self) -> Option<&dyn Device> {
        None
    }
    /// What devices can be attached to, if it is that.
    fn as_translation(&self) -> Option<&dyn Translation> {
        None
    }
}

/// An object in the table.
pub(super) struct Entry {
    pub(super) id: u32,
    /// The table itself is one.
    pub(super) users: AtomicU32,
    /// The table itself is one, until the object's owner destroys it.
    pub(super) waiters: AtomicU32,
    pub(super) object: Box<dyn Object>,
}

impl Entry {
    /// Takes the last user away, if the table's is the last.
    pub(super) fn retire(&self) -> bool {
        self.users
            .compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

/// How a reference counts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counts {
    user: bool,
    waiter: bool,
}

/// A reference to an object of any type.
pub struct AnyRef {
    entry: Arc<Entry>,
    counts: Counts,
}

impl AnyRef {
    /// A reference for the time of a call. The caller has the table locked, or another user of the object.
    pub(super) fn short(entry: &Arc<Entry>) -> AnyRef {
        let counts = Counts {
            user: true,
            waiter: true,
        };
        AnyRef::counted(entry, counts)
    }

    fn counted(entry: &Arc<Entry>, counts: Counts) -> AnyRef {
        if counts.user {
            entry.users.fetch_add(1, Ordering::Relaxed);
        }
        if counts.waiter {
            entry.waiters.fetch_add(1, Ordering::Relaxed);
        }
        AnyRef {
            entry: entry.clone(),
            counts,
        }
    }

    /// The object's id.
    pub fn id(&self) -> u32 {
        self.entry.id
    }

    /// What the object is.
    pub fn kind(&self) -> Kind {
        self.entry.object.kind()
    }

    /// The device, if it is one.
    pub fn as_device(&self) -> Option<&dyn Device> {
        self.entry.object.as_device()
    }

    /// The object itself.
    pub fn object(&self) -> &dyn Object {
        &*self.entry.object
    }

    /// The same reference to an object of a known type; `None` (and the reference is gone) if it is another.
    pub fn downcast<T: Object>(self) -> Option<Ref<T>> {
        (&*self.entry.object as &dyn Any).is::<T>().then(|| Ref {
            any: self,
            object: PhantomData,
        })
    }

    /// A reference of type `T`, beside this one and counted as it.
    pub fn get<T: Object>(&self) -> Option<Ref<T>> {
        AnyRef::counted(&self.entry, self.counts).downcast()
    }

    /// A user that may live long.
    pub fn hold(&self) -> AnyRef {
        let counts = Counts {
            user: true,
            waiter: false,
        };
        AnyRef::counted(&self.entry, counts)
    }

    /// A waiter that may live long and does not keep the object from being destroyed.
    pub fn guard(&self) -> AnyRef {
        let counts = Counts {
            user: false,
            waiter: true,
        };
        AnyRef::counted(&self.entry, counts)
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(super) fn is_user(&self) -> bool {
        self.counts.user
    }

    pub(super) fn is_waiter(&self) -> bool {
        self.counts.waiter
    }
}

impl Drop for AnyRef {
    fn drop(&mut self) {
        // Users first, so that a waiting destruction never sees a user without a waiter.
        if self.counts.user {
            self.entry.users.fetch_sub(1, Ordering::Release);
        }
        if self.counts.waiter {
            self.entry.waiters.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A reference to an object of type `T`.
pub struct Ref<T> {
    any: AnyRef,
    object: PhantomData<fn() -> T>,
}

impl<T: Object> Ref<T> {
    /// The object's id.
    pub fn id(&self) -> u32 {
        self.any.id()
    }

    /// A user that may live long.
    pub fn hold(&self) -> Ref<T> {
        Ref {
            any: self.any.hold(),
            object: PhantomData,
        }
    }

    /// A waiter that may live long and does not keep the object from being destroyed.
    pub fn guard(&self) -> Ref<T> {
        let counts = Counts {
            user: false,
            waiter: true,
        };
        Ref {
            any: AnyRef::counted(&self.any.entry, counts),
            object: PhantomData,
        }
    }

    /// Whether both lead to the same object.
    pub fn is(&self, other: &Ref<T>) -> bool {
        Arc::ptr_eq(&self.any.entry, &other.any.entry)
    }

    /// The reference without its type.
    pub fn any(&self) -> &AnyRef {
        &self.any
    }

    /// Forgets the type.
    pub fn into_any(self) -> AnyRef {
        self.any
    }
}

impl<T: Object> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (&*self.any.entry.object as &dyn Any)
            .downcast_ref()
            .expect("the type was checked when the reference was made")
    }
}
