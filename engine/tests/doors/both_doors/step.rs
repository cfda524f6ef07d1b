//! The steps of a sequence. What a step is about is the nth of all there are, so that a shorter sequence still means
//! something.

use proptest::prelude::*;
use swiommu_abi::vfio::{DMA_MAP_FLAG_READ as READ, DMA_MAP_FLAG_WRITE as WRITE};

/// The nth of all there are.
pub type Nth = usize;

/// Pages of client memory; those beyond are a hole.
pub const PAGES: u64 = 8;
/// Device pages, by number.
pub const IOVAS: u64 = 7;

#[derive(Clone, Debug)]
pub enum Step {
    OpenContainer,
    OpenIommu,
    OpenGroup(u32),
    OpenNode(usize),
    Close(Nth),
    /// A group, and a container or an iommufd.
    SetContainer(Nth, Nth),
    UnsetContainer(Nth),
    SetIommu(Nth, u64),
    GetDevice(Nth, usize),
    Bind(Nth, Nth),
    Attach(Nth, Nth),
    Detach(Nth),
    NewIoas(Nth),
    NewHwpt {
        iommu: Nth,
        device: Nth,
        ioas: Nth,
        tracks: bool,
    },
    Destroy(Nth, Nth),
    Map {
        by: Nth,
        at: u64,
        page: u64,
        pages: u64,
        prot: u32,
    },
    Unmap {
        by: Nth,
        mapping: Nth,
        off: i64,
        pages: u64,
    },
    MapIoas {
        iommu: Nth,
        ioas: Nth,
        at: Option<u64>,
        page: u64,
        pages: u64,
        prot: u32,
    },
    Copy {
        iommu: Nth,
        from: Nth,
        mapping: Nth,
        to: Nth,
        at: u64,
        prot: u32,
    },
    UnmapIoas {
        iommu: Nth,
        ioas: Nth,
        mapping: Nth,
        off: i64,
        pages: u64,
    },
    Track {
        iommu: Nth,
        hwpt: Nth,
        on: bool,
    },
    Dirty {
        iommu: Nth,
        hwpt: Nth,
        mapping: Nth,
    },
    TrackContainer(Nth, bool),
    DirtyContainer(Nth, Nth),
    /// The client writes to its memory.
    Write(u64, u64),
    /// A device copies from a page of its nth mapping, or behind it, to one of another.
    Dma {
        device: Nth,
        from: (Nth, u64),
        to: (Nth, u64),
    },
}

fn nth() -> std::ops::Range<usize> {
    0..6
}

fn prot() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(READ | WRITE), 1 => Just(READ), 1 => Just(WRITE)]
}

fn files() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::OpenContainer),
        2 => Just(Step::OpenIommu),
        4 => (4..6u32).prop_map(Step::OpenGroup),
        3 => (0..3usize).prop_map(Step::OpenNode),
        2 => (0..12usize).prop_map(Step::Close),
    ]
}

fn ownership() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![3 => Just(1u64), 5 => Just(3), 1 => Just(2), 1 => Just(9)];
    prop_oneof![
        6 => (nth(), nth()).prop_map(|(group, to)| Step::SetContainer(group, to)),
        1 => nth().prop_map(Step::UnsetContainer),
        5 => (nth(), kind).prop_map(|(by, kind)| Step::SetIommu(by, kind)),
        7 => (nth(), 0..3usize).prop_map(|(group, device)| Step::GetDevice(group, device)),
        6 => (nth(), nth()).prop_map(|(node, iommu)| Step::Bind(node, iommu)),
        7 => (nth(), 0..10usize).prop_map(|(node, to)| Step::Attach(node, to)),
        1 => nth().prop_map(Step::Detach),
    ]
}

fn objects() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => nth().prop_map(Step::NewIoas),
        4 => (nth(), nth(), nth(), any::<bool>()).prop_map(
            |(iommu, device, ioas, tracks)| Step::NewHwpt { iommu, device, ioas, tracks }
        ),
        2 => (nth(), 0..10usize).prop_map(|(iommu, object)| Step::Destroy(iommu, object)),
        3 => (nth(), nth(), any::<bool>()).prop_map(|(iommu, hwpt, on)| Step::Track { iommu, hwpt, on }),
        3 => (nth(), nth(), nth()).prop_map(|(iommu, hwpt, mapping)| Step::Dirty { iommu, hwpt, mapping }),
        1 => (nth(), any::<bool>()).prop_map(|(container, on)| Step::TrackContainer(container, on)),
        1 => (nth(), nth()).prop_map(|(container, mapping)| Step::DirtyContainer(container, mapping)),
    ]
}

fn memory() -> impl Strategy<Value = Step> {
    let at = || prop_oneof![12 => 0..IOVAS - 1, 1 => Just(IOVAS - 1)];
    let page = || prop_oneof![12 => 0..PAGES, 1 => Just(PAGES)];
    let pages = || 1..4u64;
    let maybe = prop_oneof![3 => at().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        6 => (nth(), at(), page(), pages(), prot()).prop_map(
            |(by, at, page, pages, prot)| Step::Map { by, at, page, pages, prot }
        ),
        2 => (nth(), nth(), -1..2i64, 0..3u64).prop_map(
            |(by, mapping, off, pages)| Step::Unmap { by, mapping, off, pages }
        ),
        6 => (nth(), nth(), maybe, page(), pages(), prot()).prop_map(
            |(iommu, ioas, at, page, pages, prot)| Step::MapIoas { iommu, ioas, at, page, pages, prot }
        ),
        3 => (nth(), nth(), nth(), nth(), at(), prot()).prop_map(
            |(iommu, from, mapping, to, at, prot)| Step::Copy { iommu, from, mapping, to, at, prot }
        ),
        2 => (nth(), nth(), nth(), -1..2i64, 0..3u64).prop_map(
            |(iommu, ioas, mapping, off, pages)| Step::UnmapIoas { iommu, ioas, mapping, off, pages }
        ),
        3 => (0..PAGES, any::<u64>()).prop_map(|(page, value)| Step::Write(page, value)),
        9 => (nth(), (nth(), 0..3u64), (nth(), 0..3u64)).prop_map(|(device, from, to)| Step::Dma { device, from, to }),
    ]
}

/// How a sequence may begin: with nothing, or with devices that can do DMA at once.
fn beginning() -> impl Strategy<Value = Vec<Step>> {
    use Step::*;
    let container = || {
        vec![
            OpenContainer,
            OpenGroup(4),
            SetContainer(0, 0),
            SetIommu(0, 3),
            GetDevice(0, 0),
        ]
    };
    let compat = vec![
        OpenIommu,
        OpenGroup(5),
        SetContainer(0, 0),
        GetDevice(0, 1),
        GetDevice(0, 2),
    ];
    let nodes = |first: Nth| {
        let open = [OpenIommu, NewIoas(0), OpenNode(1), OpenNode(2)];
        let bound = [
            Bind(first, 0),
            Bind(first + 1, 0),
            Attach(first, 0),
            Attach(first + 1, 0),
        ];
        [open, bound].concat()
    };
    let both = [container(), nodes(1)].concat();
    let tracked = NewHwpt {
        iommu: 0,
        device: 0,
        ioas: 0,
        tracks: true,
    };
    let on = Track {
        iommu: 0,
        hwpt: 0,
        on: true,
    };
    // objects: the address space, the device, the page table
    let tracked = [
        OpenIommu,
        NewIoas(0),
        OpenNode(0),
        Bind(0, 0),
        tracked,
        Attach(0, 2),
        on,
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        1 => Just(container()),
        1 => Just(compat),
        1 => Just(nodes(0)),
        1 => Just(tracked.to_vec()),
        2 => Just(both),
    ]
}

/// A sequence.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![2 => files(), 4 => ownership(), 5 => objects(), 12 => memory()];
    let steps = (beginning(), proptest::collection::vec(step, 1..80));
    steps.prop_map(|(beginning, steps)| [beginning, steps].concat())
}
