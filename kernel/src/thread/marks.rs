//! What a thread must see to before it goes on in user mode: one word of bits.
//!
//! Bits are set by anybody, with locked instructions, and tested by the switch with one plain load: as long as the word is zero, and it
//! nearly always is, none of what it may say costs anything. Whoever sets a bit asks the thread's home to look afterwards.

use core::sync::atomic::Ordering;

use abi::Error;

use crate::atomics::{Atomic, Atomics, Native, Number};

/// It shall end.
const KILLED: u32 = 1 << 0;
/// Its wait was cancelled while it was between two waits; the error is in the upper half.
const CANCELLED: u32 = 1 << 1;
/// It shall run no user code.
const SUSPENDED: u32 = 1 << 2;
/// It may not run on the CPU that it belongs to. Its home's.
const MISPLACED: u32 = 1 << 3;
/// It has a budget. Its home's.
const BUDGETED: u32 = 1 << 4;
/// What it does is noted in traces: it takes the long ways.
const TRACED: u32 = 1 << 5;
/// Its effective priority is above its own, so it takes the long ways. Its home's.
const RAISED: u32 = 1 << 6;
/// It is to end processes that it has given up the last way to. Its own.
const OWING: u32 = 1 << 7;
const ERROR_SHIFT: u32 = 16;
const ERROR: u32 = u32::MAX << ERROR_SHIFT;

/// The bits of one thread. The word lies where the switch sees it together with others, so that one look serves for all.
pub(crate) struct Marks<'a, A: Atomics = Native>(&'a A::U32);

impl<A: Atomics> Clone for Marks<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Atomics> Copy for Marks<'_, A> {}

impl<'a, A: Atomics> Marks<'a, A> {
    /// Those in a word that was 0 in the beginning.
    #[inline]
    pub(crate) const fn of(word: &'a A::U32) -> Marks<'a, A> {
        Marks(word)
    }

    /// Whether there is anything.
    #[inline]
    pub(crate) fn any(self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    #[inline]
    fn has(self, mark: u32) -> bool {
        self.0.load(Ordering::SeqCst) & mark != 0
    }

    fn set(self, mark: u32, on: bool) -> bool {
        let before = if on {
            self.0.fetch_or(mark, Ordering::SeqCst)
        } else {
            self.0.fetch_and(!mark, Ordering::SeqCst)
        };
        before & mark != 0
    }

    /// It shall end at its next way out of the kernel. Returns whether that was marked already.
    pub(crate) fn kill(self) -> bool {
        self.set(KILLED, true)
    }

    /// Whether it shall end.
    #[inline]
    pub(crate) fn is_killed(self) -> bool {
        self.has(KILLED)
    }

    /// It shall run no user code, or may again. Returns how it was before.
    pub(crate) fn suspend(self, on: bool) -> bool {
        self.set(SUSPENDED, on)
    }

    /// Whether it shall run no user code.
    pub(crate) fn is_suspended(self) -> bool {
        self.has(SUSPENDED)
    }

    /// It belongs to a CPU that it may not run on, or does no more. For its home.
    pub(crate) fn misplace(self, on: bool) {
        if self.has(MISPLACED) != on {
            self.set(MISPLACED, on);
        }
    }

    /// Whether it belongs to a CPU that it may not run on.
    pub(crate) fn is_misplaced(self) -> bool {
        self.has(MISPLACED)
    }

    /// It has a budget, or none any more. For its home.
    pub(crate) fn budget(self, on: bool) {
        if self.has(BUDGETED) != on {
            self.set(BUDGETED, on);
        }
    }

    /// Whether it has a budget.
    pub(crate) fn is_budgeted(self) -> bool {
        self.has(BUDGETED)
    }

    /// Its effective priority is about to be above its own, or is no more. For its home.
    pub(crate) fn raise(self, on: bool) {
        self.set(RAISED, on);
    }

    /// Whether its effective priority may be above its own.
    pub(crate) fn is_raised(self) -> bool {
        self.has(RAISED)
    }

    /// It is to end processes before it goes back, or has done so. For the running thread itself.
    pub(crate) fn owe(self, on: bool) {
        if self.has(OWING) != on {
            self.set(OWING, on);
        }
    }

    /// Whether it is to do that.
    #[cfg(target_os = "none")]
    pub(crate) fn is_owing(self) -> bool {
        self.has(OWING)
    }

    /// Whether there is anything but that its priority is raised.
    #[inline]
    pub(crate) fn any_but_raised(self) -> bool {
        self.0.load(Ordering::Relaxed) & !RAISED != 0
    }

    /// What it does is noted, or is no more.
    pub(crate) fn trace(self, on: bool) {
        if self.has(TRACED) != on {
            self.set(TRACED, on);
        }
    }

    /// Leaves word that its wait is cancelled, for whoever has it in his hands. The latest word counts.
    pub(crate) fn note_cancel(self, error: Error) {
        let word = CANCELLED | (error as u32) << ERROR_SHIFT;
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |marks| {
                Some(marks & !ERROR | word)
            });
    }

    /// Forgets such a word, as its wait is over.
    #[inline]
    pub(crate) fn forget_cancel(self) {
        if self.0.load(Ordering::Relaxed) & CANCELLED != 0 {
            self.set(CANCELLED | ERROR, false);
        }
    }

    /// The word that was left.
    pub(crate) fn noted_cancel(self) -> Option<Error> {
        let marks = self.0.load(Ordering::SeqCst);
        if marks & CANCELLED == 0 {
            None
        } else {
            Error::from_code(u64::from(marks >> ERROR_SHIFT))
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn the_latest_cancellation_is_kept_beside_all_other_marks() {
        let word = AtomicU32::new(0);
        let marks: Marks = Marks::of(&word);
        assert!(!marks.any());
        assert_eq!(marks.noted_cancel(), None);
        for &error in Error::ALL {
            marks.note_cancel(error);
            assert_eq!(marks.noted_cancel(), Some(error));
        }
        assert!(!marks.kill() && !marks.suspend(true));
        marks.misplace(true);
        marks.budget(true);
        marks.note_cancel(Error::TimedOut);
        assert_eq!(marks.noted_cancel(), Some(Error::TimedOut));
        marks.forget_cancel();
        assert_eq!(marks.noted_cancel(), None);
        assert!(marks.is_killed() && marks.is_suspended());
        assert!(marks.is_misplaced() && marks.is_budgeted());
    }

    #[test]
    fn each_mark_comes_and_goes_by_itself() {
        let word = AtomicU32::new(0);
        let marks: Marks = Marks::of(&word);
        assert!(!marks.suspend(true) && marks.suspend(true) && marks.any());
        assert!(!marks.is_killed() && !marks.is_misplaced() && !marks.is_budgeted());
        marks.budget(true);
        assert!(marks.suspend(false) && !marks.suspend(false));
        assert!(marks.is_budgeted() && !marks.is_suspended());
        marks.budget(false);
        assert!(!marks.any());
    }
}
