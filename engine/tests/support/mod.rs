//! A client in a box: a run's directory, the engine opened on it, and descriptors to drive it by, as the preloaded
//! library does.

pub mod cdev;
pub mod edu;
pub mod iommufd;
pub mod memory;
pub mod mock;
pub mod nvme;
pub mod pair;
pub mod serving;
pub mod vfio;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use swiommu_abi::Errno;
use swiommu_engine::device;
use swiommu_engine::door::{Answer, Call, Engine, File, Files, Mmio, NewFile};
use swiommu_engine::machine::options::{Color, Options};
use swiommu_engine::machine::run_dir::RunDir;
use swiommu_engine::machine::{
    DeviceConfig, DeviceKind, EduConfig, IommuConfig, IommuKind, Machine, Medium, Migration,
    NvmeConfig, StubConfig,
};
use swiommu_mem::UserAddr;

use memory::{address_of, client};
use serving::Serving;

/// The IOMMU models, each in each of its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// VT-d, legacy mode.
    Legacy,
    /// VT-d, scalable mode.
    Scalable,
    /// AMD-Vi.
    Amd,
    /// None: no-IOMMU mode.
    None,
}

impl Model {
    /// All that translate.
    pub const ALL: [Model; 3] = [Model::Legacy, Model::Scalable, Model::Amd];

    fn config(self) -> IommuConfig {
        let kind = match self {
            Model::Legacy | Model::Scalable => IommuKind::Vtd,
            Model::Amd => IommuKind::Amd,
            Model::None => IommuKind::None,
        };
        IommuConfig {
            kind,
            scalable: self == Model::Scalable,
            ..IommuConfig::default()
        }
    }
}

/// An edu at `0000:00:SLOT.0` in a group, which drives all 64 address bits.
pub fn edu(slot: u8, group: u32) -> DeviceConfig {
    device(slot, group, DeviceKind::Edu(EduConfig { dma_bits: 64 }))
}

/// A stub at `0000:00:SLOT.0` with INTx, MSI and MSI-X, 128 KiB of memory and 32 I/O ports.
pub fn stub(slot: u8, group: u32) -> DeviceConfig {
    let mut bars: [String; 6] = Default::default();
    bars[0] = "128K".into();
    bars[2] = "io:32".into();
    let config = StubConfig {
        vendor: 0x1af4,
        device: 0x10f0,
        class: 0xff0000,
        bars,
        msix: 8,
        msi: 4,
        intx: true,
    };
    device(slot, group, DeviceKind::Stub(config))
}

/// An NVMe of 1 MiB at `0000:00:SLOT.0` that migrates.
pub fn nvme(slot: u8, group: u32) -> DeviceConfig {
    let medium = Medium {
        path: "medium".into(),
        bytes: 1 << 20,
        read_only: false,
    };
    let config = NvmeConfig {
        namespaces: vec![medium],
        queues: 4,
        migration: Migration::All,
        ..NvmeConfig::default()
    };
    device(slot, group, DeviceKind::Nvme(config))
}

/// A device at `0000:00:SLOT.0`.
pub fn device(slot: u8, group: u32, kind: DeviceKind) -> DeviceConfig {
    DeviceConfig::new(format!("0000:00:{slot:02x}.0"), group, kind)
}

/// A machine of these devices.
pub fn machine(model: Model, devices: impl Into<Vec<DeviceConfig>>) -> Machine {
    Machine {
        iommu: model.config(),
        devices: devices.into(),
        ..Machine::default()
    }
}

/// One process of a run.
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    /// The run's directory, removed with the last process of the run; then the directory it is made in.
    run: Arc<(RunDir, tempfile::TempDir)>,
    engine: Arc<dyn Engine>,
    files: Mutex<HashMap<i32, Arc<dyn File>>>,
    /// What the engine takes for standard error.
    said: OwnedFd,
}

impl Files for Inner {
    fn get(&self, fd: i32) -> Option<Arc<dyn File>> {
        self.files.lock().unwrap().get(&fd).cloned()
    }
}

/// Options of most tests: everything is told, nothing in colour.
pub fn options() -> Options {
    Options {
        color: Color::Never,
        verbosity: 2,
        ..Options::default()
    }
}

impl World {
    /// A fresh run of a machine.
    pub fn new(machine: Machine) -> World {
        World::with(machine, options())
    }

    /// A fresh run with options.
    pub fn with(mut machine: Machine, options: Options) -> World {
        let base = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a directory for the run");
        let identities: Vec<_> = machine
            .devices
            .iter()
            .map(|device| device::identity(&device.kind).expect("a possible device"))
            .collect();
        let run =
            RunDir::create(base.path(), &mut machine, &identities).expect("the run's directory");
        World::open_in(Arc::new((run, base)), options)
    }

    /// Another process of the same run.
    pub fn beside(&self) -> World {
        World::open_in(self.inner.run.clone(), options())
    }

    fn open_in(run: Arc<(RunDir, tempfile::TempDir)>, options: Options) -> World {
        let said = swiommu_mem::fd::memfd("stderr", 0).expect("a memory file");
        let path = run.0.path().to_str().expect("a path in UTF-8").to_owned();
        let engine = with_stderr(&said, || swiommu_engine::open_run(&path, options, client()))
            .expect("an engine");
        Serving::attach(path.into(), &engine);
        World {
            inner: Arc::new(Inner {
                run,
                engine,
                files: Mutex::default(),
                said,
            }),
        }
    }

    /// Opens a device node.
    pub fn open(&self, path: &str) -> Result<Fd, Errno> {
        let file = self
            .call(|call| self.inner.engine.open(call, path))
            .unwrap_or(Err(Errno::ENOENT))?;
        Ok(self.adopt(file))
    }

    /// Writes to a file of sysfs, as a shell does: a newline ends the line.
    pub fn write(&self, path: &str, line: &str) -> Result<(), Errno> {
        let root = self.inner.run.0.path().join("root");
        let real = root.join(path.trim_start_matches('/')).canonicalize();
        let real = real.map_err(|_| Errno::ENOENT)?;
        let root = root.canonicalize().expect("the tree is there");
        let path = real.strip_prefix(&root).expect("it lies in the tree");
        let path = format!("/{}", path.to_str().expect("a path in UTF-8"));
        let line = format!("{line}\n");
        swiommu_engine::hostdrv::store(self.inner.run.0.path(), &path, line.as_bytes())
    }

    /// Binds a device to a driver, whatever its identity.
    pub fn bind(&self, bdf: &str, driver: &str) -> Result<(), Errno> {
        let device = format!("/sys/bus/pci/devices/{bdf}/driver_override");
        self.write(&device, driver)?;
        self.write(&format!("/sys/bus/pci/drivers/{driver}/bind"), bdf)
    }

    /// Unbinds a device from its driver.
    pub fn unbind(&self, bdf: &str) -> Result<(), Errno> {
        self.write(&format!("/sys/bus/pci/devices/{bdf}/driver/unbind"), bdf)
    }

    /// A path of the client, where it really lies.
    pub fn place(&self, path: &str) -> std::path::PathBuf {
        let root = self.inner.run.0.path().join("root");
        root.join(path.trim_start_matches('/'))
    }

    /// The driver a device is bound to.
    pub fn driver(&self, bdf: &str) -> Option<String> {
        let link = self.place(&format!("/sys/bus/pci/devices/{bdf}/driver"));
        let target = std::fs::read_link(link).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The engine itself.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.engine
    }

    /// Opens `fail-nth` of a thread.
    pub fn fail_nth(&self, thread: u32) -> Option<Result<Fd, Errno>> {
        let new = self.call(|call| self.inner.engine.fail_nth(call, thread))?;
        Some(new.map(|new| self.adopt(new)))
    }

    /// The client is about to take memory away.
    pub fn vacate(&self, first: u64, bytes: u64) {
        self.call(|call| self.inner.engine.vacate(call, UserAddr(first), bytes));
    }

    /// The findings of all processes of the run.
    pub fn findings(&self) -> Vec<Value> {
        self.inner
            .run
            .0
            .findings()
            .iter()
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect()
    }

    /// The kinds of the findings, in order.
    pub fn kinds(&self) -> Vec<String> {
        self.findings()
            .iter()
            .map(|finding| finding["kind"].as_str().expect("a kind").to_owned())
            .collect()
    }

    /// What this process said on standard error.
    pub fn said(&self) -> String {
        let mut text =
            vec![0; rustix::fs::fstat(&self.inner.said).expect("fstat").st_size as usize];
        rustix::io::pread(&self.inner.said, &mut text, 0).expect("pread");
        String::from_utf8(text).expect("reports are UTF-8")
    }

    fn call<T>(&self, work: impl FnOnce(&Call<'_>) -> T) -> T {
        self.inner.call(work)
    }

    fn adopt(&self, new: NewFile) -> Fd {
        Inner::adopt(&self.inner, new)
    }
}

impl Inner {
    fn call<T>(&self, work: impl FnOnce(&Call<'_>) -> T) -> T {
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        // some place in this program
        let site = Inner::adopt as fn(&Arc<Inner>, NewFile) -> Fd as usize as u64;
        work(&Call {
            client: client().into(),
            thread,
            site,
            files: self,
        })
    }

    fn adopt(this: &Arc<Inner>, new: NewFile) -> Fd {
        let number = new.object.as_raw_fd();
        this.files.lock().unwrap().insert(number, new.file);
        Fd {
            object: new.object,
            inner: this.clone(),
        }
    }
}

/// Runs `work` while file descriptor 2 is `file`: the engine keeps what it finds there.
fn with_stderr<T>(file: &OwnedFd, work: impl FnOnce() -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard: MutexGuard<'_, ()> = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let saved = rustix::io::dup(rustix::stdio::stderr()).expect("dup");
    rustix::stdio::dup2_stderr(file).expect("dup2");
    let result = work();
    rustix::stdio::dup2_stderr(&saved).expect("dup2");
    result
}

/// A descriptor of the client. Dropping it closes it.
pub struct Fd {
    object: OwnedFd,
    inner: Arc<Inner>,
}

impl Fd {
    /// Its number.
    pub fn number(&self) -> i32 {
        self.object.as_raw_fd()
    }

    /// The kernel object.
    pub fn object(&self) -> &OwnedFd {
        &self.object
    }

    /// What stands behind it.
    pub fn file(&self) -> Arc<dyn File> {
        self.inner.get(self.number()).expect("it is open")
    }

    /// ioctl with a plain argument.
    pub fn ioctl_raw(&self, cmd: u32, arg: u64) -> Result<Answered, Errno> {
        let file = self.file();
        match self.inner.call(|call| file.ioctl(call, cmd, arg))? {
            Answer::Value(value) => Ok(Answered::Value(value)),
            Answer::Open(new) | Answer::Also(new) => {
                Ok(Answered::Fd(Inner::adopt(&self.inner, new)))
            }
        }
    }

    /// ioctl with a plain argument that answers a number.
    pub fn ioctl(&self, cmd: u32, arg: u64) -> Result<i32, Errno> {
        match self.ioctl_raw(cmd, arg)? {
            Answered::Value(value) => Ok(value),
            Answered::Fd(_) => panic!("a descriptor where a number was expected"),
        }
    }

    /// ioctl with a struct, which may be changed.
    pub fn ioctl_with<T: ?Sized>(&self, cmd: u32, arg: &mut T) -> Result<i32, Errno> {
        self.ioctl(cmd, address_of(arg))
    }

    /// pread.
    pub fn pread(&self, offset: u64, to: &mut [u8]) -> Result<u64, Errno> {
        let (file, bytes) = (self.file(), to.len() as u64);
        let to = UserAddr(address_of(to));
        self.inner.call(|call| file.pread(call, to, bytes, offset))
    }

    /// pwrite.
    pub fn pwrite(&self, offset: u64, from: &[u8]) -> Result<u64, Errno> {
        let mut from = from.to_vec();
        let file = self.file();
        let (at, bytes) = (UserAddr(address_of(&mut from[..])), from.len() as u64);
        self.inner.call(|call| file.pwrite(call, at, bytes, offset))
    }

    /// Checks a mapping.
    pub fn mmap(
        &self,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<(u64, swiommu_engine::door::Span)>, Errno> {
        let file = self.file();
        self.inner.call(|call| file.mmap(call, offset, bytes, true))
    }

    /// A load from a mapped register.
    pub fn load(&self, offset: u64, bytes: u8) -> u64 {
        self.try_load(offset, bytes).expect("SIGBUS")
    }

    /// A load from a mapped register; `None` is SIGBUS.
    pub fn try_load(&self, offset: u64, bytes: u8) -> Option<u64> {
        let file = self.file();
        self.inner
            .call(|call| file.mmio(call, offset, bytes, Mmio::Read))
    }

    /// A store to a mapped register.
    pub fn store(&self, offset: u64, bytes: u8, value: u64) {
        let file = self.file();
        self.inner
            .call(|call| file.mmio(call, offset, bytes, Mmio::Write(value)));
    }

    /// Tells the engine that `bytes` bytes at `first` of the client show nothing of ours any more.
    pub fn unmapped(&self, first: u64, bytes: u64) {
        self.inner.engine.mapped(UserAddr(first), bytes, None);
    }

    /// Tells the engine that `bytes` bytes at `first` of the client now show this file from `offset` on.
    pub fn mapped(&self, first: u64, bytes: u64, offset: u64) {
        self.inner
            .engine
            .mapped(UserAddr(first), bytes, Some((&self.file(), offset)));
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let file = self
            .inner
            .files
            .lock()
            .unwrap()
            .remove(&self.object.as_raw_fd());
        drop(file);
    }
}

/// What an ioctl answered.
pub enum Answered {
    /// A number.
    Value(i32),
    /// A descriptor.
    Fd(Fd),
}
