//! How many count on an object.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::atomics::{Atomic, Atomics, Native, Number};

/// A number of references; 0: the object is retired, or there is none.
#[repr(transparent)]
pub(super) struct Count<A: Atomics = Native>(A::U32);

impl Count {
    /// None.
    pub(super) const fn none() -> Count {
        Count(AtomicU32::new(0))
    }
}

impl<A: Atomics> Count<A> {
    /// Some, of any family.
    #[cfg(test)]
    pub(super) fn of(count: u32) -> Count<A> {
        Count(A::U32::new(count))
    }

    /// The object is there, and its maker counts on it.
    #[inline(always)]
    pub(super) fn begin(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// Whether nobody counts on it. Whoever finds somebody finds the object whole, for the rest of the section.
    #[inline(always)]
    pub(super) fn is_none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// One more, made from one that is counted.
    #[inline(always)]
    pub(super) fn add(&self) {
        // Relaxed: the one that it is made from keeps the object alive.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before != 0 && before < u32::MAX / 2);
    }

    /// One more, made from one that is not counted; false if the last is gone already.
    #[inline(always)]
    pub(super) fn add_unless_none(&self) -> bool {
        let more = |count| if count == 0 { None } else { Some(count + 1) };
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .is_ok()
    }

    /// One less; whether it was the last. Then all that the others have done with the object is done.
    #[inline(always)]
    pub(super) fn remove(&self) -> bool {
        let was_last = self.0.fetch_sub(1, Ordering::Release) == 1;
        if was_last {
            A::fence(Ordering::Acquire);
        }
        was_last
    }
}
