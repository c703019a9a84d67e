//! A thread's wait, and how it is cancelled.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Error;
use abi::info::ThreadState;

use super::wait_on::{OnWord, WaitOn};
use crate::object::{Borrowed, Section, number_of};
use crate::thread::{Thread, Until, UntilCell, raise};

/// A thread's wait: what for, and what its partner must know.
pub struct Wait {
    /// What for.
    pub(crate) word: OnWord,
    /// Handles that the wait takes, as the thread posted them.
    accept: AtomicU32,
    /// Slots of the process's table that are reserved for this wait.
    pub(crate) reserved: AtomicU32,
    /// The badge of the handle that a sender used.
    pub(super) badge: Cell<u64>,
    /// Whether a sender wants a reply.
    pub(super) wants_reply: Cell<bool>,
    /// What it waits for of another thread.
    pub(crate) until: UntilCell,
}

// SAFETY: the cells are written by the waiting thread before it is queued under an object's lock, and read by
// whoever finds it in that queue under the same lock.
unsafe impl Sync for Wait {}

impl Wait {
    /// Of a thread that waits for nothing.
    pub const fn new() -> Wait {
        Wait {
            word: OnWord::new(),
            accept: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            badge: Cell::new(0),
            wants_reply: Cell::new(false),
            until: Cell::new(Until::Ended),
        }
    }

    /// What the thread waits for.
    pub fn on(&self) -> WaitOn {
        self.word.read()
    }

    /// The same as a word, to be compared with a later one.
    pub(super) fn seen(&self) -> u64 {
        self.word.seen()
    }

    /// Notes what the thread waits for from now on.
    pub(crate) fn set(&self, on: WaitOn) {
        self.word.set(on);
    }

    /// [`set`](Self::set) on the thread's home: see [`OnWord::set_here`].
    #[cfg(any(test, target_os = "none"))]
    #[inline(always)]
    pub(crate) fn set_here(&self, on: WaitOn) {
        self.word.set_here(on);
    }

    /// Another thread is to answer, if it is still `former` that was: who waits for something else by now is left alone.
    pub(crate) fn hand_on(&self, former: WaitOn, holder: *const Thread) -> bool {
        self.word.hand_on(former, holder)
    }

    /// Handles that the wait takes.
    pub(crate) fn accept(&self) -> u32 {
        self.accept.load(Ordering::Relaxed)
    }

    pub(crate) fn set_accept(&self, count: u32) {
        self.accept.store(count, Ordering::Relaxed);
    }

    /// The number of what it waits for, for lists: an endpoint's or a thread's; 0 for anything else. It is that of whatever was there a moment ago.
    pub(crate) fn shown_subject(&self) -> u64 {
        match self.on() {
            WaitOn::Sending(endpoint) | WaitOn::Receiving(endpoint) => {
                // SAFETY: the word names an endpoint.
                unsafe { number_of(endpoint) }
            }
            WaitOn::Reply(thread) | WaitOn::Thread(thread) if !thread.is_null() => {
                // SAFETY: the word names a thread.
                unsafe { number_of(thread) }
            }
            _ => 0,
        }
    }

    /// The state that a list of threads shows for this wait.
    pub(crate) fn shown_state(&self) -> Option<ThreadState> {
        match self.on() {
            WaitOn::Nothing => None,
            WaitOn::Sending(_) => Some(ThreadState::Sending),
            WaitOn::Receiving(_) => Some(ThreadState::Receiving),
            WaitOn::Reply(_) => Some(ThreadState::AwaitingReply),
            WaitOn::Notification(_) => Some(ThreadState::Waiting),
            WaitOn::Sleep => Some(ThreadState::Sleeping),
            WaitOn::Thread(_) => Some(ThreadState::Joining),
        }
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self::new()
    }
}

/// The effective priority of a thread has changed: if it waits in a queue, it gets another place there; and who it waits for inherits
/// another one. For its home.
pub fn reorder(thread: &Thread, section: &Section) {
    match raise::after_new_priority(&thread.wait.word) {
        on @ (WaitOn::Sending(endpoint) | WaitOn::Receiving(endpoint)) => {
            // SAFETY: as in `cancel`.
            let endpoint = unsafe { Borrowed::from_ptr(endpoint, section) };
            endpoint.reorder(thread, on);
        }
        on @ WaitOn::Notification(notification) => {
            // SAFETY: as in `cancel`.
            let notification = unsafe { Borrowed::from_ptr(notification, section) };
            notification.reorder(thread, on);
        }
        WaitOn::Reply(_) => thread.pass_on(),
        WaitOn::Nothing | WaitOn::Sleep | WaitOn::Thread(_) => {}
    }
}

/// Ends a thread's wait with an error; true if this call took it out, so that the caller must make it ready.
///
/// False if it waits for nothing: somebody else has taken it out and makes it ready, or it never waited. A receiver that is
/// about to turn it into a waiter for a reply finds the error noted ([`ThreadPtr::cancel_if_due`]).
/// To be called on the CPU that the thread belongs to.
pub fn cancel(thread: &Thread, error: Error, section: &Section) -> bool {
    let take_out = |on| match on {
        WaitOn::Nothing => false,
        WaitOn::Sending(endpoint) | WaitOn::Receiving(endpoint) => {
            // SAFETY: the endpoint had the thread in its queue when the word was read, so it was not retired then: its
            // last reference takes everyone out first.
            let endpoint = unsafe { Borrowed::from_ptr(endpoint, section) };
            endpoint.take_out(thread, on)
        }
        WaitOn::Notification(notification) => {
            // SAFETY: as for the endpoint.
            let notification = unsafe { Borrowed::from_ptr(notification, section) };
            notification.take_out(thread, on)
        }
        WaitOn::Thread(other) => {
            // SAFETY: as for the endpoint: a thread's end takes everyone out of its list.
            let other = unsafe { Borrowed::from_ptr(other, section) };
            other.take_out(thread, on)
        }
        WaitOn::Reply(_) => thread.take_awaiting(None, None),
        WaitOn::Sleep => {
            thread.wait.set(WaitOn::Nothing);
            true
        }
    };
    let taken = thread.wait.word.cancel(thread.marks(), error, take_out);
    if taken {
        thread.set_status(Err(error));
    }
    taken
}
