//! Base and effective priorities.

use crate::atomic::{AtomicU8, AtomicU32, Ordering};

/// Priorities that there are: one for each bit of a word, so that the highest ready one is found by one instruction.
const LEVELS: usize = u64::BITS as usize;

/// The priority that a thread was given: 0 (lowest) to 63 (highest).
///
/// No queue acts on it; see [`EffectivePriority`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct BasePriority(u8);

impl BasePriority {
    /// The lowest.
    pub const LOWEST: BasePriority = BasePriority(0);

    /// The priority with this number, `None` above 63.
    pub const fn new(level: u8) -> Option<BasePriority> {
        if (level as usize) < LEVELS {
            Some(BasePriority(level))
        } else {
            None
        }
    }

    /// Its number, 0 to 63.
    pub const fn level(self) -> u8 {
        self.0
    }
}

/// A thread's effective priority: 0 (lowest) to 63 (highest).
///
/// It is what the scheduler acts on: the highest of the thread's own and of all that it inherits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct EffectivePriority(
    /// As wide as a register, so that it is an index as it is loaded.
    u32,
);

impl EffectivePriority {
    /// How many there are.
    pub const LEVELS: usize = LEVELS;
    /// The lowest.
    pub const LOWEST: EffectivePriority = EffectivePriority(0);
    /// The highest.
    pub const HIGHEST: EffectivePriority = EffectivePriority(Self::LEVELS as u32 - 1);

    /// The priority with this number, `None` above 63.
    pub const fn new(level: u8) -> Option<EffectivePriority> {
        if (level as usize) < Self::LEVELS {
            Some(EffectivePriority(level as u32))
        } else {
            None
        }
    }

    /// The priority of a thread with this base priority that inherits these.
    pub fn of(
        base: BasePriority,
        inherited: impl IntoIterator<Item = EffectivePriority>,
    ) -> EffectivePriority {
        inherited
            .into_iter()
            .fold(EffectivePriority(u32::from(base.0)), Ord::max)
    }

    /// The priority that the low six bits of a number name: for a number that is below 64 by construction, so that reading
    /// it back needs no branch.
    #[inline]
    pub const fn from_low_bits(level: u32) -> EffectivePriority {
        EffectivePriority(level & (Self::LEVELS as u32 - 1))
    }

    /// Its number, 0 to 63.
    #[inline]
    pub const fn level(self) -> u8 {
        self.0 as u8
    }

    /// Its number as an index, below [`Self::LEVELS`] also for the compiler.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize & (Self::LEVELS - 1)
    }
}

/// Both priorities of a thread. Part of the thread.
///
/// Anybody may [give](Self::give) it another base priority; it counts once the thread's home has [settled](Self::settle) the
/// effective one, which nobody else writes. Reading that is one plain load.
pub struct ThreadPriority {
    base: AtomicU8,
    effective: AtomicU32,
}

impl ThreadPriority {
    /// Of a thread that inherits nothing.
    #[cfg(not(test))]
    pub const fn new(base: BasePriority) -> ThreadPriority {
        ThreadPriority {
            base: AtomicU8::new(base.0),
            effective: AtomicU32::new(base.0 as u32),
        }
    }

    /// The base priority that was given last.
    pub fn base(&self) -> BasePriority {
        BasePriority(self.base.load(Ordering::SeqCst))
    }

    /// What the scheduler acts on.
    #[inline]
    pub fn effective(&self) -> EffectivePriority {
        EffectivePriority::from_low_bits(self.effective.load(Ordering::Relaxed))
    }

    /// Gives the thread another base priority. Its home must be asked to [settle](Self::settle) afterwards.
    pub fn give(&self, base: BasePriority) {
        self.base.store(base.0, Ordering::SeqCst);
    }

    /// Brings the effective priority up to date with the base one and all that the thread inherits. For its home.
    ///
    /// Returns the former one if it changed: a queued thread must then be [requeued](crate::RunQueue::requeue), and for a running
    /// one the CPU must look again who should run.
    pub fn settle(
        &self,
        inherited: impl IntoIterator<Item = EffectivePriority>,
    ) -> Option<EffectivePriority> {
        let former = self.effective();
        let new = EffectivePriority::of(self.base(), inherited);
        if new == former {
            return None;
        }
        self.effective.store(new.0, Ordering::Relaxed);
        Some(former)
    }
}
