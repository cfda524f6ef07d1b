//! The volatile write cache against its contract: what was flushed is on the medium, what was not may be, and reads
//! see neither difference.

use super::driver::{DATA, LIST};
use super::*;
use proptest::prelude::*;

const FUA: u32 = 1 << 30;
const DEAC: u32 = 1 << 25;
const BLOCKS: u64 = 2048;
/// A third of the way into memory, so that data and read-backs do not meet.
const BACK: u64 = DATA + 0x20_0000;

/// What one block may hold: what is surely on the medium, and everything written since.
#[derive(Clone, Debug)]
struct Block {
    durable: u8,
    later: Vec<u8>,
}

impl Block {
    fn latest(&self) -> u8 {
        *self.later.last().unwrap_or(&self.durable)
    }
    fn settle(&mut self) {
        self.durable = self.latest();
        self.later.clear();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        block: u64,
        count: u64,
        fua: bool,
        shift: u64,
    },
    Zero {
        block: u64,
        count: u64,
        deallocate: bool,
    },
    Deallocate {
        block: u64,
        count: u64,
    },
    Read {
        block: u64,
        count: u64,
        fua: bool,
    },
    Flush,
    Cache {
        on: bool,
    },
}

fn extent() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        // Anywhere, small.
        3 => (0..BLOCKS, 1_u64..24),
        // Near one place, to overlap.
        3 => (100_u64..140, 1_u64..40),
        // Whole lines and more.
        2 => (0_u64..12, 1_u64..4).prop_map(|(line, lines)| (line * 128, lines * 128)),
        1 => (0..BLOCKS, 100_u64..600),
    ]
    .prop_map(|(block, count)| (block, count.min(BLOCKS - block)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (extent(), prop::bool::weighted(0.1), prop_oneof![4 => Just(0), 1 => (0_u64..512).prop_map(|n| n & !3)])
            .prop_map(|((block, count), fua, shift)| Step::Write { block, count, fua, shift }),
        1 => (extent(), any::<bool>()).prop_map(|((block, count), deallocate)| Step::Zero { block, count, deallocate }),
        1 => extent().prop_map(|(block, count)| Step::Deallocate { block, count }),
        3 => (extent(), prop::bool::weighted(0.1)).prop_map(|((block, count), fua)| Step::Read { block, count, fua }),
        1 => Just(Step::Flush),
        1 => any::<bool>().prop_map(|on| Step::Cache { on }),
    ]
}

/// PRPs for `bytes` bytes at `at`, with a list where one is needed.
fn prps(driver: &mut Driver, at: u64, bytes: u64) -> (u64, u64) {
    let first = (at & !0xfff) + 0x1000;
    let end = at + bytes;
    let pages: Vec<u64> = (0..)
        .map(|i| first + i * 0x1000)
        .take_while(|&page| page < end)
        .collect();
    match pages[..] {
        [] => (at, 0),
        [second] => (at, second),
        _ => {
            driver.list(LIST, &pages);
            (at, LIST)
        }
    }
}

/// The device beside its model.
struct Rig {
    driver: Driver,
    blocks: Vec<Block>,
    cached: bool,
}

impl Rig {
    /// Step number `value` writes that value.
    fn apply(&mut self, value: u8, step: &Step) {
        match *step {
            Step::Write {
                block,
                count,
                fua,
                shift,
            } => self.write(value, block, count, fua, shift),
            Step::Zero {
                block,
                count,
                deallocate,
            } => {
                let flags = if deallocate { DEAC } else { 0 };
                self.io(io_op::WRITE_ZEROES, block, count, flags, (0, 0));
                self.zeroed(block, count);
            }
            Step::Deallocate { block, count } => self.deallocate(block, count),
            Step::Read { block, count, fua } => self.read(block, count, fua),
            Step::Flush => {
                self.io(io_op::FLUSH, 0, 1, 0, (0, 0));
                self.blocks.iter_mut().for_each(Block::settle);
            }
            Step::Cache { on } => self.set_cache(on),
        }
    }

    fn io(&mut self, opcode: u8, block: u64, count: u64, flags: u32, prp: (u64, u64)) {
        let status = self.driver.io(opcode, block, count as u32, flags, prp);
        assert_eq!(status, Status::SUCCESS);
    }

    fn range(&mut self, block: u64, count: u64) -> &mut [Block] {
        &mut self.blocks[block as usize..(block + count) as usize]
    }

    fn write(&mut self, value: u8, block: u64, count: u64, fua: bool, shift: u64) {
        let at = DATA + shift;
        self.driver.fill(at, count * 512, value);
        let prp = prps(&mut self.driver, at, count * 512);
        self.io(io_op::WRITE, block, count, if fua { FUA } else { 0 }, prp);
        let through = fua || !self.cached;
        for block in self.range(block, count) {
            block.later.push(value);
            if through {
                block.settle();
            }
        }
    }

    fn deallocate(&mut self, block: u64, count: u64) {
        let entry = DATA as usize;
        let memory = &mut self.driver.bus.memory;
        memory[entry + 4..entry + 8].copy_from_slice(&(count as u32).to_le_bytes());
        memory[entry + 8..entry + 16].copy_from_slice(&block.to_le_bytes());
        let command = Command {
            opcode: io_op::DATASET_MANAGEMENT,
            nsid: 1,
            prp1: DATA,
            cdw: [0, 4, 0, 0, 0, 0],
            ..Command::default()
        };
        assert_eq!(self.driver.run(1, command).status, Status::SUCCESS);
        self.zeroed(block, count);
    }

    fn zeroed(&mut self, block: u64, count: u64) {
        self.range(block, count)
            .iter_mut()
            .for_each(|b| b.later.push(0));
    }

    fn read(&mut self, block: u64, count: u64, fua: bool) {
        self.driver.fill(BACK, count * 512, 0xaa);
        let prp = prps(&mut self.driver, BACK, count * 512);
        self.io(io_op::READ, block, count, if fua { FUA } else { 0 }, prp);
        let got = self.driver.at(BACK, count * 512).to_vec();
        for (got, block) in got.chunks(512).zip(self.range(block, count)) {
            let latest = block.latest();
            assert!(
                got.iter().all(|&b| b == latest),
                "a read sees the latest write"
            );
        }
    }

    fn set_cache(&mut self, on: bool) {
        let command = Command {
            opcode: admin_op::SET_FEATURES,
            cdw: [6, u32::from(on), 0, 0, 0, 0],
            ..Command::default()
        };
        self.driver.admin_ok(command);
        if self.cached && !on {
            self.blocks.iter_mut().for_each(Block::settle);
        }
        self.cached = on;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn after_a_crash_every_block_holds_what_was_flushed_or_something_later(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
        lines in 1_u64..12,
    ) {
        let driver = Driver::with(|c| {
            c.seed = seed;
            c.cache = lines << 16;
        });
        let blocks = vec![Block { durable: 0, later: Vec::new() }; BLOCKS as usize];
        let mut rig = Rig { driver, blocks, cached: true };
        for (i, step) in steps.iter().enumerate() {
            rig.apply(i as u8 + 1, step);
        }
        // The client is killed: nobody closes the device.
        let Rig { driver: Driver { nvme, files, .. }, blocks, .. } = rig;
        drop(nvme);
        let durable = std::fs::read(files[0].path()).expect("the medium");
        for (i, (data, block)) in durable.chunks(512).zip(&blocks).enumerate() {
            let value = data[0];
            prop_assert!(data.iter().all(|&b| b == value), "block {} is torn", i);
            let allowed = value == block.durable || block.later.contains(&value);
            prop_assert!(allowed, "block {}: {} is not in {:?}", i, value, block);
        }
    }
}

#[test]
fn unflushed_writes_are_lost_in_part_and_the_seed_decides_which() {
    let survivors = |seed| {
        let mut driver = Driver::with(|c| c.seed = seed);
        driver.fill(DATA, 512, 1);
        for i in 0..1000_u64 {
            driver.io(io_op::WRITE, (i * 769) % BLOCKS, 1, 0, (DATA, 0));
        }
        let durable = driver.durable();
        (0..BLOCKS as usize)
            .map(|block| durable[block * 512] == 1)
            .collect::<Vec<bool>>()
    };
    let (one, again, two) = (survivors(1), survivors(1), survivors(2));
    assert_eq!(one, again, "the same seed loses the same writes");
    assert_ne!(one, two);
    let kept = one.iter().filter(|&&k| k).count();
    assert!((1..1000).contains(&kept), "some of them: {kept}");
}

#[test]
fn a_medium_that_shrank_is_a_media_error() {
    let mut driver = Driver::new();
    driver.io(io_op::WRITE, 0, 8, 0, (DATA, 0));
    driver.files[0].as_file().set_len(0).expect("truncated");
    assert_eq!(
        driver.io(io_op::READ, 64, 8, 0, (DATA, 0)),
        Status::UNRECOVERED_READ_ERROR
    );
    assert_eq!(
        driver.io(io_op::COMPARE, 64, 8, 0, (DATA, 0)),
        Status::UNRECOVERED_READ_ERROR
    );
    assert_eq!(
        driver.io(io_op::WRITE, 64, 8, FUA, (DATA, 0)),
        Status::WRITE_FAULT
    );
    assert_eq!(
        driver.io(io_op::FLUSH, 0, 1, 0, (0, 0)),
        Status::WRITE_FAULT
    );
    assert_eq!(
        driver.io(io_op::READ, 0, 8, 0, (DATA, 0)),
        Status::SUCCESS,
        "it is in the cache"
    );
    driver.files[0]
        .as_file()
        .set_len(1 << 20)
        .expect("grown back");
    assert_eq!(driver.io(io_op::FLUSH, 0, 1, 0, (0, 0)), Status::SUCCESS);
}
