//! What an IOMMU's driver offers to a guest: page tables in the guest's own format above a paging one, and virtual
//! IOMMUs with their devices, events and queues. Each driver implements these; the objects are written once.

use std::any::Any;
use std::sync::Arc;

use swiommu_abi::Errno;
use swiommu_iommu::Pa;
use swiommu_mem::{Caller, UserAddr};
use zerocopy::{FromBytes, IntoBytes};

use super::context::Context;
use super::device::UserData;
use super::hwpt::Hwpt;
use super::vdevice::Slot;
use super::viommu::Vdevices;

/// A page table of the client's own.
pub trait NestedTable: Send + Sync {
    /// Drops what caches hold of it, request by request.
    fn invalidate(&self, requests: &Requests) -> Done {
        let _ = requests;
        (0, Err(Errno::EOPNOTSUPP))
    }
    /// The table by its own type.
    fn as_any(&self) -> &dyn Any;
}

/// How many requests were done, and what was wrong with the next.
pub type Done = (u32, Result<(), Errno>);

/// The driver's side of a virtual IOMMU.
pub trait VirtualIommu: Send + Sync {
    /// A nested page table for one of its devices. `flags` are `HWPT_ALLOC_*`.
    ///
    /// # Errors
    /// EOPNOTSUPP for flags or data that it does not know.
    fn nested_table(&self, flags: u32, data: &UserData) -> Result<Box<dyn NestedTable>, Errno> {
        let _ = (flags, data);
        Err(Errno::EOPNOTSUPP)
    }
    /// Drops what caches hold, request by request.
    fn invalidate(&self, devices: &Vdevices, requests: &Requests) -> Done {
        let _ = (devices, requests);
        (0, Err(Errno::EOPNOTSUPP))
    }
    /// Whether it has queues of this kind in client memory.
    fn has_hw_queue(&self, kind: u32) -> bool {
        let _ = kind;
        false
    }
    /// A queue in client memory.
    ///
    /// # Errors
    /// What the driver has against it.
    fn new_hw_queue(&self, queue: &NewHwQueue<'_>) -> Result<Box<dyn HwQueue>, Errno> {
        let _ = queue;
        Err(Errno::EOPNOTSUPP)
    }
    /// The virtual IOMMU by its own type.
    fn as_any(&self) -> &dyn Any;
}

/// The driver's side of a queue in client memory, which is pinned. Its drop stops it.
pub trait HwQueue: Send + Sync {}

/// A queue in client memory that is being made.
pub struct NewHwQueue<'a> {
    /// The objects, for a queue that needs another one.
    pub context: &'a Context,
    /// Its id.
    pub id: u32,
    /// Which of the virtual IOMMU's queues.
    pub index: u32,
    /// Where it is in the parent page table.
    pub iova: u64,
    /// Where it is.
    pub pa: Pa,
    /// Its bytes, contiguous.
    pub bytes: u64,
}

/// A virtual IOMMU that is being made.
pub struct NewViommu<'a> {
    /// The objects.
    pub context: &'a Arc<Context>,
    /// Its id.
    pub id: u32,
    /// `VIOMMU_TYPE_*`
    pub kind: u32,
    /// Its parent page table.
    pub parent: &'a Hwpt,
}

/// A device whose IOMMU can be shown to a guest.
pub trait Nesting: Send + Sync {
    /// A nested page table above `parent`. `flags` are `HWPT_ALLOC_*`.
    ///
    /// # Errors
    /// EOPNOTSUPP for flags or data that the driver does not know.
    fn nested_table(
        &self,
        parent: &Hwpt,
        flags: u32,
        data: &UserData,
    ) -> Result<Box<dyn NestedTable>, Errno>;
    /// Whether there are virtual IOMMUs of this kind.
    fn has_viommu(&self, kind: u32) -> bool;
    /// A virtual IOMMU.
    ///
    /// # Errors
    /// What the driver has against it.
    fn new_viommu(
        &self,
        new: &NewViommu<'_>,
        data: Option<&UserData>,
    ) -> Result<Box<dyn VirtualIommu>, Errno>;
    /// The device's place on a virtual IOMMU.
    fn vdevice(&self) -> &Slot;
}

/// An array of requests to invalidate.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Whose memory they are in.
    pub from: Caller,
    /// Which struct they are.
    pub kind: u32,
    /// Where the first one lies.
    pub at: UserAddr,
    /// The size of each.
    pub entry_bytes: u32,
    /// How many.
    pub count: u32,
}

impl Requests {
    /// Request `index`, of which the caller must have `least` bytes.
    ///
    /// # Errors
    /// EINVAL for another kind or size, E2BIG, EFAULT.
    pub fn get<T>(&self, index: u32, kind: u32, least: usize) -> Result<T, Errno>
    where
        T: FromBytes + IntoBytes + Default,
    {
        let offset = u64::from(self.entry_bytes) * u64::from(index);
        let data = UserData {
            from: self.from,
            kind: self.kind,
            at: UserAddr(self.at.0.wrapping_add(offset)),
            bytes: self.entry_bytes,
        };
        read(&data, kind, least)
    }

    /// Every request, whatever its size, before any is done (`iommu_copy_struct_from_full_user_array`).
    ///
    /// # Errors
    /// EINVAL for another kind or none, E2BIG when one is longer and not zero there, EFAULT.
    pub fn all<T>(&self, kind: u32) -> Result<Vec<T>, Errno>
    where
        T: FromBytes + IntoBytes + Default,
    {
        if self.kind != kind || self.count == 0 {
            return Err(Errno::EINVAL);
        }
        let at = |index| self.at.0.wrapping_add(u64::from(self.entry_bytes) * index);
        (0..u64::from(self.count))
            .map(|index| fetch(&self.from, UserAddr(at(index)), u64::from(self.entry_bytes)))
            .collect()
    }
}

/// The driver's data of a call, of which the caller must have `least` bytes (`iommu_copy_struct_from_user`).
///
/// # Errors
/// EINVAL for another kind or size, EFAULT.
pub fn read<T>(data: &UserData, kind: u32, least: usize) -> Result<T, Errno>
where
    T: FromBytes + IntoBytes + Default,
{
    let bytes = data.bytes as usize;
    if data.kind != kind || bytes < least || bytes > size_of::<T>() {
        return Err(Errno::EINVAL);
    }
    fetch(&data.from, data.at, bytes as u64)
}

/// Copies a struct in that may be shorter or longer than ours; what it has more must be zero.
fn fetch<T>(from: &Caller, at: UserAddr, bytes: u64) -> Result<T, Errno>
where
    T: FromBytes + IntoBytes + Default,
{
    let mut value = T::default();
    let known = (bytes as usize).min(size_of::<T>());
    let mut rest = vec![0; bytes as usize - known];
    let behind = UserAddr(at.0.wrapping_add(known as u64));
    from.read(behind, &mut rest).map_err(|_| Errno::EFAULT)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let bytes = &mut value.as_mut_bytes()[..known];
    from.read(at, bytes).map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// Copies the driver's answer over its data (`iommu_copy_struct_to_user`).
///
/// # Errors
/// EFAULT.
pub fn write(data: &UserData, answer: &[u8]) -> Result<(), Errno> {
    let room = answer.len().min(data.bytes as usize);
    data.from
        .write(data.at, &answer[..room])
        .map_err(|_| Errno::EFAULT)
}
