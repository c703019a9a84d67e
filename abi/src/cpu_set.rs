//! Sets of CPUs, as the affinity calls pass them.

/// A set of CPUs by index, a bit each: bit *n* of word *w* is CPU 64 *w* + *n*.
///
/// A call may pass fewer words (CPUs beyond them are not in the set) or more (the kernel looks at the first
/// [`WORDS`](Self::WORDS)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct CpuSet {
    /// The words, the lowest CPUs first.
    pub words: [u64; Self::WORDS],
}

impl CpuSet {
    /// Words of a set.
    pub const WORDS: usize = 8;
    /// CPUs that a set has room for.
    pub const MAX_CPUS: u32 = Self::WORDS as u32 * u64::BITS;
    /// No CPU.
    pub const NONE: CpuSet = CpuSet {
        words: [0; Self::WORDS],
    };
    /// All CPUs.
    pub const ALL: CpuSet = CpuSet {
        words: [u64::MAX; Self::WORDS],
    };

    /// Just this CPU; no CPU if there is no room for it.
    pub const fn only(cpu: u32) -> CpuSet {
        CpuSet::NONE.with(cpu)
    }

    /// This set and that CPU, if there is room for it.
    #[must_use]
    pub const fn with(mut self, cpu: u32) -> CpuSet {
        if cpu < Self::MAX_CPUS {
            self.words[(cpu / u64::BITS) as usize] |= 1 << (cpu % u64::BITS);
        }
        self
    }

    /// This set without that CPU.
    #[must_use]
    pub const fn without(mut self, cpu: u32) -> CpuSet {
        if cpu < Self::MAX_CPUS {
            self.words[(cpu / u64::BITS) as usize] &= !(1 << (cpu % u64::BITS));
        }
        self
    }

    /// Whether it has that CPU.
    pub const fn has(&self, cpu: u32) -> bool {
        cpu < Self::MAX_CPUS && self.words[(cpu / u64::BITS) as usize] >> (cpu % u64::BITS) & 1 != 0
    }
}

impl Default for CpuSet {
    fn default() -> CpuSet {
        CpuSet::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in() {
        let set = CpuSet::only(0).with(64).with(511).with(512);
        let has = (0..600).filter(|&cpu| set.has(cpu));
        assert!(has.eq([0, 64, 511]));
        assert_eq!(set.without(64).without(512), CpuSet::only(0).with(511));
        assert_eq!(CpuSet::only(512), CpuSet::NONE);
        assert!((0..512).all(|cpu| CpuSet::ALL.has(cpu)) && !CpuSet::ALL.has(512));
    }
}
