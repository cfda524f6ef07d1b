//! Submission and completion queues: rings in client memory, section 4.1.
//!
//! Both are physically contiguous (CAP.CQR = 1). A ring of `entries` slots holds at most `entries - 1`.

/// A submission queue: the client owns the tail, the controller the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubmissionQueue {
    pub base: u64,
    pub entries: u32,
    /// Next entry to fetch.
    pub head: u32,
    /// First entry not submitted, as last written to the doorbell.
    pub tail: u32,
    /// Where its completions go.
    pub cq: u16,
}

impl SubmissionQueue {
    pub fn new(base: u64, entries: u32, cq: u16) -> SubmissionQueue {
        SubmissionQueue {
            base,
            entries,
            head: 0,
            tail: 0,
            cq,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Takes the next entry: its address.
    pub fn take(&mut self) -> u64 {
        let at = self
            .base
            .wrapping_add(u64::from(self.head) << super::bits::SQE_LG2);
        self.head = if self.head + 1 == self.entries {
            0
        } else {
            self.head + 1
        };
        at
    }
}

/// A completion queue: the controller owns the tail and the phase, the client the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompletionQueue {
    pub base: u64,
    pub entries: u32,
    /// First entry the client has not consumed, as last written to the doorbell.
    pub head: u32,
    /// Next entry to write.
    pub tail: u32,
    /// Phase tag of the entries of this pass; true in the first (4.6).
    pub phase: bool,
    /// Interrupt vector, `None` with interrupts disabled.
    pub vector: Option<u16>,
    /// Submission queues that complete here.
    pub users: u16,
    /// A submission queue waits for room here.
    pub stalled: bool,
}

impl CompletionQueue {
    pub fn new(base: u64, entries: u32, vector: Option<u16>) -> CompletionQueue {
        CompletionQueue {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            users: 0,
            stalled: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    pub fn is_full(&self) -> bool {
        self.next(self.tail) == self.head
    }

    /// Takes the next slot: its address and phase tag. Not when full.
    pub fn take(&mut self) -> (u64, bool) {
        debug_assert!(!self.is_full());
        let slot = (
            self.base
                .wrapping_add(u64::from(self.tail) << super::bits::CQE_LG2),
            self.phase,
        );
        self.tail = self.next(self.tail);
        if self.tail == 0 {
            self.phase = !self.phase;
        }
        slot
    }

    /// Whether the client may move its head to `head`: forward, and not past what was posted.
    pub fn may_consume_to(&self, head: u32) -> bool {
        let distance = |to: u32| (to + self.entries - self.head) % self.entries;
        distance(head) <= distance(self.tail)
    }

    fn next(&self, slot: u32) -> u32 {
        if slot + 1 == self.entries {
            0
        } else {
            slot + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_tag_flips_when_the_completion_queue_wraps() {
        let mut cq = CompletionQueue::new(0x1000, 3, None);
        assert_eq!([cq.take(), cq.take()], [(0x1000, true), (0x1010, true)]);
        assert!(cq.is_full());
        cq.head = 1;
        assert_eq!(cq.take(), (0x1020, true));
        cq.head = 2;
        assert_eq!(cq.take(), (0x1000, false));
    }

    #[test]
    fn a_head_beyond_what_was_posted_is_refused() {
        let mut cq = CompletionQueue::new(0, 4, None);
        assert!(cq.may_consume_to(0) && !cq.may_consume_to(1));
        cq.take();
        cq.take();
        assert!(cq.may_consume_to(2) && !cq.may_consume_to(3));
        cq.head = 2;
        cq.take();
        cq.take();
        assert!(cq.may_consume_to(0) && !cq.may_consume_to(1));
    }
}
