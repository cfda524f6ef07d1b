//! What the kernel's selftests print: for the recordings and, by path, for the client suite that is compared with them.

/// Of a kernel selftest's output, the lines that say how each test ended, without their numbers and remarks.
pub fn test_lines(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let (verdict, rest) = match line.split_once(' ') {
            Some(("ok", rest)) => ("ok", rest),
            Some(("not", rest)) => ("not ok", rest.strip_prefix("ok ").unwrap_or(rest)),
            _ => continue,
        };
        let name = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let (name, remark) = name.split_once('#').unwrap_or((name, ""));
        let verdict = if remark.trim_start().starts_with("SKIP") {
            "skip"
        } else {
            verdict
        };
        lines += &format!("{}: {verdict}\n", name.trim());
    }
    lines
}

#[cfg(test)]
mod tests {
    #[test]
    fn test_lines_keep_names_and_verdicts() {
        let text = "TAP version 13\n1..3\n#  RUN  a ...\nok 1 a.b.c\nnot ok 2 a.b.d\nok 3 a.b.e # SKIP no memory\n# Totals:\n";
        assert_eq!(
            super::test_lines(text),
            "a.b.c: ok\na.b.d: not ok\na.b.e: skip\n"
        );
    }
}
