//! Whether a thread waits for the reply to a call, and to which.
//!
//! One word says both: the stamp of the thread's slot, which only grows. It is odd while the thread waits, and that odd number is the
//! call's name for ever. Whoever ends the wait (a reply, a deadline, a kill) makes it even by one compare-and-exchange, so one of
//! them wins and all later ones find another number. The winner alone then touches the caller's registers, and makes it ready.
//!
//! What may go wrong: the word of what the thread waits for ([`Wait`](crate::ipc::Wait)) is another. It is set by the winner,
//! after the stamp; so somebody who cancels the wait in between finds neither, and looks again.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;
use spin::relax::RelaxStrategy as _;

use super::{Thread, ThreadPtr};
use crate::ipc::WaitOn;
use crate::object::stamp_of;
use crate::schedule;
use crate::sync::{self, Relax};

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

impl Thread {
    fn stamp(&self) -> &AtomicU64 {
        // SAFETY: threads live in slab slots.
        unsafe { stamp_of::<Thread>(self) }
    }

    /// Begins the wait for a reply that `holder` has the right to give. Returns the stamp, which names the call.
    ///
    /// For the thread itself, or for a receiver that has taken it out of an endpoint's queue.
    pub(crate) fn begin_awaiting(&self, holder: &Thread) -> u64 {
        // Nobody else changes the number while it is even, and none but the result is odd and greater: no exchange can come between.
        let stamp = self.stamp().load(Ordering::Relaxed) + 1;
        debug_assert!(waits(stamp), "a thread waits for one reply at a time");
        self.wait.set(WaitOn::Reply(holder));
        self.stamp().store(stamp, Ordering::Release);
        stamp
    }

    /// [`begin_awaiting`](Self::begin_awaiting) on the thread's home.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(crate) fn begin_awaiting_here(&self, holder: &Thread) -> u64 {
        let stamp = self.stamp().load(Ordering::Relaxed) + 1;
        debug_assert!(waits(stamp), "a thread waits for one reply at a time");
        self.wait.set_here(WaitOn::Reply(holder));
        self.stamp().store(stamp, Ordering::Release);
        stamp
    }

    /// [`take_awaiting`](Self::take_awaiting) on the thread's home, if nobody has looked at its state in this wait.
    #[cfg(any(test, target_os = "none"))]
    #[inline(always)]
    pub(crate) fn take_awaiting_here(&self, stamp: u64) -> bool {
        let taken = self
            .stamp()
            .compare_exchange(stamp, stamp + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.wait.set_here(WaitOn::Nothing);
        }
        taken
    }

    /// Whether it waits for the reply to the call `stamp`. It may do so no more when the answer is there.
    pub(crate) fn awaits(&self, stamp: u64) -> bool {
        is_call(self.stamp().load(Ordering::Acquire), stamp)
    }

    /// Takes the thread out of its wait for a reply (to the call `stamp`, or to any); false if it does not wait for it. Who was to answer inherits
    /// nothing of it any more: unless that is `by`, who sees to it by himself, it is asked to look, or who inherits by way of it.
    pub(crate) fn take_awaiting(&self, stamp: Option<u64>, by: Option<&Thread>) -> bool {
        let stamp = stamp.unwrap_or_else(|| stamp_in(self.stamp().load(Ordering::Acquire)));
        if !waits(stamp) {
            return false;
        }
        let mut expected = stamp;
        while let Err(found) =
            self.stamp()
                .compare_exchange(expected, stamp + 1, Ordering::SeqCst, Ordering::Relaxed)
        {
            if !is_call(found, stamp) {
                return false;
            }
            expected = found & !LOOKED_AT;
            // Who looks at it needs no lock, and is done soon.
            Relax::relax();
        }
        self.awaits_no_more(by);
        true
    }

    /// What is left to do when the number is even.
    fn awaits_no_more(&self, by: Option<&Thread>) {
        let holder = self.holder();
        self.wait.set(WaitOn::Nothing);
        if let Some(holder) = holder
            && by.is_none_or(|by| ThreadPtr::new(by) != holder)
        {
            Self::tell_raised(holder);
        }
    }

    /// Does something with the state of a thread that waits for the reply to the call `stamp`, and goes on waiting meanwhile. It must be short and touch no user
    /// memory; no lock may be held, as the thread may have to be waited for, and none be taken but those of allocation.
    ///
    /// # Errors
    /// [`Error::CallerGone`] if it waits no more, or what `act` gives.
    pub(crate) fn while_awaiting<R>(
        &self,
        stamp: u64,
        act: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.begin_look(stamp)?;
        let result = act();
        self.stamp().store(stamp | WAS_LOOKED_AT, Ordering::Release);
        result
    }

    /// [`while_awaiting`](Self::while_awaiting), and [`take_awaiting`](Self::take_awaiting) in one step, if `act` succeeds: nobody comes in between, neither
    /// another who looks nor one who ends the wait otherwise.
    ///
    /// # Errors
    /// As `while_awaiting`; the thread goes on waiting then, if it did.
    pub(crate) fn take_awaiting_after(
        &self,
        stamp: u64,
        by: &Thread,
        act: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.begin_look(stamp)?;
        match act() {
            Ok(()) => {
                self.stamp().store(stamp + 1, Ordering::SeqCst);
                self.awaits_no_more(Some(by));
                Ok(())
            }
            Err(error) => {
                self.stamp().store(stamp | WAS_LOOKED_AT, Ordering::Release);
                Err(error)
            }
        }
    }

    /// From here until the word is set again the thread goes on waiting, and its state is the caller's.
    fn begin_look(&self, stamp: u64) -> Result<(), Error> {
        sync::assert_none_held();
        loop {
            let found = self.stamp().load(Ordering::Acquire);
            if !is_call(found, stamp) {
                return Err(Error::CallerGone);
            }
            // One that was received on another CPU may still be on its way off its own, on which its wait may be cancelled: so that comes first.
            // Once off, it runs nowhere as long as it waits.
            if found & LOOKED_AT == 0
                && !schedule::is_running(self)
                && self
                    .stamp()
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
            Relax::relax();
        }
    }

    /// [`while_awaiting`](Self::while_awaiting), if what it waits for is the answer to a report.
    ///
    /// # Errors
    /// As that, and [`Error::NoRight`] if it is not.
    pub(crate) fn while_reporting<R>(
        &self,
        stamp: u64,
        act: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.while_awaiting(stamp, || {
            if self.reporting.shows_state() {
                act()
            } else {
                Err(Error::NoRight)
            }
        })
    }

    /// The call whose reply it waits for.
    #[cfg(any(test, target_os = "none"))]
    pub(crate) fn awaited(&self) -> Option<u64> {
        let stamp = stamp_in(self.stamp().load(Ordering::Acquire));
        waits(stamp).then_some(stamp)
    }
}
