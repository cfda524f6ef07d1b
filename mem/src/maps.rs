//! What the kernel says lies in a range of this process: `/proc/self/maps`, read with raw system calls.
//!
//! Only slow paths come here; reading costs a few microseconds plus about one per hundred mappings.

use crate::UserAddr;
use crate::raw::errno;
use rustix::fs::{Mode, OFlags};
use swiommu_abi::Errno;

/// One mapping, clipped to nothing: as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub first: u64,
    pub last: u64,
    /// MAP_SHARED.
    pub shared: bool,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// Of the first byte in the file.
    pub offset: u64,
    /// `major:minor` of the file's device as written in the list; `00:00` for anonymous memory.
    pub device: String,
    pub inode: u64,
    /// Path or label; empty for anonymous memory.
    pub name: String,
}

impl Area {
    /// The file's device as stat numbers it.
    pub fn device_number(&self) -> u64 {
        let part = |text| u32::from_str_radix(text, 16).unwrap_or(0);
        let (major, minor) = self.device.split_once(':').unwrap_or(("0", "0"));
        rustix::fs::makedev(part(major), part(minor))
    }
}

/// A whole file of procfs.
fn contents(path: &str) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(errno)?;
    let mut text = vec![0; 64 << 10];
    let mut used = 0;
    loop {
        if text.len() - used < 16 << 10 {
            text.resize(text.len() * 2, 0);
        }
        match rustix::io::read(&file, &mut text[used..]) {
            Ok(0) => break,
            Ok(n) => used += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(errno(e)),
        }
    }
    text.truncate(used);
    Ok(text)
}

/// One line of the list: `first-end rwxp offset device inode   name`.
fn parse(line: &str) -> Option<Area> {
    let mut words = line.splitn(6, ' ');
    let (first, end) = words.next()?.split_once('-')?;
    let mode = words.next()?.as_bytes();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let device = words.next()?.to_owned();
    let inode = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or("").trim_start().to_owned();
    let first = u64::from_str_radix(first, 16).ok()?;
    let last = u64::from_str_radix(end, 16).ok()? - 1;
    Some(Area {
        first,
        last,
        shared: *mode.get(3)? == b's',
        readable: *mode.first()? == b'r',
        writable: *mode.get(1)? == b'w',
        executable: *mode.get(2)? == b'x',
        offset,
        device,
        inode,
        name,
    })
}

/// The mappings that touch `first..=last`, ascending.
pub(crate) fn areas(first: u64, last: u64) -> Result<Vec<Area>, Errno> {
    let text = contents("/proc/self/maps")?;
    let text = String::from_utf8_lossy(&text);
    let touching = text
        .lines()
        .filter_map(parse)
        .filter(|a| a.first <= last && a.last >= first);
    Ok(touching.collect())
}

/// Whether some page of `first..=last` is not mapped. A list that cannot be read counts as a hole.
pub(crate) fn has_hole(first: u64, last: u64) -> bool {
    let Ok(areas) = areas(first, last) else {
        return true;
    };
    let mut next = first;
    for area in areas {
        if area.first > next {
            return true;
        }
        next = area.last + 1;
    }
    next <= last
}

/// Whether a writable shared mapping of a file that needs write-back lies in `first..=last`.
pub(crate) fn has_shared_file(first: u64, last: u64) -> Result<bool, Errno> {
    let areas = areas(first, last)?;
    let suspects = areas
        .iter()
        .filter(|a| a.shared && a.writable && !is_shared_memory(&a.name));
    let devices: Vec<&str> = suspects.map(|a| a.device.as_str()).collect();
    if devices.is_empty() {
        return Ok(false);
    }
    let mounts = contents("/proc/self/mountinfo")?;
    let mounts = String::from_utf8_lossy(&mounts);
    Ok(devices.iter().any(|device| !in_memory(&mounts, device)))
}

/// Files of the kernel's own shared memory mount, which no mount list shows.
fn is_shared_memory(name: &str) -> bool {
    [
        "/memfd:",
        "/SYSV",
        "/dev/zero",
        "/anon_hugepage",
        "[anon_shmem",
        "anon_inode:",
    ]
    .iter()
    .any(|p| name.starts_with(p))
}

/// Whether the filesystem on `device` (hexadecimal `major:minor` of the maps list) keeps its pages in memory only.
fn in_memory(mounts: &str, device: &str) -> bool {
    let number = |text: &str, radix| {
        let (major, minor) = text.split_once(':')?;
        Some((
            u32::from_str_radix(major, radix).ok()?,
            u32::from_str_radix(minor, radix).ok()?,
        ))
    };
    let wanted = number(device, 16);
    mounts.lines().any(|line| {
        let (Some(here), Some((_, tail))) = (line.split(' ').nth(2), line.split_once(" - ")) else {
            return false;
        };
        let kind = tail.split(' ').next();
        number(here, 10) == wanted
            && matches!(kind, Some("tmpfs" | "hugetlbfs" | "ramfs" | "devtmpfs"))
    })
}

/// A byte of a file: its device and number as the kernel lists them, and the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileByte {
    device: String,
    inode: u64,
    offset: u64,
}

impl FileByte {
    /// Whether it is one of the `bytes` bytes from `first` on.
    pub fn is_in(&self, first: &FileByte, bytes: u64) -> bool {
        let same = self.inode == first.inode && self.device == first.device;
        same && self.offset >= first.offset && self.offset - first.offset < bytes
    }
}

/// Which bytes of which files this process has mapped, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(u64, u64, FileByte)>);

impl Files {
    /// As it is now; nothing if it cannot be told.
    pub fn now() -> Files {
        let text = contents("/proc/self/maps").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Files(text.lines().filter_map(file).collect())
    }

    /// The byte of a file at an address. Shared anonymous memory is a file, too; private memory may be a copy of one, and
    /// is none.
    pub fn byte(&self, at: UserAddr) -> Option<FileByte> {
        let index = self.0.partition_point(|(_, last, _)| *last < at.0);
        let (first, _, byte) = self.0.get(index).filter(|(first, ..)| *first <= at.0)?;
        Some(FileByte {
            offset: byte.offset + (at.0 - first),
            ..byte.clone()
        })
    }
}

/// A line of the list, if it is a shared mapping of a file: first and last address, and the first byte.
fn file(line: &str) -> Option<(u64, u64, FileByte)> {
    let area = parse(line).filter(|area| area.shared)?;
    let mut words = line.split(' ').skip(2);
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    let byte = FileByte {
        device: area.device,
        inode,
        offset,
    };
    (inode != 0).then_some((area.first, area.last, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_is_read_with_its_name_whole() {
        let area =
            parse("7f00-8000 rw-s 00001000 fd:01 77                  /a file (deleted)").unwrap();
        assert_eq!(
            (area.first, area.last, area.shared, area.writable),
            (0x7f00, 0x7fff, true, true)
        );
        assert_eq!(
            (area.device.as_str(), area.name.as_str()),
            ("fd:01", "/a file (deleted)")
        );
        assert_eq!((area.offset, area.inode), (0x1000, 77));
        assert_eq!(area.device_number(), rustix::fs::makedev(0xfd, 1));
    }

    #[test]
    fn two_mappings_of_a_byte_are_the_same_byte_and_private_memory_is_none() {
        let list = "1000-3000 rw-s 00004000 00:01 9 /memfd:a\n8000-9000 rw-s 00005000 00:01 9 /memfd:a\n\
                    9000-a000 rw-p 00005000 00:01 9 /memfd:a\nb000-c000 rw-s 00005000 00:01 10 /memfd:b";
        let files = Files(list.lines().filter_map(file).collect());
        let byte = |at| files.byte(UserAddr(at));
        assert!(byte(0x2010).is_some());
        assert_eq!(byte(0x2010), byte(0x8010));
        assert_ne!(byte(0x2010), byte(0xb010));
        assert_ne!(byte(0x2010), byte(0x8011));
        assert_eq!(
            (byte(0x9010), byte(0xfff), byte(0x3000)),
            (None, None, None)
        );
    }

    #[test]
    fn anonymous_memory_has_no_name() {
        let area = parse("1000-2000 ---p 00000000 00:00 0 ").unwrap();
        assert_eq!(
            (area.shared, area.writable, area.name.as_str()),
            (false, false, "")
        );
    }

    #[test]
    fn a_mount_is_found_by_its_device_in_the_other_radix() {
        let mounts =
            "30 1 0:26 / /dev/shm rw - tmpfs tmpfs rw\n31 1 253:1 / / rw - ext4 /dev/x rw\n";
        assert!(in_memory(mounts, "00:1a"));
        assert!(!in_memory(mounts, "fd:01"));
        assert!(!in_memory(mounts, "00:77"));
    }
}
