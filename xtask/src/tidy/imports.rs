//! Who may know whom, as ARCHITECTURE.md draws it.

use super::Source;

/// What one part of the tree must not name.
struct Wall {
    /// Files whose path starts so.
    within: &'static str,
    /// Text that must not appear in code.
    not: &'static [&'static str],
    /// Said when it does.
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        within: "abi/src/",
        not: &[
            "swiommu_mem",
            "swiommu_iommu",
            "swiommu_engine",
            "swiommu_shim",
        ],
        why: "abi knows nothing of ours",
    },
    Wall {
        within: "mem/src/",
        not: &["swiommu_iommu", "swiommu_engine", "swiommu_shim"],
        why: "mem knows only abi",
    },
    Wall {
        within: "iommu/src/",
        not: &[
            "swiommu_abi",
            "swiommu_mem",
            "swiommu_engine",
            "swiommu_shim",
        ],
        why: "iommu knows nothing of ours",
    },
    Wall {
        within: "engine/src/",
        not: &["swiommu_shim", "swiommu::"],
        why: "engine does not know the shim",
    },
    Wall {
        within: "engine/src/device/",
        not: &[
            "crate::vfio",
            "crate::bus",
            "crate::machine::run",
            "swiommu_iommu",
        ],
        why: "a device knows pci and mem, never the doors or the IOMMU",
    },
    Wall {
        within: "engine/src/pci/",
        not: &["crate::vfio"],
        why: "pci does not know the doors",
    },
    Wall {
        within: "engine/src/iommufd/",
        not: &["crate::vfio", "crate::pci"],
        why: "the doors are clients of the address space, never the reverse",
    },
    Wall {
        within: "cli/src/",
        not: &["swiommu_shim", "swiommu_iommu", "swiommu_mem"],
        why: "cli knows only engine",
    },
];

/// The rule.
pub fn check(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|s| s.path.ends_with(".rs")) {
        for wall in WALLS.iter().filter(|w| source.path.starts_with(w.within)) {
            for (number, line) in source.text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if wall.not.iter().any(|name| code.contains(name)) {
                    broken.push(format!("{}:{}: {}", source.path, number + 1, wall.why));
                }
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source {
            path: path.into(),
            text: text.into(),
        }]
    }

    #[test]
    fn a_device_that_knows_a_door_is_found() {
        assert_eq!(
            check(&source(
                "engine/src/device/edu.rs",
                "use crate::vfio::Group;\n"
            ))
            .len(),
            1
        );
    }

    #[test]
    fn a_comment_that_names_a_door_is_not() {
        assert!(
            check(&source(
                "engine/src/device/edu.rs",
                "/// As crate::vfio sees it.\n"
            ))
            .is_empty()
        );
    }
}
