//! The next definition of a symbol: libc's own, looked up once.
#![allow(unsafe_code)] // dlsym

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::guard;

/// A symbol of libc.
pub struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    /// Not looked up yet.
    pub const fn new(name: &'static CStr) -> Real {
        Real {
            name,
            address: AtomicPtr::new(null_mut()),
        }
    }

    /// Its address; null if this libc does not have it.
    #[inline]
    pub fn get(&self) -> *mut c_void {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            self.look_up()
        } else {
            address
        }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // SAFETY: the name is a C string.
        let address = guard::enter(|| unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) });
        self.address.store(address, Ordering::Relaxed);
        address
    }
}

/// `real!(name: fn(types) -> type)` is libc's function of that name.
macro_rules! real {
    ($name:ident : fn($($arg:ty),* $(,)?) -> $ret:ty) => {{
        static REAL: $crate::real::Real = $crate::real::Real::new(
            match ::core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a symbol has no NUL"),
            },
        );
        // SAFETY: libc's function of this name has this signature (the fortified ones are asked for only by callers
        // that libc itself gave them); every glibc we load into has it.
        #[allow(unused_unsafe)]
        let function = unsafe { ::core::mem::transmute::<*mut ::core::ffi::c_void, unsafe extern "C" fn($($arg),*) -> $ret>(REAL.get()) };
        function
    }};
}
pub(crate) use real;
