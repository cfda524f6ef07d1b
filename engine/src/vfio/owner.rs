//! Who owns the DMA of a group (`drivers/iommu/iommu.c`, `__iommu_take_dma_ownership`).
//!
//! A group's devices cannot be told apart by everybody on the way to memory, so their DMA has one owner: the kernel,
//! while a driver that does DMA of its own is bound to one of them, or one client. What a client's first claim takes,
//! later ones count. Between processes the group's lock file decides.

use std::sync::Mutex;

use swiommu_abi::Errno;

use crate::hostdrv::lock::Lock;
use crate::hostdrv::owner_lock;
use crate::machine::GroupRules;
use crate::run::Run;

/// Who claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The open file of the group: there is one at most, and it claims once.
    Group,
    /// An open /dev/iommu, by a number of its own.
    Context(u64),
}

/// The owner of a group's DMA within this process.
#[derive(Debug, Default)]
pub struct Ownership(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owned: Option<Owned>,
    taken: u64,
}

#[derive(Debug)]
struct Owned {
    by: Owner,
    claims: usize,
    lock: Lock,
}

impl Ownership {
    /// Claims a group for `by`. The first claim takes it; an `Owner::Context` may claim again, once for each device.
    ///
    /// # Errors
    /// EPERM when a driver of the group does DMA of its own, or somebody else owns the group; under the proposal's
    /// rules EINVAL and EBUSY.
    pub fn claim(&self, run: &Run, group: u32, by: Owner) -> Result<(), Errno> {
        let rules = run.machine.vfio.groups;
        let mut state = self.0.lock().unwrap();
        if let Some(owned) = state.live() {
            if owned.by != by || by == Owner::Group {
                return Err(other_owner(rules));
            }
            owned.claims += 1;
            return Ok(());
        }
        let host = run.host()?;
        let _host = host.lock()?;
        if !host.viable(group) {
            return Err(not_viable(rules));
        }
        let lock = Lock::try_now(run.dir(), &owner_lock(group)).map_err(|errno| match errno {
            Errno::EBUSY => other_owner(rules),
            errno => errno,
        })?;
        state.owned = Some(Owned {
            by,
            claims: 1,
            lock,
        });
        state.taken += 1;
        Ok(())
    }

    /// Gives one claim of `by` back; the group is free with the last.
    pub fn release(&self, by: Owner) {
        let mut state = self.0.lock().unwrap();
        let Some(owned) = state.owned.as_mut().filter(|owned| owned.by == by) else {
            return;
        };
        owned.claims -= 1;
        if owned.claims == 0 {
            state.owned = None;
        }
    }

    /// Could a client claim the group now (`VFIO_GROUP_FLAGS_VIABLE` of a group without a container)?
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn is_free(&self, run: &Run, group: u32) -> Result<bool, Errno> {
        if self.0.lock().unwrap().live().is_some() {
            return Ok(false);
        }
        let host = run.host()?;
        let _host = host.lock()?;
        Ok(host.viable(group) && Lock::try_now(run.dir(), &owner_lock(group)).is_ok())
    }

    /// How often the group came into a client's hands: later claims of its owner do not count.
    pub fn taken(&self) -> u64 {
        self.0.lock().unwrap().taken
    }
}

impl State {
    /// The owner, unless the group was taken from it because its last device left VFIO.
    fn live(&mut self) -> Option<&mut Owned> {
        if self
            .owned
            .as_ref()
            .is_some_and(|owned| owned.lock.is_stale())
        {
            self.owned = None;
        }
        self.owned.as_mut()
    }
}

fn not_viable(rules: GroupRules) -> Errno {
    match rules {
        GroupRules::Landed => Errno::EPERM,
        GroupRules::Rfc => Errno::EINVAL,
    }
}

fn other_owner(rules: GroupRules) -> Errno {
    match rules {
        GroupRules::Landed => Errno::EPERM,
        GroupRules::Rfc => Errno::EBUSY,
    }
}
