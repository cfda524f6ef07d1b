//! How much memory the client may lock.

use std::num::NonZeroU32;

use rustix::process::{Pid, Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// The soft limit of locked memory (RLIMIT_MEMLOCK) in bytes; `None` when there is none, because it is infinite or
/// because the thread's effective capabilities include CAP_IPC_LOCK, which lifts it.
pub fn locked_memory() -> Option<u64> {
    locked_memory_of(None)
}

/// [`locked_memory`] of a process, `None` for the calling thread. A process that is gone has the limit of this one.
pub fn locked_memory_of(process: Option<NonZeroU32>) -> Option<u64> {
    if is_lifted(process) {
        return None;
    }
    let Some(other) = process else {
        return locked_memory_soft();
    };
    match std::fs::read_to_string(format!("/proc/{other}/limits")) {
        Ok(limits) => soft(&limits),
        Err(_) => locked_memory_soft(),
    }
}

/// Whether CAP_IPC_LOCK lifts the limit of a process, `None` for the calling thread.
pub fn is_lifted(process: Option<NonZeroU32>) -> bool {
    let process = process.and_then(|process| Pid::from_raw(process.get() as i32));
    capabilities(process).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// When a process began, in ticks of the machine's clock; `None` when it is gone. With its id that names one process
/// for good: ids are used again.
pub fn began(process: NonZeroU32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Its name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// RLIMIT_MEMLOCK's soft limit as procfs shows it, in bytes.
fn soft(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    line?.split_whitespace().next()?.parse().ok()
}

/// RLIMIT_MEMLOCK's soft limit in bytes whatever the capabilities; `None` when infinite.
pub fn locked_memory_soft() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_same_limit_seen_from_outside() {
        let myself = NonZeroU32::new(std::process::id());
        assert_eq!(locked_memory_of(myself), locked_memory());
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(soft(&limits), locked_memory_soft());
        let shown = "Max locked memory         unlimited            unlimited            bytes";
        assert_eq!(soft(shown), None);
    }

    #[test]
    fn a_process_began_before_its_children_and_at_one_time() {
        let myself = NonZeroU32::new(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let of_child = began(NonZeroU32::new(child.id()).unwrap());
        assert!(began(myself).is_some() && began(myself) <= of_child);
        child.kill().unwrap();
        child.wait().unwrap();
        // Beyond the ids that there are.
        assert_eq!(began(NonZeroU32::new(1 << 30).unwrap()), None);
    }

    #[test]
    fn the_limit_is_the_soft_one_unless_lifted() {
        assert!(locked_memory().is_none() || locked_memory() == locked_memory_soft());
    }
}
