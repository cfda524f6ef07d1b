//! No-IOMMU mode: groups `/dev/vfio/noiommu-N`, a container that maps nothing (`drivers/vfio/container.c`).
//!
//! A bus address is then a physical address. The client's memory here is physical memory at its own virtual addresses:
//! the page frame of a page is its virtual page number, and `/proc/self/pagemap` says so ([`Pagemap`]). An identity
//! domain stands for the missing unit, so that there is one way from a device to memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use swiommu_abi::{Errno, vfio};
use swiommu_iommu::{Config, Domain, Iommu, Iova, Kind, Pa, Prot};
use swiommu_mem::fd::Hidden;
use swiommu_mem::{PAGE, UserAddr};

use crate::door::{Answer, Call, File, NewFile};
use crate::iommufd::context::Context;
use crate::iommufd::space::IoasObject;
use crate::iommufd::{Ioas, Space};
use crate::pci::function::Function;

/// One past the last address of a process.
const MEMORY_END: u64 = 1 << 47;

/// The unit that stands for none: wide enough for every address of a process.
pub const UNIT: Config = Config {
    kind: Kind::Amd,
    address_width: 48,
    iotlb: false,
};

/// All memory, each byte at its own address but for the windows that are no memory on a PC either.
pub fn identity(unit: &Iommu) -> Arc<Domain> {
    let domain = unit.domain();
    let mut first = PAGE;
    for &(lo, hi) in unit.reserved() {
        map(&domain, first, lo - 1);
        first = hi + 1;
    }
    map(&domain, first, MEMORY_END - 1);
    domain
}

fn map(domain: &Domain, first: u64, last: u64) {
    domain
        .map(
            Iova(first),
            Pa(first),
            last - first + 1,
            Prot::READ | Prot::WRITE,
        )
        .expect("the domain is empty and its ranges are disjoint");
}

/// CHECK_EXTENSION of a container with such a group.
pub fn check_extension(extension: u64) -> i32 {
    i32::from(extension == vfio::NOIOMMU_IOMMU)
}

/// SET_IOMMU.
///
/// # Errors
/// ENODEV: any IOMMU but none, EPERM without CAP_SYS_RAWIO.
pub fn set_iommu(kind: u64, rawio: bool) -> Result<(), Errno> {
    match kind {
        vfio::NOIOMMU_IOMMU if rawio => Ok(()),
        vfio::NOIOMMU_IOMMU => Err(Errno::EPERM),
        _ => Err(Errno::ENODEV),
    }
}

/// Whether a device may be opened whose group has an iommufd for its container. Who has the group open has
/// CAP_SYS_RAWIO.
///
/// # Errors
/// EPERM at the first opening while the iommufd has an address space for the VFIO calls: translation is expected.
pub fn may_open(function: &Function, context: &Context) -> Result<(), Errno> {
    match function.is_open() || context.vfio_ioas::<IoasObject>().is_err() {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// A device of such a group has no address space.
pub struct Untranslated;

impl Space for Untranslated {
    fn show(&self, _: &mut dyn FnMut(&Ioas)) {}
}

/// `/proc/self/pagemap` as a process with CAP_SYS_ADMIN reads it (`Documentation/admin-guide/mm/pagemap.rst`).
pub struct Pagemap {
    /// The kernel's own file: it knows which pages are there, and hides their frames.
    kernel: Hidden,
}

/// Bytes of an entry, its bit for a page that is there, and the bits of its frame.
const ENTRY: u64 = 8;
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open() -> Result<NewFile, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open("/proc/self/pagemap", flags, Mode::empty()).map_err(errno);
        let object: OwnedFd = open()?;
        let kernel = Hidden::new(open()?)?;
        Ok(NewFile {
            object,
            file: Arc::new(Pagemap { kernel }),
        })
    }
}

impl File for Pagemap {
    fn link(&self) -> String {
        format!(
            "/proc/{}/pagemap",
            rustix::process::getpid().as_raw_nonzero()
        )
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        if !bytes.is_multiple_of(ENTRY) || !offset.is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        let mut raw = [0; 4096];
        while done < bytes {
            let wanted = (bytes - done).min(raw.len() as u64) as usize;
            let at = offset + done;
            let got = rustix::io::pread(&self.kernel, &mut raw[..wanted], at).map_err(errno)?;
            if got == 0 {
                break;
            }
            for (index, entry) in raw[..got].chunks_exact_mut(ENTRY as usize).enumerate() {
                let page = at / ENTRY + index as u64;
                let kernel = u64::from_ne_bytes(entry[..].try_into().expect("8 bytes"));
                entry.copy_from_slice(&with_frame(kernel, page).to_ne_bytes());
            }
            let to = UserAddr(to.0 + done);
            call.client
                .write(to, &raw[..got])
                .map_err(|_| Errno::EFAULT)?;
            done += got as u64;
        }
        Ok(done)
    }
}

/// An entry with the frame that a bus address reaches the page by.
fn with_frame(kernel: u64, page: u64) -> u64 {
    if kernel & PRESENT == 0 {
        kernel
    } else {
        kernel & !FRAME | page
    }
}

fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error()).unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use swiommu_iommu::{Access, StreamId};

    #[test]
    fn memory_lies_at_its_own_address_and_nothing_lies_elsewhere() {
        let unit = Iommu::new(UNIT).unwrap();
        let domain = identity(&unit);
        unit.attach(StreamId(8), &domain);
        let mut port = unit.port(StreamId(8));
        let mut session = port.begin();
        for at in [PAGE, 0x7fff_ffff_f000, 0xfed0_0000, 0xfef0_0000] {
            let run = session.translate(Iova(at), PAGE, Access::Write).unwrap();
            assert_eq!((run.pa, run.bytes), (Pa(at), PAGE), "{at:#x}");
        }
        for at in [0, 0xfee0_0000, MEMORY_END, u64::MAX - 0xfff] {
            assert!(
                session.translate(Iova(at), 8, Access::Read).is_err(),
                "{at:#x}"
            );
        }
        assert!(domain.table_bytes() <= 64 << 10);
    }

    #[test]
    fn only_pages_that_are_there_have_a_frame() {
        let soft_dirty = 1 << 55;
        assert_eq!(
            with_frame(PRESENT | soft_dirty | 0x1234, 7),
            PRESENT | soft_dirty | 7
        );
        assert_eq!(
            with_frame(1 << 62 | 0x1234, 7),
            1 << 62 | 0x1234,
            "swapped out"
        );
        assert_eq!(with_frame(0, 7), 0);
    }
}
