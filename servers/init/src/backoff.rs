//! When a service that ended is started again.
//!
//! The wait doubles with each end, up to half a minute, so that a service that can't live doesn't eat the machine; a
//! service that ran quietly for ten seconds begins anew.

use core::time::Duration;

/// Longest wait.
pub const LONGEST: Duration = Duration::from_secs(30);
/// After a run of this length the wait begins anew.
pub const QUIET: Duration = Duration::from_secs(10);

/// The state of one service's waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits that begin with `first`.
    pub const fn new(first: Duration) -> Backoff {
        Backoff { first, next: first }
    }

    /// How long to wait after a run of length `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= QUIET {
            self.next = self.first;
        }
        let wait = self.next.min(LONGEST);
        self.next = self.next.saturating_mul(2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        let waits: [u128; 11] = core::array::from_fn(|_| backoff.after(Duration::ZERO).as_millis());
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000
            ]
        );
    }

    #[test]
    fn quiet_run_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        backoff.after(Duration::ZERO);
        backoff.after(Duration::ZERO);
        assert_eq!(
            backoff.after(QUIET.saturating_sub(Duration::from_nanos(1))),
            Duration::from_millis(400)
        );
        assert_eq!(backoff.after(QUIET), Duration::from_millis(100));
    }
}
