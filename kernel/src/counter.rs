//! Numbers that one CPU writes and every CPU may read: statistics that cost one plain instruction.
//!
//! A locked addition costs twenty times a plain one, and nothing here needs it: a CPU's counters are its own, and a
//! thread's are those of the CPU that it belongs to. So an addition is a load and a store, which nobody else's can come
//! between. Readers see each number as it was a moment ago, never a torn one.
//!
//! What may go wrong: two writers, which would lose counts and nothing worse.

use core::sync::atomic::{AtomicU64, Ordering};

/// A count.
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// The count as it is, or was a moment ago.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it. For its one writer.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it; it wraps. For its one writer.
    #[inline]
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// Takes from it; it wraps. For its one writer.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.set(self.get().wrapping_sub(less));
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

/// For how many ticks of the time-stamp counter something went on, in stretches: a thread running, a CPU being idle.
///
/// While a stretch lasts, the number is what it was before less the counter at the stretch's begin. That is below zero,
/// since nothing runs for longer than the counter counts, so beginning and ending are one addition each and
/// a reader can tell that a stretch lasts, and how long it has.
#[repr(transparent)]
pub struct Lasting(Counter);

impl Lasting {
    /// Nothing yet.
    pub const fn new() -> Lasting {
        Lasting(Counter::new())
    }

    /// A stretch begins at `now`. For the one writer.
    #[inline]
    pub fn begin(&self, now: u64) {
        self.0.sub(now);
    }

    /// The stretch ends at `now`, by the same CPU's counter. For the one writer.
    #[inline]
    pub fn end(&self, now: u64) {
        self.0.add(now);
    }

    /// Ticks of all stretches until `now`. Another CPU's counter may be some ticks off.
    pub fn ticks(&self, now: u64) -> u64 {
        let ticks = self.0.get() as i64;
        if ticks < 0 {
            u64::try_from(ticks.saturating_add_unsigned(now)).unwrap_or(0)
        } else {
            ticks as u64
        }
    }
}

impl Lasting {
    /// Ticks of all stretches until now, and now, by `clock`. None began or ended in between, so that the difference of the
    /// two grows with the time outside of the stretches and never shrinks; unless they begin and end all the time.
    pub fn snapshot(&self, clock: impl Fn() -> u64) -> (u64, u64) {
        const TRIES: u32 = 16;
        let mut left = TRIES;
        loop {
            let before = self.0.get();
            let now = clock();
            let ticks = self.ticks(now);
            left -= 1;
            if self.0.get() == before || left == 0 {
                return (ticks, now);
            }
        }
    }
}

impl Default for Lasting {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_counted_while_it_does_and_afterwards() {
        let lasting = Lasting::new();
        assert_eq!(lasting.ticks(1000), 0);
        lasting.begin(1000);
        assert_eq!(lasting.ticks(1010), 10);
        lasting.end(1030);
        assert_eq!((lasting.ticks(1030), lasting.ticks(5000)), (30, 30));
        lasting.begin(6000);
        assert_eq!(lasting.ticks(6005), 35);
        lasting.end(6010);
        assert_eq!(lasting.ticks(u64::MAX), 40);
    }

    #[test]
    fn a_snapshot_is_taken_again_if_a_stretch_ended_meanwhile() {
        let lasting = Lasting::new();
        lasting.begin(1000);
        let clock = core::cell::Cell::new(1000);
        let reads = || {
            clock.set(clock.get() + 10);
            if clock.get() == 1010 {
                lasting.end(1010);
            }
            clock.get()
        };
        assert_eq!(lasting.snapshot(reads), (10, 1020));
    }

    #[test]
    fn a_reader_whose_clock_is_behind_sees_no_nonsense() {
        let lasting = Lasting::new();
        lasting.begin(1000);
        assert_eq!(lasting.ticks(990), 0);
    }
}
