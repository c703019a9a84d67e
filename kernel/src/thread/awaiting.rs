//! Whether a thread waits for the reply to a call, and to which: what the thread does with its two words ([`Awaiting`]).

use abi::Error;

use super::stamp::{Awaiting, Holder};
use super::{Thread, ThreadPtr};
use crate::object::{Section, stamp_of};
use crate::schedule;
use crate::sync;

impl Thread {
    #[inline(always)]
    fn awaiting(&self) -> Awaiting<'_> {
        // SAFETY: threads live in slab slots.
        Awaiting::of(unsafe { stamp_of::<Thread>(self) }, &self.wait.word)
    }

    /// Begins the wait for a reply that `holder` has the right to give. Returns the stamp, which names the call.
    ///
    /// For the thread itself, or for a receiver that has taken it out of an endpoint's queue.
    pub(crate) fn begin_awaiting(&self, holder: &Thread) -> u64 {
        self.awaiting().begin(holder)
    }

    /// [`begin_awaiting`](Self::begin_awaiting) on the thread's home.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(crate) fn begin_awaiting_here(&self, holder: &Thread) -> u64 {
        self.awaiting().begin_here(holder)
    }

    /// [`take_awaiting`](Self::take_awaiting) on the thread's home, if nobody has looked at its state in this wait.
    #[cfg(any(test, target_os = "none"))]
    #[inline(always)]
    pub(crate) fn take_awaiting_here(&self, stamp: u64) -> bool {
        self.awaiting().take_here(stamp)
    }

    /// Whether it waits for the reply to the call `stamp`. It may do so no more when the answer is there.
    pub(crate) fn awaits(&self, stamp: u64) -> bool {
        self.awaiting().is_for(stamp)
    }

    /// Takes the thread out of its wait for a reply (to the call `stamp`, or to any); false if it does not wait for it. Who was to answer inherits
    /// nothing of it any more: unless that is `by`, who sees to it by himself, it is asked to look, or who inherits by way of it.
    pub(crate) fn take_awaiting(&self, stamp: Option<u64>, by: Option<&Thread>) -> bool {
        match self.awaiting().take(stamp) {
            Some(holder) => {
                Self::awaited_no_more(holder, by);
                true
            }
            None => false,
        }
    }

    fn awaited_no_more(holder: Holder, by: Option<&Thread>) {
        // SAFETY: it was to answer when the word was read, and takes its name out of there before it ends.
        if let Some(holder) = unsafe { holder.as_ref() }
            && by.is_none_or(|by| !core::ptr::eq(by, holder))
        {
            Self::tell_raised(ThreadPtr::new(holder));
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
        let awaiting = self.begin_look(stamp)?;
        let result = act();
        awaiting.end_look(stamp);
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
        let awaiting = self.begin_look(stamp)?;
        match act() {
            Ok(()) => {
                Self::awaited_no_more(awaiting.end_with_look(stamp), Some(by));
                Ok(())
            }
            Err(error) => {
                awaiting.end_look(stamp);
                Err(error)
            }
        }
    }

    /// From here until the look is ended the thread goes on waiting, and its state is the caller's.
    fn begin_look(&self, stamp: u64) -> Result<Awaiting<'_>, Error> {
        sync::assert_none_held();
        let awaiting = self.awaiting();
        awaiting.begin_look(stamp, || schedule::is_running(self))?;
        Ok(awaiting)
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
        self.awaiting().call()
    }
}

impl ThreadPtr {
    /// Ends the wait for the reply to call `stamp` if word was left that it is cancelled.
    ///
    /// The thread may have been woken by its home meanwhile; if it has even ended, its memory is kept by this CPU's section.
    pub(crate) fn cancel_if_due(self, stamp: u64, _section: &Section) {
        let thread = self.get();
        if let Some((error, holder)) = thread.awaiting().take_if_cancelled(stamp, thread.marks()) {
            Thread::awaited_no_more(holder, None);
            thread.set_status(Err(error));
            schedule::make_ready(self);
        }
    }
}
