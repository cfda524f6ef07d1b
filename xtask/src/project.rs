//! Where things are in the project, found from the workspace's own root.

use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |d| root().join(d))
}

/// Downloaded and built client programs.
pub fn clients() -> PathBuf {
    target().join("clients")
}

/// A file of the project, from its path below the root.
pub fn file(path: &str) -> PathBuf {
    root().join(path)
}
