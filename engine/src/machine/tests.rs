//! From flags and files to a machine: what is accepted, what is refused and in which words.

use super::spec::{self, DeviceSpec};
use super::*;
use proptest::prelude::*;
use std::fs;

/// The machine of these `--device` flags.
fn devices(flags: &[&str]) -> Result<Machine, String> {
    let specs: Result<Vec<DeviceSpec>, MachineError> =
        flags.iter().map(|flag| spec::device(flag)).collect();
    let layer = Layer {
        devices: specs.map_err(|error| error.to_string())?,
        ..Layer::default()
    };
    resolve(&[layer]).map_err(|error| error.to_string())
}

fn iommu(flag: &str) -> Result<IommuConfig, String> {
    let spec = spec::iommu(flag).map_err(|error| error.to_string())?;
    let layer = Layer {
        iommu: Some(spec),
        ..Layer::default()
    };
    resolve(&[layer])
        .map(|machine| machine.iommu)
        .map_err(|error| error.to_string())
}

fn from_toml(text: &str) -> Result<Machine, String> {
    let layer = file::parse("m.toml", text).map_err(|error| error.to_string())?;
    resolve(&[layer]).map_err(|error| error.to_string())
}

/// Addresses and groups, in order.
fn places(machine: &Machine) -> Vec<(&str, u32)> {
    machine
        .devices
        .iter()
        .map(|device| (device.bdf.as_str(), device.group))
        .collect()
}

fn nvme(machine: &Machine) -> &NvmeConfig {
    match &machine.devices[0].kind {
        DeviceKind::Nvme(nvme) => nvme,
        other => panic!("{other:?} is no nvme"),
    }
}

#[test]
fn the_built_in_machine_is_an_nvme_in_memory_and_an_edu() {
    let machine = Machine::default();
    assert_eq!(places(&machine), [("0000:01:00.0", 1), ("0000:00:04.0", 2)]);
    assert_eq!(nvme(&machine).namespaces[0].bytes, 1 << 30);
    assert_eq!(nvme(&machine).serial, "swiommu-0000:01:00.0");
    assert_eq!(
        machine.devices[1].kind,
        DeviceKind::Edu(EduConfig { dma_bits: 28 })
    );
    assert_eq!(machine.iommu, IommuConfig::default());
    assert_eq!(machine.vfio, VfioConfig::default());
}

#[test]
fn devices_without_addresses_get_free_ones_and_groups_are_numbered() {
    let flags = [
        "nvme,size=1M",
        "edu",
        "nvme,size=1M",
        "stub",
        "stub,bdf=00:05.0",
        "nvme,size=1M,bdf=02:00.0",
    ];
    let expected = [
        ("0000:01:00.0", 1),
        ("0000:00:04.0", 2),
        ("0000:03:00.0", 3),
        ("0000:00:06.0", 4),
        ("0000:00:05.0", 5),
        ("0000:02:00.0", 6),
    ];
    assert_eq!(places(&devices(&flags).unwrap()), expected);
}

#[test]
fn group_joins_devices_and_automatic_numbers_keep_away_from_given_ones() {
    let machine = devices(&["edu,group=1", "edu", "stub,group=1"]).unwrap();
    assert_eq!(
        machine
            .devices
            .iter()
            .map(|device| device.group)
            .collect::<Vec<_>>(),
        [1, 2, 1]
    );
    assert_eq!(machine.groups(), [1, 2]);
    assert_eq!(machine.group_device(2), Some((tree::GROUP_MAJOR, 2)));
    assert_eq!(machine.group_device(3), None);
}

#[test]
fn functions_of_one_slot_share_a_group_unless_told_otherwise() {
    let machine = devices(&[
        "edu,bdf=00:07.0",
        "edu,bdf=00:07.1",
        "edu,bdf=00:07.2,group=9",
    ])
    .unwrap();
    assert_eq!(
        places(&machine),
        [
            ("0000:00:07.0", 9),
            ("0000:00:07.1", 9),
            ("0000:00:07.2", 9)
        ]
    );
    let machine = devices(&["edu,bdf=00:07.0,group=4", "edu,bdf=00:07.1,group=5"]).unwrap();
    assert_eq!(places(&machine), [("0000:00:07.0", 4), ("0000:00:07.1", 5)]);
}

#[test]
fn an_nvme_takes_several_namespaces_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a,b.img");
    fs::write(&path, vec![0; 2048]).unwrap();
    let doubled = path.to_str().unwrap().replace(',', ",,");
    let flag = format!(
        "nvme,file={doubled},size=64K,ns3.size=1M,ns3.ro,queues=0x4,cache=0,seed=7,serial=S 1,block=512"
    );
    let machine = devices(&[&flag]).unwrap();
    let config = nvme(&machine);
    assert_eq!(
        config.namespaces[0],
        Medium {
            path: path.canonicalize().unwrap(),
            bytes: 2048,
            read_only: false
        }
    );
    assert_eq!(
        config.namespaces[1].path,
        PathBuf::from("media/0000:01:00.0-ns2.raw")
    );
    assert!(config.namespaces[2].read_only && config.namespaces[2].bytes == 1 << 20);
    assert_eq!(
        (
            config.queues,
            config.cache,
            config.seed,
            config.serial.as_str()
        ),
        (4, 0, 7, "S 1")
    );
}

#[test]
fn bad_devices_are_refused_in_one_line_that_says_what_is_accepted() {
    const NVME: &str = "nvme accepts bdf=, block=, cache=, driver=, file=, group=, migration=, nsN.file=, nsN.ro, nsN.size=, present=, queues=, requester=, ro, seed=, serial=, size=, vfs=";
    const SIZE: &str = "accepted is a size such as 512, 128K, 64M, 1G or 2T";
    const BAR: &str = "accepted is a power of two from 16 to 1G for memory (128K), io:4 to io:256 for I/O (io:32)";
    const BDF: &str = "accepted is a PCI address SSSS:BB:DD.F or BB:DD.F in hexadecimal, device 00-1f, function 0-7";
    let table = [
        ("floppy", "unknown kind 'floppy': accepted are nvme, edu, ioat, stub".to_string()),
        ("", "unknown kind '': accepted are nvme, edu, ioat, stub".into()),
        ("nvme", "needs a medium: file=PATH or size=SIZE".into()),
        ("nvme,colour=red", format!("unknown key 'colour': {NVME}")),
        ("nvme,ns1.colour=red", format!("unknown key 'ns1.colour': {NVME}")),
        ("nvme,size=1M,", format!("unknown key '': {NVME}")),
        ("nvme,size", format!("size needs a value: {SIZE}")),
        ("nvme,size=1.5G", format!("size=1.5G: {SIZE}")),
        ("nvme,size=100", "namespace 1 has 100 bytes: accepted is at least one block of 512".into()),
        ("nvme,size=1M,block=600", "block=600: accepted is 512 or 4096".into()),
        ("nvme,size=1M,queues=65", "queues=65: accepted is a number from 1 to 64".into()),
        ("nvme,size=1M,queues=+4", "queues=+4: accepted is a number from 1 to 64".into()),
        ("nvme,size=1M,ro=maybe", "ro=maybe: accepted is 1, 0, true, false, on, off, yes or no".into()),
        ("nvme,size=1M,serial=", "serial=: accepted is 1 to 20 printable ASCII characters".into()),
        ("nvme,ns2.size=1M", "namespace 1 has no medium: give ns1.file= or ns1.size=".into()),
        ("nvme,ns33.size=1M", "ns=33: accepted is a number from 1 to 32".into()),
        ("nvme,size=1M,ns1.size=1M", "ns1.size: namespace 1 already has a medium; accepted is one file= or size= each".into()),
        ("nvme,file=/nope", "file=/nope: cannot find it: no such file or directory; accepted is a raw file or a block device".into()),
        ("nvme,file=/", "file=/ is a directory: accepted is a raw file or a block device".into()),
        ("nvme,file=/dev/null", "file=/dev/null is neither: accepted is a raw file or a block device".into()),
        ("edu,size=1M", "unknown key 'size': edu accepts bdf=, dma_bits=, driver=, group=, present=, requester=".into()),
        ("edu,dma_bits=65", "dma_bits=65: accepted is a number from 1 to 64".into()),
        ("ioat,size=1M", "unknown key 'size': ioat accepts bdf=, channels=, driver=, group=, model=, present=, requester=, transfer=".into()),
        ("ioat,channels=9", "channels=9: accepted is a number from 1 to 8".into()),
        ("ioat,model=haswell", "model=haswell: accepted is skylake or icelake".into()),
        ("ioat,transfer=2M", "transfer=2M: accepted is a power of two from 4K to 1M".into()),
        ("edu,bdf=1:0.0", format!("bdf=1:0.0: {BDF}")),
        ("edu,group=-1", "group=-1: accepted is a number from 0 to 1048575".into()),
        ("stub,bar6=4K", "unknown key 'bar6': stub accepts bar0= to bar5=, bdf=, class=, device=, driver=, group=, intx=, msi=, msix=, present=, requester=, vendor=".into()),
        ("stub,bar0=100", format!("bar0=100: {BAR}")),
        ("stub,bar0=2G", format!("bar0=2G: {BAR}")),
        ("stub,bar0=io:512", format!("bar0=io:512: {BAR}")),
        ("stub,vendor=0xffff", "vendor=0xffff: accepted is an id from 0x1 to 0xfffe".into()),
        ("stub,msi=3", "msi=3: accepted is 0, 1, 2, 4, 8, 16 or 32".into()),
        ("stub,msix=64,bar0=1K", "msix=64 needs a memory BAR that holds its table: give, say, bar0=4K".into()),
    ];
    for (flag, error) in table {
        assert_eq!(devices(&[flag]), Err(format!("--device {flag}: {error}")));
    }
}

#[test]
fn stubs_that_are_possible_are_accepted() {
    let flag = "stub,vendor=0x8086,device=0x10d3,class=0x020000,bar0=128K,bar2=io:32,bar5=16,msix=5,msi=4,intx=1";
    let DeviceKind::Stub(stub) = devices(&[flag]).unwrap().devices.remove(0).kind else {
        panic!("no stub")
    };
    assert_eq!(
        (stub.vendor, stub.device, stub.class),
        (0x8086, 0x10d3, 0x02_0000)
    );
    assert_eq!(
        stub.bars.each_ref().map(String::as_str),
        ["128K", "", "io:32", "", "", "16"]
    );
    assert_eq!((stub.msix, stub.msi, stub.intx), (5, 4, true));
}

#[test]
fn two_devices_at_one_address_are_refused() {
    let error = devices(&["edu,bdf=00:09.0", "stub,bdf=0000:00:09.0"]).unwrap_err();
    let expected = "--device stub,bdf=0000:00:09.0: 0000:00:09.0 is taken by --device edu,bdf=00:09.0: two devices cannot have one bdf=";
    assert_eq!(error, expected);
}

#[test]
fn a_group_across_segments_is_refused() {
    let error = devices(&["edu,group=3", "edu,bdf=0001:00:09.0,group=3"]).unwrap_err();
    let expected = "--device edu,bdf=0001:00:09.0,group=3: group=3 has 0000:00:04.0, which is in another PCI segment than \
                    0001:00:09.0: a group stays within one segment";
    assert_eq!(error, expected);
}

#[test]
fn a_full_bus_has_no_address_left() {
    let flags = vec!["edu"; 29];
    assert_eq!(devices(&flags[..28]).unwrap().devices.len(), 28);
    assert_eq!(
        devices(&flags),
        Err("--device edu: no address is left for it: give bdf=SSSS:BB:DD.F".into())
    );
}

#[test]
fn a_file_has_one_writer_or_only_readers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0; 512]).unwrap();
    let path = path.canonicalize().unwrap();
    let path = path.display();
    devices(&[
        &format!("nvme,file={path},ro"),
        &format!("nvme,file={path},ro"),
    ])
    .unwrap();
    let error = devices(&[&format!("nvme,file={path},file={path}")]).unwrap_err();
    let expected = format!(
        "{path} is already namespace 1 of 0000:01:00.0: accepted is one writer, or ro on all"
    );
    assert!(error.ends_with(&expected), "{error}");
}

#[test]
fn a_file_that_is_too_small_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0; 4095]).unwrap();
    devices(&[&format!("nvme,file={}", path.display())]).unwrap();
    let error = devices(&[&format!("nvme,file={},block=4096", path.display())]).unwrap_err();
    assert!(
        error.ends_with(": namespace 1 has 4095 bytes: accepted is at least one block of 4096"),
        "{error}"
    );
}

#[test]
fn an_error_stays_one_line_whatever_was_typed() {
    let error = devices(&["nv\nme"]).unwrap_err();
    assert_eq!(
        error,
        r"--device nv\nme: unknown kind 'nv\nme': accepted are nvme, edu, ioat, stub"
    );
}

#[test]
fn iommus_are_chosen_by_flag() {
    let amd = IommuConfig {
        kind: IommuKind::Amd,
        scalable: false,
        address_width: 50,
        iotlb: false,
        ..IommuConfig::default()
    };
    assert_eq!(iommu("amd,address_width=50,iotlb=0"), Ok(amd));
    let vtd = IommuConfig {
        kind: IommuKind::Vtd,
        scalable: false,
        address_width: 57,
        ..IommuConfig::default()
    };
    assert_eq!(iommu("vtd,scalable=off,address_width=57"), Ok(vtd));
}

#[test]
fn without_an_iommu_each_device_has_a_group_of_its_own_from_0_on() {
    let layer = Layer {
        iommu: Some(spec::iommu("none,rawio=0").unwrap()),
        devices: [
            "edu,group=7",
            "edu,group=7",
            "edu,bdf=0000:03:00.1",
            "edu,bdf=0000:03:00.0",
        ]
        .map(|flag| spec::device(flag).unwrap())
        .to_vec(),
        ..Layer::default()
    };
    let machine = resolve(&[layer]).unwrap();
    assert_eq!(machine.groups(), [0, 1, 2, 3]);
    assert_eq!(machine.group_node(2), "noiommu-2");
    assert!(!machine.iommu.rawio);
    let again = file::parse("f", &file::to_toml(&machine)).unwrap();
    assert_eq!(resolve(&[again]), Ok(machine));
}

#[test]
fn bad_iommus_are_refused_in_one_line() {
    let table = [
        ("smmu", "kind=smmu: accepted is vtd, amd or none"),
        (
            "vtd,x=1",
            "unknown key 'x': accepted are address_width=, iotlb=, rawio= (none), scalable= (vtd)",
        ),
        (
            "vtd,address_width=40",
            "address_width=40: vtd accepts 39, 48 or 57",
        ),
        (
            "amd,address_width=31",
            "address_width=31: accepted is a number from 32 to 64",
        ),
        (
            "amd,scalable=1",
            "scalable is a key of vtd: amd accepts address_width=, iotlb=",
        ),
        ("amd,rawio=1", "rawio is a key of none"),
        ("none,iotlb=1", "none has no tables: it accepts rawio="),
    ];
    for (flag, error) in table {
        assert_eq!(iommu(flag), Err(format!("--iommu {flag}: {error}")));
    }
}

#[test]
fn later_layers_win_key_by_key_and_another_kind_starts_afresh() {
    let layer = |flag| Layer {
        iommu: Some(spec::iommu(flag).unwrap()),
        ..Layer::default()
    };
    let merged = resolve(&[layer("vtd,address_width=39"), layer("vtd,iotlb=0")])
        .unwrap()
        .iommu;
    assert_eq!((merged.address_width, merged.iotlb), (39, false));
    let merged = resolve(&[layer("vtd,address_width=39"), layer("amd")])
        .unwrap()
        .iommu;
    assert_eq!((merged.kind, merged.address_width), (IommuKind::Amd, 48));
}

#[test]
fn devices_of_a_later_layer_replace_or_join() {
    let layer = |flag, adds_devices| Layer {
        devices: vec![spec::device(flag).unwrap()],
        adds_devices,
        ..Layer::default()
    };
    assert_eq!(
        resolve(&[Layer::built_in(), layer("stub", false)])
            .unwrap()
            .devices
            .len(),
        1
    );
    assert_eq!(
        resolve(&[Layer::built_in(), layer("stub", true)])
            .unwrap()
            .devices
            .len(),
        3
    );
    assert_eq!(
        resolve(&[Layer::built_in(), Layer::default()])
            .unwrap()
            .devices
            .len(),
        2
    );
}

#[test]
fn bad_files_are_refused_in_one_line_that_names_the_place() {
    let table = [
        ("[iommu", "m.toml:1: "),
        ("\n\nx = 1\nx = 2", "m.toml:4: "),
        (
            "[smmu]",
            "m.toml: unknown table 'smmu': accepted are [iommu], [vfio], [[device]], [[driver]]",
        ),
        (
            "device = 1",
            "m.toml: device is written as [iommu], [vfio], [[device]] or [[driver]]",
        ),
        (
            "[[driver]]\nmanaged_dma = true",
            "m.toml: driver 1: needs name = \"...\"",
        ),
        (
            "[[driver]]\nname = \"none\"",
            "m.toml: driver 1: name=none: accepted is a driver's name",
        ),
        (
            "[[driver]]\nname = \"a\"\nid = \"1\"",
            "m.toml: driver 1: id=1: accepted is VVVV:DDDD, or class:",
        ),
        (
            "[[device]]\nkind = \"edu\"\ndriver = \"uio\"",
            "m.toml: device 1: driver=uio: the machine has no such driver: accepted are none, pcieport, nvme,",
        ),
        (
            "[vfio]\nmulti_device_groups = 4",
            "m.toml: [vfio]: multi_device_groups=4: accepted is a number from 1 to 3",
        ),
        (
            "[[device]]\nbdf = \"00:04.0\"",
            "m.toml: device 1: needs kind = \"...\": accepted are nvme, edu, ioat, stub",
        ),
        (
            "[[device]]\nkind = \"edu\"\nx = 1",
            "m.toml: device 1: unknown key 'x': edu accepts",
        ),
        (
            "[[device]]\nkind = \"edu\"\ngroup = 1.5",
            "m.toml: device 1: group: accepted is a string, a whole number or a boolean",
        ),
        (
            "[vfio]\nmemlock = 1.0",
            "m.toml: [vfio]: memlock: accepted is a string",
        ),
        (
            "[vfio]\nmemlock = \"some\"",
            "m.toml: [vfio]: memlock=some: accepted is inherit, unlimited or a size",
        ),
        (
            "[vfio]\ndma_entry_limit = 0",
            "m.toml: [vfio]: dma_entry_limit=0: accepted is a number from 1 to 4294967295",
        ),
        (
            "[iommu]\nkind = \"amd\"\nscalable = true",
            "m.toml: [iommu]: scalable is a key of vtd",
        ),
    ];
    for (text, start) in table {
        let error = from_toml(text).unwrap_err();
        assert!(
            error.starts_with(start) && !error.contains('\n'),
            "{text:?} gave {error:?}"
        );
    }
}

#[test]
fn a_short_file_is_enough() {
    let text = "[iommu]\nkind = \"amd\"\n[vfio]\nmemlock = \"64K\"\n[[device]]\nkind = \"nvme\"\nsize = \"1M\"\nro = true";
    let machine = from_toml(text).unwrap();
    assert_eq!(machine.iommu.kind, IommuKind::Amd);
    assert_eq!(machine.vfio.memlock, Memlock::Bytes(64 << 10));
    assert!(nvme(&machine).namespaces[0].read_only);
}

fn any_bar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        (4u32..=30).prop_map(|shift| size::format(1 << shift)),
        (2u32..=8).prop_map(|shift| format!("io:{}", 1 << shift)),
    ]
}

fn any_stub() -> impl Strategy<Value = DeviceKind> {
    let ids = (1u16..0xffff, any::<u16>(), 0u32..1 << 24);
    let bars = prop::array::uniform6(any_bar());
    let msi = prop::sample::select(vec![0u8, 1, 2, 4, 8, 16, 32]);
    (ids, bars, 0u16..=2048, msi, any::<bool>()).prop_map(
        |((vendor, device, class), mut bars, msix, msi, intx)| {
            bars[0] = "64K".into();
            DeviceKind::Stub(StubConfig {
                vendor,
                device,
                class,
                bars,
                msix,
                msi,
                intx,
            })
        },
    )
}

fn any_nvme() -> impl Strategy<Value = DeviceKind> {
    let media = prop::collection::vec((4096u64..1 << 40, any::<bool>()), 1..4);
    (
        media,
        any::<bool>(),
        "[ -~]{1,20}",
        1u16..=64,
        0u64..1 << 40,
        0u64..1 << 63,
        prop::sample::select(Migration::NAMES.map(|named| named.1).to_vec()),
    )
        .prop_map(|(media, large, serial, queues, cache, seed, migration)| {
            let medium = |(bytes, read_only)| Medium {
                path: PathBuf::new(),
                bytes,
                read_only,
            };
            let namespaces = media.into_iter().map(medium).collect();
            DeviceKind::Nvme(NvmeConfig {
                namespaces,
                block: if large { 4096 } else { 512 },
                serial,
                queues,
                cache,
                seed,
                migration,
                ..NvmeConfig::default()
            })
        })
}

fn any_ioat() -> impl Strategy<Value = DeviceKind> {
    let model = prop::sample::select(vec![IoatModel::Skylake, IoatModel::Icelake]);
    (model, 1u8..=8, 12u32..=20).prop_map(|(model, channels, transfer_lg2)| {
        DeviceKind::Ioat(IoatConfig {
            model,
            channels,
            transfer: 1 << transfer_lg2,
        })
    })
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let edu = (1u8..=64).prop_map(|dma_bits| DeviceKind::Edu(EduConfig { dma_bits }));
    let kinds = prop::collection::vec(
        (
            prop_oneof![edu, any_ioat(), any_stub(), any_nvme()],
            any::<u8>(),
            0u32..5,
        ),
        0..6,
    );
    let vtd = (any::<bool>(), prop::sample::select(vec![39u8, 48, 57]))
        .prop_map(|(scalable, width)| (IommuKind::Vtd, scalable, width));
    let amd = (32u8..=64).prop_map(|width| (IommuKind::Amd, false, width));
    let memlock = prop_oneof![
        Just(Memlock::Inherit),
        Just(Memlock::Unlimited),
        (0u64..1 << 60).prop_map(Memlock::Bytes)
    ];
    let booleans = any::<(bool, bool)>();
    (kinds, prop_oneof![vtd, amd], booleans, memlock, 1u32..).prop_map(
        |(kinds, (kind, scalable, address_width), booleans, memlock, dma_entry_limit)| {
            let (iotlb, enable_sriov) = booleans;
            let mut devices = Vec::new();
            for (index, (mut kind, bus, group)) in kinds.into_iter().enumerate() {
                let bdf = Bdf {
                    segment: 0,
                    bus,
                    slot: index as u8,
                    function: 0,
                }
                .to_string();
                if let DeviceKind::Nvme(nvme) = &mut kind {
                    for (index, medium) in nvme.namespaces.iter_mut().enumerate() {
                        medium.path = format!("media/{bdf}-ns{}.raw", index + 1).into();
                    }
                }
                devices.push(DeviceConfig::new(bdf, group, kind));
            }
            let iommu = IommuConfig {
                kind,
                scalable,
                address_width,
                iotlb,
                rawio: true,
            };
            Machine {
                mock: false,
                iommu,
                vfio: VfioConfig {
                    dma_entry_limit,
                    enable_sriov,
                    memlock,
                    ..VfioConfig::default()
                },
                devices,
                drivers: driver::built_in(),
            }
        },
    )
}

/// The body of the parser fuzz: whatever the bytes, an answer or one line.
fn fuzz_parsers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let errors = [
        spec::device(&text).err().map(|error| error.to_string()),
        spec::iommu(&text).err().map(|error| error.to_string()),
        // Only parsed: resolving would look at files.
        file::parse("f", &text).err().map(|error| error.to_string()),
    ];
    for error in errors.into_iter().flatten() {
        assert!(
            !error.is_empty() && !error.chars().any(char::is_control),
            "{error:?}"
        );
    }
    let _ = text.parse::<options::Options>();
    let _ = text.parse::<Bdf>();
    let _ = size::parse(&text);
}

proptest! {
    #[test]
    fn a_machine_survives_toml(machine in any_machine()) {
        prop_assert_eq!(from_toml(&file::to_toml(&machine)), Ok(machine));
    }

    #[test]
    fn a_machine_survives_json(machine in any_machine()) {
        let text = serde_json::to_string(&machine).unwrap();
        prop_assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }

    #[test]
    fn parsers_answer_any_bytes(bytes: Vec<u8>) {
        fuzz_parsers(&bytes);
    }

    #[test]
    fn parsers_answer_almost_right_flags(
        text in "(nvme|edu|stub|vtd|amd)(,{1,2}(file|size|ns[0-9]{1,3}.(ro|size)|bar[0-9]|bdf|group|msix|queues|seed)=?[-+0-9a-fx:.KMG]{0,9}){0,5}"
    ) {
        fuzz_parsers(text.as_bytes());
    }

    #[test]
    fn parsers_answer_almost_right_files(
        text in "(\\[?\\[(device|iommu|vfio|x)\\]?\\]\n((kind|bdf|group|memlock|size|namespaces) = (\"[a-z0-9:.]{0,8}\"|-?[0-9]{1,20}|true|\\[1\\]|\\{size=1\\})\n){0,4}){0,4}"
    ) {
        fuzz_parsers(text.as_bytes());
    }
}
