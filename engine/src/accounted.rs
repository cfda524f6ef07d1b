//! What `VmPin` and `VmLck` of a process show: the sum of what the engines of its run have charged it for.

use swiommu_abi::Errno;

use crate::run::Run;
use crate::service::{self, kind};

/// Bytes of a process's memory that are pinned, and bytes that count as locked, by all engines that can be asked. What an
/// engine that is gone had pinned is pinned no longer.
pub fn total(run: &Run, process: u32) -> (u64, u64) {
    let (mut pinned, mut locked) = run.charged(process);
    let own = std::process::id();
    for engine in service::processes(run.dir()) {
        if engine == own {
            continue;
        }
        let answer = service::ask(run.dir(), engine, kind::CHARGED, &process.to_le_bytes());
        if let Some((more_pinned, more_locked)) = answer.ok().and_then(|body| parse(&body)) {
            pinned += more_pinned;
            locked += more_locked;
        }
    }
    (pinned, locked)
}

/// Answers another engine's [`kind::CHARGED`].
///
/// # Errors
/// EINVAL: it names no process.
pub fn answer(run: &Run, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let process = body.try_into().map_err(|_| Errno::EINVAL)?;
    let (pinned, locked) = run.charged(u32::from_le_bytes(process));
    Ok([pinned.to_le_bytes(), locked.to_le_bytes()].concat())
}

fn parse(body: &[u8]) -> Option<(u64, u64)> {
    let (pinned, locked) = body.split_at_checked(8)?;
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    Some((word(pinned)?, word(locked)?))
}
