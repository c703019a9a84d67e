//! What a thread waits for, as one word.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;

use super::endpoint::Endpoint;
use super::notification::Notification;
use crate::atomics::{Atomic, Atomics, Native};
use crate::thread::{Marks, Thread};

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitOn {
    /// Nothing: it runs, is ready, or somebody has taken it out and is about to make it ready.
    Nothing,
    /// To be received from on an endpoint.
    Sending(*const Endpoint),
    /// For a message on an endpoint.
    Receiving(*const Endpoint),
    /// For the answer to its call, which this thread may give: the one that received it, or was passed the reply. Null: it is not known which.
    Reply(*const Thread),
    /// For a notification.
    Notification(*const Notification),
    /// For its deadline.
    Sleep,
    /// For another thread: its end, or its rest.
    Thread(*const Thread),
}

/// The kind of all words that are a thread's address and nothing more: it waits for that one's answer. So the direct way has nothing to add.
const REPLY: u64 = 0;
const NOTHING: u64 = 0;
/// An answer that nobody in particular is to give.
const ANYBODYS: u64 = 3;
const SENDING: u64 = 1;
const RECEIVING: u64 = 2;
const NOTIFICATION: u64 = 4;
const SLEEP: u64 = 5;
const THREAD: u64 = 6;
const KIND_MASK: u64 = 7;

impl WaitOn {
    /// Kind in the low three bits, address of the object in the others: objects are 8-byte aligned.
    #[inline(always)]
    fn word(self) -> u64 {
        match self {
            WaitOn::Nothing => NOTHING,
            WaitOn::Sending(endpoint) => endpoint as u64 | SENDING,
            WaitOn::Receiving(endpoint) => endpoint as u64 | RECEIVING,
            WaitOn::Reply(holder) if holder.is_null() => ANYBODYS,
            WaitOn::Reply(holder) => holder as u64 | REPLY,
            WaitOn::Notification(notification) => notification as u64 | NOTIFICATION,
            WaitOn::Sleep => SLEEP,
            WaitOn::Thread(thread) => thread as u64 | THREAD,
        }
    }

    fn of(word: u64) -> WaitOn {
        let address = word & !KIND_MASK;
        match word & KIND_MASK {
            SENDING => WaitOn::Sending(address as *const Endpoint),
            RECEIVING => WaitOn::Receiving(address as *const Endpoint),
            ANYBODYS => WaitOn::Reply(core::ptr::null()),
            REPLY if address != 0 => WaitOn::Reply(address as *const Thread),
            NOTIFICATION => WaitOn::Notification(address as *const Notification),
            SLEEP => WaitOn::Sleep,
            THREAD => WaitOn::Thread(address as *const Thread),
            _ => WaitOn::Nothing,
        }
    }
}

/// The word that says what a thread waits for.
///
/// It is written under the lock of the object that it names (or by the waiting thread itself, before it waits), and read
/// under that lock to find out whether the thread is still there.
pub(crate) struct OnWord<A: Atomics = Native>(A::U64);

impl OnWord {
    /// Of a thread that waits for nothing.
    pub(super) const fn new() -> OnWord {
        OnWord(AtomicU64::new(NOTHING))
    }
}

impl<A: Atomics> OnWord<A> {
    /// As [`OnWord::new`], of any family.
    #[cfg(test)]
    pub(crate) fn of() -> OnWord<A> {
        OnWord(A::U64::new(NOTHING))
    }

    /// What the thread waits for.
    #[inline(always)]
    pub(crate) fn read(&self) -> WaitOn {
        WaitOn::of(self.seen())
    }

    /// The same as a word, to be compared with a later one.
    #[inline(always)]
    pub(super) fn seen(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Notes what the thread waits for from now on.
    #[inline(always)]
    pub(crate) fn set(&self, on: WaitOn) {
        self.0.store(on.word(), Ordering::SeqCst);
    }

    /// The same on the thread's home, which alone cancels waits. A signal on another CPU may still read the former word: it looks whether the
    /// thread is in a list first.
    #[inline(always)]
    pub(crate) fn set_here(&self, on: WaitOn) {
        self.0.store(on.word(), Ordering::Release);
    }

    /// Another thread is to answer, if it is still `former` that was: who waits for something else by now is left alone.
    #[inline(always)]
    pub(crate) fn hand_on(&self, former: WaitOn, holder: *const Thread) -> bool {
        let (former, holder) = (former.word(), WaitOn::Reply(holder).word());
        self.0
            .compare_exchange(former, holder, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Ends the wait by `take_out`, which takes the thread out of what it is given and says whether it was there. False if it waits for nothing; then word
    /// is left in its marks that the wait is cancelled, for whoever has the thread in his hands.
    ///
    /// For the thread's home.
    pub(crate) fn cancel(
        &self,
        marks: Marks<'_, A>,
        error: Error,
        mut take_out: impl FnMut(WaitOn) -> bool,
    ) -> bool {
        loop {
            let on = self.read();
            if on == WaitOn::Nothing {
                // Perhaps a receiver has it in its hands, on the way to the wait for the reply: leave word there.
                marks.note_cancel(error);
                if self.read() == WaitOn::Nothing {
                    return false;
                }
            } else if take_out(on) {
                return true;
            } else {
                // If the thread was gone from there, it may wait elsewhere by now: a sender that was received waits for its reply. Whoever
                // has taken it is about to say so.
                A::relax();
            }
        }
    }
}
