use super::*;

const ROOT: &[u8] = b"/run/tree";

fn walked(text: &str) -> Path {
    let mut path = Path::new(ROOT);
    let mut below = None;
    assert!(path.walk(text.as_bytes(), &mut below));
    path.finish(below.is_some(), text.ends_with('/'));
    path
}

fn overlaid(text: &str) -> Option<String> {
    let path = walked(text);
    path.overlaid
        .then(|| String::from_utf8(path.client().to_vec()).unwrap())
}

#[test]
fn overlaid_paths_lead_into_the_tree_and_others_do_not() {
    for inside in [
        "/dev/vfio",
        "/dev/vfio/vfio",
        "/sys/bus/pci/devices",
        "/sys/kernel/iommu_groups/1",
    ] {
        assert_eq!(overlaid(inside).as_deref(), Some(inside));
    }
    for outside in [
        "/",
        "/dev",
        "/dev/vfio2",
        "/dev/vf",
        "/sys/bus",
        "/sys/bus/pcix",
        "/sys/module/vfio_other",
        "/x/dev/vfio",
    ] {
        assert_eq!(overlaid(outside), None, "{outside}");
    }
}

#[test]
fn dots_and_doubled_slashes_vanish() {
    assert_eq!(
        overlaid("//dev/./vfio//vfio").as_deref(),
        Some("/dev/vfio/vfio")
    );
    assert_eq!(
        overlaid("/tmp/../dev/vfio/x/../vfio").as_deref(),
        Some("/dev/vfio/vfio")
    );
    assert_eq!(overlaid("/../../dev/vfio/").as_deref(), Some("/dev/vfio/"));
    assert_eq!(overlaid("/dev/vfio/../null"), None);
    assert_eq!(walked("/dev/vfio/../null").client(), b"/dev/null");
}

#[test]
fn dots_behind_an_overlaid_sysfs_directory_are_the_kernels_because_links_lie_there() {
    let link = "/sys/bus/pci/devices/0000:01:00.0/../vendor";
    assert_eq!(overlaid(link).as_deref(), Some(link));
    assert_eq!(
        overlaid("/sys/bus/pci/devices/../../pci/x").as_deref(),
        Some("/sys/bus/pci/x")
    );
    assert_eq!(overlaid("/sys/bus/pci/a/../../usb"), None);
}

#[test]
fn the_list_of_modules_is_the_trees_and_the_hosts_modules_are_the_hosts() {
    assert_eq!(overlaid("/sys/module/").as_deref(), Some("/sys/module/"));
    assert!(overlaid("/sys/module/vfio_pci/refcnt").is_some());
    assert_eq!(overlaid("/sys/module/kvm"), None);
}

#[test]
fn directories_above_the_overlay_are_known() {
    for above in [
        "/",
        "/dev",
        "/dev/",
        "/sys",
        "/sys/bus",
        "/sys/devices/virtual",
    ] {
        assert!(walked(above).above_overlay(), "{above}");
    }
    for not in [
        "/tmp",
        "/dev/vfio",
        "/dev/vf",
        "/sys/bus/pci/devices",
        "/sys/block",
    ] {
        assert!(!walked(not).above_overlay(), "{not}");
    }
}

#[test]
fn a_path_of_the_tree_is_turned_back_and_only_that() {
    assert_eq!(strip(b"/run/tree/sys/bus", ROOT), Some(&b"/sys/bus"[..]));
    assert_eq!(strip(b"/run/tree", ROOT), Some(&b"/"[..]));
    assert_eq!(strip(b"/run/tree2/sys", ROOT), None);
    assert_eq!(strip(b"/run", ROOT), None);
}

#[test]
fn the_link_of_a_descriptor_is_named_without_allocation() {
    let mut buffer = [0; 32];
    assert_eq!(fd_link(0, &mut buffer).to_bytes(), b"/proc/self/fd/0");
    assert_eq!(
        fd_link(1048575, &mut buffer).to_bytes(),
        b"/proc/self/fd/1048575"
    );
    assert_eq!(
        fd_link(i32::MAX, &mut buffer).to_bytes(),
        b"/proc/self/fd/2147483647"
    );
}

proptest::proptest! {
    #[test]
    fn walking_a_clean_path_gives_the_path_back(parts in proptest::collection::vec("[a-z0-9:]{1,8}", 1..8)) {
        let text = format!("/{}", parts.join("/"));
        let path = walked(&text);
        proptest::prop_assert_eq!(path.client(), text.as_bytes());
    }

    #[test]
    fn no_path_text_is_too_odd(text in "[/.a-zA-Z]{0,60}") {
        let path = walked(&text);
        proptest::prop_assert!(path.client().starts_with(b"/"));
        let climbs = path.client().split(|byte| *byte == b'/').any(|part| part == b"..");
        proptest::prop_assert!(path.overlaid || !climbs);
    }
}
