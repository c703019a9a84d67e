//! How fast an interrupt may come, and what becomes of one that comes faster: it is held back for a while.
//!
//! A device that is broken, or served wrongly, may interrupt without end, and each interrupt costs its CPU time that nobody is charged for.
//! So they are counted, in whiles of fixed length: one too many in a while closes the gate until the hold is over. That is a rule
//! about numbers only; who masks what is the [`irq`](super) module's affair.

use abi::irq::{HOLD_NS, Rate};

/// What becomes of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Passage {
    /// It is passed on.
    Open,
    /// It is passed on, and the last before the hold that ends at this time.
    Last(u64),
    /// It came while the gate was closed.
    Closed,
}

/// The count of one interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gate {
    rate: Rate,
    began_ns: u64,
    count: u32,
    /// It is closed until then.
    until_ns: Option<u64>,
    /// Times that it came.
    pub(super) arrived: u64,
    /// Times that it came while closed.
    pub(super) missed: u64,
    /// Times that it was closed.
    pub(super) storms: u64,
    /// It came since the gate was closed.
    owed: bool,
}

impl Gate {
    /// An open one.
    pub(super) const fn new() -> Gate {
        Gate {
            rate: Rate::HIGHEST,
            began_ns: 0,
            count: 0,
            until_ns: None,
            arrived: 0,
            missed: 0,
            storms: 0,
            owed: false,
        }
    }

    /// How fast it may come.
    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Gives it another rate. One that is closed stays so until its time.
    pub(super) const fn limit(&mut self, rate: Rate) {
        self.rate = rate;
        self.count = 0;
        self.began_ns = 0;
    }

    /// When it opens, in absolute nanoseconds; `None`: it is open.
    pub(super) const fn until_ns(&self) -> Option<u64> {
        self.until_ns
    }

    /// An interrupt came, at `now_ns`.
    pub(super) const fn arrive(&mut self, now_ns: u64) -> Passage {
        self.arrived += 1;
        if self.until_ns.is_some() {
            self.missed += 1;
            self.owed = true;
            return Passage::Closed;
        }
        if self.count == 0 || now_ns.saturating_sub(self.began_ns) >= self.rate.period_ns {
            self.began_ns = now_ns;
            self.count = 0;
        }
        self.count += 1;
        if self.count <= self.rate.count {
            return Passage::Open;
        }
        let until = now_ns.saturating_add(HOLD_NS);
        self.until_ns = Some(until);
        self.storms += 1;
        Passage::Last(until)
    }

    /// Opens it, if it is closed and its time has come. `Some`: it was opened; whether an interrupt came meanwhile.
    pub(super) const fn open(&mut self, now_ns: u64) -> Option<bool> {
        match self.until_ns {
            Some(until) if until <= now_ns => {
                self.until_ns = None;
                self.count = 0;
                Some(core::mem::replace(&mut self.owed, false))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Rate = Rate {
        count: 3,
        period_ns: 1000,
    };

    fn gate() -> Gate {
        let mut gate = Gate::new();
        gate.limit(SLOW);
        gate
    }

    #[test]
    fn what_comes_at_its_rate_passes_for_ever() {
        let mut gate = gate();
        for time in 0..1000 {
            assert_eq!(gate.arrive(time * 334), Passage::Open);
        }
        assert_eq!((gate.arrived, gate.storms, gate.missed), (1000, 0, 0));
    }

    #[test]
    fn one_too_many_closes_it_until_the_hold_is_over() {
        let mut gate = gate();
        for time in [10, 11, 12] {
            assert_eq!(gate.arrive(time), Passage::Open);
        }
        let end = 13 + HOLD_NS;
        assert_eq!(gate.arrive(13), Passage::Last(end));
        assert_eq!(gate.until_ns(), Some(end));
        assert_eq!(gate.open(end - 1), None);
        assert_eq!(gate.open(end), Some(false));
        assert_eq!(gate.open(end), None);
        assert_eq!(gate.arrive(end), Passage::Open);
        assert_eq!((gate.arrived, gate.storms, gate.missed), (5, 1, 0));
    }

    #[test]
    fn what_comes_while_it_is_closed_is_told_when_it_opens() {
        let mut gate = gate();
        let _ = [0, 0, 0, 0].map(|time| gate.arrive(time));
        assert_eq!(gate.arrive(5), Passage::Closed);
        assert_eq!(gate.arrive(6), Passage::Closed);
        assert_eq!(gate.open(HOLD_NS), Some(true));
        assert_eq!((gate.missed, gate.storms), (2, 1));
        let _ = [0, 0, 0, 0].map(|time| gate.arrive(2 * HOLD_NS + time));
        assert_eq!(gate.open(4 * HOLD_NS), Some(false));
        assert_eq!((gate.missed, gate.storms), (2, 2));
    }

    #[test]
    fn rates_are_bounded_above() {
        let highest = Rate::HIGHEST;
        let count = u64::from(highest.count);
        assert_eq!(Rate::new(count, highest.period_ns), Some(highest));
        assert_eq!(Rate::new(count + 1, highest.period_ns), None);
        assert_eq!(Rate::new(count, highest.period_ns - 1), None);
        assert_eq!(Rate::new(0, 1), None);
        assert_eq!(Rate::new(1, 0), None);
        assert!(Rate::new(1, Rate::LONGEST_NS).is_some());
        assert_eq!(Rate::new(1, Rate::LONGEST_NS + 1), None);
        assert_eq!(Rate::new(u64::MAX, Rate::LONGEST_NS), None);
        assert_eq!(Rate::new(1 << 32, u64::MAX), None);
    }
}
