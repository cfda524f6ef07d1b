//! The emulator beside the CPU: the same instruction on the same registers and memory must leave the same behind.
#![allow(unsafe_code)] // raw memory shared with native code

mod forms;
mod native;

use super::registers::STATUS_FLAGS;
use super::{Bus, Registers, Stop, VectorFile, emulate};
use forms::Sample;
use native::{ARENA, Cpu, State, cpu};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::ptr::NonNull;
use swiommu_mem::{Client, UserAddr};

fn client() -> Client {
    swiommu_mem::install_handlers();
    // SAFETY: handlers are installed; addresses are those of the arena.
    unsafe { Client::local() }
}

/// Address (or offset), size, whether it wrote.
type Access = (u64, u8, bool);

/// Trapped accesses go straight to memory. Which half of the arena traps is up to the test.
struct Direct {
    trapped: std::ops::Range<u64>,
    /// Register pages that are not there.
    gone: std::ops::Range<u64>,
    accesses: Vec<Access>,
}

impl Bus for Direct {
    fn is_trapped(&self, at: u64) -> bool {
        self.trapped.contains(&at)
    }
    fn read(&mut self, at: u64, bytes: u8) -> Option<u64> {
        if self.gone.contains(&at) {
            return None;
        }
        self.accesses.push((at, bytes, false));
        // A bus may leave garbage above the bytes asked for.
        let garbage = if bytes < 8 {
            u64::MAX << (8 * bytes)
        } else {
            0
        };
        Some(client().load(UserAddr(at), bytes).unwrap() | garbage)
    }
    fn write(&mut self, at: u64, bytes: u8, value: u64) -> Option<()> {
        if self.gone.contains(&at) {
            return None;
        }
        self.accesses.push((at, bytes, true));
        client().store(UserAddr(at), bytes, value).ok()
    }
}

/// The emulator's result on a state.
fn emulated(
    cpu: &Cpu,
    code: &[u8],
    state: &State,
    bus: &mut dyn Bus,
) -> (Result<(), Stop>, State, u64) {
    let mut low = state.ymm.map(|[low, _]| low);
    let mut high = state.ymm.map(|[_, high]| high);
    // SAFETY: both arrays outlive the register file and are used through it alone until then.
    let vectors = unsafe {
        VectorFile::of_arrays(
            NonNull::from(&mut low).cast(),
            Some(NonNull::from(&mut high).cast()),
        )
    };
    let mut registers = Registers {
        gpr: state.gpr,
        rip: cpu.rip(),
        rflags: state.rflags,
        vectors,
    };
    let done = emulate(&mut registers, code, client(), bus);
    let mut ymm = state.ymm;
    for (n, pair) in ymm.iter_mut().enumerate() {
        *pair = [low[n], high[n]];
    }
    (
        done,
        State::new(registers.gpr, registers.rflags, ymm),
        registers.rip,
    )
}

fn compare(
    sample: &Sample,
    memory: &[u8],
    ymm: [[u128; 2]; 16],
    trapped: (u64, u64),
) -> Result<(), TestCaseError> {
    let mut cpu = cpu();
    let before = State::new(sample.gpr, sample.rflags, ymm);
    cpu.set_memory(memory);
    let real = cpu.run(&sample.code, &before);
    let real_memory = cpu.memory();
    cpu.set_memory(memory);
    let base = cpu.arena as u64;
    let mut bus = Direct {
        trapped: base + trapped.0..base + trapped.1,
        gone: 0..0,
        accesses: Vec::new(),
    };
    let (done, ours, rip) = emulated(&cpu, &sample.code, &before, &mut bus);
    prop_assert_eq!(done, Ok(()));
    prop_assert_eq!(rip, cpu.rip() + sample.code.len() as u64);
    prop_assert_eq!(ours.gpr, real.gpr);
    let flags = STATUS_FLAGS | 1 << 10;
    prop_assert_eq!(ours.rflags & flags, real.rflags & flags, "flags");
    if std::arch::is_x86_feature_detected!("avx") {
        prop_assert_eq!(ours.ymm, real.ymm);
    }
    let our_memory = cpu.memory();
    if our_memory != real_memory {
        let at = (0..ARENA)
            .find(|&i| our_memory[i] != real_memory[i])
            .unwrap();
        prop_assert!(false, "memory differs at {at:#x}");
    }
    Ok(())
}

fn arena() -> u64 {
    cpu().arena as u64
}

fn check(cases: u32, samples: impl Strategy<Value = Sample>) {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    let halves = prop::sample::select(vec![
        (0, ARENA as u64),
        (0, 4096),
        (4096, ARENA as u64),
        (2048, 6144),
    ]);
    let memory = prop::collection::vec(any::<u8>(), 256);
    let ymm = any::<[u128; 16]>();
    TestRunner::new(config)
        .run(
            &(samples, memory, ymm, halves),
            |(sample, memory, ymm, trapped)| {
                let memory: Vec<u8> = memory.iter().copied().cycle().take(ARENA).collect();
                compare(&sample, &memory, ymm.map(|v| [v, !v ^ 0x55]), trapped)
            },
        )
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn integer_instructions_leave_what_the_cpu_leaves() {
    check(20_000, forms::integer(arena()));
}

#[test]
fn vector_moves_leave_what_the_cpu_leaves() {
    check(3_000, forms::vector(arena()));
}

#[test]
fn avx_moves_leave_what_the_cpu_leaves() {
    if std::arch::is_x86_feature_detected!("avx") {
        check(2_000, forms::vex(arena()));
    }
}

#[test]
fn string_instructions_leave_what_the_cpu_leaves() {
    check(5_000, forms::string(arena()));
}

/// Emulates `code` with rdi at the arena's start, everything there trapped.
fn trap(code: &[u8], gpr: impl FnOnce(&mut [u64; 16])) -> (Result<(), Stop>, State, Vec<Access>) {
    trap_without(0..0, code, gpr)
}

/// The same with registers missing, by their offsets in the arena.
fn trap_without(
    gone: std::ops::Range<u64>,
    code: &[u8],
    gpr: impl FnOnce(&mut [u64; 16]),
) -> (Result<(), Stop>, State, Vec<Access>) {
    let cpu = cpu();
    let base = cpu.arena as u64;
    let mut state = State::new([0; 16], 2, [[0x1111; 2]; 16]);
    state.gpr[7] = base;
    gpr(&mut state.gpr);
    let mut bus = Direct {
        trapped: base..base + ARENA as u64,
        gone: base + gone.start..base + gone.end,
        accesses: Vec::new(),
    };
    let (done, after, _) = emulated(&cpu, code, &state, &mut bus);
    let accesses = bus
        .accesses
        .iter()
        .map(|&(at, bytes, write)| (at.wrapping_sub(base), bytes, write))
        .collect();
    (done, after, accesses)
}

#[test]
fn forms_that_are_not_known_are_refused_by_name_and_change_nothing() {
    let refused: [(&[u8], &str); 10] = [
        (&[0xd9, 0x07], "Fld_m32fp"),
        (&[0x0f, 0xc7, 0x0f], "Cmpxchg8b_m64"),
        (&[0xf7, 0x27], "Mul_rm32"),
        (&[0xff, 0x17], "Call_rm64"),
        (&[0xff, 0x27], "Jmp_rm64"),
        (&[0x66, 0x0f, 0xfe, 0x07], "Paddd_xmm_xmmm128"),
        (&[0x8e, 0x1f], "Mov_Sreg_"),
        (&[0x0f, 0xae, 0x07], "Fxsave_m512byte"),
        (&[0x0f, 0x0b], "Ud2"),
        (&[0x06], "INVALID"),
    ];
    for (code, name) in refused {
        let (done, after, accesses) = trap(code, |_| ());
        let Err(Stop::Unknown { text }) = done else {
            panic!("{name} was carried out")
        };
        assert!(text.starts_with(name), "{text} instead of {name}");
        assert_eq!(accesses, [], "{name}");
        assert_eq!(after.rflags, 2);
    }
}

#[test]
fn no_bytes_and_half_an_instruction_are_refused() {
    for code in [
        &[][..],
        &[0xc7, 0x07, 1][..],
        &[0x66][..],
        &[0xf0, 0x48][..],
    ] {
        assert!(matches!(trap(code, |_| ()).0, Err(Stop::Unknown { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn no_bytes_make_the_emulator_panic(code in prop::collection::vec(any::<u8>(), 0..16), gpr in any::<[u64; 16]>()) {
        let mut gpr = gpr;
        gpr[1] &= 0xff;
        let cpu = cpu();
        let _ = emulated(&cpu, &code, &State::new(gpr, 2, [[0; 2]; 16]), &mut Everything);
    }
}

/// A bus that traps all of memory.
struct Everything;

impl Bus for Everything {
    fn is_trapped(&self, _: u64) -> bool {
        true
    }
    fn read(&mut self, at: u64, bytes: u8) -> Option<u64> {
        assert!(at % 4096 + u64::from(bytes) <= 4096 && matches!(bytes, 1 | 2 | 4 | 8));
        Some(at)
    }
    fn write(&mut self, at: u64, bytes: u8, _: u64) -> Option<()> {
        self.read(at, bytes).map(drop)
    }
}

#[test]
fn a_read_modify_write_is_one_read_and_one_write_of_its_width() {
    let (done, _, accesses) = trap(&[0x81, 0x27, 0xfe, 0xff, 0xff, 0xff], |_| ());
    assert_eq!(
        (done, accesses),
        (Ok(()), vec![(0, 4, false), (0, 4, true)])
    );
    let (_, _, accesses) = trap(&[0xf6, 0x07, 1], |_| ());
    assert_eq!(accesses, [(0, 1, false)]);
}

#[test]
fn a_sixteen_byte_store_is_two_writes_in_ascending_order() {
    let (_, _, accesses) = trap(&[0x0f, 0x11, 0x07], |_| ());
    assert_eq!(accesses, [(0, 8, true), (8, 8, true)]);
}

#[test]
fn a_direct_store_arrives_as_eight_pieces_from_ordinary_memory() {
    let data: Vec<u8> = (0..64).collect();
    let (done, _, accesses) = trap(&[0x66, 0x0f, 0x38, 0xf8, 0x3e], |gpr| {
        gpr[6] = data.as_ptr() as u64
    });
    assert_eq!(done, Ok(()));
    assert_eq!(
        accesses,
        (0..8).map(|i| (8 * i, 8, true)).collect::<Vec<_>>()
    );
    assert_eq!(&cpu().memory()[..64], &data[..]);
}

#[test]
fn an_access_across_pages_is_split_into_bytes() {
    let start = 4096 - arena() % 4096;
    let (_, _, accesses) = trap(&[0x89, 0x07], |gpr| gpr[7] += start - 2);
    assert_eq!(
        accesses,
        (0..4).map(|i| (start - 2 + i, 1, true)).collect::<Vec<_>>()
    );
}

#[test]
fn a_register_page_that_is_not_there_stops_the_instruction_before_it_changes_anything() {
    for code in [&[0x8b, 0x07][..], &[0x89, 0x07], &[0x0f, 0x11, 0x07]] {
        let (done, after, accesses) = trap_without(0..4096, code, |gpr| gpr[0] = 7);
        let at = UserAddr(after.gpr[7]);
        assert_eq!((done, after.gpr[0]), (Err(Stop::NoPage { at }), 7));
        assert_eq!(accesses, []);
    }
    let (done, after, accesses) = trap_without(8..4096, &[0xf3, 0x48, 0xab], |gpr| gpr[1] = 5);
    let at = UserAddr(after.gpr[7]);
    assert_eq!(
        done,
        Err(Stop::NoPage { at }),
        "rep stosq, at its second word"
    );
    assert_eq!((after.gpr[1], accesses), (4, vec![(0, 8, true)]));
}

#[test]
fn a_string_move_from_absent_memory_stops_where_it_failed() {
    let (done, after, accesses) = trap(&[0xf3, 0xa4], |gpr| (gpr[6], gpr[1]) = (0x10, 5));
    assert_eq!(done, Err(Stop::Fault { at: UserAddr(0x10) }));
    assert_eq!((after.gpr[6], after.gpr[1]), (0x10, 5));
    assert_eq!(accesses, []);
}

#[test]
fn an_address_through_fs_uses_this_threads_base() {
    // mov eax, fs:[0] reads the thread control block, which begins with its own address.
    let (done, after, accesses) = trap(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], |_| ());
    assert_eq!((done, accesses), (Ok(()), vec![]));
    assert_eq!(client().load(UserAddr(after.gpr[0]), 8), Ok(after.gpr[0]));
}
