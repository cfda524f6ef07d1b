//! A VFIO client on the unmodified rust-vmm crates: `vfio-ioctls-client BDF group|cdev` moves data through an edu device
//! by DMA, with its interrupt, and checks every byte. With `cdev` it opens the device by its own node, and then moves it
//! to a page table that it made itself.

use iommufd_bindings::iommu_hwpt_alloc;
use iommufd_ioctls::IommuFd;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};
use vmm_sys_util::eventfd::EventFd;

const PAGE: usize = 4096;
const IOVA: u64 = 1 << 20;
/// edu's own buffer, in its own addresses.
const BUFFER: u64 = 0x40000;

struct Edu {
    device: VfioDevice,
    msi: EventFd,
}

impl Edu {
    fn write(&self, register: u64, value: u64) {
        self.device.region_write(VFIO_PCI_BAR0_REGION_INDEX, &value.to_le_bytes(), register);
    }

    fn read(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.region_read(VFIO_PCI_BAR0_REGION_INDEX, &mut bytes, register);
        u32::from_le_bytes(bytes)
    }

    /// One transfer with its interrupt at the end.
    fn transfer(&self, from: u64, to: u64, flags: u64) -> Result<(), Box<dyn Error>> {
        self.write(0x80, from);
        self.write(0x88, to);
        self.write(0x90, PAGE as u64);
        self.write(0x98, 1 | 4 | flags);
        let limit = Instant::now() + Duration::from_secs(10);
        while self.msi.read().is_err() {
            if Instant::now() > limit {
                return Err("the interrupt did not arrive".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.device.region_write(VFIO_PCI_BAR0_REGION_INDEX, &0x100u32.to_le_bytes(), 0x64);
        Ok(())
    }
}

/// Pages for the device: never a reference, only volatile access.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Memory {
        let layout = std::alloc::Layout::from_size_align(2 * PAGE, PAGE).expect("a valid layout");
        // SAFETY: the layout is not empty.
        Memory(unsafe { std::alloc::alloc_zeroed(layout) })
    }

    fn set(&self, at: usize, value: u8) {
        // SAFETY: callers stay within two pages.
        unsafe { self.0.add(at).write_volatile(value) }
    }

    fn get(&self, at: usize) -> u8 {
        // SAFETY: as above.
        unsafe { self.0.add(at).read_volatile() }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bdf, door] = &arguments[..] else {
        return Err("usage: vfio-ioctls-client BDF group|cdev".into());
    };
    let path = Path::new("/sys/bus/pci/devices").join(bdf);
    if door == "group" {
        let container = Arc::new(VfioContainer::new(None)?);
        let edu = open(&path, container.clone())?;
        return round_trip(&edu, &*container);
    }
    let iommufd = Arc::new(IommuFd::new()?);
    let space = Arc::new(VfioIommufd::new(iommufd.clone(), None, None)?);
    let edu = open(&path, space.clone())?;
    round_trip(&edu, &*space)?;

    let mut table = iommu_hwpt_alloc {
        size: size_of::<iommu_hwpt_alloc>() as u32,
        dev_id: edu.device.iommufd_dev_id().ok_or("the device has no id")?,
        pt_id: space.ioas().id(),
        ..Default::default()
    };
    iommufd.alloc_iommu_hwpt(&mut table)?;
    edu.device.attach_hwpt(table.out_hwpt_id)?;
    round_trip(&edu, &*space)?;
    if iommufd.destroy_iommu_object(table.out_hwpt_id).is_ok() {
        return Err("a page table went although the device was attached to it".into());
    }
    edu.device.detach_hwpt()?;
    Ok(iommufd.destroy_iommu_object(table.out_hwpt_id)?)
}

fn open(path: &Path, ops: Arc<dyn VfioOps>) -> Result<Edu, Box<dyn Error>> {
    let device = VfioDevice::new(path, ops, true)?;
    let msi = EventFd::new(libc_nonblock())?;
    let edu = Edu { device, msi };
    edu.device.reset();
    edu.device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, &6u16.to_le_bytes(), 4);
    if edu.read(0) & 0xff != 0xed {
        return Err(format!("not an edu: {:#x}", edu.read(0)).into());
    }
    Ok(edu)
}

fn round_trip(edu: &Edu, space: &dyn VfioOps) -> Result<(), Box<dyn Error>> {
    edu.device.enable_irq(VFIO_PCI_MSI_IRQ_INDEX, vec![&edu.msi])?;
    let memory = Memory::new();
    let pattern = |at: usize| (at * 31 + at / 256) as u8;
    (0..PAGE).for_each(|at| memory.set(at, pattern(at)));
    // SAFETY: the memory lives until the program ends and is only touched by volatile access.
    unsafe { space.vfio_dma_map(IOVA, 2 * PAGE, memory.0)? };
    edu.transfer(IOVA, BUFFER, 0)?;
    edu.transfer(BUFFER, IOVA + PAGE as u64, 2)?;
    if let Some(at) = (0..PAGE).find(|at| memory.get(PAGE + at) != pattern(*at)) {
        return Err(format!("byte {at} is {:#x}, not {:#x}", memory.get(PAGE + at), pattern(at)).into());
    }
    space.vfio_dma_unmap(IOVA, 2 * PAGE)?;
    edu.device.disable_irq(VFIO_PCI_MSI_IRQ_INDEX)?;
    println!("{PAGE} bytes went to the device and back");
    Ok(())
}

/// EFD_NONBLOCK, which is O_NONBLOCK.
const fn libc_nonblock() -> i32 {
    0o4000
}
