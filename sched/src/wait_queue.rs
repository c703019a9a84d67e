//! Threads that wait for the same thing, the highest priority first, and within one priority whoever came first.
//!
//! It is what an endpoint and a notification keep their waiters in. There are any number of those objects, so a queue is one word, and
//! there may be any number of waiters, so no operation walks over them: what is walked over are at most the 64 priorities that they have.
//!
//! ```text
//! head -> a(40) <-> b(40) <-> c(40) <-> (a)      each level is a ring, in the order in which they came;
//!           |                                    its first thread is the level's leader
//!         d(20) <-> (d)                          leaders are linked from the highest level down
//!           |
//!         e(7) <-> f(7) <-> (e)
//! ```
//!
//! The links lie in the threads: the ring's are those of a [`List`](crate::List) and of the run queue, as a thread that waits is in
//! neither; the leaders' are links of their own.
//!
//! What may go wrong: a thread whose priority has changed stands where it stood. Whoever changes it calls [`WaitQueue::requeue`], under the
//! lock of whatever the queue belongs to.

use core::hint::cold_path;

use crate::atomic::Ordering;
use crate::node::{Node, place};
use crate::priority::EffectivePriority;

/// A queue of waiting threads. Exclusive use is the caller's affair: `&mut` says so.
pub struct WaitQueue<T> {
    /// The leader of the highest level.
    head: Option<T>,
}

impl<T: Node> WaitQueue<T> {
    /// An empty queue.
    pub const fn new() -> WaitQueue<T> {
        WaitQueue { head: None }
    }

    /// Whether nobody is in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Who is next: the first of the highest priority. It stays in the queue.
    #[inline]
    pub const fn front(&self) -> Option<T> {
        self.head
    }

    /// The only thread of the queue; `None` if there is none, or more than one.
    #[inline]
    pub fn only(&self) -> Option<T> {
        self.head
            .filter(|&head| is_alone(head) && below(head).is_none())
    }

    /// The priority of who is next.
    #[inline]
    pub fn peek_priority(&self) -> Option<EffectivePriority> {
        self.head.map(level)
    }

    /// Adds a thread behind all others of its priority. It must be in no list and no queue but an inbox and a timer queue (asserted in
    /// debug builds).
    #[inline]
    pub fn push_back(&mut self, thread: T, priority: EffectivePriority) {
        note_place(thread, priority);
        if self.head.is_some() {
            cold_path();
            return self.push_among(thread, priority);
        }
        alone(thread);
        self.head = Some(thread);
    }

    /// [`push_back`](Self::push_back) into a queue that is empty (asserted in debug builds).
    #[inline]
    pub fn push_only(&mut self, thread: T, priority: EffectivePriority) {
        debug_assert!(self.is_empty(), "somebody is in the queue");
        note_place(thread, priority);
        alone(thread);
        self.head = Some(thread);
    }

    /// [`push_back`](Self::push_back) where others wait already.
    fn push_among(&mut self, thread: T, priority: EffectivePriority) {
        let mut higher = None;
        let mut leader = self.head;
        while let Some(other) = leader
            && level(other) > priority
        {
            higher = leader;
            leader = below(other);
        }
        match leader {
            Some(leader) if level(leader) == priority => {
                // The end of a ring is before its first.
                let last = previous(leader);
                link(last, thread);
                link(thread, leader);
            }
            lower => {
                alone(thread);
                self.stack(higher, Some(thread));
                self.stack(Some(thread), lower);
            }
        }
    }

    /// Takes out who is next.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let thread = self.head?;
        self.unlink(thread);
        Some(thread)
    }

    /// Takes out who is next, if nobody else is there: with the least to do. `None`, and nothing is done, else.
    #[inline]
    pub fn pop_only(&mut self) -> Option<T> {
        let thread = self.only()?;
        self.head = None;
        let links = thread.links();
        links.list.next.set(None);
        links.list.previous.set(None);
        links.list.place.store(place::NOWHERE, Ordering::Relaxed);
        Some(thread)
    }

    /// Takes a thread out, wherever it stands; `false` if it is in no such queue.
    ///
    /// A thread that is in *another* queue of this kind must not be given.
    pub fn remove(&mut self, thread: T) -> bool {
        let waits = is_waiting(thread);
        if waits {
            self.unlink(thread);
        }
        waits
    }

    /// Moves a thread to the end of another level, as its effective priority changed; `false` if it is in no such queue. One that is
    /// at this priority already keeps its turn. As for [`remove`](Self::remove), it must be in no other queue of this kind.
    pub fn requeue(&mut self, thread: T, priority: EffectivePriority) -> bool {
        if !is_waiting(thread) {
            return false;
        }
        if level(thread) != priority {
            self.unlink(thread);
            self.push_back(thread, priority);
        }
        true
    }

    /// All threads, in the order in which they would be taken out.
    pub fn iter(&self) -> Waiters<T> {
        Waiters {
            leader: self.head,
            next: self.head,
        }
    }

    #[inline]
    fn unlink(&mut self, thread: T) {
        let (higher, lower) = (above(thread), below(thread));
        let leads = higher.is_some() || self.head == Some(thread);
        if is_alone(thread) {
            debug_assert!(leads, "the thread is in another queue");
            self.stack(higher, lower);
        } else {
            cold_path();
            let next = next(thread);
            link(previous(thread), next);
            if leads {
                self.stack(higher, Some(next));
                self.stack(Some(next), lower);
            }
        }
        let links = thread.links();
        links.level.above.set(None);
        links.level.below.set(None);
        links.list.next.set(None);
        links.list.previous.set(None);
        links.list.place.store(place::NOWHERE, Ordering::Relaxed);
    }

    /// Puts one leader right below another; `None` for the top, and for the bottom.
    #[inline]
    fn stack(&mut self, higher: Option<T>, lower: Option<T>) {
        match higher {
            Some(higher) => higher.links().level.below.set(lower),
            None => self.head = lower,
        }
        if let Some(lower) = lower {
            lower.links().level.above.set(higher);
        }
    }
}

impl<T: Node> Default for WaitQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Node> IntoIterator for &WaitQueue<T> {
    type Item = T;
    type IntoIter = Waiters<T>;
    fn into_iter(self) -> Waiters<T> {
        self.iter()
    }
}

/// The threads of a [`WaitQueue`] from first to last.
pub struct Waiters<T> {
    leader: Option<T>,
    next: Option<T>,
}

impl<T: Node> Iterator for Waiters<T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        let (leader, thread) = (self.leader?, self.next?);
        let following = next(thread);
        if following == leader {
            self.leader = below(leader);
            self.next = self.leader;
        } else {
            self.next = Some(following);
        }
        Some(thread)
    }
}

/// Says in the thread that it waits in such a queue, and at which level.
#[inline]
fn note_place<T: Node>(thread: T, priority: EffectivePriority) {
    debug_assert!(
        !thread.links().is_listed(),
        "the thread is in a list or queue already"
    );
    thread
        .links()
        .list
        .place
        .store(place::waiting_at(priority), Ordering::Relaxed);
}

/// Makes a ring of one.
#[inline]
fn alone<T: Node>(thread: T) {
    link(thread, thread);
}

#[inline]
fn is_alone<T: Node>(thread: T) -> bool {
    next(thread) == thread
}

#[inline]
fn link<T: Node>(first: T, second: T) {
    first.links().list.next.set(Some(second));
    second.links().list.previous.set(Some(first));
}

/// A thread outside of any ring is taken for one of its own: it has no neighbours.
#[inline]
fn next<T: Node>(thread: T) -> T {
    thread.links().list.next.get().unwrap_or(thread)
}

#[inline]
fn previous<T: Node>(thread: T) -> T {
    thread.links().list.previous.get().unwrap_or(thread)
}

#[inline]
fn above<T: Node>(thread: T) -> Option<T> {
    thread.links().level.above.get()
}

#[inline]
fn below<T: Node>(thread: T) -> Option<T> {
    thread.links().level.below.get()
}

#[inline]
fn is_waiting<T: Node>(thread: T) -> bool {
    place::is_waiting(thread.links().list.place.load(Ordering::Relaxed))
}

#[inline]
fn level<T: Node>(thread: T) -> EffectivePriority {
    EffectivePriority::from_low_bits(thread.links().list.place.load(Ordering::Relaxed))
}
