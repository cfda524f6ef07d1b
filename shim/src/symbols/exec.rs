//! exec and posix_spawn: the run goes on in the new program, whatever environment it is given.
//!
//! Between vfork and exec memory is the parent's, so the new environment is built on the stack.
#![allow(unsafe_code)] // C functions

use std::ffi::{CStr, c_char, c_int};
use std::ptr::null;

use crate::config::{self, Config};
use crate::real::real;
use crate::sys::{self, ret_int, syscall};

type Strings = *const *const c_char;

/// Environments up to this many strings are completed.
const MOST: usize = 4096;
/// A completed LD_PRELOAD fits here.
const PRELOAD: usize = 4096;

unsafe extern "C" {
    static environ: Strings;
}

/// Calls `work` with `environment`, completed by what the run needs in it.
unsafe fn completed<T>(environment: Strings, work: impl FnOnce(Strings) -> T) -> T {
    // SAFETY: a null-terminated array of C strings, as exec takes it.
    unsafe {
        match config::get() {
            Some(config) if !environment.is_null() && !complete(environment, config) => {
                rebuilt(environment, config, work)
            }
            _ => work(environment),
        }
    }
}

/// The value of a variable in an array of `NAME=value`; `name` ends with `=`.
unsafe fn value(environment: Strings, name: &[u8]) -> Option<(usize, &'static CStr)> {
    let mut index = 0;
    // SAFETY: up to the array's null.
    unsafe {
        while let Some(string) = environment.add(index).read().as_ref() {
            let string = CStr::from_ptr(string);
            if string.to_bytes().starts_with(name) {
                return Some((index, string));
            }
            index += 1;
        }
    }
    None
}

fn name_of(string: &CStr) -> &[u8] {
    let bytes = string.to_bytes();
    &bytes[..=bytes.iter().position(|byte| *byte == b'=').unwrap_or(0)]
}

/// The library's own name in LD_PRELOAD: the first entry we were started with.
fn library(string: &CStr) -> &[u8] {
    let text = string
        .to_bytes()
        .strip_prefix(b"LD_PRELOAD=")
        .unwrap_or(b"");
    text.split(|byte| matches!(byte, b':' | b' '))
        .find(|entry| entry.windows(10).any(|part| part == b"libswiommu"))
        .unwrap_or(text)
}

fn has_library(preload: &CStr, ours: &CStr) -> bool {
    let ours = library(ours);
    let text = preload
        .to_bytes()
        .strip_prefix(b"LD_PRELOAD=")
        .unwrap_or(b"");
    text.split(|byte| matches!(byte, b':' | b' '))
        .any(|entry| entry == ours)
}

unsafe fn complete(environment: Strings, config: &Config) -> bool {
    config.environment.iter().all(|ours| {
        let name = name_of(ours);
        // SAFETY: the caller's array.
        match unsafe { value(environment, name) } {
            Some((_, theirs)) => name != b"LD_PRELOAD=" || has_library(theirs, ours),
            None => false,
        }
    })
}

unsafe fn rebuilt<T>(environment: Strings, config: &Config, work: impl FnOnce(Strings) -> T) -> T {
    let mut strings = [null::<c_char>(); MOST + 8];
    let mut preload = [0u8; PRELOAD];
    let mut count = 0;
    // SAFETY: the caller's array up to its null, and our own arrays within their lengths.
    unsafe {
        while !environment.add(count).read().is_null() {
            if count == MOST {
                sys::stderr(&[
                    "swiommu: the environment of an exec is too large: the program runs without swiommu\n",
                ]);
                return work(environment);
            }
            strings[count] = environment.add(count).read();
            count += 1;
        }
        for ours in &config.environment {
            match value(environment, name_of(ours)) {
                None => {
                    strings[count] = ours.as_ptr();
                    count += 1;
                }
                Some((index, theirs))
                    if name_of(ours) == b"LD_PRELOAD=" && !has_library(theirs, ours) =>
                {
                    let rest = theirs
                        .to_bytes()
                        .strip_prefix(b"LD_PRELOAD=")
                        .unwrap_or(b"");
                    let parts = [b"LD_PRELOAD=", library(ours), b":", rest];
                    let mut at = 0;
                    for part in parts {
                        let Some(room) = preload.get_mut(at..at + part.len()) else {
                            break;
                        };
                        room.copy_from_slice(part);
                        at += part.len();
                    }
                    preload[PRELOAD - 1] = 0;
                    strings[index] = preload.as_ptr().cast();
                }
                Some(_) => {}
            }
        }
        work(strings.as_ptr())
    }
}

/// The arguments of a variadic exec as the caller left them: six registers, the return address, then the stack.
unsafe fn arguments<T>(
    saved: *const usize,
    skip: usize,
    work: impl FnOnce(Strings, Strings) -> T,
) -> T {
    let at = |index: usize| if index < 6 { index } else { index + 1 };
    let mut list = [null::<c_char>(); MOST];
    let mut count = 0;
    // SAFETY: the caller passed a list that ends with null; an environment may follow it.
    unsafe {
        loop {
            let argument = saved.add(at(skip + count)).read() as *const c_char;
            if argument.is_null() || count == MOST - 1 {
                break;
            }
            list[count] = argument;
            count += 1;
        }
        let environment = saved.add(at(skip + count + 1)).read() as Strings;
        work(list.as_ptr(), environment)
    }
}

extern "C" fn execl_saved(saved: *const usize) -> c_int {
    // SAFETY: the client's arguments, saved by `variadic!`.
    unsafe {
        arguments(saved, 1, |list, _| {
            execve(saved.read() as *const c_char, list, environ)
        })
    }
}

extern "C" fn execlp_saved(saved: *const usize) -> c_int {
    // SAFETY: as above.
    unsafe {
        arguments(saved, 1, |list, _| {
            execvpe(saved.read() as *const c_char, list, environ)
        })
    }
}

extern "C" fn execle_saved(saved: *const usize) -> c_int {
    // SAFETY: as above; the environment follows the list's null.
    unsafe {
        arguments(saved, 1, |list, environment| {
            execve(saved.read() as *const c_char, list, environment)
        })
    }
}

/// A variadic function whose arguments become an array on the stack.
macro_rules! variadic {
    ($(fn $name:ident => $inner:path;)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of libc.")]
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push r9", "push r8", "push rcx", "push rdx", "push rsi", "push rdi",
                "mov rdi, rsp", "sub rsp, 8", "call {inner}", "add rsp, 56", "ret",
                inner = sym $inner
            )
        }
    )* };
}

/// What `vfork` does first: the child will be able to ask for what it inherits. libc's own, to go on with.
extern "C" fn before_vfork() -> usize {
    crate::remote::offer();
    real!(vfork: fn() -> c_int) as usize
}

/// `vfork` of libc, which returns to our caller: a frame of ours would be the child's to overwrite.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() {
    core::arch::naked_asm!(
        "sub rsp, 8", "call {before}", "add rsp, 8", "jmp rax",
        before = sym before_vfork
    )
}

variadic! {
    fn execl => execl_saved;
    fn execlp => execlp_saved;
    fn execle => execle_saved;
}

export! {
    fn execve(path: *const c_char, list: Strings, environment: Strings) -> c_int {
        completed(environment, |environment| ret_int(syscall!(sys::SYS_execve, path, list, environment)))
    }
    fn execv(path: *const c_char, list: Strings) -> c_int { execve(path, list, environ) }
    fn execvp(file: *const c_char, list: Strings) -> c_int { execvpe(file, list, environ) }
    fn execvpe(file: *const c_char, list: Strings, environment: Strings) -> c_int {
        let real = real!(execvpe: fn(*const c_char, Strings, Strings) -> c_int);
        completed(environment, |environment| real(file, list, environment))
    }
    fn fexecve(fd: c_int, list: Strings, environment: Strings) -> c_int {
        execveat(fd, c"".as_ptr(), list, environment, libc::AT_EMPTY_PATH)
    }
    fn execveat(dir: c_int, path: *const c_char, list: Strings, environment: Strings, flags: c_int) -> c_int {
        completed(environment, |environment| {
            ret_int(syscall!(sys::SYS_execveat, dir as isize, path, list, environment, flags as isize))
        })
    }
    fn posix_spawn(
        pid: usize, path: *const c_char, actions: usize, attributes: usize, list: Strings, environment: Strings
    ) -> c_int {
        let real = real!(posix_spawn: fn(usize, *const c_char, usize, usize, Strings, Strings) -> c_int);
        crate::remote::offer();
        completed(environment, |environment| real(pid, path, actions, attributes, list, environment))
    }
    fn posix_spawnp(
        pid: usize, path: *const c_char, actions: usize, attributes: usize, list: Strings, environment: Strings
    ) -> c_int {
        let real = real!(posix_spawnp: fn(usize, *const c_char, usize, usize, Strings, Strings) -> c_int);
        crate::remote::offer();
        completed(environment, |environment| real(pid, path, actions, attributes, list, environment))
    }
}
