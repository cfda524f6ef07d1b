//! Faulting copies beside memcpy: nanoseconds per copy and the ratio, for one hot place and for places scattered over
//! 64 MiB. `--json` prints one object per line instead of a table.
#![allow(unsafe_code, missing_docs)] // memcpy on raw memory

use std::hint::black_box;
use std::time::Instant;
use swiommu_mem::{Client, Mapping, UserAddr};

const ARENA: u64 = 64 << 20;
const ROUNDS: usize = 15;

/// The places of one run: the same sequence for both contenders.
fn places(bytes: u64, scattered: bool) -> Vec<u64> {
    let slots = ARENA / bytes.max(4096);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % slots) * bytes.max(4096)
    };
    (0..1024)
        .map(|_| if scattered { next() } else { 0 })
        .collect()
}

/// Nanoseconds per call over a pass.
fn pass(places: &[u64], loops: u32, mut copy: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    for _ in 0..loops {
        for &place in places {
            copy(place);
        }
    }
    start.elapsed().as_nanos() as f64 / (f64::from(loops) * places.len() as f64)
}

fn main() {
    swiommu_mem::install_handlers();
    // SAFETY: handlers are installed; the addresses are those of a mapping no reference points into.
    let client = unsafe { Client::local() };
    let json = std::env::args().any(|a| a == "--json");
    let arena = Mapping::anonymous(ARENA).expect("64 MiB of memory");
    client
        .fill(arena.base(), 1, ARENA)
        .expect("the arena is mapped");
    let mut buffer = vec![0u8; 1 << 20];
    if !json {
        println!(
            "{:>8} {:>10} {:>6} {:>12} {:>12} {:>7}",
            "bytes", "place", "to", "memcpy ns", "ours ns", "ratio"
        );
    }
    for bytes in [64usize, 256, 4096, 65536, 1 << 20] {
        for scattered in [false, true] {
            for write in [true, false] {
                let places = places(bytes as u64, scattered);
                let loops = ((32 << 20) / (bytes * places.len())).clamp(1, 200) as u32;
                let (mut plain, mut ours) = (f64::MAX, f64::MAX);
                for _ in 0..ROUNDS {
                    plain = plain.min(pass(&places, loops, |place| {
                        let at = (arena.base().0 + place) as *mut u8;
                        // SAFETY: `at` has `bytes` bytes in the arena, `buffer` is a separate allocation.
                        unsafe {
                            if write {
                                at.copy_from_nonoverlapping(
                                    black_box(buffer.as_ptr()),
                                    black_box(bytes),
                                );
                            } else {
                                buffer
                                    .as_mut_ptr()
                                    .copy_from_nonoverlapping(black_box(at), black_box(bytes));
                            }
                        }
                    }));
                    ours = ours.min(pass(&places, loops, |place| {
                        let at = UserAddr(arena.base().0 + place);
                        let bytes = black_box(bytes);
                        let moved = if write {
                            client.write(at, black_box(&buffer[..bytes]))
                        } else {
                            client.read(at, black_box(&mut buffer[..bytes]))
                        };
                        moved.expect("the arena is mapped");
                    }));
                }
                let place = if scattered { "scattered" } else { "hot" };
                let to = if write { "client" } else { "us" };
                let ratio = plain / ours;
                if json {
                    println!(
                        r#"{{"bench":"copy","bytes":{bytes},"place":"{place}","to":"{to}","memcpy_ns":{plain:.2},"ours_ns":{ours:.2},"ratio":{ratio:.3}}}"#
                    );
                } else {
                    println!(
                        "{bytes:>8} {place:>10} {to:>6} {plain:>12.2} {ours:>12.2} {ratio:>7.3}"
                    );
                }
            }
        }
    }
}
