//! The symbols that a client's calls bind to, by family.
//!
//! Each does the least that decides whether the call is ours, and otherwise what libc does: the system call where that
//! is all there is to it, libc's own function where libc keeps state. glibc's calls to itself do not come through
//! here, which is why every public function is defined and not only `open`.
//!
//! Variadic functions of C are defined with as many arguments as they can have: on x86-64 the caller passes them in
//! the same registers.

#![allow(unsafe_code)] // hooks libc

/// `export! { fn name(a: T, ...) -> R { body } ... }`: C functions under these very names.
macro_rules! export {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block)*) => { $(
        $(#[$meta])*
        #[doc = concat!("`", stringify!($name), "` of libc.")]
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: the caller keeps the contract of libc's function of this name; addresses are passed on to the
            // kernel or to libc as they came, and strings are read only up to their NUL.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )* };
}

/// `sited! { fn name(3 arguments) => inner }`: a C function that calls `inner` with its return address as one argument
/// more. Up to five arguments fit before it.
macro_rules! sited {
    ($(fn $name:ident, $register:literal => $inner:path;)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of libc.")]
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(concat!("mov ", $register, ", [rsp]"), "jmp {inner}", inner = sym $inner)
        }
    )* };
}

use crate::libc_entry::{self, Refused};

/// Redirects what libc calls inside itself to the functions here. A libc whose code is not as expected is left
/// alone, and the result says so.
pub fn catch_libc() -> Vec<(&'static str, Result<(), Refused>)> {
    let catch = |(name, replacement): (&'static std::ffi::CStr, *const ())| {
        // SAFETY: the replacements have these functions' signatures, make the system calls themselves and allocate
        // from our own heap; called by the constructor.
        let result = unsafe { libc_entry::hook(name, replacement) };
        (name.to_str().unwrap_or_default(), result)
    };
    let mut caught: Vec<_> = map::inside().into_iter().map(catch).collect();
    if caught.iter().any(|(_, result)| result.is_err()) {
        map::unseen();
    }
    caught.push(catch(io::inside()));
    caught
}

pub mod alone;
pub mod attr;
pub mod dir;
pub mod exec;
pub mod exit;
pub mod fd;
pub mod io;
pub mod ioctl;
pub mod link;
pub mod map;
pub mod open;
pub mod socket;
pub mod stat;
pub mod stream;
pub mod syscall;
