//! Finds the program and says, before anything is made, whether a preloaded library can reach it.
//!
//! The dynamic linker loads the library, so there must be one, it must be glibc's for x86-64, and it must not run in
//! secure-execution mode (ld.so(8)), in which it ignores preloading.

use crate::{CANNOT_RUN, Failure, NOT_FOUND};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Interpreters of interpreters: the kernel follows as many.
const MAX_SCRIPTS: u32 = 5;

/// A program that can be run.
#[derive(Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
}

/// Looks `name` up as a shell would, and checks it.
pub fn find(name: &OsStr) -> Result<Program, Failure> {
    let path = search(name)?;
    check(&path, 0).map_err(|why| cannot(name, &why))?;
    Ok(Program { path })
}

fn cannot(name: &OsStr, why: &str) -> Failure {
    Failure {
        message: format!("{}: {why}", name.display()),
        status: CANNOT_RUN,
    }
}

fn search(name: &OsStr) -> Result<PathBuf, Failure> {
    let not_found = |place: &str| {
        let message = format!("{}: program not found{place}", name.display());
        Failure {
            message,
            status: NOT_FOUND,
        }
    };
    if name.as_bytes().contains(&b'/') {
        return match fs::metadata(name) {
            Ok(metadata) if metadata.is_dir() => Err(cannot(name, "is a directory")),
            Ok(metadata) if !is_executable(&metadata) => Err(cannot(name, "is not executable")),
            Ok(_) => Ok(name.into()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(cannot(name, "permission denied"))
            }
            Err(_) => Err(not_found("")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let candidates = std::env::split_paths(&path).map(|directory| directory.join(name));
    let files: Vec<(PathBuf, bool)> = candidates
        .filter(|_| !name.is_empty())
        .filter_map(|path| {
            fs::metadata(&path)
                .ok()
                .filter(|it| it.is_file())
                .map(|it| (path, is_executable(&it)))
        })
        .collect();
    match files.iter().find(|(_, executable)| *executable) {
        Some((path, _)) => Ok(path.clone()),
        None if files.is_empty() => Err(not_found(" in PATH")),
        None => Err(cannot(name, "is not executable")),
    }
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Can a preloaded library reach what runs when this file is executed?
fn check(path: &Path, depth: u32) -> Result<(), String> {
    let Ok(file) = File::open(path) else {
        // Executable but not readable: the check after the run is what is left.
        return Ok(());
    };
    let mut head = [0; 256];
    let bytes = file
        .read_at(&mut head, 0)
        .map_err(|error| format!("cannot read it: {error}"))?;
    let head = &head[..bytes];
    if let Some(line) = head.strip_prefix(b"#!") {
        return match script_interpreter(line) {
            None => Err("its #! line names no interpreter".into()),
            Some(_) if depth == MAX_SCRIPTS => Err("its #! lines lead in circles".into()),
            Some(interpreter) if !interpreter.exists() => Err(format!(
                "its interpreter {} does not exist",
                interpreter.display()
            )),
            Some(interpreter) => check(&interpreter, depth + 1).map_err(|why| {
                format!(
                    "its interpreter {} cannot be run: {why}",
                    interpreter.display()
                )
            }),
        };
    }
    if !head.starts_with(b"\x7fELF") {
        return Err("is neither an ELF program nor a script with a #! line; accepted is a dynamic x86-64 program".into());
    }
    check_secure(path, &file)?;
    check_elf(&file)
}

fn script_interpreter(line: &[u8]) -> Option<PathBuf> {
    let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let name = line
        .split(|byte| *byte == b' ' || *byte == b'\t')
        .next()
        .filter(|name| !name.is_empty())?;
    Some(OsStr::from_bytes(name).into())
}

/// Setuid, setgid and file capabilities put the dynamic linker into secure-execution mode.
fn check_secure(path: &Path, file: &File) -> Result<(), String> {
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot look at it: {error}"))?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let refused = "the dynamic linker ignores preloaded libraries for it; run a copy of it";
    if metadata.mode() & 0o4000 != 0 && metadata.uid() != uid {
        return Err(format!("is setuid: {refused}"));
    }
    if metadata.mode() & 0o2010 == 0o2010 && metadata.gid() != gid {
        return Err(format!("is setgid: {refused}"));
    }
    let mut capabilities = [0u8; 64];
    if uid != 0 && rustix::fs::getxattr(path, "security.capability", &mut capabilities).is_ok() {
        return Err(format!("has file capabilities: {refused}"));
    }
    Ok(())
}

/// ELF-64: e_machine at 18, e_phoff at 32, e_phentsize at 54, e_phnum at 56; a segment's type at 0, offset at 8, size at 32.
fn check_elf(file: &File) -> Result<(), String> {
    let damaged = || "is a damaged ELF file".to_string();
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).map_err(|_| damaged())?;
    if header[4] != 2 || u16_at(&header, 18) != 62 {
        return Err("is not an x86-64 program: accepted are dynamic x86-64 programs".into());
    }
    let (table, size) = (u64_at(&header, 32), u64::from(u16_at(&header, 54)));
    for index in 0..u64::from(u16_at(&header, 56)) {
        let mut segment = [0; 56];
        let at = index
            .checked_mul(size)
            .and_then(|at| at.checked_add(table))
            .ok_or_else(damaged)?;
        file.read_exact_at(&mut segment, at)
            .map_err(|_| damaged())?;
        const PT_INTERP: u32 = 3;
        if u32_at(&segment, 0) == PT_INTERP {
            let mut name = vec![0; u64_at(&segment, 32).min(4096) as usize];
            file.read_exact_at(&mut name, u64_at(&segment, 8))
                .map_err(|_| damaged())?;
            return check_linker(OsStr::from_bytes(name.strip_suffix(b"\0").unwrap_or(&name)));
        }
    }
    Err("is statically linked: no dynamic linker would load the library that stands in for VFIO; accepted are \
         dynamic x86-64 programs"
        .into())
}

fn check_linker(linker: &OsStr) -> Result<(), String> {
    let name = linker.display();
    if linker.as_bytes().windows(4).any(|part| part == b"musl") {
        return Err(format!(
            "is linked to musl ({name}): accepted are programs linked to glibc"
        ));
    }
    if !Path::new(linker).exists() {
        return Err(format!("its dynamic linker {name} does not exist"));
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_the_first_word() {
        for (line, name) in [
            ("/bin/sh\n", "/bin/sh"),
            (" /usr/bin/env python3\nx", "/usr/bin/env"),
            ("/bin/sh", "/bin/sh"),
        ] {
            assert_eq!(
                script_interpreter(line.as_bytes()),
                Some(name.into()),
                "{line:?}"
            );
        }
        assert_eq!(script_interpreter(b" \n/bin/sh"), None);
    }

    #[test]
    fn this_test_itself_can_be_run() {
        check(&std::env::current_exe().unwrap(), 0).unwrap();
    }

    #[test]
    fn a_musl_linker_is_refused_by_name() {
        let error = check_linker(OsStr::new("/lib/ld-musl-x86_64.so.1")).unwrap_err();
        assert_eq!(
            error,
            "is linked to musl (/lib/ld-musl-x86_64.so.1): accepted are programs linked to glibc"
        );
    }
}
