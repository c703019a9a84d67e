//! The two words of a wait for a reply: the stamp of the thread's slot, and what the thread waits for.
//!
//! The stamp only grows. It is odd while the thread waits, and that odd number is the call's name for ever. Whoever ends the wait (a reply, a
//! deadline, a kill) makes it even by one compare-and-exchange, so one of them wins and all later ones find another number. The winner alone then
//! touches the caller's registers, and makes it ready.
//!
//! What may go wrong: the word of what the thread waits for ([`OnWord`]) is another. It is set by the winner, after the stamp; so
//! somebody who cancels the wait in between finds neither, and looks again.
//!
//! The models (`stamp/models.rs`) have all who may end a wait do so at once, in every interleaving.

use core::sync::atomic::Ordering;

use abi::Error;

use super::{Marks, Thread};
use crate::atomics::{Atomic, Atomics, Native};
use crate::ipc::{OnWord, WaitOn};

#[cfg(test)]
mod models;

/// In the word while somebody looks at the state of the thread, which waits: it goes on waiting until this is gone.
const LOOKED_AT: u64 = 1 << 63;
/// In the word from the first look on, until the wait ends. Whoever answers directly compares the word with the number alone, before it reads the
/// state and again when it ends the wait: without this it would not find out that somebody has looked in between, and set what it has read.
const WAS_LOOKED_AT: u64 = 1 << 62;

const fn waits(stamp: u64) -> bool {
    !stamp.is_multiple_of(2)
}

/// The stamp in a word, whoever looks at the thread.
pub(crate) const fn stamp_in(word: u64) -> u64 {
    word & !(LOOKED_AT | WAS_LOOKED_AT)
}

/// Whether a thread with this in its word waits for the reply to the call `stamp`.
#[inline(always)]
pub(crate) const fn is_call(word: u64, stamp: u64) -> bool {
    stamp_in(word) == stamp
}

/// Who was to give the reply when a wait ended; null: it is not known.
pub(super) type Holder = *const Thread;

/// The wait of one thread.
pub(super) struct Awaiting<'a, A: Atomics = Native> {
    stamp: &'a A::U64,
    on: &'a OnWord<A>,
}

impl<A: Atomics> Clone for Awaiting<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Atomics> Copy for Awaiting<'_, A> {}

impl<'a, A: Atomics> Awaiting<'a, A> {
    /// That of the thread with these two words.
    #[inline(always)]
    pub(super) fn of(stamp: &'a A::U64, on: &'a OnWord<A>) -> Awaiting<'a, A> {
        Awaiting { stamp, on }
    }

    /// Begins the wait for a reply that `holder` has the right to give. Returns the stamp, which names the call.
    ///
    /// For the thread itself, or for a receiver that has taken it out of an endpoint's queue.
    #[inline(always)]
    pub(super) fn begin(self, holder: Holder) -> u64 {
        let stamp = self.next();
        self.on.set(WaitOn::Reply(holder));
        self.stamp.store(stamp, Ordering::Release);
        stamp
    }

    /// [`begin`](Self::begin) on the thread's home.
    #[inline(always)]
    pub(super) fn begin_here(self, holder: Holder) -> u64 {
        let stamp = self.next();
        self.on.set_here(WaitOn::Reply(holder));
        self.stamp.store(stamp, Ordering::Release);
        stamp
    }

    #[inline(always)]
    fn next(self) -> u64 {
        // Nobody else changes the number while it is even, and none but the result is odd and greater: no exchange can come between.
        let stamp = self.stamp.load(Ordering::Relaxed) + 1;
        debug_assert!(waits(stamp), "a thread waits for one reply at a time");
        stamp
    }

    /// [`take`](Self::take) on the thread's home, if nobody has looked at its state in this wait.
    #[inline(always)]
    pub(super) fn take_here(self, stamp: u64) -> bool {
        let taken = self
            .stamp
            .compare_exchange(stamp, stamp + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.on.set_here(WaitOn::Nothing);
        }
        taken
    }

    /// Whether the thread waits for the reply to the call `stamp`. It may do so no more when the answer is there.
    #[inline(always)]
    pub(super) fn is_for(self, stamp: u64) -> bool {
        is_call(self.stamp.load(Ordering::Acquire), stamp)
    }

    /// The call whose reply it waits for.
    pub(super) fn call(self) -> Option<u64> {
        let stamp = stamp_in(self.stamp.load(Ordering::Acquire));
        waits(stamp).then_some(stamp)
    }

    /// Takes the thread out of its wait (for the reply to the call `stamp`, or to any); `None` if it does not wait for it.
    #[inline(always)]
    pub(super) fn take(self, stamp: Option<u64>) -> Option<Holder> {
        let stamp = stamp.unwrap_or_else(|| stamp_in(self.stamp.load(Ordering::Acquire)));
        if !waits(stamp) {
            return None;
        }
        let mut expected = stamp;
        while let Err(found) =
            self.stamp
                .compare_exchange(expected, stamp + 1, Ordering::SeqCst, Ordering::Relaxed)
        {
            if !is_call(found, stamp) {
                return None;
            }
            expected = found & !LOOKED_AT;
            // Who looks at it needs no lock, and is done soon.
            A::relax();
        }
        Some(self.end())
    }

    /// [`take`](Self::take) of one that was received while its home wished to cancel its wait, and found it in nobody's queue: so word was left.
    /// Gives the error that it is to be told.
    pub(super) fn take_if_cancelled(
        self,
        stamp: u64,
        marks: Marks<'_, A>,
    ) -> Option<(Error, Holder)> {
        let error = marks.noted_cancel()?;
        Some((error, self.take(Some(stamp))?))
    }

    /// What is left to do when the number is even.
    #[inline(always)]
    fn end(self) -> Holder {
        let holder = match self.on.read() {
            WaitOn::Reply(holder) => holder,
            _ => core::ptr::null(),
        };
        self.on.set(WaitOn::Nothing);
        holder
    }

    /// From here until [`end_look`](Self::end_look) or [`end_with_look`](Self::end_with_look) the thread goes on waiting for the reply to the call `stamp`, and
    /// its state is the caller's.
    ///
    /// `runs`: whether it is still on its way off its CPU.
    ///
    /// # Errors
    /// [`Error::CallerGone`] if it waits for that no more.
    pub(super) fn begin_look(self, stamp: u64, runs: impl Fn() -> bool) -> Result<(), Error> {
        loop {
            let found = self.stamp.load(Ordering::Acquire);
            if !is_call(found, stamp) {
                return Err(Error::CallerGone);
            }
            // One that was received on another CPU may still be on its way off its own, on which its wait may be cancelled: so that comes first.
            // Once off, it runs nowhere as long as it waits.
            if found & LOOKED_AT == 0
                && !runs()
                && self
                    .stamp
                    .compare_exchange(
                        found,
                        stamp | LOOKED_AT | WAS_LOOKED_AT,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    )
                    .is_ok()
            {
                return Ok(());
            }
            A::relax();
        }
    }

    /// The thread goes on waiting.
    pub(super) fn end_look(self, stamp: u64) {
        self.stamp.store(stamp | WAS_LOOKED_AT, Ordering::Release);
    }

    /// The thread is [taken](Self::take) with the look.
    pub(super) fn end_with_look(self, stamp: u64) -> Holder {
        self.stamp.store(stamp + 1, Ordering::SeqCst);
        self.end()
    }
}
