//! Notifications: a word of bits that can be waited for.
//!
//! A signal never blocks and is never lost: bits that nobody waits for stay set. A notification can be bound to one
//! thread, whose `recv` then waits for messages and for the bits at once.
//!
//! Who waits does so by a handle. When the last one is closed, by another thread of the same process, nobody can wait any more, and who does
//! is told. That is so whoever else refers to it: an interrupt or the end of a process may still signal it, to the thread that it is bound to.
//!
//! It also counts who can signal it: handles with the right to, and the kernel's own [`Signaller`]s. When the last is gone, waits end with an
//! error as well: a partner that was given no more than it needs, and died, leaves nobody waiting for it.

use abi::{Deadline, Error};
use sched::EffectivePriority;

use super::Flow;
use super::bits::{Bits, Counts, Look, Signal, Waiter};
use super::transfer;
use super::wait_on::{OnWord, WaitOn};
use crate::atomics::Native;
use crate::object::{Borrowed, Object, Ref, Section, Slab, Waking};
use crate::schedule;
use crate::sync::{Guard, Mutex, level};
use crate::thread::{Thread, ThreadPtr, WOKEN_AT_ONCE};

/// A notification.
pub struct Notification {
    state: Mutex<{ level::NOTIFICATION }, State>,
    counts: Counts,
}

/// What the lock protects.
pub(super) type State = Bits<ThreadPtr>;

impl Waiter for ThreadPtr {
    type Atomics = Native;

    #[inline(always)]
    fn on(&self) -> &OnWord {
        &self.get().wait.word
    }

    #[inline(always)]
    fn priority(&self) -> EffectivePriority {
        self.get().priority()
    }
}

/// What became of a signal.
#[cfg(target_os = "none")]
pub(crate) enum Signalled {
    /// The bits are set.
    Nobody,
    /// This thread was taken out of its wait.
    Somebody(ThreadPtr),
    /// Nothing was done.
    Not,
}

/// What became of a wait.
#[cfg(target_os = "none")]
pub(super) enum Began {
    /// The thread waits.
    Waiting,
    /// These bits were set.
    Over(u64),
    /// Nothing was done.
    Not,
}

/// Ends the wait of a thread that was taken out of it.
#[inline]
pub(crate) fn give(waiter: ThreadPtr, bits: u64) {
    give_registers(waiter.get(), bits);
    schedule::make_ready(waiter);
}

/// The result of a wait, for whoever was just taken out of it.
#[inline(always)]
pub(super) fn give_registers(waiter: &Thread, bits: u64) {
    let registers = waiter.registers_mut();
    registers.rax = 0;
    registers.rdx = bits;
}

static SLAB: Slab<Notification> = Slab::new();

impl Object for Notification {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn last_reference(&self) {
        // Its last handle's end has told them already, but of one that never had any.
        self.close();
        while self.wake_some() {}
    }
}

impl Notification {
    /// A notification without bits.
    pub const fn new() -> Notification {
        Notification {
            state: Mutex::new(State::none()),
            counts: Counts::none(),
        }
    }

    /// A handle to it was made, by which it can be signalled or not.
    pub(crate) fn handle_added(&self, signals: bool) {
        self.counts.handle_added(signals);
    }

    /// Somebody more can signal it.
    pub(crate) fn signaller_added(&self) {
        self.counts.signaller_added();
    }

    /// A handle to it is gone. The end of the last one, or of the last that could signal it, is an error for all who wait.
    pub(crate) fn handle_removed(&self, signals: bool) {
        if self.handle_leaves(signals) {
            while self.wake_some() {}
        }
    }

    /// A [`Signaller`] is gone. As for [a handle](Self::handle_removed).
    fn signaller_removed(&self) {
        if self.counts.signaller_leaves() {
            self.close();
            while self.wake_some() {}
        }
    }

    /// The same as for [a handle that is gone](Self::handle_removed), for one who [wakes](Self::wake_some) those who wait by himself, if there is
    /// reason: true. From then on nobody comes.
    pub(crate) fn handle_leaves(&self, signals: bool) -> bool {
        let closes = self.counts.handle_leaves(signals);
        if closes {
            self.close();
        }
        closes
    }

    /// Lets nobody begin to wait.
    fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Tells a few of those who wait that it is closed; true if there may be others.
    pub(crate) fn wake_some(&self) -> bool {
        for _ in 0..WOKEN_AT_ONCE {
            let mut state = self.state.lock();
            let Some(thread) = state.pop_closed() else {
                return false;
            };
            drop(state);
            thread.get().set_status(Err(Error::PeerClosed));
            schedule::make_ready(thread);
        }
        true
    }

    pub(super) fn lock(&self) -> Guard<'_, { level::NOTIFICATION }, State> {
        self.state.lock()
    }

    /// The lock, if it is to be had and no bit is set: nobody sets one as long as it is held.
    #[cfg(target_os = "none")]
    pub(super) fn lock_if_quiet(&self) -> Option<Guard<'_, { level::NOTIFICATION }, State>> {
        let state = self.state.try_lock()?;
        (state.set == 0).then_some(state)
    }

    /// [`signal`](Self::signal) if nobody has its lock and it is bound to nobody. The waiter that it has taken out, if there was one, is to be
    /// [given the bits](give).
    ///
    /// Whether it is closed is not asked, here as there: nobody begins to wait for a closed one, who waited is taken out and told, and until that has come to him a bit is as
    /// good an answer as the error.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(crate) fn signal_plainly(&self, bits: u64) -> Signalled {
        let Some(mut state) = self.state.try_lock() else {
            return Signalled::Not;
        };
        if state.bound.is_some() {
            return Signalled::Not;
        }
        if state.waiters.is_empty() {
            state.set |= bits;
            return Signalled::Nobody;
        }
        if bits == 0 {
            return Signalled::Not;
        }
        // One of many is taken out elsewhere.
        let Some(waiter) = state.waiters.pop_only() else {
            return Signalled::Not;
        };
        // Nobody waits while a bit is set, so these are all. The word is published with the lock.
        waiter.get().wait.set_here(WaitOn::Nothing);
        Signalled::Somebody(waiter)
    }

    /// Begins to [wait](Self::wait) without a deadline, for the running thread.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(super) fn begin_wait(&self, current: &Thread) -> Began {
        self.begin(current, |state| {
            if state.closed {
                return false;
            }
            current.settle_before_wait();
            state
                .waiters
                .push_back(ThreadPtr::new(current), current.priority());
            true
        })
    }

    /// [`begin_wait`](Self::begin_wait) if nobody else waits and the thread, which has no marks, holds no reply: so there is nothing to call.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(super) fn begin_wait_alone(&self, current: &Thread) -> Began {
        self.begin(current, |state| {
            if state.closed || !state.waiters.is_empty() || current.held.is_some() {
                return false;
            }
            state
                .waiters
                .push_only(ThreadPtr::new(current), current.priority());
            true
        })
    }

    /// `enter` puts the thread into the queue, or says that nothing is to be done.
    #[cfg(target_os = "none")]
    #[inline(always)]
    fn begin(&self, current: &Thread, enter: impl FnOnce(&mut State) -> bool) -> Began {
        let Some(mut state) = self.state.try_lock() else {
            return Began::Not;
        };
        if let Some(bits) = state.take_bits() {
            return Began::Over(bits);
        }
        if !enter(&mut state) {
            return Began::Not;
        }
        // The word is published with the lock.
        current.wait.set_here(WaitOn::Notification(self));
        Began::Waiting
    }

    /// Sets bits; wakes one waiter, or the bound thread if it waits in `recv`.
    pub fn signal(&self, bits: u64) {
        if bits == 0 {
            return;
        }
        let mut state = self.state.lock();
        let signal = state.signal(bits, |bound, on| {
            let WaitOn::Receiving(endpoint) = on else {
                return false;
            };
            // SAFETY: all kernel code between two quiescent points is inside a section.
            let section = unsafe { Section::enter() };
            // SAFETY: the endpoint had the thread in its queue when the word was read, so it was not retired then.
            let endpoint = unsafe { Borrowed::from_ptr(endpoint, &section) };
            endpoint.take_out(bound.get(), on)
        });
        drop(state);
        match signal {
            Signal::Kept => {}
            Signal::Waiter(waiter, bits) => give(waiter, bits),
            Signal::Bound(bound, bits) => {
                transfer::finish_notified(bound.get(), bits);
                schedule::make_ready(bound);
            }
        }
    }

    /// Takes all bits, or waits for some.
    ///
    /// # Errors
    /// [`Error::TimedOut`] for a deadline of 0 with no bit set; [`Error::PeerClosed`] if nobody can signal it any more.
    pub fn wait(&self, current: &Thread, deadline: Deadline) -> Result<Flow, Error> {
        let mut state = self.state.lock();
        match state.look() {
            Look::Bits(bits) => {
                drop(state);
                give_registers(current, bits);
                Ok(Flow::Done)
            }
            Look::Closed => Err(Error::PeerClosed),
            Look::Nothing if deadline == Deadline::NOW => Err(Error::TimedOut),
            Look::Nothing => {
                current.settle_before_wait();
                state.enter(ThreadPtr::new(current), WaitOn::Notification(self));
                Ok(Flow::Block)
            }
        }
    }

    /// Binds the notification to a thread.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is bound to one already.
    pub fn bind(&self, thread: &Thread) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.bound.is_some() {
            return Err(Error::Busy);
        }
        state.bound = Some(ThreadPtr::new(thread));
        Ok(())
    }

    /// Ends the binding.
    pub fn unbind(&self) {
        self.state.lock().bound = None;
    }

    /// The effective priority of a thread has changed that waits here: it has another place in the queue. For its home.
    pub(crate) fn reorder(&self, thread: &Thread, on: WaitOn) {
        self.state.lock().reorder(ThreadPtr::new(thread), on);
    }

    /// Takes a waiting thread out, if it is still there.
    pub(super) fn take_out(&self, thread: &Thread, on: WaitOn) -> bool {
        self.state.lock().take_out(ThreadPtr::new(thread), on)
    }
}

/// The kernel's own reference to a notification that it signals: as long as there is one, waits for the notification are not in vain.
///
/// Dropping the last one wakes all who wait, in one go; [`end`](Self::end) lets others have the CPU in between, and [`give_up`](Self::give_up) leaves it to the
/// caller.
pub struct Signaller(Option<Ref<Notification>>);

impl Signaller {
    /// Counts as one who can signal.
    pub fn new(notification: Ref<Notification>) -> Signaller {
        notification.signaller_added();
        Signaller(Some(notification))
    }

    /// Sets bits and wakes a waiter.
    pub fn signal(&self, bits: u64) {
        if let Some(notification) = &self.0 {
            notification.signal(bits);
        }
    }

    /// Gives it up, but for the waking of those who wait in vain from now on. No lock may be held.
    pub(crate) fn give_up(mut self) -> Option<Waking> {
        let notification = self.0.take()?;
        if !notification.counts.signaller_leaves() {
            return None;
        }
        notification.close();
        Some(Waking::Notification(notification))
    }

    /// Gives it up where others may have the CPU in between. The caller has no lock, and holds counted references only.
    pub(crate) fn end(self) {
        if let Some(waking) = self.give_up() {
            waking.wake_all();
        }
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        if let Some(notification) = &self.0 {
            notification.signaller_removed();
        }
    }
}

impl Default for Notification {
    fn default() -> Self {
        Self::new()
    }
}
