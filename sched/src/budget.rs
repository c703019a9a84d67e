//! Budgets: a thread that may run for so long in each period, and no longer.
//!
//! It is what keeps a high priority from being the CPU for good by mistake: a thread that has used up its budget waits until its
//! next period, whatever its priority. (Who may set and take off budgets is the kernel's affair; there a thread may do so for
//! itself.) What it ran too long, because its end was noticed late, is taken off the periods
//! that follow, so that in the long run it gets what it was given and no more.
//!
//! Time comes in two units. How long a thread *ran* is counted by the CPU's counter of ticks and only compared with itself. When
//! a period *begins* is a matter of the clock that all CPUs share, in nanoseconds.

/// What a thread was given: so many ticks in each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Ticks that it may run in each period. Not 0.
    pub ticks: u64,
    /// A period in nanoseconds. Not 0.
    pub period_ns: u64,
}

/// A thread's account. Its home keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    allowance: Allowance,
    /// What the thread had run when its allowance began.
    base: u64,
    /// When the next period begins, in absolute nanoseconds.
    next_ns: u64,
}

impl Budget {
    /// The account of a thread that has run for `ran` ticks in all and is given an allowance at `now_ns`.
    pub const fn new(allowance: Allowance, ran: u64, now_ns: u64) -> Budget {
        Budget {
            allowance,
            base: ran,
            next_ns: now_ns.saturating_add(allowance.period_ns),
        }
    }

    /// What the thread was given.
    pub const fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// Ticks that the thread, which has run for `ran` ticks in all, has left in this period.
    pub const fn left(&self, ran: u64) -> u64 {
        self.allowance
            .ticks
            .saturating_sub(ran.saturating_sub(self.base))
    }

    /// When the next period begins, in absolute nanoseconds.
    pub const fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Begins the periods that have begun until `now_ns`. What the thread did not use is gone; what it overran is taken off.
    pub fn refill(&mut self, ran: u64, now_ns: u64) {
        if now_ns < self.next_ns {
            return;
        }
        let periods = (now_ns - self.next_ns) / self.allowance.period_ns + 1;
        self.next_ns = self
            .next_ns
            .saturating_add(periods.saturating_mul(self.allowance.period_ns));
        // The account is never ahead of what was run: nothing is saved up.
        let given = periods.saturating_mul(self.allowance.ticks);
        self.base = self.base.saturating_add(given).min(ran);
    }
}
