//! Numbers that look like chance and are the same again for the same seed.

/// A stream of them: Vigna's `splitmix64`, which any seed will do for, 0 too.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A stream of its own for whatever has this number, so that what one draws does not shift what another one gets.
    #[must_use]
    pub fn branch(&self, number: u64) -> Random {
        let mut branch = Random(self.0 ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Random(branch.word())
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word().checked_rem(end).unwrap_or(0)
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn equal_seeds_give_equal_numbers_and_others_do_not() {
        let draw = |mut random: Random| core::array::from_fn::<u64, 8, _>(|_| random.word());
        assert_eq!(draw(Random::new(7)), draw(Random::new(7)));
        assert_ne!(draw(Random::new(7)), draw(Random::new(8)));
        let root = Random::new(7);
        assert_eq!(draw(root.branch(1)), draw(root.branch(1)));
        assert_ne!(draw(root.branch(1)), draw(root.branch(2)));
        assert_ne!(draw(root.branch(0)), draw(root));
    }

    #[test]
    fn numbers_stay_below_their_end() {
        let mut random = Random::new(1);
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert!((0..100).any(|_| random.one_in(3)));
    }
}
