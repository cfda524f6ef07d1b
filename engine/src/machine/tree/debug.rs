//! debugfs of a machine with test equipment: what a test of fault injection sets before it begins.
//!
//! Nothing reads these files: every point that can fail does when `fail-nth` of its thread says so, whatever they hold.

use super::{DEBUGFS, Tree};
use std::io;

/// The kinds of points that can fail, by their directories.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_iommufd"];

pub(super) fn fault_injection(tree: &Tree) -> io::Result<()> {
    for kind in KINDS {
        let attributes = [
            ("ignore-gfp-highmem", 0o600, "Y"),
            ("ignore-gfp-wait", 0o600, "Y"),
            ("verbose", 0o600, "2"),
        ];
        let own = match kind {
            "fail_page_alloc" => &attributes[..],
            "failslab" => &attributes[1..],
            _ => &attributes[2..],
        };
        tree.attributes(&format!("{}/{kind}", &DEBUGFS[1..]), own)?;
    }
    Ok(())
}
