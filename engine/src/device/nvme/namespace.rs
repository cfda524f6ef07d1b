//! A namespace: a medium seen through the volatile write cache.
//!
//! All offsets are bytes. Writes are whole blocks; reads may be any bytes (a PRP may cut a block in two).

use super::bits::{Done, Status};
use super::cache::{Cache, Dice, LINE, Place, Slot};
use super::medium::{CALL_LEAST, Medium, MediumError};
use crate::pci::{Bus, Spans, TransferError};

/// Of a line's whole writes that miss the cache, one in this many is cached; the others go to the medium at once. A real
/// cache may do either; this keeps long sequential writes at one copy and still leaves some of them volatile.
const CACHE_ONE_IN: u64 = 64;
/// After one write in this many, a line drawn at random is written back.
const EVICT_ONE_IN: u64 = 64;

#[derive(Debug)]
pub(super) struct Namespace {
    medium: Medium,
    /// `None` = the controller has no cache.
    cache: Option<Cache>,
    /// One line, for long writes to the medium.
    bounce: Box<[u8]>,
    pub block_lg2: u32,
    /// Size in blocks.
    pub blocks: u64,
}

impl Namespace {
    pub fn new(
        medium: Medium,
        bytes: u64,
        block_lg2: u32,
        cache_bytes: u64,
        seed: u64,
    ) -> Namespace {
        let cache =
            (cache_bytes > 0).then(|| Cache::new(cache_bytes, block_lg2, Dice::new(seed).roll()));
        Namespace {
            medium,
            cache,
            bounce: vec![0; LINE as usize].into_boxed_slice(),
            block_lg2,
            blocks: bytes >> block_lg2,
        }
    }

    pub fn is_read_only(&self) -> bool {
        self.medium.is_read_only()
    }

    /// The bytes of a block range: offset and length. 4.6.1.2: "LBA Out of Range" beyond the namespace.
    pub fn range(&self, first: u64, blocks: u64) -> Done<(u64, u64)> {
        match first.checked_add(blocks) {
            Some(end) if end <= self.blocks => {
                Ok((first << self.block_lg2, blocks << self.block_lg2))
            }
            _ => Err(Status::LBA_OUT_OF_RANGE),
        }
    }

    /// Moves what is at `offset` to client memory.
    pub fn read(&self, bus: &mut dyn Bus, to: Spans<'_>, offset: u64) -> Done {
        let mut done = 0;
        while done < to.bytes() {
            let at = offset + done;
            let (piece, cached) = self.cached(at, to.bytes() - done);
            let to = to.part(done, piece);
            let moved = match cached {
                Some(data) => bus.scatter(to, data).map_err(|_| TransferError::Bus),
                None => bus.write_from(to, self.medium.source(), at),
            };
            moved.map_err(|e| transfer_status(e, Status::UNRECOVERED_READ_ERROR))?;
            done += piece;
        }
        Ok(())
    }

    /// Copies what is at `offset` to `to`.
    pub fn peek(&self, offset: u64, to: &mut [u8]) -> Done {
        let mut done = 0;
        while done < to.len() {
            let left = to.len() - done;
            let piece = match self.cached(offset + done as u64, left as u64) {
                (piece, Some(data)) => {
                    to[done..done + piece as usize].copy_from_slice(data);
                    piece
                }
                (piece, None) => {
                    let to = &mut to[done..done + piece as usize];
                    self.medium
                        .read(offset + done as u64, to)
                        .map_err(|_| Status::UNRECOVERED_READ_ERROR)?;
                    piece
                }
            };
            done += piece as usize;
        }
        Ok(())
    }

    /// The longest uniform stretch at `offset`, with its data if it is cached.
    fn cached(&self, offset: u64, limit: u64) -> (u64, Option<&[u8]>) {
        match &self.cache {
            Some(cache) if !cache.is_clean() => {
                let segment = cache.segment(offset, limit);
                (
                    segment.bytes,
                    segment.cached.map(|at| cache.data(at, segment.bytes)),
                )
            }
            _ => (limit, None),
        }
    }

    /// Writes whole blocks. `through`: to the medium, before it returns.
    pub fn write(
        &mut self,
        bus: &mut dyn Bus,
        from: Spans<'_>,
        offset: u64,
        through: bool,
    ) -> Done {
        let bytes = from.bytes();
        debug_assert!((offset | bytes).trailing_zeros() >= self.block_lg2);
        if through || self.cache.is_none() {
            self.write_medium(bus, from, offset)?;
            if let Some(cache) = &mut self.cache {
                cache.forget(offset, bytes);
            }
            return Ok(());
        }
        // `direct` bytes before `done` are to go to the medium, in one piece.
        let (mut done, mut direct) = (0, 0);
        while done < bytes {
            let at = offset + done;
            let piece = (LINE - at % LINE).min(bytes - done);
            match self.slot_for(at, piece)? {
                Some(slot) => {
                    self.write_medium(bus, from.part(done - direct, direct), at - direct)?;
                    direct = 0;
                    self.write_cache(slot, bus, from.part(done, piece), at)?;
                }
                None => direct += piece,
            }
            done += piece;
        }
        let from = from.part(done - direct, direct);
        self.write_medium(bus, from, offset + done - direct)?;
        self.evict_by_chance()
    }

    /// The slot where `piece` bytes at `at`, within one line, are to be cached; `None` = write to the medium.
    fn slot_for(&mut self, at: u64, piece: u64) -> Done<Option<Slot>> {
        let Some(cache) = &mut self.cache else {
            return Ok(None);
        };
        if let Some(slot) = cache.find(at) {
            return Ok(Some(slot));
        }
        if piece == LINE && cache.dice.roll() % CACHE_ONE_IN != 0 {
            return Ok(None);
        }
        match cache.place(at) {
            Place::Taken(slot) => Ok(Some(slot)),
            Place::Evict(victim) => {
                write_back(cache, &mut self.medium, victim).map_err(|_| Status::WRITE_FAULT)?;
                match cache.place(at) {
                    Place::Taken(slot) => Ok(Some(slot)),
                    Place::Evict(_) => unreachable!("a slot was just emptied"),
                }
            }
        }
    }

    fn write_cache(&mut self, slot: Slot, bus: &mut dyn Bus, from: Spans<'_>, at: u64) -> Done {
        let cache = self.cache.as_mut().expect("a slot is of a cache");
        match bus.gather(from, cache.bytes_mut(slot, at, from.bytes())) {
            Ok(()) => {
                cache.mark(slot, at, from.bytes());
                Ok(())
            }
            Err(_) => {
                cache.release_if_clean(slot);
                Err(Status::DATA_TRANSFER_ERROR)
            }
        }
    }

    fn write_medium(&mut self, bus: &mut dyn Bus, from: Spans<'_>, at: u64) -> Done {
        let bytes = from.bytes();
        if bytes == 0 {
            return Ok(());
        }
        if bytes < CALL_LEAST {
            return bus
                .read_into(from, self.medium.target(), at)
                .map_err(|e| transfer_status(e, Status::WRITE_FAULT));
        }
        let done = match self.medium.target_file(at + bytes) {
            Some(file) => bus
                .read_to_file(from, file, at)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?,
            None => 0,
        };
        self.bounce(bus, from.part(done, bytes - done), at + done)
    }

    /// A long write that the kernel cannot take from client memory: through a buffer that stays in the processor's cache.
    fn bounce(&mut self, bus: &mut dyn Bus, from: Spans<'_>, at: u64) -> Done {
        let mut done = 0;
        while done < from.bytes() {
            let bytes = (from.bytes() - done).min(LINE);
            let piece = &mut self.bounce[..bytes as usize];
            bus.gather(from.part(done, bytes), piece)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            self.medium
                .write(at + done, piece)
                .map_err(|_| Status::WRITE_FAULT)?;
            done += bytes;
        }
        Ok(())
    }

    fn evict_by_chance(&mut self) -> Done {
        let Some(cache) = &mut self.cache else {
            return Ok(());
        };
        if cache.dice.roll() % EVICT_ONE_IN == 0
            && let Some(slot) = cache.draw()
        {
            write_back(cache, &mut self.medium, slot).map_err(|_| Status::WRITE_FAULT)?;
        }
        Ok(())
    }

    /// Makes a range read zeroes.
    pub fn zero(&mut self, offset: u64, bytes: u64, deallocate: bool) -> Done {
        self.medium
            .zero(offset, bytes, deallocate)
            .map_err(|_| Status::WRITE_FAULT)?;
        if let Some(cache) = &mut self.cache {
            cache.forget(offset, bytes);
        }
        Ok(())
    }

    /// Writes the cache back. Durable against the death of this process.
    pub fn write_back(&mut self) -> Done {
        if let Some(cache) = &mut self.cache {
            let mut last = None;
            while let Some(slot) = cache.next_used(last) {
                last = Some(slot);
                write_back(cache, &mut self.medium, slot).map_err(|_| Status::WRITE_FAULT)?;
            }
        }
        Ok(())
    }

    /// Asks the host to make the medium durable.
    pub fn sync(&mut self) -> Done {
        self.medium.sync().map_err(|_| Status::WRITE_FAULT)
    }
}

/// Writes a slot's line to the medium and empties the slot. On an error the unwritten part stays cached.
fn write_back(cache: &mut Cache, medium: &mut Medium, slot: Slot) -> Result<(), MediumError> {
    while let Some((offset, at, bytes)) = cache.first_dirty(slot) {
        medium.write(offset, cache.data(at, bytes))?;
        cache.forget(offset, bytes);
    }
    cache.release_if_clean(slot);
    Ok(())
}

fn transfer_status(error: TransferError, medium: Status) -> Status {
    match error {
        TransferError::Bus => Status::DATA_TRANSFER_ERROR,
        TransferError::Medium => medium,
    }
}
