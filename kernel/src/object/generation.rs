//! The generation of a handle's slot: which of all handles that the slot has had or will have is the one that is good.
//!
//! It is written under the table's lock. Who has looked a handle up before compares it without that lock ([`Spot`](super::table::Spot)): as long as the
//! slot is in the handle's generation, the handle names what it named then. What may go wrong: it is raised just after the look. Then what the slot had
//! is given up, but nobody ends it before the CPU's next quiescent point; and whoever looks after that sees that the generation was raised.
//!
//! 0 is in no handle.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::atomics::{Atomic, Atomics, Native};

/// A generation.
pub(super) struct Generation<A: Atomics = Native>(A::U32);

impl Generation {
    /// This one.
    pub(super) const fn new(generation: u32) -> Generation {
        Generation(AtomicU32::new(generation))
    }
}

impl<A: Atomics> Generation<A> {
    /// As [`Generation::new`], of any family.
    #[cfg(test)]
    pub(super) fn of(generation: u32) -> Generation<A> {
        Generation(A::U32::new(generation))
    }

    /// Which it is. For whoever has the table's lock.
    #[inline(always)]
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Another from now on. For whoever has the table's lock.
    #[inline(always)]
    pub(super) fn set(&self, generation: u32) {
        self.0.store(generation, Ordering::Release);
    }

    /// Whether it is this one. For anybody.
    #[inline(always)]
    pub(super) fn is(&self, generation: u32) -> bool {
        self.0.load(Ordering::Acquire) == generation
    }
}
