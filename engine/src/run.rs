//! The engine of one process of a run: the machine's IOMMU, its groups and functions, and what this process holds of them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use swiommu_abi::Errno;
use swiommu_iommu::{Config, Iommu, Kind};
use swiommu_mem::fd;
use swiommu_mem::{Client, UserAddr, limit};

use crate::accounted;
use crate::device;
use crate::door::{self, Call, Engine, File, NewFile};
use crate::hostdrv::lock::Lock;
use crate::hostdrv::reset::Resets;
use crate::hostdrv::{self, Host};
use crate::iommufd::account::{Charged, Locked};
use crate::iommufd::file::IommuFile;
use crate::iommufd::ioas::Ground;
use crate::iommufd::pin_counts::PinCounts;
use crate::iommufd::regions::Regions;
use crate::iommufd::shared_pages::Keepers;
use crate::iommufd::{Pins, place};
use crate::machine::options::Options;
use crate::machine::tree::{DMA_ENTRY_LIMIT, Tree};
use crate::machine::{Bdf, IommuKind, Machine, Memlock, resources};
use crate::mock::fail_nth;
use crate::pci::Identity;
use crate::pci::function::Function;
use crate::report::Reports;
use crate::service::kind;
use crate::vfio::cdev::CdevFile;
use crate::vfio::container::{Container, ContainerFile};
use crate::vfio::device::DeviceFile;
use crate::vfio::group::{Group, GroupFile};
use crate::vfio::noiommu;

/// The engine.
pub struct Run {
    /// The machine, as the command line resolved it.
    pub machine: Machine,
    /// `SWIOMMU_OPTIONS`.
    pub options: Options,
    /// The process whose memory DMA reaches.
    pub client: Client,
    /// The IOMMU all functions sit behind.
    pub iommu: Arc<Iommu>,
    /// The functions, in the machine's order.
    pub functions: Vec<Arc<Function>>,
    /// Where reports go.
    pub reports: Reports,
    /// All containers that may be alive, for the report at exit.
    pub containers: Mutex<Vec<Weak<Container>>>,
    dir: PathBuf,
    host: OnceLock<Host>,
    resets: OnceLock<Arc<Resets>>,
    service: OnceLock<&'static dyn door::Host>,
    /// The groups, by number.
    pub groups: BTreeMap<u32, Arc<Group>>,
    pins: Arc<Pins>,
    locked: Arc<Locked>,
    regions: Arc<Regions>,
    keepers: Keepers,
}

impl Run {
    /// Reads the run's directory and builds the machine. No device is powered on yet.
    ///
    /// # Errors
    /// One line for the user: the directory is not a run's, or its machine cannot be built.
    pub fn open(dir: &str, options: Options, client: Client) -> Result<Arc<Run>, String> {
        let dir = PathBuf::from(dir);
        let machine = Machine::load(&dir).map_err(|errno| {
            format!(
                "{}: the machine of the run cannot be read: {errno}",
                dir.display()
            )
        })?;
        let iommu = Iommu::new(unit(&machine)).map_err(|error| format!("iommu: {error}"))?;
        let mut functions = Vec::new();
        for (index, device) in machine.devices.iter().enumerate() {
            functions.push(Arc::new(Function::new(
                index,
                device.address(),
                device.clone(),
            )));
        }
        if machine.without_iommu() {
            let memory = noiommu::identity(&iommu);
            for function in &functions {
                iommu.attach(function.stream(), &memory);
            }
        }
        let mut members: BTreeMap<u32, Vec<Arc<Function>>> = BTreeMap::new();
        for (device, function) in machine.devices.iter().zip(&functions) {
            members
                .entry(device.group)
                .or_default()
                .push(function.clone());
        }
        let groups = members
            .into_iter()
            .map(|(number, functions)| {
                let node = machine.group_node(number);
                (number, Arc::new(Group::new(number, node, functions)))
            })
            .collect();
        Ok(Arc::new(Run {
            reports: Reports::new(&dir, &options),
            machine,
            options,
            client,
            iommu,
            functions,
            containers: Mutex::default(),
            dir,
            host: OnceLock::new(),
            resets: OnceLock::new(),
            service: OnceLock::new(),
            groups,
            pins: Arc::default(),
            locked: Arc::default(),
            regions: Arc::default(),
            keepers: Keepers::default(),
        }))
    }

    /// How often pages are pinned, at this moment.
    pub fn pin_counts(&self) -> PinCounts {
        PinCounts::new(self.pins.runs())
    }

    /// What an address space of this process stands on.
    pub fn ground(&self) -> Ground {
        Ground {
            pins: self.pins.clone(),
            locked: self.locked.clone(),
            regions: self.regions.clone(),
            client: self.client,
        }
    }

    /// The IOVA ranges a client can map: the aperture without the reserved ranges.
    pub fn usable_iovas(&self) -> Vec<(u64, u64)> {
        let (mut first, last) = self.iommu.aperture();
        let mut usable = Vec::new();
        for &(lo, hi) in self.iommu.reserved() {
            if lo > last || hi < first {
                continue;
            }
            if first < lo {
                usable.push((first, lo - 1));
            }
            first = hi.saturating_add(1);
        }
        if first <= last {
            usable.push((first, last));
        }
        usable
    }

    /// The locked-memory limit of a process (`None`: this one) in bytes, `None` without one.
    pub fn memlock(&self, process: Option<NonZeroU32>) -> Option<u64> {
        match self.machine.vfio.memlock {
            Memlock::Unlimited => None,
            Memlock::Bytes(bytes) => Some(bytes),
            Memlock::Inherit => limit::locked_memory_of(process),
        }
    }

    /// Whether a process (`None`: this one) may lock what it wants, and nothing is counted. With test equipment that is
    /// for it to say: a test may give CAP_IPC_LOCK up to see the counts.
    pub fn may_lock_all(&self, process: Option<NonZeroU32>) -> bool {
        !self.machine.mock || limit::is_lifted(process)
    }

    /// What this engine has charged a process for: bytes that are pinned, and bytes that count as locked.
    pub fn charged(&self, process: u32) -> (u64, u64) {
        let other = (process != std::process::id()).then(|| NonZeroU32::new(process));
        self.locked.charged(other.flatten().map(Charged::of))
    }

    /// Takes a group's node for this process.
    ///
    /// # Errors
    /// EBUSY when another process of the run has it, ENODEV when no device of the group is bound to VFIO.
    pub fn lock_group(&self, number: u32) -> Result<Lock, Errno> {
        Lock::try_existing(&self.dir, &hostdrv::group_lock(number))
    }

    /// Keeps a function VFIO's while the result lives: unbinding it waits.
    ///
    /// # Errors
    /// ENODEV when it is not bound to VFIO, or is being unbound.
    pub fn hold(&self, function: &Function) -> Result<Lock, Errno> {
        Lock::share_existing(&self.dir, &hostdrv::vfio_lock(function.bdf()))
    }

    /// How often sysfs reset the devices.
    ///
    /// # Errors
    /// As [`Resets::of`].
    pub fn resets(&self) -> Result<Arc<Resets>, Errno> {
        if let Some(resets) = self.resets.get() {
            return Ok(resets.clone());
        }
        let resets = Arc::new(Resets::of(&self.dir)?);
        Ok(self.resets.get_or_init(|| resets).clone())
    }

    /// How many mappings a container that gets an address space now may hold (`dma_entry_limit` of vfio_iommu_type1).
    pub fn dma_entry_limit(&self) -> u32 {
        let limit = Tree::new(&self.dir.join("root")).value(DMA_ENTRY_LIMIT);
        let limit = limit.ok().and_then(|limit| limit.parse().ok());
        limit.unwrap_or(self.machine.vfio.dma_entry_limit)
    }

    /// The host's side of the machine.
    ///
    /// # Errors
    /// EINVAL when a device is outside its bounds.
    pub fn host(&self) -> Result<&Host, Errno> {
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let host = Host::with(&self.dir, self.machine.clone())?;
        Ok(self.host.get_or_init(|| host))
    }

    /// The bus addresses of a function's BARs, the same in every process of the run.
    pub fn bar_bases(&self, index: usize, identity: &Identity) -> [u64; 6] {
        let identities: Vec<Identity> = self
            .machine
            .devices
            .iter()
            .enumerate()
            .map(|(at, device)| match at == index {
                true => Ok(identity.clone()),
                false => device::identity(&device.kind),
            })
            .collect::<Result<_, _>>()
            .unwrap_or_else(|_| vec![identity.clone(); index + 1]);
        resources::assign(&identities)[index].map(|resource| resource.first)
    }

    /// The run's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// How the machine's unit is built.
fn unit(machine: &Machine) -> Config {
    let kind = match machine.iommu.kind {
        IommuKind::Vtd => Kind::Vtd {
            scalable: machine.iommu.scalable,
        },
        IommuKind::Amd => Kind::Amd,
        IommuKind::None => return noiommu::UNIT,
    };
    Config {
        kind,
        address_width: machine.iommu.address_width,
        iotlb: machine.iommu.iotlb,
    }
}

/// The engine behind the door: a [`Run`] that can hand itself out.
pub struct OpenRun(Arc<Run>);

/// Opens the run named by `SWIOMMU_RUN` for this process.
///
/// # Errors
/// One line for the user.
pub fn open_run(dir: &str, options: Options, client: Client) -> Result<Arc<dyn Engine>, String> {
    Ok(Arc::new(OpenRun(Run::open(dir, options, client)?)))
}

impl Run {
    /// From now on other processes of the run reach this one.
    pub fn serve(&self) {
        if let Some(service) = self.service.get() {
            service.serve();
        }
    }

    /// Answers another engine's [`kind::DEVICE_REQUESTED`].
    fn requested(&self, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let text = std::str::from_utf8(body).map_err(|_| Errno::EINVAL)?;
        let bdf: Bdf = text.parse().map_err(|_| Errno::EINVAL)?;
        let mut functions = self.functions.iter();
        let function = functions.find(|function| function.bdf() == bdf);
        function.ok_or(Errno::ENODEV)?.request();
        Ok(Vec::new())
    }
}

impl Engine for OpenRun {
    fn attach(&self, host: &'static dyn door::Host) {
        let _ = self.0.service.set(host);
    }

    fn open(&self, _: &Call<'_>, path: &str) -> Option<Result<NewFile, Errno>> {
        let run = &self.0;
        if path == "/proc/self/pagemap" {
            return run.machine.without_iommu().then(noiommu::Pagemap::open);
        }
        if run.machine.mock {
            // Any process may look up what this one has pinned.
            run.serve();
        }
        let file: Result<Arc<dyn File>, Errno> = if path == "/dev/iommu" {
            Ok(Arc::new(IommuFile::new(run.clone())))
        } else if path == "/dev/vfio/vfio" {
            Ok(Arc::new(ContainerFile::new(run.clone())))
        } else {
            let name = path.strip_prefix("/dev/vfio/")?;
            if let Some(name) = name.strip_prefix("devices/vfio") {
                let number = name.parse().ok()?;
                let function = run.functions.get::<usize>(number)?;
                let there = run.machine.has_own_nodes(function.config().group);
                return there.then(|| CdevFile::open(run, function));
            }
            let group = run.groups.values().find(|group| group.node == name)?;
            GroupFile::open(run, group).map(|file| file as Arc<dyn File>)
        };
        Some(file.and_then(|file| {
            Ok(NewFile {
                object: fd::node_object(path, 0)?,
                file,
            })
        }))
    }

    fn vacate(&self, call: &Call<'_>, first: UserAddr, bytes: u64) {
        for lost in self.0.pins.vacate(first, bytes) {
            self.0
                .reports
                .lost_page(call, lost.iova, lost.va, lost.bytes);
        }
    }

    fn mapped(&self, first: UserAddr, bytes: u64, file: Option<(&Arc<dyn File>, u64)>) {
        let regions = &self.0.regions;
        let Some((file, offset)) = file else {
            regions.remove(first, bytes);
            self.0.keepers.remove(first, bytes);
            return;
        };
        let any: &dyn std::any::Any = &**file;
        if let Some(iommu) = any.downcast_ref::<IommuFile>() {
            if let Some(owner) = iommu.owner(offset, bytes) {
                self.0.keepers.add(first, bytes, owner);
            }
        } else if let Some(function) = device_behind(file) {
            let bar = (offset >> swiommu_abi::vfio::PCI_OFFSET_SHIFT) as u8;
            let at = offset & ((1 << swiommu_abi::vfio::PCI_OFFSET_SHIFT) - 1);
            regions.add(first, bytes, place::region(function.index(), bar, at));
        }
    }

    fn owns(&self, number: i32) -> bool {
        fd::owns(number)
    }

    fn fail_nth(&self, _: &Call<'_>, thread: u32) -> Option<Result<NewFile, Errno>> {
        self.0.machine.mock.then(|| fail_nth::open(thread))
    }

    fn accounted(&self, process: u32) -> (u64, u64) {
        accounted::total(&self.0, process)
    }

    fn message(&self, kind: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match kind {
            kind::CHARGED => accounted::answer(&self.0, body),
            kind::DEVICE_REQUESTED => self.0.requested(body),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn exit(&self) {
        self.0.reports.at_exit(&self.0);
        for function in &self.0.functions {
            function.power_off();
        }
    }
}

/// The function whose registers a file maps.
fn device_behind(file: &Arc<dyn File>) -> Option<Arc<Function>> {
    let file: &dyn std::any::Any = &**file;
    if let Some(device) = file.downcast_ref::<DeviceFile>() {
        return Some(device.function().clone());
    }
    Some(file.downcast_ref::<CdevFile>()?.function().clone())
}
