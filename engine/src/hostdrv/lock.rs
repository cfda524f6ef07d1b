//! Locks that all processes of a run share: flock on files in `RUN/locks`. They go with the process that holds them.

use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use swiommu_abi::Errno;
use swiommu_mem::fd::Hidden;

/// A lock that is held.
#[derive(Debug)]
pub struct Lock(Hidden);

impl Lock {
    /// Takes a lock for this process alone, waiting for it.
    ///
    /// # Errors
    /// EIO when the run's directory is gone.
    pub fn wait(run: &Path, name: &str) -> Result<Lock, Errno> {
        let lock = open(run, name, OFlags::CREATE).ok_or(Errno::EIO)?;
        loop {
            match flock(&lock.0, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(lock),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Errno::EIO),
            }
        }
    }

    /// Takes a lock for this process alone if it is free.
    ///
    /// # Errors
    /// EBUSY when it is not, EIO when the run's directory is gone.
    pub fn try_now(run: &Path, name: &str) -> Result<Lock, Errno> {
        let lock = open(run, name, OFlags::CREATE).ok_or(Errno::EIO)?;
        lock.lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// As [`Lock::try_now`], if the lock's file is there. Its file may be removed while the lock is held, see
    /// [`Lock::is_stale`].
    ///
    /// # Errors
    /// ENODEV when it is not, EBUSY.
    pub fn try_existing(run: &Path, name: &str) -> Result<Lock, Errno> {
        open(run, name, OFlags::empty())
            .ok_or(Errno::ENODEV)?
            .lock(FlockOperation::NonBlockingLockExclusive)?
            .unless_stale()
    }

    /// Shares a lock whose file is there: holders do not exclude each other, only somebody who takes it alone.
    ///
    /// # Errors
    /// ENODEV when its file is not there or somebody takes it away.
    pub fn share_existing(run: &Path, name: &str) -> Result<Lock, Errno> {
        open(run, name, OFlags::empty())
            .ok_or(Errno::ENODEV)?
            .lock(FlockOperation::NonBlockingLockShared)
            .map_err(|_| Errno::ENODEV)?
            .unless_stale()
    }

    /// A lock whose file is about to be removed, not taken yet. `None`: its file is not there.
    pub fn to_remove(run: &Path, name: &str) -> Option<Lock> {
        open(run, name, OFlags::empty())
    }

    /// Takes the lock for this process alone if nobody else holds it.
    pub fn is_free(&mut self) -> bool {
        flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Was its file removed?
    pub fn is_stale(&self) -> bool {
        rustix::fs::fstat(&self.0).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn unless_stale(self) -> Result<Lock, Errno> {
        match self.is_stale() {
            true => Err(Errno::ENODEV),
            false => Ok(self),
        }
    }

    fn lock(self, how: FlockOperation) -> Result<Lock, Errno> {
        flock(&self.0, how).map_err(|_| Errno::EBUSY)?;
        Ok(self)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child of a fork may have a copy of the descriptor: closing alone would not unlock it. There is nobody
        // to tell that it failed.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn open(run: &Path, name: &str, how: OFlags) -> Option<Lock> {
    let path = run.join("locks").join(name);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | how;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).ok()?;
    Some(Lock(Hidden::new(file).ok()?))
}

/// Makes a lock's file, if it is not there.
///
/// # Errors
/// EIO when the run's directory is gone.
pub fn create(run: &Path, name: &str) -> Result<(), Errno> {
    open(run, name, OFlags::CREATE).map(drop).ok_or(Errno::EIO)
}

/// Removes a lock's file: who holds it goes on doing so, and nobody else can take it.
pub fn remove(run: &Path, name: &str) {
    // Not there any more is what is wanted.
    let _ = rustix::fs::unlink(run.join("locks").join(name));
}
