//! A finding as a person reads it on standard error.

use std::fmt::Write;

use super::{Class, Evidence, Finding, call_line};
use crate::calls::CallRecord;

const RULE: &str = "=================================================================";

/// Renders a finding. The last line is a summary that can be searched for.
pub fn render(finding: &Finding, color: bool) -> String {
    let paint = |code: &str, text: &str| {
        if color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = String::new();
    let pid = finding.pid;
    if finding.class == Class::Unsupported {
        let label = paint("1;33", &finding.title);
        writeln!(out, "=={pid}== {label}").expect("writing to a string");
        return out;
    }
    let (word, code) = match finding.class {
        Class::ClientBug => ("ERROR", "1;31"),
        Class::Broken => ("FAILURE", "1;35"),
        Class::Note | Class::Unsupported => ("NOTE", "1;36"),
    };
    let head = paint(
        code,
        &format!("{word}: swiommu: {}: {}", finding.kind, finding.title),
    );
    writeln!(out, "{RULE}\n=={pid}=={head}").expect("writing to a string");
    for evidence in &finding.evidence {
        writeln!(out, "  {}", evidence.text).expect("writing to a string");
        for (number, line) in evidence.under.iter().enumerate() {
            writeln!(out, "      #{number} {line}").expect("writing to a string");
        }
    }
    if !finding.help.is_empty() {
        writeln!(out, "  {} {}", paint("1", "help:"), finding.help).expect("writing to a string");
    }
    writeln!(out, "SUMMARY: swiommu: {}: {}", finding.kind, finding.title)
        .expect("writing to a string");
    out
}

/// A mapping as evidence.
pub fn area(first: u64, last: u64, mapped: &CallRecord) -> Evidence {
    call_line(&format!("[{first:#x}..={last:#x}] was mapped"), mapped)
}
