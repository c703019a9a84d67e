//! What a notification's lock protects, and how many can still signal it.
//!
//! Each function here is called with the lock held. What may go wrong lies between two of them: a signal that finds nobody while the waiter finds no
//! bit, or an end that tells all who wait while one more begins to. So whoever waits looks for bits, and whether the notification is closed, in the same
//! holding of the lock in which it enters the queue; and whoever closes it does so before it tells those who wait.
//!
//! A thread that receives with the notification bound to it stands in an endpoint's queue. So a signal takes two locks, the endpoint's after this one, and
//! a message may take the thread out meanwhile: then the bits stay for its next receive.
//!
//! The models (`bits/models.rs`) try it in every interleaving.

use core::sync::atomic::{AtomicU32, Ordering};

use sched::{EffectivePriority, WaitQueue};

use super::wait_on::{OnWord, WaitOn};
#[cfg(test)]
use crate::atomics::Atomic;
use crate::atomics::{Atomics, Native, Number};

#[cfg(test)]
mod models;

/// A thread that may wait.
pub(super) trait Waiter: sched::Node {
    /// The atomics that it is made of.
    type Atomics: Atomics;

    /// What it waits for.
    fn on(&self) -> &OnWord<Self::Atomics>;
    /// Its effective priority.
    fn priority(&self) -> EffectivePriority;
}

/// Bits, and who waits for them.
pub(super) struct Bits<T> {
    pub(super) set: u64,
    /// The last handle is gone, or the last who could signal.
    pub(super) closed: bool,
    pub(super) waiters: WaitQueue<T>,
    pub(super) bound: Option<T>,
}

/// What has become of a signal.
pub(super) enum Signal<T> {
    /// The bits are set.
    Kept,
    /// This thread was taken out of its wait, and gets these bits.
    Waiter(T, u64),
    /// The same of the one that is bound, which receives.
    Bound(T, u64),
}

/// What somebody finds who wants to wait.
pub(super) enum Look {
    /// These bits, which are clear now.
    Bits(u64),
    /// It would wait in vain.
    Closed,
    /// Nothing: it may enter the queue, as long as it holds the lock.
    Nothing,
}

impl<T: sched::Node> Bits<T> {
    /// No bit, and nobody waits.
    pub(super) const fn none() -> Bits<T> {
        Bits {
            set: 0,
            closed: false,
            waiters: WaitQueue::new(),
            bound: None,
        }
    }

    /// All bits, which are clear afterwards; `None` if none is set.
    #[inline(always)]
    pub(super) fn take_bits(&mut self) -> Option<u64> {
        match core::mem::take(&mut self.set) {
            0 => None,
            bits => Some(bits),
        }
    }
}

impl<T: Waiter> Bits<T> {
    /// Sets bits, which are not 0. The first who waits gets them; or the bound thread, if it receives and `take_out` takes it out of there.
    #[inline(always)]
    pub(super) fn signal(
        &mut self,
        bits: u64,
        take_out: impl FnOnce(T, WaitOn) -> bool,
    ) -> Signal<T> {
        self.set |= bits;
        if let Some(waiter) = self.waiters.pop_front() {
            let bits = core::mem::take(&mut self.set);
            waiter.on().set(WaitOn::Nothing);
            return Signal::Waiter(waiter, bits);
        }
        if let Some(bound) = self.bound
            && let on @ WaitOn::Receiving(_) = bound.on().read()
            && take_out(bound, on)
        {
            return Signal::Bound(bound, core::mem::take(&mut self.set));
        }
        // If a message has just taken it, the bits stay set for its next receive.
        Signal::Kept
    }

    /// Looks whether somebody need wait.
    #[inline(always)]
    pub(super) fn look(&mut self) -> Look {
        match self.take_bits() {
            Some(bits) => Look::Bits(bits),
            None if self.closed => Look::Closed,
            None => Look::Nothing,
        }
    }

    /// A thread that has found nothing waits; `on` names the notification.
    #[inline(always)]
    pub(super) fn enter(&mut self, waiter: T, on: WaitOn) {
        waiter.on().set(on);
        self.waiters.push_back(waiter, waiter.priority());
    }

    /// Takes out the first who waits, to be told that it is closed.
    pub(super) fn pop_closed(&mut self) -> Option<T> {
        debug_assert!(self.closed, "or somebody begins to wait behind the last");
        let waiter = self.waiters.pop_front()?;
        waiter.on().set(WaitOn::Nothing);
        Some(waiter)
    }

    /// Takes a waiting thread out, if it is still there.
    pub(super) fn take_out(&mut self, waiter: T, on: WaitOn) -> bool {
        if waiter.on().read() != on {
            return false;
        }
        let removed = self.waiters.remove(waiter);
        debug_assert!(
            removed,
            "a thread that waits for a notification is in its queue"
        );
        waiter.on().set(WaitOn::Nothing);
        true
    }

    /// The priority of a thread has changed: it has another place, if it is still there.
    pub(super) fn reorder(&mut self, waiter: T, on: WaitOn) {
        if waiter.on().read() == on {
            self.waiters.requeue(waiter, waiter.priority());
        }
    }
}

/// How many handles there are, and how many can signal. No lock is needed; whoever finds that it was the last closes the notification.
pub(super) struct Counts<A: Atomics = Native> {
    /// Handles to it, in all processes.
    handles: A::U32,
    /// Handles with the right to signal, and the kernel's own references that do.
    signallers: A::U32,
}

impl Counts {
    /// Nobody yet.
    pub(super) const fn none() -> Counts {
        Counts {
            handles: AtomicU32::new(0),
            signallers: AtomicU32::new(0),
        }
    }
}

impl<A: Atomics> Counts<A> {
    /// So many, of any family.
    #[cfg(test)]
    fn of(handles: u32, signallers: u32) -> Counts<A> {
        Counts {
            handles: A::U32::new(handles),
            signallers: A::U32::new(signallers),
        }
    }

    /// A handle was made, by which it can be signalled or not.
    pub(super) fn handle_added(&self, signals: bool) {
        self.handles.fetch_add(1, Ordering::Relaxed);
        if signals {
            self.signaller_added();
        }
    }

    /// Somebody more can signal it.
    pub(super) fn signaller_added(&self) {
        self.signallers.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle is gone; whether nobody is left who can wait, or nobody who can signal.
    pub(super) fn handle_leaves(&self, signals: bool) -> bool {
        let was_last = self.handles.fetch_sub(1, Ordering::AcqRel) == 1;
        (signals && self.signaller_leaves()) || was_last
    }

    /// Somebody less can signal it; whether that was the last.
    pub(super) fn signaller_leaves(&self) -> bool {
        self.signallers.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
