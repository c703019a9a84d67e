//! Epochs: how it is known that every CPU has passed a quiescent point since something became unreachable.
//!
//! Why a counter and no fence: a CPU at its quiescent point reads the global epoch and writes what it read. If it
//! read an epoch that was advanced after the retirement, that has shown it the removal of the
//! pointer as well, so whatever it loads afterwards can't be the retired object. A late write only delays the end.
//!
//! A CPU that sleeps has said so, and need not be waited for. When it comes back it says that *before* it loads anything; so it takes a fence, and
//! one on the other side, which is the advance itself: either the CPU loads what was put there by the removal, or it is found to be back.
//!
//! The models (`epoch/models.rs`) have CPUs follow pointers while others take away what they point to, in every interleaving.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::atomics::{Atomic, Atomics, Native, Number};

#[cfg(test)]
mod models;

/// The epoch that all CPUs share. Epoch 0 is never a retirement's.
pub(super) struct Epoch<A: Atomics = Native>(A::U64);

impl Epoch {
    /// The first.
    pub(super) const fn first() -> Epoch {
        Epoch(AtomicU64::new(1))
    }
}

impl<A: Atomics> Epoch<A> {
    /// As [`Epoch::first`], of any family.
    #[cfg(test)]
    fn of() -> Epoch<A> {
        Epoch(A::U64::new(1))
    }

    /// The epoch in which something is retired that was made unreachable before; the next one begins.
    #[inline(always)]
    pub(super) fn retire(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// In a CPU's word while it sleeps, and holds nothing.
const AWAY: u64 = u64::MAX;

/// The epoch that one CPU has seen at its last quiescent point.
#[repr(transparent)]
pub struct Seen<A: Atomics = Native>(A::U64);

impl Seen {
    /// A CPU that is just starting and holds nothing.
    pub const fn new() -> Seen {
        Seen(AtomicU64::new(AWAY))
    }
}

impl<A: Atomics> Seen<A> {
    /// As [`Seen::new`], of any family.
    #[cfg(test)]
    fn of() -> Seen<A> {
        Seen(A::U64::new(AWAY))
    }

    /// A quiescent point of the CPU that this belongs to.
    #[inline(always)]
    pub(super) fn pass_in(&self, epoch: &Epoch<A>) {
        self.0
            .store(epoch.0.load(Ordering::Acquire), Ordering::Release);
    }

    /// Declares that the CPU holds no borrowed object until it comes back: it is about to sleep.
    pub fn leave(&self) {
        self.0.store(AWAY, Ordering::Release);
    }

    /// Ends what [`leave`](Self::leave) began, before anything else. Either the CPU sees what was removed meanwhile, or
    /// whoever removed it sees that the CPU is back.
    #[inline(always)]
    pub(super) fn return_in(&self, epoch: &Epoch<A>) {
        self.0
            .store(epoch.0.load(Ordering::Acquire), Ordering::SeqCst);
        A::fence(Ordering::SeqCst);
    }

    /// Whether the CPU sleeps.
    pub fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed) == AWAY
    }

    /// Whether the CPU has passed a quiescent point since something was retired in this epoch.
    pub(super) fn has_passed(&self, epoch: u64) -> bool {
        self.0.load(Ordering::SeqCst) > epoch
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::new()
    }
}
