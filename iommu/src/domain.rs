//! A paging domain: one page table, and the guarantee of its unmap.
//!
//! Writers of a domain are serialised by its lock. The lock is released before a drain, because a
//! session that is waited for may itself be about to change the domain. Only [`Exclusive`] keeps it, and
//! says what that asks of its user.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::addr::{Dirty, Iova, Pa, Prot};
use crate::config::Kind;
use crate::radix::fmt::{Format, amdv1::AmdV1, vtdss::VtdSs};
use crate::radix::page::{self, NoMemory, TABLE_BYTES};
use crate::radix::written::{self, Reading};
use crate::radix::{Span, Tree, clear, map, rewrite, walk};
use crate::unit::{Generation, Unit, Writer, WriterLock};

/// Calls a generic function for the format of the unit's kind.
macro_rules! for_kind {
    ($kind:expr, $($function:ident)::+ ($($argument:expr),*)) => {
        match $kind {
            Kind::Vtd { .. } => $($function)::+::<VtdSs>($($argument),*),
            Kind::Amd => $($function)::+::<AmdV1>($($argument),*),
        }
    };
}

/// Why a mapping was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No bytes, or no permission.
    Empty,
    /// An address or the length is not a multiple of 4 KiB.
    Misaligned,
    /// The range ends beyond the aperture.
    BeyondAperture,
    /// The physical range ends beyond 52 bits.
    PhysicalWidth,
    /// A part of the range is mapped.
    AlreadyMapped,
    /// There is no memory for a page table.
    NoMemory,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MapError::Empty => "the mapping is empty",
            MapError::Misaligned => "the mapping is not aligned to 4 KiB",
            MapError::BeyondAperture => "the mapping ends beyond the aperture",
            MapError::PhysicalWidth => "the physical range ends beyond 52 bits",
            MapError::AlreadyMapped => "a part of the range is mapped",
            MapError::NoMemory => "there is no memory for a page table",
        })
    }
}

impl std::error::Error for MapError {}

/// A page table with a domain id, attachable to any number of streams of its unit.
pub struct Domain {
    unit: Arc<Unit>,
    id: u16,
    root: u64,
    /// Tag of all IOTLB entries of the domain; changes under `writer`.
    generation: Generation,
    tracking: AtomicBool,
    tables: AtomicI64,
    writer: WriterLock,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Domain {
    pub(crate) fn new(unit: &Arc<Unit>) -> Option<Arc<Self>> {
        let root = unit.pool.take().ok()?.address();
        let Some(id) = unit.take_id() else {
            unit.pool.give(root);
            return None;
        };
        Some(Arc::new(Domain {
            unit: Arc::clone(unit),
            id,
            root,
            generation: Generation::new(),
            tracking: AtomicBool::new(false),
            tables: AtomicI64::new(1),
            writer: WriterLock::new(),
        }))
    }

    /// The domain id, as the hardware tables carry it.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The page sizes that mappings can use, as a bitmap.
    pub fn page_sizes(&self) -> u64 {
        self.unit.config.page_sizes()
    }

    /// The addresses that can be mapped, first to last.
    pub fn aperture(&self) -> (u64, u64) {
        (0, self.unit.config.last())
    }

    /// Bytes of page tables in use, the root's included. While writes are tracked, each table of 4 KiB has 64 bytes more.
    pub fn table_bytes(&self) -> u64 {
        self.tables.load(Ordering::Relaxed).unsigned_abs() * TABLE_BYTES
    }

    /// Maps `bytes` at `first` to `pa` onwards, with the largest pages that the alignment of both
    /// allows; all or nothing. Addresses and length are multiples of 4 KiB. Needs no invalidation: what
    /// is absent is not cached.
    ///
    /// A unit passes some ranges by ([`Iommu::reserved`](crate::Iommu::reserved)). They can be mapped; while a stream
    /// is attached, nothing may be mapped there.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing was changed then.
    pub fn map(&self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<(), MapError> {
        let span = self.check(first, pa, bytes, prot)?;
        let writer = self.write();
        let mut tree = self.tree();
        let (done, changed) = self.map_in(&mut tree, span, pa, prot);
        self.publish(writer, tree, changed);
        done
    }

    /// Maps in a tree; what the change took away again because there was no memory.
    #[inline]
    fn map_in(
        &self,
        tree: &mut Tree<'_>,
        span: Span,
        pa: Pa,
        prot: Prot,
    ) -> (Result<(), MapError>, Invalidate) {
        match for_kind!(self.kind(), map::map(tree, span, pa.0, prot)) {
            Ok(()) => (Ok(()), Invalidate::TablesOnly),
            Err(map::Refused::Occupied) => (Err(MapError::AlreadyMapped), Invalidate::TablesOnly),
            Err(map::Refused::NoMemory) => {
                for_kind!(self.kind(), clear::clear(tree, span));
                (Err(MapError::NoMemory), Invalidate::Translations)
            }
        }
    }

    /// Whether a mapping can be, before looking at what is mapped.
    #[inline]
    fn check(&self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<Span, MapError> {
        if bytes == 0 || prot.is_empty() {
            return Err(MapError::Empty);
        }
        if (first.0 | pa.0 | bytes) & 0xfff != 0 {
            return Err(MapError::Misaligned);
        }
        let last = first
            .0
            .checked_add(bytes - 1)
            .filter(|last| *last <= self.unit.config.last());
        let last = last.ok_or(MapError::BeyondAperture)?;
        if pa
            .0
            .checked_add(bytes - 1)
            .is_none_or(|last| last >> 52 != 0)
        {
            return Err(MapError::PhysicalWidth);
        }
        Ok(Span {
            first: first.0,
            last,
        })
    }

    /// Whether a domain is of the same unit, so that its page table can be copied.
    pub fn is_sibling(&self, other: &Domain) -> bool {
        Arc::ptr_eq(&self.unit, &other.unit)
    }

    /// Maps all that `from` maps, with its pages. What was written through `from` was not written through this domain.
    ///
    /// # Errors
    ///
    /// [`MapError::NoMemory`]; a part is mapped then.
    ///
    /// # Panics
    ///
    /// When `from` is of another unit, or something is mapped here already.
    pub fn copy(&self, from: &Domain) -> Result<(), MapError> {
        assert!(self.is_sibling(from), "a page table of another unit");
        let writer = self.write();
        let mut tree = self.tree();
        let (root, source) = (page::at(self.root), page::at(from.root));
        assert!(
            (0..page::ENTRIES).all(|slot| root.load(slot) == 0),
            "only an empty domain becomes a copy"
        );
        let source_writer = from.write();
        let done = for_kind!(self.kind(), map::copy(&mut tree, source, root, self.top()));
        drop(source_writer);
        self.publish(writer, tree, Invalidate::TablesOnly);
        done.map_err(|NoMemory| MapError::NoMemory)
    }

    /// The domain for one thread alone, for many changes in a row: other writers wait until it is dropped.
    ///
    /// A thread must not change the domain in another way, nor be inside a session of its own, while it has this: an
    /// unmap would wait for the session for ever. Nor may any other thread change the domain inside a session: it would
    /// wait for this one, and this one for the session.
    pub fn exclusive(&self) -> Exclusive<'_> {
        Exclusive {
            domain: self,
            _writer: self.write(),
            tree: self.tree(),
            stale: false,
        }
    }

    /// Removes every translation in `first..=last`, splitting larger pages that straddle its ends, and
    /// returns how many bytes were mapped.
    ///
    /// On return no access through them is under way or can begin: IOTLBs are invalidated and sessions
    /// that began before have ended. Sessions of the calling thread are excepted: what they translated
    /// before is void.
    ///
    /// # Panics
    ///
    /// When `first` or `last + 1` is not a multiple of 4 KiB, or `first` is greater than `last`.
    pub fn unmap(&self, first: Iova, last: Iova) -> u64 {
        let span = self.span(first, last);
        let writer = self.write();
        let mut tree = self.tree();
        let bytes = span.map_or(0, |span| {
            for_kind!(self.kind(), clear::clear(&mut tree, span))
        });
        self.publish(writer, tree, Invalidate::Translations);
        bytes
    }

    /// [`Domain::unmap`] of many ranges with one invalidation and one drain.
    ///
    /// # Panics
    ///
    /// As [`Domain::unmap`].
    pub fn unmap_batch(&self, ranges: impl IntoIterator<Item = (Iova, Iova)>) -> u64 {
        let writer = self.write();
        let mut tree = self.tree();
        let mut bytes = 0u64;
        for (first, last) in ranges {
            if let Some(span) = self.span(first, last) {
                bytes = bytes.saturating_add(for_kind!(self.kind(), clear::clear(&mut tree, span)));
            }
        }
        self.publish(writer, tree, Invalidate::Translations);
        bytes
    }

    /// Makes what is mapped in `first..=last` lead to `pa` onwards, keeping permissions and what was written;
    /// holes stay holes. On return no access uses the old place, as with [`Domain::unmap`].
    ///
    /// # Panics
    ///
    /// As [`Domain::unmap`], and when `pa` is not a multiple of 4 KiB or the physical range ends beyond
    /// 52 bits.
    pub fn remap(&self, first: Iova, last: Iova, pa: Pa) {
        assert!(pa.0 & 0xfff == 0, "the new place is not aligned to 4 KiB");
        let Some(span) = self.span(first, last) else {
            return;
        };
        let fits =
            pa.0.checked_add(span.last - span.first)
                .is_some_and(|last| last >> 52 == 0);
        assert!(fits, "the new place ends beyond 52 bits");
        let writer = self.write();
        let mut tree = self.tree();
        for_kind!(self.kind(), rewrite::remap(&mut tree, span, pa.0));
        self.publish(writer, tree, Invalidate::Translations);
    }

    /// What `iova` leads to: physical address, permissions, size of its page.
    pub fn lookup(&self, iova: Iova) -> Option<(Pa, Prot, u64)> {
        if iova.0 > self.unit.config.last() {
            return None;
        }
        let _writer = self.write();
        for_kind!(self.kind(), lookup_in(self.root, self.top(), iova.0))
    }

    /// Switches the recording of writes. What was recorded before is forgotten.
    pub fn set_dirty_tracking(&self, on: bool) {
        let writer = self.write();
        self.tracking.store(on, Ordering::Release);
        if on {
            for_kind!(self.kind(), written::forget_all(self.root, self.top()));
        }
        self.generation.advance();
        drop(writer);
        self.unit.invalidate_contexts();
    }

    /// Calls `sink` for the pages of `first..=last` that were written since the last time, in rising order, and forgets
    /// it; for none while tracking is off. On return the data of every reported write has arrived, and later writes will
    /// be reported again. A larger page that straddles an end of the range may be reported beyond the end, and stays
    /// dirty. What is not mapped is not reported, unless a write to it was under way while it was unmapped.
    ///
    /// # Panics
    ///
    /// As [`Domain::unmap`].
    pub fn read_and_clear_dirty(&self, first: Iova, last: Iova, sink: impl FnMut(Dirty<'_>)) {
        if let Some(writer) = self.read_dirty_as(first, last, true, sink) {
            self.publish(writer, self.tree(), Invalidate::Translations);
        }
    }

    /// [`Domain::read_and_clear_dirty`] that forgets nothing.
    ///
    /// # Panics
    ///
    /// As [`Domain::unmap`].
    pub fn read_dirty(&self, first: Iova, last: Iova, sink: impl FnMut(Dirty<'_>)) {
        drop(self.read_dirty_as(first, last, false, sink));
    }

    fn read_dirty_as(
        &self,
        first: Iova,
        last: Iova,
        clear: bool,
        mut sink: impl FnMut(Dirty<'_>),
    ) -> Option<Writer<'_>> {
        let span = self.span(first, last)?;
        let writer = self.write();
        if !self.is_tracking() {
            return None;
        }
        let reading = Reading { span, clear };
        match self.kind() {
            Kind::Vtd { .. } => {
                written::read::<VtdSs>(self.root, self.top(), reading, &mut sink);
            }
            Kind::Amd => written::read::<AmdV1>(self.root, self.top(), reading, &mut sink),
        }
        Some(writer)
    }

    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Whether writes are recorded.
    pub fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.now()
    }

    fn kind(&self) -> Kind {
        self.unit.config.kind
    }

    fn top(&self) -> u32 {
        self.unit.config.top()
    }

    fn write(&self) -> Writer<'_> {
        self.writer.lock()
    }

    fn tree(&self) -> Tree<'_> {
        Tree::new(self.root, self.top(), &self.unit.pool, self.is_tracking())
    }

    /// The part of the range inside the aperture.
    fn span(&self, first: Iova, last: Iova) -> Option<Span> {
        assert!(
            first.0 & 0xfff == 0 && last.0 & 0xfff == 0xfff,
            "{first}..={last} is not of whole 4 KiB pages"
        );
        assert!(first <= last, "{first}..={last} is turned around");
        let end = self.unit.config.last();
        (first.0 <= end).then(|| Span {
            first: first.0,
            last: last.0.min(end),
        })
    }

    /// Ends a change: accounts, unlocks, invalidates, drains, and only then frees tables.
    fn publish(&self, writer: Writer<'_>, tree: Tree<'_>, what: Invalidate) {
        if self.invalidate(&tree, what) {
            drop(writer);
            self.drain(tree);
        }
    }

    /// Accounts for a change and invalidates what it took away; whether a drain must follow.
    #[inline]
    fn invalidate(&self, tree: &Tree<'_>, what: Invalidate) -> bool {
        if tree.grown != 0 {
            self.tables.fetch_add(tree.grown, Ordering::Relaxed);
        }
        if what == Invalidate::TablesOnly && tree.retired.is_empty() {
            return false;
        }
        self.generation.advance();
        true
    }

    /// Waits for accesses under way, then frees the tables that were unlinked.
    #[inline]
    fn drain(&self, tree: Tree<'_>) {
        self.unit.drain.wait();
        for address in tree.retired {
            self.unit.pool.give(address);
        }
    }
}

/// A domain that one thread changes alone; see [`Domain::exclusive`].
///
/// What it unmaps is unmapped at once for later translations, and is out of reach for caches and for sessions under way
/// after [`Exclusive::sync`], which dropping it does too: many unmaps share one invalidation and one drain. Until then an
/// address that was unmapped must not be mapped again: a cache might still lead it to the old place.
pub struct Exclusive<'a> {
    domain: &'a Domain,
    tree: Tree<'a>,
    /// Translations were taken away since the last sync.
    stale: bool,
    _writer: Writer<'a>,
}

impl Exclusive<'_> {
    /// [`Domain::map`].
    ///
    /// # Errors
    ///
    /// As [`Domain::map`].
    #[inline]
    pub fn map(&mut self, first: Iova, pa: Pa, bytes: u64, prot: Prot) -> Result<(), MapError> {
        let domain = self.domain;
        let span = domain.check(first, pa, bytes, prot)?;
        let (done, changed) = domain.map_in(&mut self.tree, span, pa, prot);
        self.stale |= changed == Invalidate::Translations;
        done
    }

    /// [`Domain::unmap`] whose guarantee holds from the next [`Exclusive::sync`] on.
    ///
    /// # Panics
    ///
    /// As [`Domain::unmap`].
    #[inline]
    pub fn unmap(&mut self, first: Iova, last: Iova) -> u64 {
        let domain = self.domain;
        let Some(span) = domain.span(first, last) else {
            return 0;
        };
        self.stale = true;
        for_kind!(domain.kind(), clear::clear(&mut self.tree, span))
    }

    /// Invalidates what was unmapped since the last time and waits for accesses under way, as [`Domain::unmap`] does.
    pub fn sync(&mut self) {
        let what = if std::mem::take(&mut self.stale) {
            Invalidate::Translations
        } else {
            Invalidate::TablesOnly
        };
        let tree = std::mem::replace(&mut self.tree, self.domain.tree());
        if self.domain.invalidate(&tree, what) {
            self.domain.drain(tree);
        }
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.sync();
    }
}

/// What a change took away.
#[derive(PartialEq, Eq)]
enum Invalidate {
    /// At most empty tables.
    TablesOnly,
    /// Translations that caches may hold and sessions may use.
    Translations,
}

impl Drop for Domain {
    fn drop(&mut self) {
        // Attachments hold the domain, so no entry leads here and the drain of the last detach is over.
        let mut tree = self.tree();
        for_kind!(self.kind(), clear::clear_all(&mut tree));
        for address in tree.retired.into_iter().chain([self.root]) {
            self.unit.pool.give(address);
        }
        self.unit.give_id(self.id);
    }
}

fn lookup_in<F: Format>(root: u64, top: u32, iova: u64) -> Option<(Pa, Prot, u64)> {
    let hit = walk::full::<F>(root, top, iova, Prot::empty()).ok()?;
    Some((Pa(hit.pa), hit.prot, 1 << hit.lg2))
}
