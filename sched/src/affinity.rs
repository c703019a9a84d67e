//! Where a thread may run.
//!
//! A set of CPUs is one bit each in eight words. What a thread's home and others share is the atomic form, which is written
//! and read a word at a time: a reader may see half of an old set and half of a new one. That does no harm, since whoever
//! changes the set asks the home afterwards to look again.

use crate::atomic::{AtomicU64, Ordering};

/// CPUs that a set has room for.
pub const MAX_CPUS: u32 = 512;
const WORD_BITS: u32 = u64::BITS;
const WORDS: usize = (MAX_CPUS / WORD_BITS) as usize;

/// A set of CPUs by index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    words: [u64; WORDS],
}

impl Affinity {
    /// All CPUs.
    pub const ANY: Affinity = Affinity {
        words: [u64::MAX; WORDS],
    };
    /// No CPU.
    pub const NONE: Affinity = Affinity { words: [0; WORDS] };

    /// The set with these words, the lowest CPUs first; no CPU beyond them.
    pub fn from_words(words: &[u64]) -> Affinity {
        let mut set = Affinity::NONE;
        for (mine, given) in set.words.iter_mut().zip(words) {
            *mine = *given;
        }
        set
    }

    /// The words, the lowest CPUs first.
    pub const fn words(&self) -> &[u64] {
        &self.words
    }

    /// Just the CPU with this index; no CPU if there is no room for it.
    pub const fn only(cpu: u32) -> Affinity {
        let mut set = Affinity::NONE;
        if cpu < MAX_CPUS {
            set.words[(cpu / WORD_BITS) as usize] = 1 << (cpu % WORD_BITS);
        }
        set
    }

    /// Whether it has the CPU with this index.
    #[inline]
    pub const fn allows(&self, cpu: u32) -> bool {
        cpu < MAX_CPUS && self.words[(cpu / WORD_BITS) as usize] >> (cpu % WORD_BITS) & 1 != 0
    }

    /// Whether it has any of the first `count` CPUs, which are those that there are.
    pub fn allows_any_of(&self, count: u32) -> bool {
        (0..count.min(MAX_CPUS)).any(|cpu| self.allows(cpu))
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Affinity::ANY
    }
}

/// A set of CPUs in a thread, which others change while its home reads it.
pub struct SharedAffinity {
    words: [AtomicU64; WORDS],
}

impl SharedAffinity {
    /// All CPUs.
    #[cfg(not(test))]
    #[inline(always)]
    pub const fn any() -> SharedAffinity {
        SharedAffinity {
            words: [const { AtomicU64::new(u64::MAX) }; WORDS],
        }
    }

    /// All CPUs.
    #[cfg(test)]
    pub fn any() -> SharedAffinity {
        SharedAffinity {
            words: core::array::from_fn(|_| AtomicU64::new(u64::MAX)),
        }
    }

    /// The set.
    pub fn get(&self) -> Affinity {
        Affinity {
            words: core::array::from_fn(|index| self.words[index].load(Ordering::Relaxed)),
        }
    }

    /// Changes the set. The thread's home must be asked to look afterwards.
    pub fn set(&self, affinity: &Affinity) {
        for (word, new) in self.words.iter().zip(affinity.words) {
            word.store(new, Ordering::Relaxed);
        }
    }

    /// A bit for each CPU from `first` on, as far as their word goes: bit 0 is that one's.
    pub(crate) fn bits_from(&self, first: u32) -> u32 {
        match self.words.get((first / WORD_BITS) as usize) {
            Some(word) => (word.load(Ordering::Relaxed) >> (first % WORD_BITS)) as u32,
            None => 0,
        }
    }

    /// Whether it has the CPU with this index.
    #[inline]
    pub fn allows(&self, cpu: u32) -> bool {
        cpu < MAX_CPUS
            && self.words[(cpu / WORD_BITS) as usize].load(Ordering::Relaxed) >> (cpu % WORD_BITS)
                & 1
                != 0
    }
}

impl Default for SharedAffinity {
    fn default() -> Self {
        Self::any()
    }
}
