//! Rules about text: lengths, unsafe code, leftovers, paths, links, headers.

use super::Source;
use crate::project;

const CEILING: usize = 800;

/// Where unsafe code may be: memory, the preloaded library, the page module, programs that measure raw memory, the memory
/// of test clients, and the command line's system calls.
const UNSAFE: &[&str] = &[
    "mem/",
    "shim/",
    "iommu/src/radix/page.rs",
    "iommu/benches/",
    "engine/benches/",
    "engine/tests/support/memory.rs",
    "cli/src/probe.rs",
    "cli/src/signals.rs",
];

fn rust(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|s| s.path.ends_with(".rs"))
}

fn program(source: &Source) -> bool {
    [".rs", ".c", ".h"]
        .iter()
        .any(|end| source.path.ends_with(end))
}

/// No file is longer than the ceiling.
pub fn lengths(sources: &[Source]) -> Vec<String> {
    let long = sources
        .iter()
        .filter(|s| program(s))
        .map(|s| (s, s.text.lines().count()))
        .filter(|(_, n)| *n > CEILING);
    long.map(|(s, n)| format!("{}: {n} lines", s.path))
        .collect()
}

/// `allow(unsafe_code)` only where it may be, and with a reason beside it.
pub fn unsafe_code(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in rust(sources).filter(|s| !s.path.starts_with("xtask/src/tidy/")) {
        let lines: Vec<_> = source.text.lines().collect();
        for (number, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, l)| l.contains("allow(") && l.contains("unsafe_code"))
        {
            let place = format!("{}:{}", source.path, number + 1);
            let before = number.checked_sub(1).map_or("", |n| lines[n].trim());
            if !UNSAFE.iter().any(|prefix| source.path.starts_with(prefix)) {
                broken.push(format!("{place}: unsafe code may not be here"));
            } else if !line.contains("//") && !line.contains("reason") && !before.starts_with("//")
            {
                broken.push(format!("{place}: without a reason"));
            }
        }
    }
    broken
}

/// No markers of unfinished work.
pub fn left_to_do(sources: &[Source]) -> Vec<String> {
    let marks = [
        concat!("todo", "!("),
        concat!("FIX", "ME"),
        concat!("unimplemented", "!("),
        concat!("XX", "X:"),
        concat!("TO", "DO"),
    ];
    find(
        sources
            .iter()
            .filter(|s| program(s) || s.path.ends_with(".md")),
        &marks,
    )
}

/// No absolute path that only one machine has.
pub fn machine_paths(sources: &[Source]) -> Vec<String> {
    let marks = [
        concat!("/wo", "rk/"),
        concat!("/home", "/"),
        concat!("/tmp/", "wt/"),
        concat!("deb.", "debian.org"),
        concat!("/ro", "ot/."),
    ];
    find(sources.iter(), &marks)
}

fn find<'a>(sources: impl Iterator<Item = &'a Source>, marks: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                found.push(format!("{}:{}: {mark}", source.path, number + 1));
            }
        }
    }
    found
}

/// Relative links of documents lead to files that exist.
pub fn links(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|s| s.path.ends_with(".md")) {
        let here = project::file(&source.path);
        let here = here.parent().unwrap_or(project::root());
        for link in source
            .text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty()
                && !target.contains("://")
                && !target.contains(' ')
                && !here.join(target).exists()
            {
                broken.push(format!("{}: {link}", source.path));
            }
        }
    }
    broken
}

/// Every source file begins with what it is; tests beside a module belong to it.
pub fn headers(sources: &[Source]) -> Vec<String> {
    let told = |s: &Source| {
        ["//!", "/*", "#!["]
            .iter()
            .any(|start| s.text.starts_with(start))
    };
    let owed = |s: &&Source| program(s) && !s.path.ends_with("tests.rs") && !told(s);
    sources
        .iter()
        .filter(owed)
        .map(|s| s.path.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: String) -> Vec<Source> {
        vec![Source {
            path: path.into(),
            text,
        }]
    }

    #[test]
    fn a_file_beyond_the_ceiling_is_found() {
        assert_eq!(lengths(&source("a.rs", "x\n".repeat(801))).len(), 1);
        assert!(lengths(&source("a.rs", "x\n".repeat(800))).is_empty());
    }

    #[test]
    fn unsafe_code_needs_its_place_and_a_reason() {
        let allow = concat!("#![allow(", "unsafe_code)]\n");
        assert_eq!(unsafe_code(&source("cli/src/a.rs", allow.into())).len(), 1);
        assert_eq!(unsafe_code(&source("mem/src/a.rs", allow.into())).len(), 1);
        assert!(unsafe_code(&source("mem/src/a.rs", format!("// It copies.\n{allow}"))).is_empty());
    }

    #[test]
    fn a_dead_link_is_found_and_a_live_one_is_not() {
        assert_eq!(links(&source("A.md", "[a](nowhere.md)".into())).len(), 1);
        assert!(
            links(&source(
                "A.md",
                "[a](Cargo.toml#x) [b](https://example.org)".into()
            ))
            .is_empty()
        );
    }
}
