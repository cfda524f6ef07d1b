//! Each kind of report, word for word, as a person and as a machine reads it.
//!
//! Golden files lie in `tests/golden/reports`; numbers that change from run to run are replaced. `cargo xtask bless`
//! writes them anew.

use std::path::Path;

use serde_json::Value;
use swiommu_abi::{Errno, iommufd, vfio};
use swiommu_engine::machine::options::{Options, Stacks};
use swiommu_engine::machine::{DeviceKind, Medium, NvmeConfig};

use crate::support::edu::{self as engine, Rig};
use crate::support::memory::Memory;
use crate::support::vfio::{Event, RW, region};
use crate::support::{Model, World, device, edu, machine, options, stub};

const P: u64 = 4096;
const AT: u64 = 0x10_0000;

/// Compares what a world said with the golden file of a name.
fn golden(name: &str, world: &World) {
    let mut json = String::new();
    for mut finding in world.findings() {
        normal_json(&mut finding);
        json += &serde_json::to_string_pretty(&finding).expect("a value");
        json.push('\n');
    }
    compare(name, "txt", &normal(&world.said()));
    compare(name, "json", &json);
}

fn compare(name: &str, kind: &str, now: &str) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/reports/{name}.{kind}"));
    if std::env::var_os("SWIOMMU_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("the golden folder");
        return std::fs::write(&path, now).expect("a golden file");
    }
    let blessed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        blessed == now,
        "{}\n-- blessed --\n{blessed}\n-- now --\n{now}",
        path.display()
    );
}

fn normal_json(value: &mut Value) {
    match value {
        Value::String(text) => *text = normal(text),
        Value::Array(items) => items.iter_mut().for_each(normal_json),
        Value::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "pid" | "thread" | "number" => *value = 0.into(),
                    _ => normal_json(value),
                }
            }
        }
        _ => {}
    }
}

/// Replaces process, thread and call numbers, client addresses, and this program's name and offsets.
fn normal(text: &str) -> String {
    let program = std::env::current_exe().expect("a program");
    let program = program
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let text = text.replace(&program, "program");
    let mut out = String::new();
    let mut rest = &text[..];
    while let Some(first) = rest.chars().next() {
        let length = |s: &str, radix| s.chars().take_while(|c| c.is_digit(radix)).count();
        let numbered = ["==", "thread ", "call #"]
            .iter()
            .any(|before| out.ends_with(before));
        if let Some(hex) = rest.strip_prefix("0x") {
            let digits = length(hex, 16);
            out += if digits > 9 || out.ends_with("program+") {
                "0x..."
            } else {
                &rest[..digits + 2]
            };
            rest = &hex[digits..];
        } else if first.is_ascii_digit() {
            let digits = length(rest, 10);
            out += if numbered { "N" } else { &rest[..digits] };
            rest = &rest[digits..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

#[test]
fn report_of_an_address_between_two_mappings() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(1));
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    rig.container
        .map(AT + 16 * P, memory.base(), P, RW)
        .unwrap();
    rig.write(AT + P + 0x10, b"0123456789abcdef");
    golden("never-mapped", &rig.world);
}

#[test]
fn report_of_an_address_behind_amd() {
    let rig = Rig::new(Model::Amd);
    rig.read(AT, 8);
    golden("never-mapped-amd", &rig.world);
}

#[test]
fn report_of_an_address_that_cannot_be_mapped() {
    let rig = Rig::new(Model::Legacy);
    rig.write(0xfee0_0000, b"data");
    rig.write(1 << 60, b"data");
    golden("never-mappable", &rig.world);
}

#[test]
fn report_of_a_use_after_unmap() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(2));
    rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
    rig.container.unmap(AT, 2 * P).unwrap();
    rig.write(AT + P, &[7; 64]);
    golden("use-after-unmap", &rig.world);
}

#[test]
fn report_of_a_transfer_beyond_the_end() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(2));
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    rig.write(AT + P - 24, &[7; 64]);
    golden("beyond-the-end", &rig.world);
}

#[test]
fn report_of_a_transfer_into_what_was_unmapped_behind_the_end() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(2));
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    rig.container.map(AT + P, memory.base() + P, P, RW).unwrap();
    rig.container.unmap(AT + P, P).unwrap();
    rig.write(AT + P - 24, &[7; 64]);
    golden("beyond-the-end-unmapped", &rig.world);
}

#[test]
fn report_of_the_wrong_direction() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(1));
    rig.container
        .map(AT, memory.base(), P, vfio::DMA_MAP_FLAG_READ)
        .unwrap();
    rig.container
        .map(AT + P, memory.base(), P, vfio::DMA_MAP_FLAG_WRITE)
        .unwrap();
    rig.write(AT, b"data");
    rig.fetch(AT + P, 4);
    golden("wrong-direction", &rig.world);
}

#[test]
fn report_of_bus_master_off() {
    let (rig, event) = (Rig::new(Model::Scalable), Event::new());
    rig.device
        .eventfds(vfio::PCI_MSI_IRQ_INDEX, 0, &[event.number()])
        .unwrap();
    rig.device.bus_master(false);
    rig.fetch(AT, 4);
    rig.device.store(0x60, 4, 1);
    golden("bus-master-off", &rig.world);
}

#[test]
fn report_of_memory_that_is_gone() {
    let (rig, (memory, file)) = (Rig::new(Model::Scalable), Memory::shared(2));
    rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
    rustix::fs::ftruncate(&file, P).unwrap();
    rig.write(AT + P - 8, &[7; 16]);
    golden("memory-gone", &rig.world);
}

#[test]
fn report_of_a_peer_that_refuses() {
    let (rig, window) = (Rig::new(Model::Scalable), Memory::pages(1));
    rig.device.mapped(window.base(), P, region(0));
    rig.container.map(AT, window.base(), P, RW).unwrap();
    rig.write(AT, b"data");
    golden("peer-refused", &rig.world);
}

#[test]
fn report_of_pinned_pages_that_are_lost() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(1));
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    // nobody told the engine
    memory.unmap(0, P);
    rig.world.vacate(memory.base(), P);
    rig.fetch(AT, 4);
    memory.replace(0, P);
    golden("pinned-pages-lost", &rig.world);
}

#[test]
fn report_of_a_range_that_is_mapped_already() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(2));
    rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
    assert_eq!(
        rig.container.map(AT + P, memory.base(), P, RW),
        Err(Errno::EEXIST)
    );
    golden("map-overlaps", &rig.world);
}

#[test]
fn report_of_an_unmap_of_nothing() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(2));
    assert_eq!(rig.container.unmap(AT, P), Ok(0));
    golden("unmap-of-nothing", &rig.world);
    let rig = Rig::with(
        World::new(machine(Model::Scalable, [edu(4, 4)])),
        vfio::TYPE1_IOMMU,
    );
    rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
    assert_eq!(rig.container.unmap(AT + P, P), Ok(0));
    golden("unmap-of-nothing-v1", &rig.world);
}

#[test]
fn report_of_what_is_not_supported_or_modelled_or_allowed() {
    let world = World::new(machine(
        Model::Scalable,
        [stub(4, 4), edu(5, 4), stub(6, 6)],
    ));
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    let (stub, edu) = (
        group.device("0000:00:04.0").unwrap(),
        group.device("0000:00:05.0").unwrap(),
    );
    assert_eq!(
        stub.ioctl(vfio::DEVICE_QUERY_GFX_PLANE, 0),
        Err(Errno::ENOTTY),
        "vfio-pci does not know it either"
    );
    let iommu = world.iommu();
    let (_device, id) = world.bound(2, &iommu);
    let nest = iommufd::HWPT_ALLOC_NEST_PARENT;
    assert_eq!(iommu.hwpt(id, iommu.ioas(), nest), Err(Errno::EOPNOTSUPP));
    stub.store(0x40, 4, 1);
    edu.store(0, 4, 1);
    engine::dma(&edu, 0x41000, AT, 4096, 3);
    golden("unsupported-and-misuse", &world);
}

#[test]
fn report_of_a_machine_that_is_broken() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let medium = Medium {
        path: file.path().to_owned(),
        bytes: 1 << 20,
        read_only: false,
    };
    let nvme = DeviceKind::Nvme(NvmeConfig {
        namespaces: vec![medium],
        ..NvmeConfig::default()
    });
    let world = World::new(machine(Model::Scalable, [device(4, 4, nvme)]));
    drop(file);
    let (_container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
    assert_eq!(group.device("0000:00:04.0").err(), Some(Errno::EIO));
    golden("machine-broken", &world);
}

/// A client that exits with two pages mapped.
fn leaves_behind(verbosity: u8) -> World {
    let told = Options {
        verbosity,
        ..options()
    };
    let (rig, memory) = (
        Rig::on(World::with(machine(Model::Scalable, [edu(4, 4)]), told)),
        Memory::pages(2),
    );
    rig.container.map(AT, memory.base(), 2 * P, RW).unwrap();
    rig.world.engine().exit();
    rig.world
}

#[test]
fn report_of_mappings_left_behind() {
    golden("mappings-left-behind", &leaves_behind(2));
}

#[test]
fn mappings_left_behind_are_on_stderr_only_for_those_who_ask_for_notes() {
    for verbosity in [0, 1] {
        let world = leaves_behind(verbosity);
        assert_eq!(world.said(), "", "verbosity {verbosity}");
    }
}

#[test]
fn nothing_is_said_of_a_good_client() {
    let (rig, memory) = (Rig::new(Model::Scalable), Memory::pages(1));
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    rig.write(AT, b"data");
    rig.container
        .unmap_with(0, 0, vfio::DMA_UNMAP_FLAG_ALL)
        .unwrap();
    rig.world.engine().exit();
    assert_eq!(
        (rig.world.said(), rig.world.findings()),
        (String::new(), vec![])
    );
}

#[test]
fn full_stacks_begin_with_the_clients_own_frame() {
    let full = Options {
        stacks: Stacks::Full,
        ..options()
    };
    let (rig, memory) = (
        Rig::on(World::with(machine(Model::Scalable, [edu(4, 4)]), full)),
        Memory::pages(1),
    );
    rig.container.map(AT, memory.base(), P, RW).unwrap();
    rig.container.unmap(AT, P).unwrap();
    rig.write(AT, b"data");
    let said = rig.world.said();
    let stacks: Vec<&str> = said
        .lines()
        .filter(|line| line.trim_start().starts_with("#0 "))
        .collect();
    assert_eq!(
        stacks.len(),
        2,
        "the mapping and the unmapping call:\n{said}"
    );
    assert!(
        stacks.iter().all(|frame| !frame.contains("swiommu_engine")),
        "{said}"
    );
    assert!(
        said.contains("full_stacks_begin_with_the_clients_own_frame"),
        "{said}"
    );
}

#[test]
fn no_sites_are_named_without_stacks() {
    let none = Options {
        stacks: Stacks::None,
        ..options()
    };
    let rig = Rig::on(World::with(machine(Model::Scalable, [edu(4, 4)]), none));
    rig.write(AT, b"data");
    assert!(!rig.world.said().contains("+0x"), "{}", rig.world.said());
}

#[test]
fn after_twenty_reports_the_rest_goes_to_the_file_only() {
    let rig = Rig::new(Model::Scalable);
    for page in 0..30 {
        rig.post(AT + page * P, 4);
    }
    assert_eq!(rig.world.kinds().len(), 30);
    let said = rig.world.said();
    assert_eq!(said.matches("SUMMARY").count(), 20);
    assert_eq!(said.matches("more go only to the report file").count(), 1);
}
