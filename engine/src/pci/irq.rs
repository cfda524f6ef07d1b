//! Interrupts of a device: the eventfds the client gave, and when they are signalled.
//!
//! One of INTx, MSI and MSI-X is active at a time; ERR and REQ stand beside them. Rules and their order follow
//! `drivers/vfio/pci/vfio_pci_intrs.c`.

use std::sync::{Arc, Weak};

use swiommu_abi::{Errno, vfio};
use swiommu_mem::EventWatch;
use swiommu_mem::fd::EventFd;

use super::virqfd::{Virqfd, Watcher};
use crate::pci::Identity;

/// Which of the exclusive interrupt kinds is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None.
    None,
    /// The line.
    Intx,
    /// Message-signalled, from the capability.
    Msi,
    /// Message-signalled, from the table.
    Msix,
}

/// What SET_IRQS carries per vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// One byte per vector.
    Bool(Vec<u8>),
    /// One descriptor per vector; -1 takes it away.
    Eventfd(Vec<i32>),
}

/// What SET_IRQS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mask.
    Mask,
    /// Unmask.
    Unmask,
    /// Set up, or fire by hand.
    Trigger,
}

/// The interrupt state of one open device.
#[derive(Debug)]
pub struct Irqs {
    counts: [u32; 5],
    express: bool,
    kind: Kind,
    vectors: Vec<Option<EventFd>>,
    masked: bool,
    /// DisINTx in the command register.
    disabled: bool,
    asserted: bool,
    /// The eventfd by which the client unmasks INTx, and whose line that is.
    unmask: Option<Virqfd>,
    line: Weak<dyn Watcher>,
    err: Option<EventFd>,
    req: Option<EventFd>,
}

impl Irqs {
    /// Nothing is set up. `line` is told when a client writes to the eventfd that unmasks INTx.
    pub fn new(identity: &Identity, line: Weak<dyn Watcher>) -> Irqs {
        let counts = [
            u32::from(identity.interrupt_pin != 0),
            u32::from(identity.msi),
            identity.msix.map_or(0, |msix| u32::from(msix.vectors)),
            u32::from(identity.express),
            1,
        ];
        Irqs {
            counts,
            express: identity.express,
            kind: Kind::None,
            vectors: Vec::new(),
            masked: false,
            disabled: false,
            asserted: false,
            unmask: None,
            line,
            err: None,
            req: None,
        }
    }

    /// Vectors of an interrupt index, 0..=4.
    pub fn count(&self, index: u32) -> u32 {
        self.counts[index as usize]
    }

    /// Which kind is active.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// DisINTx in the command register changed: it masks or unmasks INTx, and INTx starts masked while it is set.
    pub fn set_intx_disabled(&mut self, disabled: bool) {
        self.disabled = disabled;
        if disabled {
            self.masked = true;
        } else {
            self.unmask_intx();
        }
    }

    /// The client no longer holds INTx back; while DisINTx does, nothing changes.
    fn unmask_intx(&mut self) {
        if !self.disabled {
            self.masked = false;
            self.deliver_intx();
        }
    }

    /// The client wrote to an eventfd: whether it was the one that unmasks INTx.
    pub fn unmask_written(&mut self, watch: &Arc<EventWatch>) -> bool {
        let own = self.unmask.as_ref().is_some_and(|own| own.is(watch));
        if own {
            watch.drain();
            self.unmask_intx();
        }
        own
    }

    /// The device drives its INTx line.
    pub fn drive_intx(&mut self, asserted: bool) {
        self.asserted = asserted;
        self.deliver_intx();
    }

    /// Whether the line is asserted, for the status register.
    pub fn intx_asserted(&self) -> bool {
        self.asserted
    }

    /// The device sends message `vector`.
    pub fn message(&self, vector: u16) {
        if matches!(self.kind, Kind::Msi | Kind::Msix) {
            self.signal(usize::from(vector));
        }
    }

    /// Signals INTx's eventfd, unless DisINTx holds it back.
    fn signal_intx(&self) {
        if !self.disabled {
            self.signal(0);
        }
    }

    fn signal(&self, vector: usize) {
        if let Some(Some(trigger)) = self.vectors.get(vector) {
            trigger.signal();
        }
    }

    /// A line interrupt masks itself when it is signalled and fires again on unmask while it is asserted.
    fn deliver_intx(&mut self) {
        if self.kind == Kind::Intx && self.asserted && !self.masked {
            self.masked = true;
            self.signal_intx();
        }
    }

    /// SET_IRQS, its header already validated against the index's count.
    ///
    /// # Errors
    /// As the kernel.
    pub fn set(
        &mut self,
        index: u32,
        action: Action,
        start: u32,
        data: Data,
        count: u32,
    ) -> Result<(), Errno> {
        match (index, action) {
            (vfio::PCI_INTX_IRQ_INDEX, Action::Mask) => self.intx_mask(start, count, &data),
            (vfio::PCI_INTX_IRQ_INDEX, Action::Unmask) => self.intx_unmask(start, count, &data),
            (vfio::PCI_INTX_IRQ_INDEX, Action::Trigger) => self.intx_trigger(start, count, data),
            (vfio::PCI_MSI_IRQ_INDEX, Action::Trigger) => {
                self.msi_trigger(Kind::Msi, start, count, data)
            }
            (vfio::PCI_MSIX_IRQ_INDEX, Action::Trigger) => {
                self.msi_trigger(Kind::Msix, start, count, data)
            }
            (vfio::PCI_ERR_IRQ_INDEX, Action::Trigger) if self.express => {
                if start != 0 || count > 1 {
                    return Err(Errno::EINVAL);
                }
                single(&mut self.err, count, data)
            }
            (vfio::PCI_REQ_IRQ_INDEX, Action::Trigger) => {
                if start != 0 || count > 1 {
                    return Err(Errno::EINVAL);
                }
                single(&mut self.req, count, data)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn intx_mask(&mut self, start: u32, count: u32, data: &Data) -> Result<(), Errno> {
        if self.kind != Kind::Intx || start != 0 || count != 1 {
            return Err(Errno::EINVAL);
        }
        match data {
            Data::None => self.masked = true,
            Data::Bool(wanted) => self.masked |= wanted[0] != 0,
            Data::Eventfd(_) => return Err(Errno::ENOTTY),
        }
        Ok(())
    }

    fn intx_unmask(&mut self, start: u32, count: u32, data: &Data) -> Result<(), Errno> {
        if self.kind != Kind::Intx || start != 0 || count != 1 {
            return Err(Errno::EINVAL);
        }
        match data {
            Data::Bool(wanted) if wanted[0] == 0 => {}
            Data::None | Data::Bool(_) => self.unmask_intx(),
            Data::Eventfd(fds) if fds[0] < 0 => self.unmask = None,
            Data::Eventfd(fds) => {
                let (watch, written) = EventWatch::of_client(fds[0])?;
                if self.unmask.as_ref().is_some_and(Virqfd::is_in_use) {
                    return Err(Errno::EBUSY);
                }
                self.unmask = Some(Virqfd::start(watch, self.line.clone())?);
                if written {
                    self.unmask_intx();
                }
            }
        }
        Ok(())
    }

    fn intx_trigger(&mut self, start: u32, count: u32, data: Data) -> Result<(), Errno> {
        if self.kind == Kind::Intx && count == 0 && data == Data::None {
            self.disable();
            return Ok(());
        }
        if !matches!(self.kind, Kind::Intx | Kind::None) || start != 0 || count != 1 {
            return Err(Errno::EINVAL);
        }
        match data {
            Data::Eventfd(fds) => {
                let trigger = open_trigger(fds[0])?;
                if self.kind == Kind::None {
                    self.kind = Kind::Intx;
                    self.masked = self.disabled;
                }
                self.vectors = vec![trigger];
                self.deliver_intx();
                Ok(())
            }
            _ if self.kind != Kind::Intx => Err(Errno::EINVAL),
            Data::Bool(fire) if fire[0] == 0 => Ok(()),
            Data::None | Data::Bool(_) => {
                self.signal_intx();
                Ok(())
            }
        }
    }

    fn msi_trigger(&mut self, kind: Kind, start: u32, count: u32, data: Data) -> Result<(), Errno> {
        if self.kind == kind && count == 0 && data == Data::None {
            self.disable();
            return Ok(());
        }
        if self.kind != kind && self.kind != Kind::None {
            return Err(Errno::EINVAL);
        }
        if let Data::Eventfd(fds) = data {
            return self.msi_eventfds(kind, start as usize, &fds);
        }
        if self.kind != kind {
            return Err(Errno::EINVAL);
        }
        for vector in start..start + count {
            let fire = match &data {
                Data::Bool(fire) => fire[(vector - start) as usize] != 0,
                _ => true,
            };
            if fire {
                self.signal(vector as usize);
            }
        }
        Ok(())
    }

    /// Gives vectors `start..` their eventfds. The vectors enabled first fix how many MSI has.
    fn msi_eventfds(&mut self, kind: Kind, start: usize, fds: &[i32]) -> Result<(), Errno> {
        let fresh = self.kind == Kind::None;
        let past = start + fds.len();
        if fresh && past == 0 {
            return Err(Errno::ERANGE);
        }
        if !fresh && kind == Kind::Msi && past > self.vectors.len() {
            return Err(Errno::EINVAL);
        }
        self.kind = kind;
        if self.vectors.len() < past {
            self.vectors.resize_with(past, || None);
        }
        for (index, fd) in fds.iter().enumerate() {
            match open_trigger(*fd) {
                Ok(trigger) => self.vectors[start + index] = trigger,
                Err(errno) => {
                    // the vectors of this call are lost, those before it too when it was the one that enabled
                    self.vectors[start..=start + index].fill_with(|| None);
                    if fresh {
                        self.disable();
                    }
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// The device is wanted back: signals REQ.
    pub fn request(&self) {
        if let Some(trigger) = &self.req {
            trigger.signal();
        }
    }

    /// Turns INTx, MSI or MSI-X off.
    pub fn disable(&mut self) {
        self.kind = Kind::None;
        self.vectors.clear();
        self.masked = false;
        self.unmask = None;
    }

    /// The last file closed: everything goes.
    pub fn close(&mut self) {
        self.disable();
        self.err = None;
        self.req = None;
    }
}

/// Takes a reference of the client's eventfd: `None` for a negative descriptor.
fn open_trigger(number: i32) -> Result<Option<EventFd>, Errno> {
    if number < 0 {
        return Ok(None);
    }
    EventFd::of_client(number).map(Some)
}

/// ERR and REQ: one trigger, with loopback.
fn single(slot: &mut Option<EventFd>, count: u32, data: Data) -> Result<(), Errno> {
    match data {
        Data::None => match slot {
            Some(trigger) if count > 0 => trigger.signal(),
            Some(_) => *slot = None,
            None => return Err(Errno::EINVAL),
        },
        Data::Bool(fire) => {
            let fire = fire.first().ok_or(Errno::EINVAL)?;
            if let (true, Some(trigger)) = (*fire != 0, &*slot) {
                trigger.signal();
            }
        }
        Data::Eventfd(fds) => {
            let number = *fds.first().ok_or(Errno::EINVAL)?;
            match number {
                -1 => *slot = None,
                0.. => *slot = open_trigger(number)?,
                _ => return Err(Errno::EINVAL),
            }
        }
    }
    Ok(())
}
