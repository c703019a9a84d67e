//! How far two CPUs' time-stamp counters are apart.
//!
//! The new CPU reads its counter, asks, gets the first CPU's reading, and reads its own again. The first CPU's reading was
//! taken in between, so if the first counter is ahead by `d`, then `asked + d <= answer <= got + d`. Every exchange so
//! gives a lower and an upper bound for `d`; the bounds of all are intersected. As long as 0 lies within, nothing has been
//! seen that contradicts equal counters, and nothing can be: information takes as long between two CPUs
//! as these exchanges did. Else the counter is wrong by the middle of the bounds.

/// Bounds on how many ticks the first CPU's counter is ahead of the new one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    lowest: i64,
    highest: i64,
}

impl Bounds {
    /// Nothing known.
    pub const UNKNOWN: Bounds = Bounds {
        lowest: i64::MIN,
        highest: i64::MAX,
    };

    /// Narrows the bounds by one exchange: own counter at asking, the other's answer, own counter at getting it.
    pub fn narrow(&mut self, asked: u64, answer: u64, got: u64) {
        self.lowest = self.lowest.max(answer.wrapping_sub(got) as i64);
        self.highest = self.highest.min(answer.wrapping_sub(asked) as i64);
    }

    /// How many ticks to add to the new CPU's counter; 0 if it may well be in step. `None` if the exchanges contradict
    /// each other: a counter jumped or runs at another speed.
    #[must_use]
    pub fn correction(self) -> Option<i64> {
        if self.lowest > self.highest {
            None
        } else if self.lowest <= 0 && self.highest >= 0 {
            Some(0)
        } else {
            Some(self.lowest.midpoint(self.highest))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counters_in_step_need_no_correction() {
        let mut bounds = Bounds::UNKNOWN;
        bounds.narrow(1000, 1040, 1100);
        bounds.narrow(2000, 2070, 2100);
        assert_eq!(bounds.correction(), Some(0));
    }

    #[test]
    fn nothing_known_is_taken_for_in_step() {
        assert_eq!(Bounds::UNKNOWN.correction(), Some(0));
    }

    #[test]
    fn a_counter_that_jumps_is_noticed() {
        let mut bounds = Bounds::UNKNOWN;
        bounds.narrow(1000, 1040, 1100);
        bounds.narrow(2000, 9000, 2100);
        assert_eq!(bounds.correction(), None);
    }

    proptest! {
        #[test]
        fn a_lagging_or_leading_counter_is_corrected_to_within_the_shortest_way(
            ahead in -1_000_000_000_000i64..1_000_000_000_000,
            exchanges in prop::collection::vec((1u64..5_000, 1u64..5_000), 1..40),
        ) {
            let mut bounds = Bounds::UNKNOWN;
            let mut now = 5_000_000_000_000u64;
            for (there, back) in &exchanges {
                let asked = now;
                let answer = (now + there).wrapping_add_signed(ahead);
                now += there + back;
                bounds.narrow(asked, answer, now);
                now += 100;
            }
            let shortest = exchanges.iter().map(|(there, back)| there + back).min().expect("one at least");
            let correction = bounds.correction().expect("no contradiction");
            prop_assert!(correction.abs_diff(ahead) <= shortest);
        }
    }
}
