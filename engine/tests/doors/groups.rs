//! The rules of groups: which drivers stand in the way of a group's owner, and what becomes of them. The numbers are
//! those of docs/groups-and-drivers.md.

use proptest::prelude::*;
use swiommu_abi::{Errno, vfio};
use swiommu_engine::machine::{DriverConfig, GroupRules};

use crate::support::World;
use crate::support::memory::Memory;
use crate::support::pair::{A, ALONE, B, IOVA, PAIR, claim, described, is_viable, reaches};
use crate::support::vfio::RW;

fn world(driver: Option<&str>) -> World {
    World::new(described(driver))
}

#[test]
fn s1_17_a_group_is_viable_only_if_all_its_devices_are_out_of_the_kernels_hands() {
    for (driver, viable) in [
        (None, true),
        (Some("vfio-pci"), true),
        (Some("pci-stub"), true),
        (Some("pcieport"), true),
        (Some("nvme"), false),
        (Some("e1000e"), false),
    ] {
        assert_eq!(claim(&world(driver)).is_ok(), viable, "{driver:?}");
    }
}

#[test]
fn s1_18_a_device_without_a_driver_does_not_stand_in_the_way() {
    assert_eq!(claim(&world(None)), Ok(0));
}

#[test]
fn s1_19_a_device_of_the_same_driver_does_not_stand_in_the_way() {
    assert_eq!(claim(&world(Some("vfio-pci"))), Ok(0));
}

#[test]
fn s1_20_a_driver_that_leaves_dma_alone_does_not_stand_in_the_way_and_another_does() {
    assert_eq!(claim(&world(Some("pci-stub"))), Ok(0));
    assert_eq!(claim(&world(Some("nvme"))), Err(Errno::EPERM));
    let mut machine = described(Some("nvme"));
    machine.vfio.groups = GroupRules::Rfc;
    assert_eq!(claim(&World::new(machine)), Err(Errno::EINVAL));
}

/// A world whose device B is bound to a driver of this name and property.
fn with_driver(name: &str, managed_dma: bool) -> World {
    let mut machine = described(Some(name));
    machine.drivers.retain(|driver| driver.name != name);
    machine.drivers.push(DriverConfig {
        name: name.into(),
        managed_dma,
        ..DriverConfig::default()
    });
    World::new(machine)
}

#[test]
fn s1_21_a_drivers_name_decides_nothing() {
    for name in ["pci-stub", "nvme", "vfio", "something"] {
        assert_eq!(claim(&with_driver(name, true)), Ok(0), "{name}");
        let unsafe_one = claim(&with_driver(name, false));
        assert_eq!(unsafe_one, Err(Errno::EPERM), "{name}");
    }
}

#[test]
fn s1_22_a_driver_declares_itself_that_it_leaves_dma_to_user_space() {
    let world = with_driver("mine", false);
    assert_eq!(claim(&world), Err(Errno::EPERM));
    world.unbind(B).unwrap();
    world.bind(B, "pci-stub").unwrap();
    assert_eq!(claim(&world), Ok(0));
}

#[test]
fn s1_23_what_a_driver_declares_holds_from_its_probe_to_its_removal() {
    let world = world(None);
    assert_eq!(claim(&world), Ok(0));
    world.bind(B, "nvme").unwrap();
    assert_eq!(claim(&world), Err(Errno::EPERM), "from the probe");
    world.unbind(B).unwrap();
    assert_eq!(claim(&world), Ok(0), "until it is unbound");
    let held = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    assert_eq!(world.bind(B, "nvme"), Err(Errno::EBUSY));
    drop(held);
    assert_eq!(claim(&world), Ok(0), "a probe that failed leaves nothing");
}

#[test]
fn s1_24_a_group_is_refused_until_the_driver_in_the_way_is_unbound() {
    let world = world(Some("nvme"));
    let (container, group) = (world.container(), world.group(PAIR).unwrap());
    assert_eq!(group.set_container(&container), Err(Errno::EPERM));
    assert!(!is_viable(&group));
    world.unbind(B).unwrap();
    assert!(is_viable(&group));
    assert_eq!(group.set_container(&container), Ok(0));
}

#[test]
fn s1_25_a_driver_that_comes_while_the_group_is_held_is_noticed_at_its_probe() {
    let world = world(None);
    let other = world.beside();
    let (_container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    assert_eq!(other.bind(B, "nvme"), Err(Errno::EBUSY));
    assert_eq!(
        other.bind(B, "pci-stub"),
        Ok(()),
        "one that is safe may come"
    );
    assert!(is_viable(&group));
    assert_eq!(other.bind(ALONE, "vfio-pci"), Err(Errno::EBUSY));
    other.unbind(ALONE).unwrap();
    let elsewhere = other.bind(ALONE, "nvme");
    assert_eq!(elsewhere, Ok(()), "another group's device is free");
}

#[test]
fn s1_26_an_unsafe_driver_in_a_held_group_is_an_error_and_no_crash() {
    let world = world(None);
    let (container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    let device = group.device(A).unwrap();
    let memory = Memory::pages(1);
    container.map(IOVA, memory.base(), 4096, RW).unwrap();
    for _ in 0..3 {
        assert_eq!(world.bind(B, "nvme"), Err(Errno::EBUSY));
    }
    assert!(reaches(&device, &memory), "the holder goes on");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Bind(usize),
    Unbind,
    Hold,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize).prop_map(Step::Bind),
        Just(Step::Unbind),
        Just(Step::Hold),
        Just(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn s1_27_no_order_of_binding_and_holding_breaks_viability_while_the_group_is_held(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let drivers = ["nvme", "pci-stub", "vfio-pci", "e1000e"];
        let world = world(None);
        let other = world.beside();
        let mut held = None;
        for step in steps {
            let bound = world.driver(B);
            match step {
                Step::Bind(driver) => {
                    let unsafe_one = driver == 0 || driver == 3;
                    let refused = bound.is_some() || held.is_some() && unsafe_one;
                    let expected = if refused { Err(Errno::EBUSY) } else { Ok(()) };
                    prop_assert_eq!(other.bind(B, drivers[driver]), expected);
                }
                Step::Unbind => {
                    let expected = if bound.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
                    prop_assert_eq!(other.unbind(B), expected);
                }
                Step::Hold if held.is_none() => {
                    let (container, group) = (world.container(), world.group(PAIR).unwrap());
                    let unsafe_one = matches!(bound.as_deref(), Some("nvme" | "e1000e"));
                    let claimed = group.set_container(&container);
                    prop_assert_eq!(claimed.is_err(), unsafe_one);
                    held = claimed.is_ok().then_some((container, group));
                }
                Step::Hold => {}
                Step::Release => held = None,
            }
            let unsafe_one = matches!(world.driver(B).as_deref(), Some("nvme" | "e1000e"));
            prop_assert!(!(held.is_some() && unsafe_one));
        }
    }
}

#[test]
fn s1_28_an_unsafe_probe_is_refused_and_the_device_stays_without_a_driver() {
    let world = world(None);
    let (_container, group) = world.joined(PAIR, vfio::TYPE1V2_IOMMU);
    assert_eq!(world.bind(B, "nvme"), Err(Errno::EBUSY));
    assert_eq!(world.driver(B), None);
    assert!(is_viable(&group));
    let probe = world.write("/sys/bus/pci/drivers_probe", B);
    assert_eq!(probe, Err(Errno::EINVAL), "as drivers_probe says it");
    assert_eq!(world.driver(B), None);
    drop((_container, group));
    assert_eq!(world.bind(B, "nvme"), Ok(()), "when nobody holds the group");
}
