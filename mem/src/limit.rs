//! How much memory the client may lock.

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// The soft limit of locked memory (RLIMIT_MEMLOCK) in bytes; `None` when there is none, because it is infinite or
/// because the thread's effective capabilities include CAP_IPC_LOCK, which lifts it.
pub fn locked_memory() -> Option<u64> {
    let lifted =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if lifted {
        None
    } else {
        getrlimit(Resource::Memlock).current
    }
}

/// RLIMIT_MEMLOCK's soft limit in bytes whatever the capabilities; `None` when infinite.
pub fn locked_memory_soft() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_soft_one_unless_lifted() {
        assert!(locked_memory().is_none() || locked_memory() == locked_memory_soft());
    }
}
