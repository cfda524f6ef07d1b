//! Who is charged for pinned and locked memory.
//!
//! The kernel keeps it in the process that mapped the memory, or took it over. An engine serves several processes, so it
//! keeps a sum for each that called; all are of one user. A process's whole figure is the sum over the engines of its run
//! ([`charged`](crate::run::Run::charged) is one engine's part).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use swiommu_abi::Errno;
use swiommu_mem::limit;

use super::inject;

/// How pinned pages are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Against no limit: the client may lock what it wants.
    None,
    /// Against the limit of the user.
    User,
    /// Against the limit of the process.
    Process,
}

/// A process that is charged: its id, and when it began. What one that is gone had pinned is nothing of the next one's
/// that has its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Charged {
    id: NonZeroU32,
    began: u64,
}

impl Charged {
    /// The process that has this id now.
    pub fn of(id: NonZeroU32) -> Charged {
        Charged {
            id,
            began: limit::began(id).unwrap_or(0),
        }
    }
}

/// How pages are counted, and the limit in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// Where.
    pub mode: Mode,
    /// `None`: no limit.
    pub limit: Option<u64>,
    /// They count as pinned too: those of iommufd do, a container's do not.
    pub pinned: bool,
    /// The process that is charged; `None`: this one.
    pub process: Option<Charged>,
}

/// What one process is charged for, in bytes.
#[derive(Debug, Default)]
struct Charge {
    locked: AtomicU64,
    pinned: AtomicU64,
}

/// Counters of locked and pinned memory of the clients, in bytes, over all their address spaces.
#[derive(Debug, Default)]
pub struct Locked {
    user: AtomicU64,
    own: Charge,
    /// Only processes that are charged for something.
    others: Mutex<BTreeMap<Charged, Charge>>,
}

impl Locked {
    /// Does something with what a process is charged.
    fn with<T>(&self, process: Option<Charged>, work: impl FnOnce(&Charge) -> T) -> T {
        let Some(process) = process else {
            return work(&self.own);
        };
        let mut others = self.others.lock().unwrap();
        let charge = others.entry(process).or_default();
        let result = work(charge);
        if *charge.locked.get_mut() == 0 && *charge.pinned.get_mut() == 0 {
            others.remove(&process);
        }
        result
    }

    /// Counts bytes against a limit.
    ///
    /// # Errors
    /// ENOMEM at the limit; then nothing is counted.
    pub fn count(&self, bytes: u64, account: &Account) -> Result<(), Errno> {
        if inject::fails() {
            return Err(Errno::ENOMEM);
        }
        self.charge(bytes, account)
    }

    /// Counts bytes against a limit where the kernel has no point of failure.
    ///
    /// # Errors
    /// ENOMEM at the limit; then nothing is counted.
    pub fn charge(&self, bytes: u64, account: &Account) -> Result<(), Errno> {
        self.with(account.process, |charge| {
            let counter = match account.mode {
                Mode::None => None,
                Mode::User => Some(&self.user),
                Mode::Process => Some(&charge.locked),
            };
            if let Some(counter) = counter {
                let before = counter.fetch_add(bytes, Ordering::Relaxed);
                let limit = account.limit.unwrap_or(u64::MAX);
                if before.saturating_add(bytes) > limit {
                    counter.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(Errno::ENOMEM);
                }
            }
            if account.pinned {
                charge.pinned.fetch_add(bytes, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Takes back what was counted.
    pub fn uncount(&self, bytes: u64, account: &Account) {
        self.with(account.process, |charge| {
            match account.mode {
                Mode::None => {}
                Mode::User => drop(self.user.fetch_sub(bytes, Ordering::Relaxed)),
                Mode::Process => drop(charge.locked.fetch_sub(bytes, Ordering::Relaxed)),
            }
            if account.pinned {
                charge.pinned.fetch_sub(bytes, Ordering::Relaxed);
            }
        });
    }

    /// What `VmPin` and `VmLck` of a process (`None`: this one) show of it, in bytes.
    pub fn charged(&self, process: Option<Charged>) -> (u64, u64) {
        self.with(process, |charge| {
            let bytes = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            (bytes(&charge.pinned), bytes(&charge.locked))
        })
    }

    /// What `VmLck` of this process shows of it, in bytes.
    pub fn locked_bytes(&self) -> u64 {
        self.charged(None).1
    }

    /// What `VmPin` of this process shows of it, in bytes.
    pub fn pinned_bytes(&self) -> u64 {
        self.charged(None).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(mode: Mode, limit: u64) -> Account {
        Account {
            mode,
            limit: Some(limit),
            pinned: true,
            process: None,
        }
    }

    #[test]
    fn the_limit_is_of_one_counter_and_no_mode_has_none() {
        let locked = Locked::default();
        let user = account(Mode::User, 8192);
        assert_eq!(locked.count(8192, &user), Ok(()));
        assert_eq!(locked.count(4096, &user), Err(Errno::ENOMEM));
        let process = account(Mode::Process, 4096);
        assert_eq!(locked.count(4096, &process), Ok(()));
        let free = account(Mode::None, 0);
        assert_eq!(locked.count(1 << 40, &free), Ok(()));
        assert_eq!(locked.locked_bytes(), 4096);
        assert_eq!(locked.pinned_bytes(), 8192 + 4096 + (1 << 40));
        locked.uncount(1 << 40, &free);
        locked.uncount(8192, &user);
        locked.uncount(4096, &process);
        assert_eq!((locked.locked_bytes(), locked.pinned_bytes()), (0, 0));
    }

    #[test]
    fn each_process_has_its_own_sums_and_the_user_has_one() {
        let locked = Locked::default();
        let process = |id, began| {
            let id = NonZeroU32::new(id)?;
            Some(Charged { id, began })
        };
        let other = process(7, 1);
        let of = |process, account| Account { process, ..account };
        let own = account(Mode::Process, 4096);
        let theirs = of(other, own);
        assert_eq!(locked.count(4096, &own), Ok(()));
        assert_eq!(locked.count(4096, &theirs), Ok(()));
        assert_eq!(locked.count(1, &theirs), Err(Errno::ENOMEM));
        assert_eq!(locked.charged(other), (4096, 4096));
        // The next process with this id.
        assert_eq!(locked.charged(process(7, 2)), (0, 0));
        let user = account(Mode::User, 8192);
        assert_eq!(locked.count(8192, &user), Ok(()));
        assert_eq!(locked.count(1, &of(other, user)), Err(Errno::ENOMEM));
        locked.uncount(4096, &own);
        assert_eq!(locked.charged(None), (8192, 0));
        assert_eq!(locked.charged(other), (4096, 4096));
        locked.uncount(4096, &theirs);
        assert_eq!(locked.charged(other), (0, 0));
        assert!(locked.others.lock().unwrap().is_empty());
    }
}
