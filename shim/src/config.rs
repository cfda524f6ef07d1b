//! What the run told this process: `SWIOMMU_RUN`, `SWIOMMU_OPTIONS`, and the environment an exec must carry on.
#![allow(unsafe_code)] // the environment is libc's

use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use swiommu_engine::machine::options::Options;

use crate::sys;

/// A configured run. Made once, never freed.
pub struct Config {
    /// The run's directory.
    pub run: String,
    /// The tree the client's paths lead into: `run` + `/root`.
    pub root: Vec<u8>,
    /// `SWIOMMU_OPTIONS`.
    pub options: Options,
    /// `LD_PRELOAD=`, `SWIOMMU_RUN=` and `SWIOMMU_OPTIONS=` as they were given to us.
    pub environment: Vec<CString>,
}

const UNKNOWN: u32 = 0;
const NONE: u32 = 1;
const READY: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);
static CONFIG: AtomicPtr<Config> = AtomicPtr::new(null_mut());

/// The run's configuration; `None` in a process that is not part of a run.
#[inline]
pub fn get() -> Option<&'static Config> {
    match STATE.load(Ordering::Acquire) {
        // SAFETY: READY is stored after the pointer, which is never freed.
        READY => unsafe { CONFIG.load(Ordering::Acquire).as_ref() },
        NONE => None,
        _ => load(),
    }
}

/// A string of the environment, by name.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: getenv reads the environment; other constructors may call us before main, where no thread writes it.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

#[cold]
fn load() -> Option<&'static Config> {
    let Some(run) = variable(c"SWIOMMU_RUN").filter(|run| !run.is_empty()) else {
        STATE.store(NONE, Ordering::Release);
        return None;
    };
    let run = run.to_string_lossy().trim_end_matches('/').to_owned();
    let mut config = Config {
        root: format!("{run}/root").into_bytes(),
        run,
        options: Options::default(),
        environment: Vec::new(),
    };
    for name in [c"LD_PRELOAD", c"SWIOMMU_RUN", c"SWIOMMU_OPTIONS"] {
        if let Some(value) = variable(name) {
            let text = [name.to_bytes(), b"=", value.to_bytes()].concat();
            config.environment.extend(CString::new(text));
        }
    }
    let options = variable(c"SWIOMMU_OPTIONS")
        .map(CStr::to_string_lossy)
        .unwrap_or_default();
    match options.parse() {
        Ok(options) => config.options = options,
        Err(why) => sys::stderr(&["swiommu: SWIOMMU_OPTIONS: ", &why, "\n"]),
    }
    let new = Box::into_raw(Box::new(config));
    if CONFIG
        .compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread was first, and nobody has seen ours.
        drop(unsafe { Box::from_raw(new) });
    }
    STATE.store(READY, Ordering::Release);
    get()
}

/// Says in the run's directory that interposition is alive in this process: `reports/PID.alive`.
pub fn announce(config: &Config) {
    let Ok(path) = CString::new(format!("{}/reports/{}.alive", config.run, sys::pid())) else {
        return;
    };
    // SAFETY: the path is a live string.
    let fd = unsafe {
        sys::openat(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC,
            0o644,
        )
    };
    if fd >= 0 {
        sys::close(fd as i32);
    }
}
