//! The preloaded library with a toy engine behind it, for the tests of the library alone: one container, one group and
//! one device whose first page is memory and whose second page is registers.
#![allow(unsafe_code, missing_docs)] // the constructor

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use swiommu::{engine, sys};
use swiommu_abi::Errno;
use swiommu_engine::door::{Answer, Call, CharDevice, Engine, File, Mmio, NewFile, Span};
use swiommu_mem::UserAddr;

struct Fake {
    busy: Arc<AtomicBool>,
    hidden: OwnedFd,
}

fn object() -> OwnedFd {
    swiommu_mem::fd::object(8192).expect("a memory file")
}

fn new(file: impl File) -> NewFile {
    NewFile {
        object: object(),
        file: Arc::new(file),
    }
}

/// The number an argument points to.
fn number(call: &Call<'_>, arg: u64) -> i32 {
    call.client.read_obj(UserAddr(arg)).unwrap_or(-1)
}

struct Container;

impl File for Container {
    fn link(&self) -> String {
        "/dev/vfio/vfio".into()
    }
    fn char_device(&self) -> Option<CharDevice> {
        Some(CharDevice {
            major: 10,
            minor: 196,
        })
    }
    fn ioctl(&self, _: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        match cmd {
            0x3b64 => Ok(Answer::Value(0)),
            0x3b65 => Ok(Answer::Value(i32::from(arg == 1))),
            _ => Err(Errno::ENOTTY),
        }
    }
}

struct Group(Arc<AtomicBool>);

impl Drop for Group {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl File for Group {
    fn link(&self) -> String {
        "/dev/vfio/1".into()
    }
    fn char_device(&self) -> Option<CharDevice> {
        Some(CharDevice {
            major: 511,
            minor: 1,
        })
    }
    fn ioctl(&self, call: &Call<'_>, cmd: u32, arg: u64) -> Result<Answer, Errno> {
        match cmd {
            0x3b68 => match call.files.get(number(call, arg)) {
                Some(file) if file.link() == "/dev/vfio/vfio" => Ok(Answer::Value(0)),
                Some(_) => Err(Errno::EINVAL),
                None => Err(Errno::EBADF),
            },
            0x3b6a => Ok(Answer::Open(new(Device {
                register: AtomicU64::new(0),
                site: AtomicU64::new(0),
            }))),
            _ => Err(Errno::ENOTTY),
        }
    }
}

struct Device {
    register: AtomicU64,
    site: AtomicU64,
}

impl File for Device {
    fn link(&self) -> String {
        "anon_inode:[vfio-device]".into()
    }
    fn ioctl(&self, call: &Call<'_>, cmd: u32, _: u64) -> Result<Answer, Errno> {
        self.site.store(call.site, Ordering::Relaxed);
        match cmd {
            0x3b6f => Ok(Answer::Value(0)),
            _ => Err(Errno::ENOTTY),
        }
    }
    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, offset: u64) -> Result<u64, Errno> {
        if offset >= 256 {
            return Ok(0);
        }
        let bytes = bytes.min(256 - offset);
        let data: Vec<u8> = (offset..offset + bytes).map(|byte| byte as u8).collect();
        call.client.write(to, &data).map_err(|_| Errno::EFAULT)?;
        Ok(bytes)
    }
    fn pwrite(
        &self,
        call: &Call<'_>,
        from: UserAddr,
        bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        if offset == 0x1000 && bytes == 8 {
            let value = call.client.read_obj(from).map_err(|_| Errno::EFAULT)?;
            self.register.store(value, Ordering::SeqCst);
        }
        Ok(bytes)
    }
    fn mmap(
        &self,
        _: &Call<'_>,
        offset: u64,
        bytes: u64,
        _: bool,
    ) -> Result<Vec<(u64, Span)>, Errno> {
        match (offset, bytes) {
            (0, 8192) => Ok(vec![(4096, Span::Memory), (4096, Span::Trap)]),
            (0, 4096) => Ok(vec![(4096, Span::Memory)]),
            (4096, 4096) => Ok(vec![(4096, Span::Trap)]),
            _ => Err(Errno::EINVAL),
        }
    }
    fn mmio(&self, _: &Call<'_>, _: u64, _: u8, access: Mmio) -> Option<u64> {
        Some(match access {
            Mmio::Read => self.register.load(Ordering::SeqCst),
            Mmio::Write(value) => {
                self.register.store(value.wrapping_add(1), Ordering::SeqCst);
                0
            }
        })
    }
}

impl Engine for Fake {
    fn open(&self, _: &Call<'_>, path: &str) -> Option<Result<NewFile, Errno>> {
        // What an engine may do at any time: std goes through the symbols, and must come out at the kernel.
        let _ = std::fs::metadata("/dev/vfio/vfio");
        match path {
            "/dev/vfio/vfio" => Some(Ok(new(Container))),
            "/dev/vfio/1" if self.busy.swap(true, Ordering::SeqCst) => Some(Err(Errno::EBUSY)),
            "/dev/vfio/1" => Some(Ok(new(Group(Arc::clone(&self.busy))))),
            _ => None,
        }
    }
    fn vacate(&self, _: &Call<'_>, _: UserAddr, _: u64) {}
    fn mapped(&self, _: UserAddr, _: u64, _: Option<(&Arc<dyn File>, u64)>) {}
    fn owns(&self, fd: i32) -> bool {
        use std::os::fd::AsRawFd;
        fd == self.hidden.as_raw_fd()
    }
    fn exit(&self) {
        if std::env::var_os("FAKE_EXIT").is_some() {
            sys::stderr(&["fake engine: exit\n"]);
        }
    }
}

fn open_run(run: &str) -> Result<Arc<dyn Engine>, String> {
    if run.ends_with("broken") {
        return Err("the machine of this run cannot be read".into());
    }
    let hidden =
        rustix::io::fcntl_dupfd_cloexec(object(), 900).map_err(|errno| errno.to_string())?;
    Ok(Arc::new(Fake {
        busy: Arc::new(AtomicBool::new(false)),
        hidden,
    }))
}

extern "C" fn begin() {
    engine::set_factory(open_run);
}

#[used]
// SAFETY: the dynamic linker calls the addresses in this section with the C convention.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
