//! What a thread inherits: the priorities of those who wait for it.
//!
//! A thread's effective priority is the highest of its own, of the callers whose replies it holds, and of whoever is first in the queue
//! of an endpoint that it alone serves ([`Serving`]). Only its home brings that up to date ([`Thread::settle`]), from what others have left where it
//! can be read without a lock: the reply that it holds names its caller, and the endpoint shows its pressure.
//!
//! # Who says that something has changed
//!
//! Whoever changes what a thread inherits asks the thread's home to look again, by the inbox and never at once: so a chain of
//! threads that wait for each other is followed one step at a time, without recursion and without two locks. Each who is raised (or lowered) while it
//! waits asks the next.
//!
//! - Who is first in an endpoint's queue has changed, there is one that serves it, and what was or is first is above that one's own priority: it is asked
//!   ([`Endpoint`](crate::ipc::Endpoint)).
//! - A thread that waits for an answer has another priority: who holds its reply is asked.
//! - A call ends, however it ends, and who held its reply is *raised* ([`Marks`](super::Marks)): it is asked, unless it is the one that
//!   answered, which settles by itself.
//! - In both cases the holder may wait for an answer itself and not have settled what it holds; then who holds *its* reply may have counted the first
//!   caller all the same ([`Thread::highest_caller`]), and is asked as well, up to the first holder that is raised: what that one has stored is
//!   all that those behind it see of its callers.
//!
//! The mark comes first: a home sets it, and then computes once more what it stores. So whoever ends a call and sees no mark has ended it before that
//! second look.
//!
//! # What is left undone on the direct way
//!
//! A direct call (`ipc/direct.rs`) delivers a reply and computes nothing. So the *stored* priority of a thread that runs may be below what it should be by
//! what it holds. Nobody can tell as long as no ready thread of its CPU is at its stored priority or above; and whoever makes a thread
//! ready there, or raises a ready one, first settles the running one. A raised thread takes no part in direct calls, so none is ever too high
//! after one.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use sched::EffectivePriority;

use super::{Thread, ThreadPtr, raise};
use crate::ipc::{Endpoint, ReplyTarget, WaitOn};
use crate::object::stamp_of;
use crate::schedule;

/// Callers that are followed from one to the next: a server that serves a server that serves ... What is behind that is not inherited.
pub(crate) const MOST_CALLERS: usize = 64;

/// The endpoint at which a thread received last. Written by the thread itself.
pub(crate) struct Serving {
    endpoint: AtomicPtr<Endpoint>,
    /// Of the endpoint's slot, which is another when the endpoint is gone.
    stamp: AtomicU64,
}

impl Serving {
    pub(super) const fn nothing() -> Serving {
        Serving {
            endpoint: AtomicPtr::new(ptr::null_mut()),
            stamp: AtomicU64::new(0),
        }
    }

    /// The endpoint, if there is one and it still lives. It is good until the CPU's next quiescent point.
    pub(crate) fn endpoint<'a>(&self) -> Option<&'a Endpoint> {
        let endpoint: *const Endpoint = self.endpoint.load(Ordering::Acquire);
        if endpoint.is_null() {
            return None;
        }
        // SAFETY: the pointer is to an endpoint's slot, and slots are never given back. While the stamp is that of the time at which it was noted
        // the endpoint is not destroyed, and all kernel code between two quiescent points is inside a section.
        unsafe {
            (stamp_of(endpoint).load(Ordering::Acquire) == self.stamp.load(Ordering::Relaxed))
                .then(|| &*endpoint)
        }
    }

    /// Notes an endpoint, or that there is none.
    pub(crate) fn note(&self, endpoint: Option<&Endpoint>) {
        let stamp = endpoint.map_or(0, |endpoint| {
            // SAFETY: endpoints that can be received at live in slots.
            unsafe { stamp_of(ptr::from_ref(endpoint)) }.load(Ordering::Acquire)
        });
        self.endpoint.store(ptr::null_mut(), Ordering::Release);
        self.stamp.store(stamp, Ordering::Relaxed);
        let endpoint = endpoint.map_or(ptr::null_mut(), |endpoint| {
            ptr::from_ref(endpoint).cast_mut()
        });
        self.endpoint.store(endpoint, Ordering::Release);
    }
}

impl Thread {
    /// Brings the effective priority up to date; true if it has changed. For its home.
    ///
    /// A thread that stands in a queue has another place there then: that is the caller's to see to.
    pub(crate) fn settle(&self) -> bool {
        let base = EffectivePriority::of(self.priority.base(), []);
        let store = |inherited| self.priority.settle([inherited]).is_some();
        raise::settle(self.marks(), base, || self.inherited(), store)
    }

    /// [`settle`](Self::settle), if there is anything that only the thread itself and its home know of; true if its priority has changed. For
    /// those two, while the thread is in no queue. If it runs, see [`settle_before_wait`](Self::settle_before_wait).
    #[inline]
    pub(crate) fn settle_if_due(&self) -> bool {
        (self.held.is_some() || self.marks().any() && self.marks().is_raised()) && self.settle()
    }

    /// The same for the running thread, which may stay on its CPU: if it is lowered, a ready one may be above it now.
    #[inline]
    pub(crate) fn settle_before_wait(&self) {
        if self.settle_if_due() {
            schedule::compare_running();
        }
    }

    /// What its effective priority comes to, for lists: by what it was given to hold, it may be more than is noted.
    pub(crate) fn shown_priority(&self) -> EffectivePriority {
        self.priority().max(self.inherited())
    }

    /// The highest priority of those who wait for this thread.
    fn inherited(&self) -> EffectivePriority {
        let pressure = self
            .serving
            .endpoint()
            .and_then(|endpoint| endpoint.pressure_on(self));
        pressure
            .unwrap_or(EffectivePriority::LOWEST)
            .max(Self::highest_caller(self.held.caller()))
            .max(Self::highest_caller(self.held.kept_caller()))
    }

    /// The highest priority of a caller, of the one whose reply that one holds, and so on, as they may not have settled theirs.
    fn highest_caller(mut caller: Option<ThreadPtr>) -> EffectivePriority {
        let mut highest = EffectivePriority::LOWEST;
        for _ in 0..MOST_CALLERS {
            let Some(thread) = caller else { break };
            highest = highest.max(thread.get().priority());
            caller = thread.get().held.caller();
        }
        highest
    }

    /// Whether it is the only one that serves the endpoint at which it received last.
    pub(crate) fn serves_alone(&self) -> bool {
        self.serving
            .endpoint()
            .and_then(Endpoint::server)
            .is_some_and(|server| ptr::eq(server, self))
    }

    /// It serves no endpoint any more. For the thread itself.
    pub(crate) fn end_service(&self) {
        if let Some(endpoint) = self.serving.endpoint() {
            self.serving.note(None);
            endpoint.end_service(self);
        }
    }

    /// Who has the right to answer this thread's call, if it waits for an answer.
    pub(crate) fn holder(&self) -> Option<ThreadPtr> {
        match self.wait.on() {
            // SAFETY: it was to answer when the word was read, and takes its name out of there before it ends.
            WaitOn::Reply(holder) => unsafe { holder.as_ref() }.map(ThreadPtr::new),
            _ => None,
        }
    }

    /// This thread has become the one to answer a call whose reply lies in its process's table: it was passed the reply, or keeps it while it
    /// receives the next. Of several it inherits one, the highest when it came. For whoever has taken the thread out of its wait, or itself.
    pub(crate) fn adopt(&self, reply: &ReplyTarget) {
        let Some(caller) = reply.waiting() else {
            return;
        };
        let on = &caller.get().wait.word;
        let present = self.held.kept_caller();
        let highest = |caller| Self::highest_caller(Some(caller));
        if present.is_some_and(|present| highest(present) >= highest(caller)) {
            if let former @ WaitOn::Reply(_) = on.read() {
                on.hand_on(former, ptr::null());
            }
            return;
        }
        self.forget_kept();
        // Only what is read from here on counts: see `raise.rs`.
        if self
            .held
            .take_over(self, reply, on, || reply.waiting().is_some())
            && highest(caller) > EffectivePriority::of(self.priority.base(), [])
        {
            schedule::reconsider(ThreadPtr::new(self));
        }
    }

    /// It is not the one to answer the call any more that it has [adopted](Self::adopt). For the same, and for its end.
    pub(crate) fn forget_kept(&self) {
        // If that call is over the thread may have made another, which this one received: that is still its to answer.
        if let Some(caller) = self.held.forget_kept() {
            caller.get().wait.hand_on(WaitOn::Reply(self), ptr::null());
        }
    }

    /// This thread's reply is taken from whoever was to give it, to be passed to another one.
    pub(crate) fn disown(&self) {
        if let Some(holder) = self.holder()
            && self
                .wait
                .hand_on(WaitOn::Reply(holder.as_ptr()), ptr::null())
        {
            holder.get().held.forget_kept_of(self);
            Self::tell_raised(holder);
        }
    }

    /// The effective priority of this thread, which waits for an answer, has changed: so has what the holder of its reply inherits.
    pub(crate) fn pass_on(&self) {
        if let Some(holder) = self.holder() {
            schedule::reconsider(holder);
            Self::tell_raised(holder);
        }
    }

    /// A thread that waited for this one's answer does so no more, or with a lower priority: asks who may be raised by that. It is this one, or, as long
    /// as that is not raised and waits for an answer itself, who holds its reply.
    pub(super) fn tell_raised(mut holder: ThreadPtr) {
        for _ in 0..MOST_CALLERS {
            if holder.get().marks().is_raised() {
                return schedule::reconsider(holder);
            }
            let Some(next) = holder.get().holder() else {
                return;
            };
            holder = next;
        }
    }
}
