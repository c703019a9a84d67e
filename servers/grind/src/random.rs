//! Chance that can be had again.

/// Marsaglia's xorshift with 64 bits of state (Journal of Statistical Software 8(14), 2003).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// All that follows from a seed. Seeds next to each other begin with numbers that have nothing in common.
    pub const fn new(seed: u64) -> Random {
        // Any odd factor spreads the bits; the state must not be 0.
        let state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Random(if state == 0 { 1 } else { state })
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0. The upper bits decide: they are the better ones.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// True once in `times` times.
    pub const fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of some.
    ///
    /// # Panics
    /// If there are none.
    pub const fn one_of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_another_gives_others() {
        let take = |seed| {
            let mut random = Random::new(seed);
            [random.next(), random.next(), random.next()]
        };
        assert_eq!(take(5), take(5));
        for seed in [0, 1, 6, u64::MAX] {
            assert_ne!(take(5), take(seed));
            assert!(take(seed).iter().all(|number| *number != 0));
        }
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[random.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
