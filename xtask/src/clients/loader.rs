//! A program of a newer Debian run with that Debian's own loader and C library.
//!
//! The kernel takes a program's loader from PT_INTERP, by file offset. A copy of the program gets a longer name there,
//! appended to the file; not one byte of its code or data changes.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const PT_INTERP: u32 = 3;

/// Makes `root`/run/`tool` from `root`/usr/bin/`tool`.
pub fn use_own(root: &Path, tool: &str) -> Result<()> {
    let from = root.join("usr/bin").join(tool);
    let to = root.join("run").join(tool);
    if to.exists() {
        return Ok(());
    }
    let mut program = fs::read(&from).with_context(|| from.display().to_string())?;
    set_loader(&mut program, root.join(LOADER).as_os_str().as_bytes())?;
    fs::create_dir_all(root.join("run"))?;
    fs::write(&to, program)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// Replaces the loader's name in an x86-64 ELF file (System V ABI, "Program Header").
fn set_loader(elf: &mut Vec<u8>, name: &[u8]) -> Result<()> {
    ensure!(
        elf.len() > 64 && elf.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit ELF file"
    );
    let word =
        |elf: &[u8], at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("8 bytes"));
    let half =
        |elf: &[u8], at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().expect("2 bytes"));
    let (table, size, count) = (
        word(elf, 32) as usize,
        usize::from(half(elf, 54)),
        usize::from(half(elf, 56)),
    );
    ensure!(
        size >= 56 && table + size * count <= elf.len(),
        "its program headers lie outside the file"
    );
    let header = (0..count)
        .map(|i| table + i * size)
        .find(|&at| u32::from_le_bytes(elf[at..at + 4].try_into().expect("4 bytes")) == PT_INTERP)
        .context("it has no loader")?;
    let place = elf.len() as u64;
    let length = name.len() as u64 + 1;
    elf[header + 8..header + 16].copy_from_slice(&place.to_le_bytes());
    elf[header + 32..header + 40].copy_from_slice(&length.to_le_bytes());
    elf.extend_from_slice(name);
    elf.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one program header of kind `kind`.
    fn file(kind: u32) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&1u16.to_le_bytes());
        elf[64..68].copy_from_slice(&kind.to_le_bytes());
        elf
    }

    #[test]
    fn the_loader_is_named_at_the_end_of_the_file() {
        let mut elf = file(PT_INTERP);
        set_loader(&mut elf, b"/own/ld.so").unwrap();
        assert_eq!(&elf[120..], b"/own/ld.so\0");
        assert_eq!(elf[72..80], 120u64.to_le_bytes());
        assert_eq!(elf[96..104], 11u64.to_le_bytes());
    }

    #[test]
    fn a_program_without_a_loader_is_refused() {
        assert!(set_loader(&mut file(1), b"/own/ld.so").is_err());
        assert!(set_loader(&mut b"#!/bin/sh".to_vec(), b"/own/ld.so").is_err());
    }
}
