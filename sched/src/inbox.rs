//! Wake-ups from other CPUs.
//!
//! A CPU that wakes a thread of another CPU pushes it into that CPU's inbox and, if it is told to, sends one
//! interrupt. The owner drains the inbox on its way out of the kernel and before it halts.
//!
//! It is a stack linked through the threads (Treiber's), of which the owner takes everything at once, so there
//! is no element to be popped and pushed back in between, hence no ABA problem, and, since a thread brings its
//! own link, no capacity: *the inbox is never full*. The owner turns the order round, so threads come out in
//! the order in which they went in.
//!
//! However many there are, the owner need not turn and look at all of them at once, with its interrupts off: [`Inbox::drain_some`]
//! does a piece of that. What it has taken and not handed out yet it keeps, and the inbox is not empty as long as it keeps some.
//!
//! # The protocol
//!
//! A producer first writes what the wake-up is about into the thread (its state, its result), then pushes. The
//! owner, when it is handed the thread, sees all that was written before *any* push of it, also one that was
//! answered with [`Pushed::Already`]. So no wake-up is lost and none arrives twice.
//!
//! The owner halts like this, with interrupts off until the last step: test [`Inbox::is_empty`], then
//! `sti; hlt` adjacent. The interrupt that goes with [`Pushed::First`] either comes before the test, whose
//! answer is then no, or is held back until `sti` and ends the `hlt` (Intel SDM vol. 2B, STI: interrupts are
//! taken after the next instruction). An owner that spins for work instead says so with
//! [`Inbox::start_polling`] and needs no interrupt.
//!
//! # Memory ordering
//!
//! - `pending` is only ever changed by read-modify-write operations that acquire and release. They have one
//!   order; each sees the one before it. A push that finds it set comes before the drain that clears it, and
//!   that drain acquires what the push released. A push that comes after the drain finds it clear, and pushes.
//! - `next` is written by the one producer that set `pending`, and published by its release exchange of `head`;
//!   the drain's acquiring swap reads the newest such exchange, and as all are read-modify-write operations they
//!   are one release sequence: the drain acquires every element's link.
//! - The polling mark lives in `head` itself, so "push" and "stop polling" have one order too, and no fence is
//!   needed between two variables.
//!
//! The models at the end are checked by loom in every interleaving.

use core::marker::PhantomData;
use core::num::NonZeroUsize;
// A word that only the owner reads and writes: the models need not try it in every interleaving.
use core::sync::atomic::AtomicUsize as Own;

use crate::atomic::{AtomicUsize, Ordering, const_unless_loom};
use crate::node::Node;

/// `head`: nothing inside, and the owner must be told of the first push.
const EMPTY: usize = 0;
/// `head`: nothing inside, and the owner looks by itself. No thread has this address.
const POLLED: usize = 1;
/// `head`: nothing new inside, but the owner keeps some that it has taken, and will look by itself. Nor this.
const KEPT: usize = 2;

/// Threads whose order is turned round for each that may be handed out: that is far less work.
const TURNED_FOR_EACH: usize = 8;

/// What a push means to the producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the owner may have to be told"]
pub enum Pushed {
    /// The owner knows of nothing: send it an interrupt.
    First,
    /// Somebody else's interrupt is under way, or the owner polls: nothing to send.
    More,
    /// The thread was inside and the owner has yet to look at it: nothing to send.
    Already,
}

/// The inbox of one CPU: pushed into by all, drained by its owner.
pub struct Inbox<T> {
    head: AtomicUsize,
    /// What the owner has taken and not turned round yet, newest first. The owner's alone, as the next one.
    taken: Own,
    /// What it has turned round and not handed out yet, oldest first; of that nothing is handed out before all is turned.
    turned: Own,
    marker: PhantomData<fn(T) -> T>,
}

impl<T: Node> Inbox<T> {
    const_unless_loom! {
        /// An empty inbox.
        pub fn new() -> Inbox<T> {
            Inbox {
                head: AtomicUsize::new(EMPTY),
                taken: Own::new(EMPTY),
                turned: Own::new(EMPTY),
                marker: PhantomData,
            }
        }
    }

    /// Puts a thread in, from any CPU, unless it is in an inbox already.
    ///
    /// The thread must stay allocated until the owner has been handed it. All inboxes share the thread's one
    /// link: while a thread that moves from CPU to CPU is still in the old one's, [`Pushed::Already`] speaks of that, whose owner
    /// sends it on when it finds it ([`Home`](crate::Home)).
    pub fn push(&self, thread: T) -> Pushed {
        let links = &thread.links().inbox;
        if links.pending.swap(true, Ordering::AcqRel) {
            return Pushed::Already;
        }
        let word = thread.into_word().get();
        debug_assert!(word > KEPT, "a thread's word must be above 2");
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            links.next.set(Self::thread(head));
            match self
                .head
                .compare_exchange_weak(head, word, Ordering::Release, Ordering::Relaxed)
            {
                Ok(EMPTY) => return Pushed::First,
                Ok(_) => return Pushed::More,
                Err(now) => head = now,
            }
        }
    }

    /// Hands out all threads that are inside, in the order in which they were pushed; ends polling.
    ///
    /// Each is out of the inbox, and can be pushed again, before `take` sees it. What is pushed meanwhile waits
    /// for the next drain, so the call ends. For the owner alone.
    ///
    /// Returns how many there were.
    pub fn drain(&self, take: impl FnMut(T)) -> usize {
        self.drain_some(usize::MAX, take)
    }

    /// The same for `most` threads at most. If [`is_empty`](Self::is_empty) says no afterwards the owner is to call this again
    /// soon, by itself: for what it keeps nobody tells it. Of many it may hand out none yet, but has come nearer to that.
    pub fn drain_some(&self, most: usize, mut take: impl FnMut(T)) -> usize {
        let mut newest = Self::thread(self.taken.load(Ordering::Relaxed));
        let mut oldest = Self::thread(self.turned.load(Ordering::Relaxed));
        let kept = newest.is_some() || oldest.is_some();
        if !kept {
            if self.head.load(Ordering::Relaxed) == EMPTY {
                return 0;
            }
            newest = Self::thread(self.head.swap(EMPTY, Ordering::Acquire));
        }
        for _ in 0..most.saturating_mul(TURNED_FOR_EACH) {
            let Some(thread) = newest else { break };
            let link = &thread.links().inbox.next;
            newest = link.get();
            link.set(oldest);
            oldest = Some(thread);
        }
        self.taken.store(Self::word(newest), Ordering::Relaxed);
        let mut count = 0;
        while count < most
            && newest.is_none()
            && let Some(thread) = oldest
        {
            let links = &thread.links().inbox;
            // The link is read first: once `pending` is clear it belongs to the next producer.
            oldest = links.next.get();
            links.pending.swap(false, Ordering::AcqRel);
            take(thread);
            count += 1;
        }
        self.turned.store(Self::word(oldest), Ordering::Relaxed);
        let keeps = newest.is_some() || oldest.is_some();
        if keeps != kept {
            let (from, to) = if keeps { (EMPTY, KEPT) } else { (KEPT, EMPTY) };
            // If there is something new by now, that says as well that there is something.
            let _ = self
                .head
                .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        }
        count
    }

    /// Whether there is nothing to drain.
    pub fn is_empty(&self) -> bool {
        // All that is inside is newer, or the mark for older ones.
        self.head.load(Ordering::Acquire) <= POLLED
    }

    /// The owner begins to spin on [`Inbox::is_empty`]: producers need not tell it of a first push. `false`,
    /// and nothing changed, if there is something inside.
    pub fn start_polling(&self) -> bool {
        self.head
            .compare_exchange(EMPTY, POLLED, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner ends its polling. `true` if nothing is inside: it may go on to halt, and will be told of the
    /// next push. `false` if there is: drain it.
    #[must_use = "what was pushed while polling is announced by nobody else"]
    pub fn stop_polling(&self) -> bool {
        match self
            .head
            .compare_exchange(POLLED, EMPTY, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => true,
            Err(head) => head == EMPTY,
        }
    }

    fn thread(head: usize) -> Option<T> {
        if head <= KEPT {
            None
        } else {
            NonZeroUsize::new(head).map(T::from_word)
        }
    }

    fn word(thread: Option<T>) -> usize {
        thread.map_or(EMPTY, |thread| thread.into_word().get())
    }
}

impl<T: Node> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod models;
