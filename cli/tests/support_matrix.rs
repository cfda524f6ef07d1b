//! docs/support-matrix.md is complete, and what it names as evidence exists.
//!
//! The page is read as it stands: every table has the columns `item | status | shown by | notes`. Evidence is what
//! stands between backticks in the third column; the page says what its forms mean.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: [&str; 4] = ["item", "status", "shown by", "notes"];
const STATUSES: [&str; 5] = ["yes", "partly", "refused", "reported", "absent"];
/// Constants that are no feature of their own: masks, counts and positions.
const NO_FEATURE: [&str; 8] = [
    "API_VERSION",
    "PCI_OFFSET_SHIFT",
    "PCI_BAR5_REGION_INDEX",
    "PCI_ROM_REGION_INDEX",
    "PCI_CONFIG_REGION_INDEX",
    "PCI_VGA_REGION_INDEX",
    "DEVICE_FEATURE_MASK",
    "CMD_BASE",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .into()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A row of the page.
#[derive(Debug)]
struct Row {
    section: String,
    item: String,
    status: String,
    evidence: Vec<String>,
}

/// The rows of a page, and what is wrong with its form.
fn rows(page: &str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut wrong, mut section) = (Vec::new(), Vec::new(), String::new());
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.into();
        }
        // Before the first heading stands the table of the statuses.
        let Some(cells) = line.strip_prefix("| ").filter(|_| !section.is_empty()) else {
            continue;
        };
        let cells: Vec<&str> = cells
            .trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if cells == COLUMNS || cells.iter().all(|cell| cell.starts_with("---")) {
            continue;
        }
        let [item, status, shown_by, _notes] = cells[..] else {
            wrong.push(format!("{section}: not four columns: {line}"));
            continue;
        };
        if !STATUSES.contains(&status) {
            wrong.push(format!("{section}: {item}: unknown status '{status}'"));
        }
        let evidence = quoted(shown_by);
        if evidence.is_empty() && status != "absent" {
            wrong.push(format!("{section}: {item}: nothing shows it"));
        }
        rows.push(Row {
            section: section.clone(),
            item: item.into(),
            status: status.into(),
            evidence,
        });
    }
    (rows, wrong)
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The values of `const NAME: TYPE = VALUE;` lines.
fn constants(source: &str) -> impl Iterator<Item = (&str, &str)> {
    source.lines().filter_map(|line| {
        let (_, rest) = line.split_once("const ")?;
        let (name, rest) = rest.split_once(':')?;
        let (_, value) = rest.split_once(" = ")?;
        Some((name, value.strip_suffix(';')?))
    })
}

/// The source of a header of the uAPI: a file and the directory of its name.
fn header(name: &str) -> String {
    let mut parts = Vec::new();
    collect(&root().join("abi/src").join(name), &mut parts);
    let parts = parts
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source file can be read"));
    parts.fold(text(&format!("abi/src/{name}.rs")), |all, part| all + &part)
}

/// Names of the uAPI that no row has. In the kernel's header they begin with `prefix`.
fn missing_names(rows: &[Row], prefix: &str, source: &str) -> Vec<String> {
    let told: HashSet<String> = rows
        .iter()
        .flat_map(|row| quoted(&row.item))
        .map(|name| name.to_uppercase())
        .collect();
    let is_feature = |name: &str| {
        !NO_FEATURE.contains(&name)
            && !name.contains("_NUM_")
            && !name.ends_with("_TYPE_MASK")
            && !name.ends_with("COMMANDS")
    };
    constants(source)
        .map(|(name, _)| name)
        .filter(|name| is_feature(name))
        .filter(|name| {
            let end = format!("_{name}");
            !told
                .iter()
                .any(|told| told.starts_with(prefix) && told.ends_with(&end))
        })
        .map(str::to_owned)
        .collect()
}

/// Numbers of the NVMe model that have no row in a section. Rows begin with the number: `` `0a`h ``.
fn missing_numbers(rows: &[Row], section: &str, numbers: impl Iterator<Item = u8>) -> Vec<String> {
    let told: HashSet<u8> = rows
        .iter()
        .filter(|row| row.section == section)
        .filter_map(|row| u8::from_str_radix(quoted(&row.item).first()?, 16).ok())
        .collect();
    numbers
        .filter(|number| !told.contains(number))
        .map(|number| format!("{section}: no row for {number:02x}h"))
        .collect()
}

/// The opcodes of one module of the NVMe bits: constants, and names in reports.
fn opcodes(module: &str) -> Vec<u8> {
    let source = text("engine/src/device/nvme/bits.rs");
    let (_, body) = source
        .split_once(&format!("mod {module} {{"))
        .expect("the module is there");
    let body = body.split("\n}\n").next().expect("it ends");
    body.lines()
        .filter_map(|line| hex(line.split_once("= 0x")?.1).or_else(|| hex(line)))
        .chain(
            body.lines()
                .filter_map(|line| hex(line.trim().strip_prefix("0x")?)),
        )
        .collect()
}

fn hex(text: &str) -> Option<u8> {
    u8::from_str_radix(text.get(..2)?, 16).ok()
}

/// The 8-bit identifiers among a file's constants.
fn identifiers(path: &str) -> Vec<u8> {
    let source = text(path);
    source
        .lines()
        .filter(|line| line.starts_with("const ") && line.contains(": u8 = 0x"))
        .filter_map(|line| hex(line.split_once("= 0x")?.1))
        .collect()
}

/// Everything in the tree that can be named as evidence.
struct Tree {
    /// Names of Rust test functions.
    tests: HashSet<String>,
    /// Sources of the client suite.
    suite: String,
    /// Where swiommu answers otherwise than the recorded kernel: program and case.
    differences: Vec<(String, String)>,
}

impl Tree {
    fn read() -> Tree {
        let mut sources = Vec::new();
        for part in ["abi", "cli", "engine", "iommu", "mem", "shim", "xtask"] {
            collect(&root().join(part), &mut sources);
        }
        let (mut tests, mut suite) = (HashSet::new(), String::new());
        for path in sources {
            let source = fs::read_to_string(&path).expect("a source file can be read");
            if path.starts_with(root().join("cli/tests/clients")) {
                suite += &source;
            }
            tests.extend(tests_of(&source));
        }
        Tree {
            tests,
            suite,
            differences: differences(),
        }
    }

    /// Whether swiommu is known to answer a recorded case otherwise.
    fn differs(&self, evidence: &str) -> bool {
        let Some((program, claim)) = evidence.split_once(": ") else {
            return false;
        };
        let case = claim.split(" = ").next().unwrap_or_default();
        self.differences.iter().any(|(p, pattern)| {
            let matches = match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (Some(end), _) => case.ends_with(end),
                (_, Some(start)) => case.starts_with(start),
                _ => case == pattern,
            };
            p == program && matches
        })
    }

    /// Why a piece of evidence is none.
    fn refute(&self, evidence: &str) -> Option<String> {
        let Some((kind, name)) = evidence.split_once(": ") else {
            return (!self.tests.contains(evidence)).then(|| "no test has this name".into());
        };
        match kind {
            "client" => {
                (!self.suite.contains(name)).then(|| "the client suite has no such test".into())
            }
            "report" => {
                let path = root().join(format!("clients/golden/reports/{name}.txt"));
                let blessed = path.exists() && self.suite.contains(&format!("\"{name}\""));
                (!blessed).then(|| "no such report".into())
            }
            program => {
                let recorded = ["intel", "amd", "none"].map(|iommu| {
                    let path = root().join(format!("clients/golden/{iommu}/{program}.txt"));
                    fs::read_to_string(path).ok().map(|golden| (iommu, golden))
                });
                if recorded.iter().all(Option::is_none) {
                    return Some(format!("no program '{program}' was recorded"));
                }
                recorded.iter().flatten().find_map(|(iommu, golden)| {
                    (!holds(golden, name)).then(|| format!("not recorded on {iommu}"))
                })
            }
        }
    }
}

/// The cases of clients/golden/differences.toml.
fn differences() -> Vec<(String, String)> {
    let file: toml::Table = text("clients/golden/differences.toml")
        .parse()
        .expect("it is TOML");
    let field = |entry: &toml::Value, key: &str| entry[key].as_str().expect("a string").to_owned();
    file["difference"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (field(entry, "program"), field(entry, "case")))
        .collect()
}

/// Whether a recording has the case, with an answer that begins as claimed.
fn holds(golden: &str, claim: &str) -> bool {
    let (case, answer) = claim.split_once(" = ").unwrap_or((claim, ""));
    golden
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(name, told)| {
            let rest = told.strip_prefix(answer);
            name == case
                && rest.is_some_and(|rest| {
                    answer.is_empty() || !rest.starts_with(|c: char| c.is_alphanumeric())
                })
        })
}

/// The test functions of a source file: those below `#[test]`.
fn tests_of(source: &str) -> Vec<String> {
    let mut below = false;
    let mut tests = Vec::new();
    for line in source.lines().map(str::trim) {
        if line == "#[test]" {
            below = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if below {
                tests.extend(rest.split('(').next().map(str::to_owned));
            }
            below = false;
        }
    }
    tests
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

fn matrix() -> Vec<Row> {
    let (rows, wrong) = rows(&text("docs/support-matrix.md"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows.len() > 150, "only {} rows were understood", rows.len());
    rows
}

#[test]
fn every_name_of_the_vfio_interface_has_a_row() {
    let missing = missing_names(&matrix(), "VFIO_", &header("vfio"));
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn every_name_of_the_iommufd_interface_has_a_row() {
    let missing = missing_names(&matrix(), "IOMMU", &header("iommufd"));
    assert!(missing.is_empty(), "no row for {missing:?}");
}

/// The kernel's names of the commands in a list of commands.
fn commands(source: &str) -> impl Iterator<Item = &str> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let entries = source
        .split("(")
        .filter_map(|entry| entry.split_once(", \""));
    entries.filter_map(|(_, name)| name.split_once("\")").map(|(name, _)| name))
}

#[test]
fn every_command_was_tried_with_bad_arguments_on_a_real_kernel() {
    let (vfio, iommufd) = (text("abi/src/vfio.rs"), text("abi/src/iommufd.rs"));
    // no device there has a transfer
    let has_file = |name: &&str| *name != "VFIO_MIG_GET_PRECOPY_INFO";
    let names: Vec<_> = commands(&vfio)
        .chain(commands(&iommufd))
        .filter(has_file)
        .collect();
    assert!(names.len() > 45, "only {names:?} were understood");
    for iommu in ["intel", "amd"] {
        let golden = text(&format!("clients/golden/{iommu}/arguments.txt"));
        let untried = |name: &&&str| !golden.contains(&format!("{name}/null: "));
        let missing: Vec<_> = names.iter().filter(untried).collect();
        assert!(missing.is_empty(), "{iommu}: {missing:?}");
    }
}

#[test]
fn every_number_of_the_nvme_model_has_a_row() {
    let rows = matrix();
    let mut missing = Vec::new();
    for (section, numbers) in [
        ("NVMe admin commands", opcodes("admin_op")),
        ("NVMe I/O commands", opcodes("io_op")),
        (
            "NVMe features",
            identifiers("engine/src/device/nvme/feature.rs"),
        ),
        (
            "NVMe log pages",
            identifiers("engine/src/device/nvme/log.rs"),
        ),
    ] {
        assert!(
            numbers.len() > 3,
            "{section}: the source was not understood"
        );
        missing.extend(missing_numbers(&rows, section, numbers.into_iter()));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn everything_that_is_named_as_evidence_exists() {
    let tree = Tree::read();
    let mut wrong = Vec::new();
    for row in matrix() {
        for evidence in &row.evidence {
            let differs = tree.differs(evidence) && row.status != "reported";
            let why = differs.then(|| "it is listed as a difference".into());
            if let Some(why) = tree.refute(evidence).or(why) {
                wrong.push(format!(
                    "{}: {} ({}): `{evidence}`: {why}",
                    row.section, row.item, row.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_page_that_is_wrong_is_found_out() {
    let page = |row: &str| {
        rows(&format!(
            "## S\n| item | status | shown by | notes |\n| --- | --- | --- | --- |\n{row}\n"
        ))
    };
    assert!(page("| a | yes | `b` | |").1.is_empty());
    assert!(page("| a | absent | | |").1.is_empty());
    for row in [
        "| a | maybe | `b` | |",
        "| a | yes | | |",
        "| a | yes | `b` |",
        "| a | yes | `b` | | |",
    ] {
        assert_eq!(page(row).1.len(), 1, "{row}");
    }
}

#[test]
fn a_name_or_number_without_a_row_is_found_out() {
    let (told, _) = rows(
        "## NVMe features\n| `VFIO_TYPE1v2_IOMMU` | yes | `b` | |\n| `0a`h x | yes | `b` | |\n",
    );
    let source = "pub const TYPE1V2_IOMMU: u64 = 3;\npub const EEH: u64 = 5;\n";
    assert_eq!(missing_names(&told, "VFIO_", source), ["EEH"]);
    assert_eq!(missing_names(&told, "IOMMU_", source).len(), 2);
    assert_eq!(
        missing_numbers(&told, "NVMe features", [0x0a, 0x0b].into_iter()).len(),
        1
    );
}

#[test]
fn evidence_that_does_not_exist_is_found_out() {
    let tree = Tree::read();
    for good in [
        "evidence_that_does_not_exist_is_found_out",
        "map: v2-map-inside = EEXIST",
        "container: v2-capability = id 1",
        "report: use_after_unmap",
        "client: a second opener of a group gets EBUSY",
    ] {
        assert_eq!(tree.refute(good), None, "{good}");
    }
    for bad in [
        "tests_of",
        "map: v2-map-inside = 0",
        "map: v2-map-nowhere",
        "limit: v2-map-1 = E",
        "nothing: v2-map-inside",
        "report: nothing",
        "client: nothing of this name",
    ] {
        assert!(tree.refute(bad).is_some(), "{bad}");
    }
    assert!(tree.differs("nvme_dma: v1-no-such-namespace"));
    assert!(!tree.differs("irq: intx-unmask = 0"));
}
