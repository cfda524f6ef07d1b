//! Where the data of one transfer lie in device addresses: one stretch, or the many that a scatter list names.

/// A stretch of device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub iova: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Stretches of device addresses, one after the other. As an iterator it gives them in order, none empty.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    /// What is left of the first.
    head: Span,
    /// Those behind it.
    tail: &'a [Span],
    /// All bytes. The last span may be longer than its share.
    bytes: u64,
}

impl<'a> Spans<'a> {
    /// One stretch.
    #[inline(always)]
    pub fn one(iova: u64, bytes: u64) -> Spans<'a> {
        Spans {
            head: Span { iova, bytes },
            tail: &[],
            bytes,
        }
    }

    /// All of a list.
    pub fn all(list: &'a [Span]) -> Spans<'a> {
        let Some((head, tail)) = list.split_first() else {
            return Spans::one(0, 0);
        };
        Spans {
            head: *head,
            tail,
            bytes: list.iter().map(|span| span.bytes).sum(),
        }
    }

    /// How many bytes there are.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `bytes` of the bytes, from byte `first` on.
    pub fn part(mut self, first: u64, bytes: u64) -> Spans<'a> {
        debug_assert!(
            first
                .checked_add(bytes)
                .is_some_and(|past| past <= self.bytes)
        );
        let mut skip = first;
        while skip > 0 {
            let step = skip.min(self.head.bytes);
            self.advance(step);
            skip -= step;
        }
        self.bytes = bytes;
        self
    }

    /// The first stretch, if a byte is left.
    #[inline(always)]
    pub fn first(&self) -> Option<Span> {
        let bytes = self.head.bytes.min(self.bytes);
        (bytes > 0).then_some(Span { bytes, ..self.head })
    }

    /// Leaves out the first `bytes` bytes, which lie in the first stretch.
    #[inline(always)]
    pub fn advance(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.head.iova = self.head.iova.wrapping_add(bytes);
        self.head.bytes -= bytes;
        while self.head.bytes == 0
            && let Some((head, tail)) = self.tail.split_first()
        {
            (self.head, self.tail) = (*head, tail);
        }
    }

    /// The stretch in which byte `byte` lies, and which byte of the stretch it is. Beyond the end, the end of the last.
    pub fn find(self, byte: u64) -> (Span, u64) {
        let (mut found, mut left) = (self.head, byte);
        for span in self {
            found = span;
            if left < span.bytes {
                break;
            }
            left -= span.bytes;
        }
        (found, left)
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.first()?;
        self.advance(first.bytes);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: [Span; 3] = [
        Span {
            iova: 0x1000,
            bytes: 0x10,
        },
        Span {
            iova: 0x8000,
            bytes: 0x20,
        },
        Span {
            iova: 0x3000,
            bytes: 0x30,
        },
    ];

    fn listed(spans: Spans<'_>) -> Vec<(u64, u64)> {
        spans.map(|span| (span.iova, span.bytes)).collect()
    }

    #[test]
    fn a_part_is_the_stretches_of_its_bytes() {
        let all = Spans::all(&LIST);
        assert_eq!(all.bytes(), 0x60);
        assert_eq!(
            listed(all),
            [(0x1000, 0x10), (0x8000, 0x20), (0x3000, 0x30)]
        );
        assert_eq!(listed(all.part(8, 0x10)), [(0x1008, 8), (0x8000, 8)]);
        assert_eq!(listed(all.part(0x10, 0x20)), [(0x8000, 0x20)]);
        assert_eq!(
            listed(all.part(0x18, 0x20).part(8, 0x12)),
            [(0x8010, 0x10), (0x3000, 2)]
        );
        assert_eq!(listed(all.part(0x60, 0)), []);
        assert_eq!(listed(all.part(5, 0)), []);
    }

    #[test]
    fn an_empty_list_has_no_bytes() {
        assert_eq!(Spans::all(&[]).bytes(), 0);
        assert_eq!(listed(Spans::all(&[])), []);
    }

    #[test]
    fn a_byte_is_found_in_its_stretch() {
        let all = Spans::all(&LIST);
        assert_eq!(all.find(0), (LIST[0], 0));
        assert_eq!(all.find(0xf), (LIST[0], 0xf));
        assert_eq!(all.find(0x10), (LIST[1], 0));
        assert_eq!(all.find(0x5f), (LIST[2], 0x2f));
        assert_eq!(Spans::one(7, 0).find(0), (Span { iova: 7, bytes: 0 }, 0));
    }

    #[test]
    fn addresses_wrap_around() {
        let spans = Spans::one(u64::MAX, 2);
        assert_eq!(listed(spans.part(1, 1)), [(0, 1)]);
    }
}
