//! The migration of an open function: its state, and the transfer that is under way.

use swiommu_abi::Errno;
use swiommu_mem::UserAddr;

use super::{Function, Open};
use crate::door::Call;
use crate::pci::codec::{BadState, Reader, Writer, check};
use crate::pci::migration::{self, Pace, State, TRANSFER_MOST};

/// Where a function is in its migration.
#[derive(Debug, Default)]
pub(super) struct Migration {
    state: State,
    transfer: Option<Transfer>,
    /// Transfers begun so far.
    transfers: u64,
    /// The client knows that the flags of PRECOPY_INFO are valid.
    flags_valid: bool,
}

/// A transfer. Its file knows it by its number.
#[derive(Debug)]
struct Transfer {
    number: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Out(Out),
    In(Vec<u8>),
}

/// A state that is read.
#[derive(Debug, Default)]
struct Out {
    /// What is made of it, and how much of that was read.
    ready: Vec<u8>,
    read: usize,
    /// It is the first record.
    first: bool,
    /// It is the last record.
    last: bool,
    /// The device's changes when it was made.
    changes: u64,
}

impl Out {
    fn left(&self) -> u64 {
        (self.ready.len() - self.read) as u64
    }
}

/// What PRECOPY_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precopy {
    /// Bytes left of the first record.
    pub initial: u64,
    /// Bytes of what changed since.
    pub dirty: u64,
    /// The flags are to be written.
    pub flags_valid: bool,
}

impl Migration {
    /// The device stands still.
    pub fn is_stopped(&self) -> bool {
        self.state.pace() == Pace::Stopped
    }

    /// The device was reset.
    pub fn reset(&mut self) {
        self.state = State::Running;
        self.transfer = None;
    }
}

impl Open {
    /// What the device can do, 0 if it does not migrate.
    fn migration_features(&mut self) -> u64 {
        self.model.migrate().map_or(0, |migrate| migrate.features())
    }

    fn changes(&mut self) -> u64 {
        self.model.migrate().map_or(0, |migrate| migrate.changes())
    }

    /// The whole state of the function but configuration space and eventfds, which are the client's to carry.
    fn state(&mut self) -> Vec<u8> {
        let mut to = Writer::default();
        let identity = self.model.identity();
        to.u16(identity.vendor);
        to.u16(identity.device);
        to.bytes(self.wires.msix_table());
        if let Some(migrate) = self.model.migrate() {
            migrate.save(&mut to);
        }
        to.into_bytes()
    }

    fn load(&mut self, transfer: &[u8]) -> Result<(), BadState> {
        let mut from = Reader::new(migration::last_state(transfer)?);
        let identity = self.model.identity();
        check(from.u16()? == identity.vendor && from.u16()? == identity.device)?;
        let table = from.bytes(self.wires.msix_table().len())?;
        let migrate = self.model.migrate().ok_or(BadState)?;
        migrate.load(&mut from)?;
        self.wires.set_msix_table(table);
        Ok(())
    }

    fn begin(&mut self, way: Way) {
        self.migration.transfers += 1;
        self.migration.transfer = Some(Transfer {
            number: self.migration.transfers,
            way,
        });
    }

    /// The next record of the state that is read, if there is one.
    fn next_record(&mut self, last: bool, first: bool) -> Out {
        Out {
            ready: migration::record(&self.state(), last),
            read: 0,
            first,
            last,
            changes: self.changes(),
        }
    }

    /// One step.
    fn step(&mut self, call: &Call<'_>, to: State) -> Result<(), Errno> {
        let from = self.migration.state;
        if from == State::Resuming {
            let transfer = match self.migration.transfer.take() {
                Some(Transfer {
                    way: Way::In(bytes),
                    ..
                }) => bytes,
                _ => Vec::new(),
            };
            if self.load(&transfer).is_err() {
                self.migration.state = State::Error;
                return Err(Errno::EINVAL);
            }
        }
        if from.pace() != to.pace() {
            self.wires.begin(call);
            if let Some(migrate) = self.model.migrate() {
                migrate
                    .set_pace(&mut self.wires, to.pace())
                    .map_err(|_| Errno::EIO)?;
            }
        }
        self.migration.state = to;
        match (from.is_saving(), to.is_saving()) {
            (false, true) => {
                let record = self.next_record(!to.is_pre_copy(), true);
                self.begin(Way::Out(record));
            }
            (true, false) => self.migration.transfer = None,
            _ => {}
        }
        if to == State::Resuming {
            self.begin(Way::In(Vec::new()));
        }
        Ok(())
    }

    /// The transfer of that number.
    fn transfer(&mut self, number: u64) -> Result<&mut Way, Errno> {
        match &mut self.migration.transfer {
            Some(transfer) if transfer.number == number => Ok(&mut transfer.way),
            _ => Err(Errno::ENODEV),
        }
    }

    /// Makes the next record when the one before was read. ENOMSG: there is none until the device changes.
    fn refill(&mut self, number: u64) -> Result<(), Errno> {
        let pre_copy = self.migration.state.is_pre_copy();
        let changes = self.changes();
        let Way::Out(out) = self.transfer(number)? else {
            return Err(Errno::EBADF);
        };
        if out.left() > 0 || out.last {
            return Ok(());
        }
        if pre_copy && out.changes == changes {
            return Err(Errno::ENOMSG);
        }
        let record = self.next_record(!pre_copy, false);
        *self.transfer(number)? = Way::Out(record);
        Ok(())
    }
}

impl Function {
    /// What migration the device can do, `MIGRATION_*`; 0 = none.
    pub fn migration_features(&self) -> u64 {
        let mut live = self.live();
        live.open.as_mut().map_or(0, Open::migration_features)
    }

    /// The state.
    ///
    /// # Errors
    /// ENODEV if nobody has the function open.
    pub fn migration_state(&self) -> Result<State, Errno> {
        let live = self.live();
        let open = live.open.as_ref().ok_or(Errno::ENODEV)?;
        Ok(open.migration.state)
    }

    /// Goes to a state, step by step. The number of the transfer that begins with the last step, if one does.
    ///
    /// # Errors
    /// EINVAL without a way, or when what was written is not a state of this device; EIO when its medium fails. The
    /// state is then one on the way.
    pub fn set_migration_state(&self, call: &Call<'_>, to: u32) -> Result<Option<u64>, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let (features, from) = (open.migration_features(), open.migration.state);
        let before = open.migration.transfers;
        let steps = State::of_number(to)
            .and_then(|to| migration::way(features, from, to))
            .ok_or(Errno::EINVAL)?;
        for state in steps {
            open.step(call, state)?;
        }
        let begun = open.migration.transfer.as_ref();
        Ok(begun
            .map(|transfer| transfer.number)
            .filter(|number| *number > before))
    }

    /// How many bytes STOP_COPY will transfer.
    ///
    /// # Errors
    /// ENODEV if nobody has the function open.
    pub fn migration_bytes(&self) -> Result<u64, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        Ok(migration::record_bytes(open.state().len()))
    }

    /// The flags of PRECOPY_INFO are valid from now on.
    pub fn expect_precopy_flags(&self) {
        if let Some(open) = &mut self.live().open {
            open.migration.flags_valid = true;
        }
    }

    /// PRECOPY_INFO of a transfer.
    ///
    /// # Errors
    /// EINVAL unless the device runs meanwhile, ENODEV if the transfer is over.
    pub fn precopy(&self, transfer: u64) -> Result<Precopy, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        if !open.migration.state.is_pre_copy() {
            return Err(Errno::EINVAL);
        }
        let (changes, bytes) = (open.changes(), open.state().len());
        let flags_valid = open.migration.flags_valid;
        let Way::Out(out) = open.transfer(transfer)? else {
            return Err(Errno::ENOTTY);
        };
        let changed = match out.changes == changes {
            true => 0,
            false => migration::record_bytes(bytes),
        };
        let (initial, later) = match out.first {
            true => (out.left(), 0),
            false => (0, out.left()),
        };
        Ok(Precopy {
            initial,
            dirty: later + changed,
            flags_valid,
        })
    }

    /// read of a transfer.
    ///
    /// # Errors
    /// ENODEV if it is over, EBADF if it is written to, ENOMSG while there is nothing new, EFAULT.
    pub fn read_transfer(
        &self,
        call: &Call<'_>,
        transfer: u64,
        to: UserAddr,
        bytes: u64,
    ) -> Result<u64, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        open.refill(transfer)?;
        let Way::Out(out) = open.transfer(transfer)? else {
            return Err(Errno::EBADF);
        };
        let count = out.left().min(bytes) as usize;
        call.client
            .write(to, &out.ready[out.read..out.read + count])
            .map_err(|_| Errno::EFAULT)?;
        out.read += count;
        Ok(count as u64)
    }

    /// write of a transfer.
    ///
    /// # Errors
    /// ENODEV if it is over, EBADF if it is read from, ENOMEM beyond [`TRANSFER_MOST`], EFAULT.
    pub fn write_transfer(
        &self,
        call: &Call<'_>,
        transfer: u64,
        from: UserAddr,
        bytes: u64,
    ) -> Result<u64, Errno> {
        let mut live = self.live();
        let open = live.open.as_mut().ok_or(Errno::ENODEV)?;
        let Way::In(held) = open.transfer(transfer)? else {
            return Err(Errno::EBADF);
        };
        if bytes > (TRANSFER_MOST - held.len()) as u64 {
            return Err(Errno::ENOMEM);
        }
        let before = held.len();
        held.resize(before + bytes as usize, 0);
        if call.client.read(from, &mut held[before..]).is_err() {
            held.truncate(before);
            return Err(Errno::EFAULT);
        }
        Ok(bytes)
    }
}
