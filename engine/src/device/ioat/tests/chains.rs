//! What descriptors do, alone, in chains, and against a plain model of memory.

use super::*;
use per_channel::*;
use proptest::prelude::*;

#[test]
fn a_copy_moves_its_bytes_and_no_others() {
    for size in [1, 7, 8, 4096, BUFFER as u32, BUFFER as u32 + 5, 100_000] {
        let mut rig = Rig::new();
        let expected = rig.bus.memory[0x2_0003..0x2_0003 + size as usize].to_vec();
        rig.bus.memory[0x4000..0x2_0000].fill(0xee);
        rig.describe(0, size, 0, 0x2_0003, 0x4001);
        rig.run(1);
        assert_eq!(rig.get(CHANSTS), CHAIN | DONE);
        let end = 0x4001 + size as usize;
        assert!(rig.bus.memory[0x4001..end] == expected, "{size} bytes");
        assert_eq!((rig.bus.memory[0x4000], rig.bus.memory[end]), (0xee, 0xee));
        assert!(rig.bus.messages.is_empty() && rig.peek(STATUS) == 0);
    }
}

#[test]
fn a_fill_repeats_its_pattern_from_its_first_byte() {
    for size in [1, 8, 13, BUFFER as u32 + 3] {
        let mut rig = Rig::new();
        let pattern = 0x8877_6655_4433_2211_u64;
        rig.describe(0, size, FILL, pattern, 0x4003);
        rig.run(1);
        let end = 0x4003 + size as usize;
        let expected = pattern.to_le_bytes().into_iter().cycle();
        assert!(
            rig.bus.memory[0x4003..end]
                .iter()
                .copied()
                .eq(expected.take(size as usize))
        );
        assert_eq!((rig.bus.memory[0x4002], rig.bus.memory[end]), (0, 0));
    }
}

#[test]
fn a_null_transfer_touches_neither_side() {
    let mut rig = Rig::new();
    rig.describe(0, 8, NULL | COMPLETION, u64::MAX, u64::MAX);
    rig.run(1);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
}

#[test]
fn completions_tell_the_last_descriptor_and_whether_others_follow() {
    let mut rig = Rig::new();
    for index in 0..3 {
        let control = if index == 1 { COMPLETION | NULL } else { NULL };
        rig.describe(index, 8, control, 0, 0);
    }
    rig.run(3);
    assert_eq!(rig.peek(STATUS), CHAIN + 64);
    assert_eq!(rig.get(CHANSTS), (CHAIN + 128) | DONE);
    assert_eq!(rig.get(CDAR), CHAIN + 128);
}

#[test]
fn the_count_goes_on_from_where_it_was_and_wraps_around() {
    let mut rig = Rig::new();
    rig.place(CHAIN, 8, NULL | COMPLETION, 0, 0, CHAIN + 64);
    rig.place(CHAIN + 64, 8, NULL | COMPLETION, 0, 0, CHAIN);
    rig.run(0xffff);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
    rig.set(DMACOUNT, 0xffff);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
    rig.set(DMACOUNT, 0);
    assert_eq!(rig.peek(STATUS), (CHAIN + 64) | DONE);
    rig.set(CHAINADDR, CHAIN);
    assert_eq!(rig.get(DMACOUNT), 0);
    rig.set(DMACOUNT, 1);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
}

#[test]
fn a_chain_whose_descriptor_is_written_by_the_one_before_reads_what_was_written() {
    let mut rig = Rig::new();
    rig.place(0x2000, 16, FILL | COMPLETION, 0x5a5a, 0x8000, 0);
    rig.describe(0, 64, 0, 0x2000, CHAIN + 64);
    rig.run(2);
    assert_eq!(rig.peek(0x8008), 0x5a5a);
    assert_eq!(rig.peek(STATUS), (CHAIN + 64) | DONE);
}

#[derive(Clone, Debug)]
struct Work {
    control: u32,
    size: u32,
    source: u64,
    destination: u64,
}

fn work() -> impl Strategy<Value = Work> {
    let control = prop_oneof![Just(0), Just(NULL), Just(FILL)];
    (control, 1_u32..0x3000, 0_u64..0x8000, 0_u64..0x8000).prop_map(
        |(control, size, source, destination)| Work {
            control: control | 0x10,
            size,
            source: 0x2_0000 + source,
            destination: 0x1_0000 + destination,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn chains_leave_memory_like_the_model(works in prop::collection::vec(work(), 1..24), steps in prop::collection::vec(1_u16..5, 24)) {
        let mut rig = Rig::new();
        let mut model = rig.bus.memory.clone();
        for (index, work) in (0..).zip(&works) {
            rig.describe(index, work.size, work.control, work.source, work.destination);
        }
        model[..0x1_0000].copy_from_slice(&rig.bus.memory[..0x1_0000]);
        rig.set(CHAINADDR, CHAIN);
        let mut done = 0;
        for step in steps {
            let count = (done + usize::from(step)).min(works.len());
            for Work { control, size, source, destination } in &works[done..count] {
                let (from, to, size) = (*source as usize, *destination as usize, *size as usize);
                for byte in 0..size {
                    match control & !0x10 {
                        NULL => {}
                        FILL => model[to + byte] = source.to_le_bytes()[byte % 8],
                        _ => model[to + byte] = model[from + byte],
                    }
                }
            }
            done = count;
            rig.set(DMACOUNT, count as u64);
            prop_assert!(rig.bus.memory == model);
            prop_assert_eq!(rig.get(CHANSTS), (CHAIN + (count as u64 - 1) * 64) | DONE);
        }
    }
}
