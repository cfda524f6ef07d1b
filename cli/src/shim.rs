//! Finds the preloaded library.

use crate::Failure;
use std::path::{Path, PathBuf};

/// Its file name.
const NAME: &str = "libswiommu.so";

/// The library: `$SWIOMMU_SHIM`, else next to this executable, else in the library directories beside it.
pub fn find() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("SWIOMMU_SHIM").filter(|path| !path.is_empty()) {
        return std::path::absolute(&path)
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| {
                Failure::ours(format!(
                    "SWIOMMU_SHIM={}: no such file; accepted is {NAME}",
                    path.display()
                ))
            });
    }
    let executable = std::env::current_exe()
        .map_err(|error| Failure::ours(format!("/proc/self/exe: {error}")))?;
    let beside = executable.parent().unwrap_or(Path::new("/"));
    let places = [".", "../lib/swiommu", "../lib/x86_64-linux-gnu/swiommu"]
        .map(|place| beside.join(place).join(NAME));
    places.iter().find_map(|place| place.canonicalize().ok()).ok_or_else(|| {
        Failure::ours(format!("{NAME} is not in {}, ../lib/swiommu or ../lib/x86_64-linux-gnu/swiommu; set SWIOMMU_SHIM", beside.display()))
    })
}

/// The value of LD_PRELOAD with the library first. The dynamic linker splits it at spaces and colons, so a path with
/// one of these goes through a link in the run's directory.
pub fn preload(library: &Path, run: &Path) -> Result<std::ffi::OsString, Failure> {
    let splits = |path: &Path| {
        path.as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|byte| b" :$".contains(byte))
    };
    let mut library = library.to_path_buf();
    if splits(&library) {
        let link = run.join(NAME);
        std::os::unix::fs::symlink(&library, &link)
            .map_err(|error| Failure::ours(format!("{}: {error}", link.display())))?;
        library = link;
    }
    if splits(&library) {
        return Err(Failure::ours(format!(
            "{}: LD_PRELOAD cannot name a path with a space, colon or $",
            library.display()
        )));
    }
    let mut value = library.into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    Ok(value)
}
