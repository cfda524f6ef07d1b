//! The volatile write cache: what was written and not yet flushed, in this process's memory.
//!
//! It holds dirty data only: set-associative lines of 64 KiB, each with a bit for every logical block written. What is
//! evicted, and when, is drawn from a seeded generator, so that a client that dies loses a reproducible part of what
//! it did not flush. Nothing here allocates after construction.

/// Bytes of a line.
pub(super) const LINE: u64 = 1 << LINE_LG2;
const LINE_LG2: u32 = 16;
/// Lines of a set: a whole set's tags are compared.
const WAYS: usize = 8;
/// The tag of an empty slot: no line has it.
const EMPTY: u64 = u64::MAX;

/// A reproducible generator (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// A stretch of the namespace that is wholly cached or wholly not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub bytes: u64,
    /// Where it lies in [`Cache::data`], if it is cached.
    pub cached: Option<usize>,
}

/// A slot of the cache. Good until the next eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// Where a line may go.
pub(super) enum Place {
    /// Into this slot, now its own.
    Taken(Slot),
    /// All its slots are in use; this one was drawn to be written back first.
    Evict(Slot),
}

/// The cache of one namespace.
#[derive(Debug)]
pub(super) struct Cache {
    block_lg2: u32,
    tags: Vec<u64>,
    dirty: Vec<u128>,
    data: Vec<u8>,
    /// Slots in use.
    used: usize,
    pub dice: Dice,
}

impl Cache {
    /// A cache of `bytes` (rounded down to lines, one at least) for blocks of `1 << block_lg2` bytes (512 or more).
    pub fn new(bytes: u64, block_lg2: u32, seed: u64) -> Cache {
        assert!(
            (9..=LINE_LG2).contains(&block_lg2),
            "a line's blocks fit its 128 bits"
        );
        let lines = (bytes / LINE).max(1) as usize;
        Cache {
            block_lg2,
            tags: vec![EMPTY; lines],
            dirty: vec![0; lines],
            data: vec![0; lines << LINE_LG2],
            used: 0,
            dice: Dice::new(seed),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.used == 0
    }

    /// The slots where the line at `offset` may be.
    fn set(&self, tag: u64) -> std::ops::Range<usize> {
        let sets = self.tags.len().div_ceil(WAYS);
        let first = (tag % sets as u64) as usize * WAYS;
        first..(first + WAYS).min(self.tags.len())
    }

    /// The slot that holds the line of `offset`.
    pub fn find(&self, offset: u64) -> Option<Slot> {
        let tag = offset >> LINE_LG2;
        if self.used == 0 {
            return None;
        }
        self.set(tag).find(|&slot| self.tags[slot] == tag).map(Slot)
    }

    /// Finds room for the line of `offset`, which is not cached.
    pub fn place(&mut self, offset: u64) -> Place {
        let tag = offset >> LINE_LG2;
        let set = self.set(tag);
        match set.clone().find(|&slot| self.tags[slot] == EMPTY) {
            Some(slot) => {
                self.tags[slot] = tag;
                self.used += 1;
                Place::Taken(Slot(slot))
            }
            None => Place::Evict(Slot(
                set.start + (self.dice.roll() % set.len() as u64) as usize,
            )),
        }
    }

    /// Offset of the slot's line in the namespace.
    pub fn line(&self, slot: Slot) -> u64 {
        self.tags[slot.0] << LINE_LG2
    }

    /// A slot drawn from those in use.
    pub fn draw(&mut self) -> Option<Slot> {
        if self.used == 0 {
            return None;
        }
        let start = (self.dice.roll() % self.tags.len() as u64) as usize;
        let slots = self.tags.len();
        (0..slots)
            .map(|i| (start + i) % slots)
            .find(|&slot| self.tags[slot] != EMPTY)
            .map(Slot)
    }

    /// The first slot in use after `after`.
    pub fn next_used(&self, after: Option<Slot>) -> Option<Slot> {
        if self.used == 0 {
            return None;
        }
        let from = after.map_or(0, |slot| slot.0 + 1);
        (from..self.tags.len())
            .find(|&slot| self.tags[slot] != EMPTY)
            .map(Slot)
    }

    /// `bytes` bytes of the slot's data from `offset` of the namespace on.
    pub fn bytes_mut(&mut self, slot: Slot, offset: u64, bytes: u64) -> &mut [u8] {
        let at = (slot.0 << LINE_LG2) + (offset % LINE) as usize;
        &mut self.data[at..at + bytes as usize]
    }

    /// Bytes at a place that [`Segment::cached`] named.
    pub fn data(&self, at: usize, bytes: u64) -> &[u8] {
        &self.data[at..at + bytes as usize]
    }

    /// The whole blocks of a range within the slot's line, as bits.
    fn blocks(&self, offset: u64, bytes: u64) -> u128 {
        let first = (offset % LINE) >> self.block_lg2;
        let count = bytes >> self.block_lg2;
        debug_assert!(count >= 1 && first + count <= LINE >> self.block_lg2);
        u128::MAX >> (128 - count) << first
    }

    /// The blocks of the range are cached now.
    pub fn mark(&mut self, slot: Slot, offset: u64, bytes: u64) {
        self.dirty[slot.0] |= self.blocks(offset, bytes);
    }

    /// Forgets the slot's line if nothing of it is cached.
    pub fn release_if_clean(&mut self, slot: Slot) {
        if self.dirty[slot.0] == 0 && self.tags[slot.0] != EMPTY {
            self.tags[slot.0] = EMPTY;
            self.used -= 1;
        }
    }

    /// The blocks of the range, which may span lines, are cached no more.
    pub fn forget(&mut self, first: u64, bytes: u64) {
        let end = first + bytes;
        let mut at = first;
        while at < end && self.used > 0 {
            let piece = (LINE - at % LINE).min(end - at);
            if let Some(slot) = self.find(at) {
                self.dirty[slot.0] &= !self.blocks(at, piece);
                self.release_if_clean(slot);
            }
            at += piece;
        }
    }

    /// The slot's first cached stretch: offset in the namespace, place in the data, bytes.
    pub fn first_dirty(&self, slot: Slot) -> Option<(u64, usize, u64)> {
        let dirty = self.dirty[slot.0];
        if dirty == 0 {
            return None;
        }
        let first = dirty.trailing_zeros();
        let count = (dirty >> first).trailing_ones();
        let within = u64::from(first) << self.block_lg2;
        Some((
            self.line(slot) + within,
            (slot.0 << LINE_LG2) + within as usize,
            u64::from(count) << self.block_lg2,
        ))
    }

    /// The longest segment at `offset`, at most `limit` bytes.
    pub fn segment(&self, offset: u64, limit: u64) -> Segment {
        let mut bytes = 0;
        while bytes < limit {
            let at = offset + bytes;
            let in_line = at % LINE;
            let Some(slot) = self.find(at) else {
                bytes += LINE - in_line;
                continue;
            };
            let block = in_line >> self.block_lg2;
            let bits = self.dirty[slot.0] >> block;
            if bits & 1 != 0 {
                if bytes > 0 {
                    break;
                }
                let run = ((block + u64::from(bits.trailing_ones())) << self.block_lg2) - in_line;
                let cached = Some((slot.0 << LINE_LG2) + in_line as usize);
                return Segment {
                    bytes: run.min(limit),
                    cached,
                };
            }
            let clean = if bits == 0 {
                LINE >> self.block_lg2
            } else {
                block + u64::from(bits.trailing_zeros())
            };
            bytes += (clean << self.block_lg2) - in_line;
            if bits != 0 {
                break;
            }
        }
        Segment {
            bytes: bytes.min(limit),
            cached: None,
        }
    }
}
