//! Those who wait at an endpoint, and how many they are.

use core::ops::Deref;

use sched::{EffectivePriority, WaitQueue};

use crate::thread::ThreadPtr;

/// A queue that knows its length. What it is asked is the queue's own to answer; what changes who is in it goes through here.
pub(super) struct Queue {
    waiters: WaitQueue<ThreadPtr>,
    length: u32,
}

impl Deref for Queue {
    type Target = WaitQueue<ThreadPtr>;
    fn deref(&self) -> &WaitQueue<ThreadPtr> {
        &self.waiters
    }
}

impl Queue {
    /// Nobody waits.
    pub(super) const fn new() -> Queue {
        Queue {
            waiters: WaitQueue::new(),
            length: 0,
        }
    }

    /// How many wait.
    pub(super) const fn len(&self) -> u32 {
        self.length
    }

    /// See [`WaitQueue::push_back`].
    pub(super) fn push_back(&mut self, thread: ThreadPtr, priority: EffectivePriority) {
        self.waiters.push_back(thread, priority);
        self.length += 1;
    }

    /// See [`WaitQueue::pop_front`].
    pub(super) fn pop_front(&mut self) -> Option<ThreadPtr> {
        let popped = self.waiters.pop_front();
        self.length -= u32::from(popped.is_some());
        popped
    }

    /// See [`WaitQueue::remove`].
    pub(super) fn remove(&mut self, thread: ThreadPtr) -> bool {
        let removed = self.waiters.remove(thread);
        self.length -= u32::from(removed);
        removed
    }

    /// See [`WaitQueue::requeue`].
    pub(super) fn requeue(&mut self, thread: ThreadPtr, priority: EffectivePriority) -> bool {
        self.waiters.requeue(thread, priority)
    }
}
