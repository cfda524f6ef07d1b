//! ioctl.
#![allow(unsafe_code)] // C functions

use std::ffi::{c_int, c_ulong};

use swiommu_engine::door::Answer;

use crate::engine;
use crate::files::{self, Mark};
use crate::sys::{self, ret_int, syscall};

pub(super) extern "C" fn ioctl_sited(
    fd: c_int,
    request: c_ulong,
    argument: usize,
    site: usize,
) -> c_int {
    // These are answered above any file: they concern the descriptor.
    let generic = matches!(
        request,
        libc::FIOCLEX | libc::FIONCLEX | libc::FIONBIO | libc::FIOASYNC
    );
    let Some(file) = files::ours(fd).filter(|_| !generic) else {
        // SAFETY: the client's call.
        return ret_int(unsafe { syscall!(sys::SYS_ioctl, fd as isize, request, argument) });
    };
    // The last reference may be ours, if another thread closed it meanwhile: it is dropped inside too.
    let answer = engine::call(site, move |call| {
        file.ioctl(call, request as u32, argument as u64)
    });
    if files::marked(fd, Mark::Fresh) {
        files::used(fd);
    }
    match answer {
        Ok(Answer::Value(value)) => value,
        Ok(Answer::Open(new)) => super::open::install(new, true),
        Ok(Answer::Also(new)) => super::open::install(new, true).min(0),
        Err(errno) => sys::fail(errno) as c_int,
    }
}

sited! {
    fn ioctl, "rcx" => ioctl_sited;
}
