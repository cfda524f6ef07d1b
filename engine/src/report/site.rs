//! Names an address of the client as module and offset, from /proc/self/maps.

use rustix::fs::{Mode, OFlags};

/// `qemu-io+0x1c2f40`, or the bare address when no file is mapped there.
pub fn name(address: u64) -> String {
    locate(&maps(), address).unwrap_or_else(|| format!("{address:#x}"))
}

fn maps() -> String {
    let mut text = Vec::new();
    let Ok(file) = rustix::fs::open(
        "/proc/self/maps",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return String::new();
    };
    let mut chunk = [0u8; 8192];
    while let Ok(n @ 1..) = rustix::io::read(&file, &mut chunk) {
        text.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Finds the mapping of an address; the offset counts from the first mapping of the same file.
fn locate(maps: &str, address: u64) -> Option<String> {
    let mut base = None;
    for line in maps.lines() {
        let mut fields = line.splitn(6, char::is_whitespace);
        let (first, past) = fields.next()?.split_once('-')?;
        let (first, past) = (
            u64::from_str_radix(first, 16).ok()?,
            u64::from_str_radix(past, 16).ok()?,
        );
        let path = fields.nth(4).unwrap_or("").trim();
        if path.starts_with('/') && base.is_none_or(|(_, known)| known != path) {
            base = Some((first, path));
        }
        if (first..past).contains(&address) {
            let (start, known) = base.filter(|(_, known)| *known == path)?;
            let module = known.rsplit('/').next().unwrap_or(known);
            return Some(format!("{module}+{:#x}", address - start));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55550000-55551000 r--p 00000000 fe:00 1 /usr/bin/qemu-io
55551000-55560000 r-xp 00001000 fe:00 1 /usr/bin/qemu-io
55570000-55580000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 r-xp 00000000 fe:00 2 /lib/libc.so.6
";

    #[test]
    fn an_address_in_a_module_counts_from_its_first_mapping() {
        assert_eq!(locate(MAPS, 0x5555_1234).as_deref(), Some("qemu-io+0x1234"));
        assert_eq!(
            locate(MAPS, 0x7f00_0000_0010).as_deref(),
            Some("libc.so.6+0x10")
        );
    }

    #[test]
    fn an_address_outside_any_file_has_no_module() {
        assert_eq!(locate(MAPS, 0x5557_0010), None);
        assert_eq!(locate(MAPS, 0x10), None);
    }
}
