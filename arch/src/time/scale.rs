//! Turning one clock's ticks into another's by a multiplication.
//!
//! A scale is a fraction with 32 bits behind the point, and the product is 128 bits wide, so nothing overflows: a counter
//! at 10 GHz and its nanoseconds fit for as long as the counter itself does. The fraction is cut off, so for clocks of
//! at most 100 GHz a result falls short by less than a part in forty million.

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

const FRACTION_BITS: u32 = 32;

/// How many ticks of one clock a tick of another is worth, times 2 to the 32nd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale(pub u64);

impl Scale {
    /// The scale to a clock of `to_hz` from one of `from_hz` ticks a second. A `from_hz` of 0 gives the scale 0; what
    /// doesn't fit (a ratio over 2 to the 32nd) gives the largest.
    #[must_use]
    pub const fn new(to_hz: u64, from_hz: u64) -> Scale {
        if from_hz == 0 {
            return Scale(0);
        }
        let scale = ((to_hz as u128) << FRACTION_BITS) / from_hz as u128;
        if scale > u64::MAX as u128 {
            return Scale(u64::MAX);
        }
        Scale(scale as u64)
    }

    /// `ticks` in the other clock's, rounded down; the largest number if it doesn't fit.
    #[inline]
    #[must_use]
    pub const fn apply(self, ticks: u64) -> u64 {
        let product = (ticks as u128 * self.0 as u128) >> FRACTION_BITS;
        if product > u64::MAX as u128 {
            return u64::MAX;
        }
        product as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_of_ticks_is_a_second_of_nanoseconds() {
        for hz in [10_000_000, 1_000_000_000, 2_399_999_999, 5_123_456_789] {
            let ns = Scale::new(NS_PER_SECOND, hz).apply(hz);
            assert!((999_999_970..=NS_PER_SECOND).contains(&ns), "{hz}: {ns}");
        }
    }

    #[test]
    fn a_century_does_not_overflow() {
        let hz = 4_000_000_000u64;
        let century = 100 * 366 * 86_400u64;
        let ns = Scale::new(NS_PER_SECOND, hz).apply(hz * century);
        assert!(ns.abs_diff(NS_PER_SECOND * century) < 100 * century);
    }

    #[test]
    fn a_clock_that_stands_still_scales_to_nothing() {
        assert_eq!(Scale::new(NS_PER_SECOND, 0).apply(u64::MAX), 0);
    }

    #[test]
    fn what_does_not_fit_is_the_largest_number() {
        assert_eq!(Scale::new(u64::MAX, 1).apply(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn later_ticks_never_give_an_earlier_time(hz in 1_000_000u64..100_000_000_000, a: u64, b: u64) {
            let scale = Scale::new(NS_PER_SECOND, hz);
            prop_assert!(scale.apply(a.min(b)) <= scale.apply(a.max(b)));
        }

        /// What `ticks_at` stands on: a deadline turned to ticks, with one more, is not before the deadline by more than
        /// the scales' precision.
        #[test]
        fn there_and_back_loses_little(hz in 10_000_000u64..10_000_000_000, ns in 0u64..1 << 60) {
            let ticks = Scale::new(hz, NS_PER_SECOND).apply(ns).saturating_add(1);
            let back = Scale::new(NS_PER_SECOND, hz).apply(ticks);
            prop_assert!(back.abs_diff(ns) <= ns / 10_000_000 + 200);
        }
    }
}
