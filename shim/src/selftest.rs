//! `SWIOMMU_OPTIONS=selftest=1`: what of the library works on this machine, as JSON lines for `swiommu doctor`.

use rustix::fs::{Mode, OFlags};

use crate::config::Config;
use crate::libc_entry::Refused;
use crate::sys;

/// Writes `RUN/reports/PID.selftest`.
pub fn run(config: &Config, caught: &[(&str, Result<(), Refused>)]) {
    let mut text = String::new();
    for (name, result) in caught {
        let (ok, detail) = match result {
            Ok(()) => (true, "libc's own calls are seen".to_owned()),
            Err(why) if *name == "write" => (
                false,
                format!("{why}: what streams write to sysfs has no effect"),
            ),
            Err(why) => (
                false,
                format!("{why}: pages that libc gives back while they are pinned are not kept"),
            ),
        };
        line(&mut text, &format!("libc's {name}"), ok, &detail);
    }
    let copy = copy_recovers();
    line(
        &mut text,
        "faulting copy",
        copy,
        if copy {
            "a bad pointer is EFAULT"
        } else {
            "a bad pointer was not recovered"
        },
    );
    let path = format!("{}/reports/{}.selftest", config.run, sys::pid());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
        let _ = rustix::io::write(file, text.as_bytes());
    }
}

fn line(text: &mut String, check: &str, ok: bool, detail: &str) {
    let quote = |words: &str| words.replace('\\', "\\\\").replace('"', "\\\"");
    *text += &format!(
        "{{\"check\":\"{}\",\"ok\":{ok},\"detail\":\"{}\"}}\n",
        quote(check),
        quote(detail)
    );
}

/// Whether a copy from an address where nothing is comes back as a fault.
fn copy_recovers() -> bool {
    let mut byte = [0];
    crate::engine::client()
        .read(swiommu_mem::UserAddr(4096), &mut byte)
        .is_err()
}
