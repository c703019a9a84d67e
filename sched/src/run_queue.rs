//! The ready threads of one CPU.
//!
//! One first-in first-out list for each priority, and a word with one bit for each list that is not empty: the
//! highest ready priority is one `lzcnt` away, and every operation is O(1) whatever the number of threads.
//! Within a level threads take turns; between levels the higher always wins (there is no ageing: a level that
//! must not starve the others gets a budget, which sits above this queue).
//!
//! The running thread is not in the queue. Only the CPU that owns the queue touches it; other CPUs go through
//! its [`Inbox`](crate::Inbox).

use crate::atomic::Ordering;
use crate::list::{Ends, Iter};
use crate::node::{Node, place};
use crate::priority::EffectivePriority;

/// A run queue with 64 priorities.
pub struct RunQueue<T> {
    /// Bit *n*: level *n* is not empty.
    ready: u64,
    /// The first and the last thread of each level; two tables, so that an index is an index and no arithmetic.
    heads: [Option<T>; EffectivePriority::LEVELS],
    tails: [Option<T>; EffectivePriority::LEVELS],
}

impl<T: Node> RunQueue<T> {
    /// An empty queue.
    pub const fn new() -> RunQueue<T> {
        RunQueue {
            ready: 0,
            heads: [const { None }; EffectivePriority::LEVELS],
            tails: [const { None }; EffectivePriority::LEVELS],
        }
    }

    /// How many threads are ready. It counts them, so it is for tests: the hot paths pay for no count.
    pub fn len(&self) -> usize {
        self.heads
            .iter()
            .map(|head| Iter::from(*head).count())
            .sum()
    }

    /// Whether no thread is ready.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.ready == 0
    }

    /// The highest priority of all ready threads.
    #[inline]
    pub const fn peek_priority(&self) -> Option<EffectivePriority> {
        match self.ready.checked_ilog2() {
            Some(level) => Some(EffectivePriority::from_low_bits(level)),
            None => None,
        }
    }

    /// Whether a thread of this priority or a higher one is ready. Cheaper than to look which.
    #[inline]
    pub const fn has_from(&self, priority: EffectivePriority) -> bool {
        self.ready >> priority.index() != 0
    }

    /// What is ready from a priority on: bit *n* says whether anybody is *n* levels above it.
    #[inline]
    pub const fn ready_from(&self, priority: EffectivePriority) -> u64 {
        self.ready >> priority.index()
    }

    /// Adds a thread behind all others of its priority. It must be in no list and no run queue (asserted in
    /// debug builds).
    #[inline]
    pub fn push_back(&mut self, thread: T, priority: EffectivePriority) {
        self.ready |= 1 << priority.index();
        self.ends(priority).link_back(thread, place_at(priority));
    }

    /// Adds a thread before all others of its priority: one that was preempted and has time left. It must be in
    /// no list and no run queue (asserted in debug builds).
    #[inline]
    pub fn push_front(&mut self, thread: T, priority: EffectivePriority) {
        self.ready |= 1 << priority.index();
        self.ends(priority).link_front(thread, place_at(priority));
    }

    /// The first thread of this priority.
    #[inline]
    pub const fn front(&self, priority: EffectivePriority) -> Option<T> {
        self.heads[priority.index()]
    }

    /// Puts a thread behind all others of its priority and takes out `first`, the [front](Self::front) of them: a yield in one step.
    /// The thread that goes in must be in no list and no run queue (asserted in debug builds).
    #[inline(always)]
    pub fn exchange(&mut self, thread: T, first: T, priority: EffectivePriority) {
        self.ends(priority)
            .exchange(thread, first, place_at(priority));
    }

    /// Takes out the thread that must run next: the first of the highest ready priority.
    #[inline]
    #[must_use = "the thread is in no queue any more"]
    pub fn pop_highest(&mut self) -> Option<T> {
        let priority = self.peek_priority()?;
        let thread = self.ends(priority).unlink_front()?;
        self.forget_if_empty(priority);
        Some(thread)
    }

    /// Takes a thread out, wherever it stands; `false` if it is not ready.
    ///
    /// A thread that is in *another* queue must not be given: take its CPU from the thread first.
    pub fn remove(&mut self, thread: T) -> bool {
        match self.priority_of(thread) {
            Some(priority) => {
                self.unlink(thread, priority);
                true
            }
            None => false,
        }
    }

    /// Takes out the first thread, from the highest priority down, that `fits`; at most `most` threads are looked at.
    #[must_use = "the thread is in no queue any more"]
    pub fn take_first(&mut self, most: usize, mut fits: impl FnMut(T) -> bool) -> Option<T> {
        let mut left = most;
        let mut levels = self.ready;
        while let Some(level) = levels.checked_ilog2() {
            for thread in Iter::from(self.heads[level as usize]) {
                if left == 0 {
                    return None;
                }
                left -= 1;
                if fits(thread) {
                    self.remove(thread);
                    return Some(thread);
                }
            }
            levels &= !(1 << level);
        }
        None
    }

    /// The priority at which the thread is queued, `None` if it is in no run queue.
    pub fn priority_of(&self, thread: T) -> Option<EffectivePriority> {
        let place = thread.links().list.place.load(Ordering::Relaxed);
        (place < place::LEVELS).then(|| EffectivePriority::from_low_bits(place))
    }

    /// Moves a ready thread to the end of another level, as its effective priority changed; `false` if it is not
    /// ready. A thread that is at this priority already keeps its turn.
    pub fn requeue(&mut self, thread: T, priority: EffectivePriority) -> bool {
        match self.priority_of(thread) {
            None => false,
            Some(old) if old == priority => true,
            Some(old) => {
                self.unlink(thread, old);
                self.push_back(thread, priority);
                true
            }
        }
    }

    fn unlink(&mut self, thread: T, priority: EffectivePriority) {
        debug_assert!(
            self.front(priority).is_some(),
            "the thread is in another run queue"
        );
        self.ends(priority).unlink(thread);
        self.forget_if_empty(priority);
    }

    #[inline]
    fn ends(&mut self, priority: EffectivePriority) -> Ends<'_, T> {
        Ends {
            head: &mut self.heads[priority.index()],
            tail: &mut self.tails[priority.index()],
        }
    }

    #[inline]
    fn forget_if_empty(&mut self, priority: EffectivePriority) {
        if self.front(priority).is_none() {
            self.ready &= !(1 << priority.index());
        }
    }
}

impl<T: Node> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
const fn place_at(priority: EffectivePriority) -> u32 {
    priority.index() as u32
}
