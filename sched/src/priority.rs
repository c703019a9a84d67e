//! Effective priorities.

/// A thread's effective priority: 0 (lowest) to 63 (highest).
///
/// It is what the scheduler acts on: the highest of the thread's own priority and of all that it inherits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct EffectivePriority(u8);

impl EffectivePriority {
    /// How many there are: one for each bit of a word, so that the highest ready one is found by one
    /// instruction.
    pub const LEVELS: usize = u64::BITS as usize;
    /// The lowest.
    pub const LOWEST: EffectivePriority = EffectivePriority(0);
    /// The highest.
    pub const HIGHEST: EffectivePriority = EffectivePriority(Self::LEVELS as u8 - 1);

    /// The priority with this number, `None` above 63.
    pub const fn new(level: u8) -> Option<EffectivePriority> {
        if (level as usize) < Self::LEVELS {
            Some(EffectivePriority(level))
        } else {
            None
        }
    }

    /// The priority that the low six bits of a number name: for a number that is below 64 by construction, so that reading
    /// it back needs no branch.
    #[inline]
    pub const fn from_low_bits(level: u8) -> EffectivePriority {
        EffectivePriority(level & (Self::LEVELS as u8 - 1))
    }

    /// Its number, 0 to 63.
    #[inline]
    pub const fn level(self) -> u8 {
        self.0
    }

    /// Its number as an index, below [`Self::LEVELS`] also for the compiler.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize & (Self::LEVELS - 1)
    }
}
