//! Time slices and preemption, as pure functions of nanoseconds.
//!
//! The kernel is tickless: it sets the timer to the end of the running thread's slice only if somebody of the
//! same priority waits for the CPU. A slice is a plain value, so a call that switches straight to its server
//! hands the rest of the caller's slice over by moving it.

use crate::priority::EffectivePriority;

/// How long a thread runs before another of its priority gets its turn: 10 ms.
///
/// Shorter makes equal threads take turns more smoothly, at the price of more switches; 10 ms keeps that price
/// (some microseconds with cold caches) below a thousandth, and is still well below what a person notices.
pub const QUANTUM_NS: u64 = 10_000_000;

/// What is left of a thread's turn, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    left_ns: u64,
}

impl Slice {
    /// A whole quantum.
    pub const FULL: Slice = Slice {
        left_ns: QUANTUM_NS,
    };
    /// Nothing left.
    pub const SPENT: Slice = Slice { left_ns: 0 };

    /// Nanoseconds left.
    pub const fn left_ns(self) -> u64 {
        self.left_ns
    }

    /// Whether nothing is left.
    pub const fn is_spent(self) -> bool {
        self.left_ns == 0
    }

    /// What is left after the thread ran from `start_ns` to `now_ns` (absolute). A clock that seems to run
    /// backwards charges nothing.
    #[must_use]
    pub const fn charge(self, start_ns: u64, now_ns: u64) -> Slice {
        Slice {
            left_ns: self.left_ns.saturating_sub(now_ns.saturating_sub(start_ns)),
        }
    }

    /// The absolute time at which a thread that is given the CPU at `start_ns` has had its turn.
    pub const fn end_ns(self, start_ns: u64) -> u64 {
        start_ns.saturating_add(self.left_ns)
    }

    /// The slice for the next turn: this one, or a whole quantum if it is spent.
    #[must_use]
    pub const fn renewed(self) -> Slice {
        if self.is_spent() { Slice::FULL } else { self }
    }
}

/// What becomes of the running thread at a scheduling point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Turn {
    /// It goes on.
    Continue,
    /// A higher one is ready: to the front of its level
    /// ([`RunQueue::push_front`](crate::RunQueue::push_front)) with what is left of its slice.
    Front,
    /// It had its turn and another of its priority waits: to the back of its level with a new slice.
    Back,
}

impl Turn {
    /// Judges the running thread (`priority`, `slice` as charged until now) against the highest ready one.
    ///
    /// ```
    /// use sched::{EffectivePriority, Slice, Turn};
    /// let low = EffectivePriority::LOWEST;
    /// assert_eq!(Turn::judge(low, Slice::SPENT, None), Turn::Continue);
    /// assert_eq!(Turn::judge(low, Slice::SPENT, Some(low)), Turn::Back);
    /// assert_eq!(Turn::judge(low, Slice::FULL, Some(EffectivePriority::HIGHEST)), Turn::Front);
    /// ```
    pub fn judge(
        priority: EffectivePriority,
        slice: Slice,
        ready: Option<EffectivePriority>,
    ) -> Turn {
        match ready {
            Some(ready) if ready > priority && !slice.is_spent() => Turn::Front,
            Some(ready) if ready >= priority && slice.is_spent() => Turn::Back,
            _ => Turn::Continue,
        }
    }

    /// Judges a thread that gives its turn away: behind the others of its priority if there are any, before
    /// them never.
    pub fn judge_yield(priority: EffectivePriority, ready: Option<EffectivePriority>) -> Turn {
        Turn::judge(priority, Slice::SPENT, ready)
    }
}

/// When the CPU's timer must next interrupt, in absolute nanoseconds; `None`: not at all.
///
/// `slice_end_ns` matters only if another thread of the running one's `priority` is ready (`ready` is the
/// highest ready priority; a higher one would be running).
pub fn next_interrupt(
    priority: EffectivePriority,
    slice_end_ns: u64,
    ready: Option<EffectivePriority>,
    earliest_deadline_ns: Option<u64>,
) -> Option<u64> {
    let slice_end = ready
        .is_some_and(|ready| ready >= priority)
        .then_some(slice_end_ns);
    match (slice_end, earliest_deadline_ns) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
