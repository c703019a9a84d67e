//! Time slices and preemption, as pure functions of a clock's ticks.
//!
//! The kernel is tickless: it sets the timer to the end of the running thread's slice only if somebody of the
//! same priority waits for the CPU. A slice is a plain value, so a call that switches straight to its server
//! hands the rest of the caller's slice over by moving it.
//!
//! The unit is the caller's: whatever counts up at a constant speed and is cheap to read. The kernel uses the CPU's
//! time-stamp counter, so that a switch needs one reading and a subtraction, and no conversion.

use crate::priority::EffectivePriority;

/// How long a thread runs before another of its priority gets its turn, in nanoseconds: 10 ms.
///
/// Shorter makes equal threads take turns more smoothly, at the price of more switches; 10 ms keeps that price
/// (some microseconds with cold caches) below a thousandth, and is still well below what a person notices.
pub const QUANTUM_NS: u64 = 10_000_000;

/// What is left of a thread's turn, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    left: u64,
}

impl Slice {
    /// Nothing left.
    pub const SPENT: Slice = Slice { left: 0 };

    /// So many ticks.
    #[inline]
    pub const fn new(ticks: u64) -> Slice {
        Slice { left: ticks }
    }

    /// What is left at `now` of a turn that ends at `end` (both absolute): nothing if the end has passed.
    #[inline]
    pub const fn until(end: u64, now: u64) -> Slice {
        Slice {
            left: end.saturating_sub(now),
        }
    }

    /// Ticks left.
    #[inline]
    pub const fn left(self) -> u64 {
        self.left
    }

    /// Whether nothing is left.
    #[inline]
    pub const fn is_spent(self) -> bool {
        self.left == 0
    }

    /// The absolute time at which a thread that is given the CPU at `start` has had its turn. Both must be far below 2^64, as
    /// ticks since boot and quanta are.
    #[inline]
    pub const fn end(self, start: u64) -> u64 {
        start.wrapping_add(self.left)
    }

    /// The slice for the next turn: this one, or a whole `quantum` (in ticks) if it is spent.
    #[inline]
    #[must_use]
    pub const fn renewed(self, quantum: u64) -> Slice {
        if self.is_spent() {
            Slice { left: quantum }
        } else {
            self
        }
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
    /// Judges the running thread (`priority`, what is left of its `slice` now) against the highest ready one.
    ///
    /// ```
    /// use sched::{EffectivePriority, Slice, Turn};
    /// let low = EffectivePriority::LOWEST;
    /// assert_eq!(Turn::judge(low, Slice::SPENT, None), Turn::Continue);
    /// assert_eq!(Turn::judge(low, Slice::SPENT, Some(low)), Turn::Back);
    /// assert_eq!(Turn::judge(low, Slice::new(1), Some(EffectivePriority::HIGHEST)), Turn::Front);
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
}
