//! A function as an object of an iommufd, and VFIO's side of that (`drivers/vfio/iommufd.c`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_iommu::StreamId;
use zerocopy::IntoBytes;

use super::group::Group;
use super::owner::Owner;
use crate::hostdrv::lock::Lock;
use crate::iommufd::attach::{self, NO_PASID, Translation};
use crate::iommufd::context::Context;
use crate::iommufd::device::{Device, UserData};
use crate::iommufd::hw_info::HwInfo;
use crate::iommufd::object::{Kind, Object, Ref};
use crate::iommufd::table::Table;
use crate::iommufd::{Ioas, Space};
use crate::machine::IommuKind;
use crate::machine::tree::Registers;
use crate::pci::function::Function;
use crate::run::Run;

/// The driver of every modelled IOMMU of a run: there is one unit.
const DRIVER: usize = 0;

/// The object of a bound function.
pub struct BoundDevice {
    run: Arc<Run>,
    function: Arc<Function>,
    streams: Vec<StreamId>,
    attachments: Arc<attach::Group>,
    _claim: Claim,
}

/// A claim on a group's DMA, given back when dropped.
struct Claim {
    group: Arc<Group>,
    owner: Owner,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.group.ownership.release(self.owner);
    }
}

impl Object for BoundDevice {
    fn kind(&self) -> Kind {
        Kind::Device
    }

    fn as_device(&self) -> Option<&dyn Device> {
        Some(self)
    }
}

impl BoundDevice {
    fn registers(&self) -> Registers {
        Registers::of(&self.run.machine.iommu)
    }

    /// Which flags of HWPT_ALLOC a page table of the unit can have.
    fn table_flags(&self) -> u32 {
        let dirty = match self.tracks_dirty() {
            true => iommufd::HWPT_ALLOC_DIRTY_TRACKING,
            false => 0,
        };
        match self.run.machine.iommu.kind {
            // second-stage tables serve a PASID too
            IommuKind::Vtd => dirty | iommufd::HWPT_ALLOC_PASID,
            // that takes tables of version 2
            IommuKind::Amd => dirty,
            IommuKind::None => 0,
        }
    }
}

impl Device for BoundDevice {
    fn new_table(&self, flags: u32, data: Option<&UserData>) -> Result<Table, Errno> {
        if data.is_some() || flags & !self.table_flags() != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let domain = self.run.iommu.try_domain().ok_or(Errno::ENOSPC)?;
        Ok(Table::Domain(domain))
    }

    fn tracks_dirty(&self) -> bool {
        self.registers().tracks_dirty()
    }

    fn enforces_coherency(&self) -> bool {
        true
    }

    fn driver(&self) -> usize {
        DRIVER
    }

    fn group(&self) -> &attach::Group {
        &self.attachments
    }

    fn owner(&self) -> u64 {
        // odd, as no address is
        (self.function.index() as u64) << 1 | 1
    }

    fn reserved(&self) -> Vec<(u64, u64)> {
        self.run.iommu.reserved().to_vec()
    }

    fn change(
        &self,
        pasid: u32,
        _: Option<&dyn Translation>,
        new: Option<&dyn Translation>,
    ) -> Result<(), Errno> {
        let domain = match new {
            Some(new) => {
                let table = new.paging().and_then(|hwpt| hwpt.table.domain());
                Some(
                    table
                        .filter(|_| new.kind() == Kind::HwptPaging)
                        .ok_or(Errno::EINVAL)?,
                )
            }
            None => None,
        };
        if pasid != NO_PASID {
            // no function has a PASID to make requests with
            return Ok(());
        }
        for &stream in &self.streams {
            match domain {
                Some(domain) => self.run.iommu.attach(stream, domain),
                None => self.run.iommu.detach(stream),
            }
        }
        Ok(())
    }

    fn hw_info(&self, wanted: u32) -> Result<HwInfo, Errno> {
        let (kind, data) = match self.registers() {
            Registers::Vtd { cap, ecap, .. } => {
                let info = iommufd::HwInfoVtd {
                    flags: iommufd::HW_INFO_VTD_ERRATA_772415_SPR17,
                    reserved: 0,
                    cap_reg: cap,
                    ecap_reg: ecap,
                };
                (iommufd::HW_INFO_TYPE_INTEL_VTD, info.as_bytes().to_vec())
            }
            Registers::Amd { features, .. } => {
                let [efr, efr2] = features;
                let info = iommufd::HwInfoAmd { efr, efr2 };
                (iommufd::HW_INFO_TYPE_AMD, info.as_bytes().to_vec())
            }
            Registers::None => (iommufd::HW_INFO_TYPE_NONE, Vec::new()),
        };
        if wanted != iommufd::HW_INFO_TYPE_NONE && wanted != kind {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(HwInfo { kind, data })
    }
}

/// A function that is bound to an iommufd, until this is dropped.
pub struct Binding {
    context: Arc<Context>,
    /// Taken only when this is dropped.
    device: Option<Ref<BoundDevice>>,
    attached: Mutex<Attached>,
    /// Nobody else of the run has the function open.
    _open: Lock,
}

/// What VFIO attached.
#[derive(Default)]
struct Attached {
    device: bool,
    pasids: BTreeSet<u32>,
}

impl Binding {
    /// Binds a function of a group.
    ///
    /// # Errors
    /// EINVAL: it is open already. EPERM: the group belongs to somebody else.
    pub fn new(
        run: &Arc<Run>,
        context: &Arc<Context>,
        group: &Arc<Group>,
        function: &Arc<Function>,
    ) -> Result<Binding, Errno> {
        let open = Lock::try_now(run.dir(), &format!("bound-{}", function.bdf()));
        let open = open.map_err(|errno| match errno {
            Errno::EBUSY => Errno::EINVAL,
            other => other,
        })?;
        let owner = Owner::Context(Arc::as_ptr(context) as u64);
        group.ownership.claim(run, group.number, owner)?;
        let claim = Claim {
            group: group.clone(),
            owner,
        };
        let (streams, attachments) = group.part(function, &run.machine);
        let reserved = context.reserve()?;
        let device = reserved.commit(BoundDevice {
            run: run.clone(),
            function: function.clone(),
            streams,
            attachments,
            _claim: claim,
        });
        Ok(Binding {
            context: context.clone(),
            device: Some(device.hold()),
            attached: Mutex::default(),
            _open: open,
        })
    }

    /// The iommufd.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn device(&self) -> &Ref<BoundDevice> {
        self.device.as_ref().expect("taken only by drop")
    }

    /// The device's object.
    pub fn id(&self) -> u32 {
        self.device().id()
    }

    /// What a hot reset calls a function towards this iommufd (`vfio_iommufd_get_dev_id`): the id it is bound with, or
    /// `PCI_DEVID_OWNED` for another function of a group it has a device of, or `PCI_DEVID_NOT_OWNED`.
    pub fn devid(&self, function: &Function) -> i32 {
        let devices = self.context.all::<BoundDevice>();
        let is_meant = |device: &&Ref<BoundDevice>| device.function.index() == function.index();
        if let Some(device) = devices.iter().find(is_meant) {
            return device.id() as i32;
        }
        let group = function.config().group;
        match devices
            .iter()
            .any(|device| device.function.config().group == group)
        {
            true => vfio::PCI_DEVID_OWNED,
            false => vfio::PCI_DEVID_NOT_OWNED,
        }
    }

    /// Attaches the device, or moves it if it is attached. Answers the page table's id.
    ///
    /// # Errors
    /// As [`attach::attach`] and [`attach::replace`].
    pub fn attach(&self, pt_id: u32) -> Result<u32, Errno> {
        let mut attached = self.attached.lock().unwrap();
        let how = match attached.device {
            true => attach::replace,
            false => attach::attach,
        };
        let answer = how(&self.context, &**self.device(), self.id(), NO_PASID, pt_id)?;
        attached.device = true;
        Ok(answer)
    }

    /// Detaches the device, if it is attached.
    pub fn detach(&self) {
        let mut attached = self.attached.lock().unwrap();
        if std::mem::take(&mut attached.device) {
            attach::detach(&self.context, &**self.device(), self.id(), NO_PASID);
        }
    }

    /// Attaches a PASID of the device, or moves it. Answers the page table's id.
    ///
    /// # Errors
    /// ENOSPC for what can be no PASID, else as [`Binding::attach`].
    pub fn attach_pasid(&self, pasid: u32, pt_id: u32) -> Result<u32, Errno> {
        let mut attached = self.attached.lock().unwrap();
        if pasid > i32::MAX as u32 {
            return Err(Errno::ENOSPC);
        }
        let how = match attached.pasids.contains(&pasid) {
            true => attach::replace,
            false => attach::attach,
        };
        let answer = how(&self.context, &**self.device(), self.id(), pasid, pt_id)?;
        attached.pasids.insert(pasid);
        Ok(answer)
    }

    /// Detaches a PASID of the device, if it is attached.
    pub fn detach_pasid(&self, pasid: u32) {
        let mut attached = self.attached.lock().unwrap();
        if attached.pasids.remove(&pasid) {
            attach::detach(&self.context, &**self.device(), self.id(), pasid);
        }
    }
}

impl Space for Binding {
    fn show(&self, look: &mut dyn FnMut(&Ioas)) {
        if let Some(ioas) = self.device().group().ioas() {
            ioas.show(look);
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let attached = std::mem::take(self.attached.get_mut().unwrap());
        for pasid in attached.pasids {
            attach::detach(&self.context, &**self.device(), self.id(), pasid);
        }
        if attached.device {
            attach::detach(&self.context, &**self.device(), self.id(), NO_PASID);
        }
        if let Some(device) = self.device.take() {
            let gone = self.context.destroy_user(device);
            debug_assert!(gone.is_ok(), "nobody else holds a device");
        }
    }
}
