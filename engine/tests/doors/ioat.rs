//! ioat behind an IOMMU: copies from mapped memory to mapped memory, errors where there is none, interrupts.

use swiommu_abi::vfio;
use swiommu_engine::machine::{DeviceKind, IoatConfig};

use crate::support::memory::Memory;
use crate::support::vfio::{Event, RW};
use crate::support::{Fd, Model, World, device, machine};

/// Channel 0.
const CHANCTRL: u64 = 0x80;
const CHANCMD: u64 = 0x84;
const DMACOUNT: u64 = 0x86;
const CHANSTS: u64 = 0x88;
const CHAINADDR: u64 = 0x90;
const CHANCMP: u64 = 0x98;
const CHANERR: u64 = 0xa8;
/// Where descriptors, sources and destinations are mapped; the last cannot be written by the device.
const CHAIN: u64 = 0x10_0000;
const SOURCE: u64 = 0x20_0000;
const DESTINATION: u64 = 0x30_0000;
const READ_ONLY: u64 = 0x40_0000;
/// Bytes of a copy, in several pages.
const BYTES: usize = 3 * 4096 - 40;

struct Rig {
    ioat: Fd,
    container: Fd,
    chain: Memory,
    source: Memory,
    destination: Memory,
    _group: Fd,
    world: World,
}

impl Rig {
    fn new(model: Model) -> Rig {
        let kind = DeviceKind::Ioat(IoatConfig::default());
        let world = World::new(machine(model, [device(4, 4, kind)]));
        let (container, group) = world.joined(4, vfio::TYPE1V2_IOMMU);
        let ioat = group.device("0000:00:04.0").unwrap();
        ioat.bus_master(true);
        let (chain, source, destination) = (Memory::pages(1), Memory::pages(3), Memory::pages(3));
        for (iova, memory, flags) in [
            (CHAIN, &chain, RW),
            (SOURCE, &source, RW),
            (DESTINATION, &destination, RW),
            (READ_ONLY, &destination, vfio::DMA_MAP_FLAG_READ),
        ] {
            container
                .map(iova, memory.base(), memory.bytes(), flags)
                .unwrap();
        }
        source.write(
            0,
            &(0..3 * 4096)
                .map(|byte| (byte % 251) as u8)
                .collect::<Vec<_>>(),
        );
        Rig {
            ioat,
            container,
            chain,
            source,
            destination,
            _group: group,
            world,
        }
    }

    /// Copies, with a completion and an interrupt; CHANSTS and CHANERR afterwards.
    fn copy(&self, from: u64, to: u64) -> (u64, u64) {
        let control = 0x9_u64;
        let head = BYTES as u64 | control << 32;
        let quads = [head, from, to, CHAIN].map(u64::to_le_bytes);
        self.chain.write(0, &quads.concat());
        self.ioat.store(CHANCTRL, 2, 1);
        self.ioat.store(CHANCMP, 8, CHAIN + 0x800);
        self.ioat.store(CHAINADDR, 8, CHAIN);
        self.ioat.store(DMACOUNT, 2, 1);
        (self.ioat.load(CHANSTS, 8), self.ioat.load(CHANERR, 4))
    }

    fn completion(&self) -> u64 {
        u64::from_le_bytes(self.chain.read(0x800, 8).try_into().unwrap())
    }

    fn recover(&self) {
        self.ioat.store(CHANERR, 4, 0xffff_ffff);
        self.ioat.store(CHANCMD, 1, 0x20);
    }
}

#[test]
fn an_ioat_copies_between_mapped_memory_behind_each_iommu() {
    for model in Model::ALL {
        let rig = Rig::new(model);
        assert_eq!(rig.copy(SOURCE + 8, DESTINATION + 24), (CHAIN | 1, 0));
        assert_eq!(rig.completion(), CHAIN | 1);
        assert!(rig.destination.read(24, BYTES) == rig.source.read(8, BYTES));
        assert_eq!(rig.destination.read(24 + BYTES as u64, 16), [0; 16]);
        assert!(rig.world.kinds().is_empty());
    }
}

#[test]
fn a_blocked_copy_halts_the_channel_with_the_side_that_was_blocked() {
    for model in Model::ALL {
        let rig = Rig::new(model);
        for (from, to, error) in [
            (SOURCE, 0x90_0000, 0x200),
            (0x90_0000, DESTINATION, 0x100),
            (SOURCE, READ_ONLY, 0x200),
            (SOURCE + 4096, DESTINATION, 0x100),
        ] {
            assert_eq!(rig.copy(from, to), (3, error), "{from:#x} to {to:#x}");
            assert_eq!(rig.completion(), 0);
            rig.recover();
        }
        let blocked = [
            "never-mapped",
            "never-mapped",
            "wrong-direction",
            "beyond-the-end",
        ];
        assert_eq!(rig.world.kinds(), blocked);
        assert_eq!(rig.copy(SOURCE, DESTINATION), (CHAIN | 1, 0));
    }
}

#[test]
fn a_copy_after_unmap_is_blocked_and_named() {
    let rig = Rig::new(Model::Scalable);
    rig.container.unmap(SOURCE, 3 * 4096).unwrap();
    assert_eq!(rig.copy(SOURCE, DESTINATION), (3, 0x100));
    assert_eq!(rig.world.kinds(), ["use-after-unmap"]);
    rig.container.unmap(CHAIN, 4096).unwrap();
    rig.recover();
    assert_eq!(rig.copy(SOURCE, DESTINATION), (3, 0x10), "the chain");
}

#[test]
fn an_ioat_interrupts_by_message_or_line() {
    let (rig, event) = (Rig::new(Model::Amd), Event::new());
    rig.ioat
        .eventfds(vfio::PCI_MSIX_IRQ_INDEX, 0, &[event.number()])
        .unwrap();
    rig.copy(SOURCE, DESTINATION);
    assert_eq!(event.count(), 0, "INTRCTRL allows none");
    rig.ioat.store(3, 1, 8);
    rig.copy(SOURCE, DESTINATION);
    assert_eq!(event.count(), 1);
    rig.copy(0x90_0000, DESTINATION);
    assert_eq!(event.count(), 0, "of errors none was asked for");
    rig.recover();
    rig.ioat
        .irqs(vfio::PCI_MSIX_IRQ_INDEX, vfio::IRQ_SET_ACTION_TRIGGER, 0, 0)
        .unwrap();
    rig.ioat
        .eventfds(vfio::PCI_INTX_IRQ_INDEX, 0, &[event.number()])
        .unwrap();
    rig.ioat.store(3, 1, 0);
    rig.copy(SOURCE, DESTINATION);
    assert_eq!((event.count(), rig.ioat.config(6, 2) & 8), (0, 0));
    rig.ioat.store(3, 1, 1);
    assert_eq!((event.count(), rig.ioat.config(6, 2) & 8), (1, 8));
    assert_eq!(rig.ioat.load(4, 4), 1);
    assert_eq!(rig.ioat.config(6, 2) & 8, 0);
}
