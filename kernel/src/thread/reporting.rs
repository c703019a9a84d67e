//! A thread's report to its supervisor: that it makes one, and what came of it.
//!
//! A report goes the ways of a `call`, but the thread did not ask for it: its registers are its program's, not a message. So the
//! message is made of them by whoever takes it, and whoever ends the wait writes what came of it here, not into `rax`.
//!
//! All of it is the thread's own, or of the one who has taken it out of its wait.

use core::cell::Cell;

use abi::Error;
use abi::report::{Answer, PageAccess, label};

/// What came of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It was answered. What the answer says of registers is in them already.
    Answered(Answer),
    /// It was not.
    Failed(Error),
}

/// The part of a thread that is about reports.
pub(crate) struct Reporting {
    /// The label of the report that it makes; 0: it makes none.
    label: Cell<u32>,
    outcome: Cell<Outcome>,
    /// Of a report about a page: its offset in the object, and what it is wanted for.
    page: Cell<(u64, u64)>,
    /// The trap flag in its registers is a supervisor's, until the next fault.
    stepped: Cell<bool>,
    /// Somebody has set its registers since this was cleared.
    changed: Cell<bool>,
}

impl Reporting {
    pub(super) const fn none() -> Reporting {
        Reporting {
            label: Cell::new(0),
            outcome: Cell::new(Outcome::Failed(Error::NoReply)),
            page: Cell::new((0, 0)),
            stepped: Cell::new(false),
            changed: Cell::new(false),
        }
    }

    /// Whether it makes a report now.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.label.get() != 0
    }

    /// The label of the report that it makes.
    pub(crate) fn label(&self) -> u32 {
        self.label.get()
    }

    /// It makes a report.
    #[inline(always)]
    pub(crate) fn begin(&self, label: u32) {
        debug_assert!(!self.is_on(), "a thread makes one report at a time");
        self.label.set(label);
    }

    /// It asks for a page.
    pub(crate) fn begin_page(&self, offset: u64, access: PageAccess) {
        self.page.set((offset, access as u64));
        self.begin(label::PAGE);
    }

    /// The page that it asks for: its offset, and what it is wanted for.
    pub(crate) fn page(&self) -> (u64, u64) {
        self.page.get()
    }

    /// Whether whoever answers the report may look at the thread's state. A pager may not.
    pub(crate) fn shows_state(&self) -> bool {
        self.is_on() && self.label() != label::PAGE
    }

    /// It makes it no more, as it was answered at once.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.label.set(0);
    }

    /// Notes what came of it. For the one who has taken it out of its wait, or for itself.
    pub(crate) fn set_outcome(&self, outcome: Outcome) {
        self.outcome.set(outcome);
    }

    /// What came of the report, which is over.
    pub(crate) fn take_outcome(&self) -> Outcome {
        self.end();
        self.outcome.get()
    }

    /// The trap flag is a supervisor's from now on, or no more. Returns whether it was.
    #[inline(always)]
    pub(crate) fn step(&self, on: bool) -> bool {
        self.stepped.replace(on)
    }

    /// Whether the trap flag is a supervisor's.
    #[inline(always)]
    pub(crate) fn is_stepped(&self) -> bool {
        self.stepped.get()
    }

    /// Notes that its registers were set, or forgets it. Returns whether that was noted.
    pub(crate) fn note_change(&self, changed: bool) -> bool {
        self.changed.replace(changed)
    }
}
