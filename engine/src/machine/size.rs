//! Sizes as people write them: `512`, `128K`, `1G`. Suffixes are powers of 1024.

/// The suffixes, largest first, with their shifts.
const SUFFIXES: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// What [`parse`] accepts, for error messages.
pub const ACCEPTED: &str = "a size such as 512, 128K, 64M, 1G or 2T";

/// Parses a size in bytes. A suffix K, M, G or T (either case) multiplies by a power of 1024.
///
/// # Errors
/// `None` for anything else, and for sizes beyond 2^63 - 1 (no file can be that large).
pub fn parse(text: &str) -> Option<u64> {
    let last = text.chars().last()?.to_ascii_uppercase();
    let (digits, shift) = match SUFFIXES.iter().find(|(suffix, _)| *suffix == last) {
        Some((_, shift)) => (&text[..text.len() - 1], *shift),
        None => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes <= i64::MAX as u64).then_some(bytes)
}

/// The shortest text that [`parse`] reads back as `bytes`.
pub fn format(bytes: u64) -> String {
    for (suffix, shift) in SUFFIXES {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_are_powers_of_1024_in_either_case() {
        let table = [
            ("0", 0),
            ("512", 512),
            ("1K", 1 << 10),
            ("128k", 128 << 10),
            ("3M", 3 << 20),
            ("1G", 1 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        assert_eq!(parse("2T"), Some(2 << 40));
    }

    #[test]
    fn anything_else_is_no_size() {
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1.5G",
            "1KiB",
            "1 K",
            "0x10",
            "1KK",
            "９",
            "8388608T",
            "99999999999999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_reads_back(bytes in 0..=i64::MAX as u64, shift in 0u32..50) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }
    }
}
