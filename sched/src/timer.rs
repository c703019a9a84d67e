//! The deadlines of one CPU.
//!
//! A leftist heap (Crane's) linked through the threads: the earliest deadline is at the root, and inserting, taking the
//! earliest and removing any other are O(log n) *at worst*, not on average, as the kernel's entries must be
//! bounded. It allocates nothing, since each thread can block on one deadline only.
//!
//! The idea: a node's *rank* is the length of its path to the right, and no right child has a higher rank than
//! its left sibling. So a right path is never longer than log2(n + 1), and all work is done along right paths.

use core::mem;

use crate::atomic::Ordering;
use crate::node::Node;

/// Threads by deadline. Only the CPU that owns it touches it.
pub struct TimerQueue<T> {
    root: Option<T>,
    length: usize,
}

impl<T: Node> TimerQueue<T> {
    /// An empty queue.
    pub const fn new() -> TimerQueue<T> {
        TimerQueue {
            root: None,
            length: 0,
        }
    }

    /// How many deadlines are in it.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Adds a thread with its deadline in absolute nanoseconds. It must be in no timer queue (asserted in debug
    /// builds). Among equal deadlines the order is open.
    pub fn insert(&mut self, thread: T, deadline_ns: u64) {
        let links = &thread.links().timer;
        debug_assert!(
            !thread.links().is_timed(),
            "the thread has a deadline already"
        );
        links.deadline.store(deadline_ns, Ordering::Relaxed);
        links.rank.store(1, Ordering::Relaxed);
        links.parent.set(None);
        links.left.set(None);
        links.right.set(None);
        self.root = merge(self.root, Some(thread));
        self.length += 1;
    }

    /// Takes a thread's deadline out; `false` if it has none.
    ///
    /// A thread that is in *another* CPU's queue must not be given.
    pub fn remove(&mut self, thread: T) -> bool {
        if !thread.links().is_timed() {
            return false;
        }
        let links = &thread.links().timer;
        let parent = links.parent.get();
        let (left, right) = (links.left.get(), links.right.get());
        links.rank.store(0, Ordering::Relaxed);
        links.parent.set(None);
        links.left.set(None);
        links.right.set(None);

        let rest = merge(left, right);
        if let Some(rest) = rest {
            rest.links().timer.parent.set(parent);
        }
        match parent {
            None => {
                debug_assert!(
                    self.root == Some(thread),
                    "the deadline is in another queue"
                );
                self.root = rest;
            }
            Some(parent) => {
                let links = &parent.links().timer;
                let side = if links.left.get() == Some(thread) {
                    &links.left
                } else {
                    &links.right
                };
                side.set(rest);
                repair_upwards(parent);
            }
        }
        self.length -= 1;
        true
    }

    /// A thread's deadline in absolute nanoseconds; `None` if it has none here.
    ///
    /// A thread that is in *another* CPU's queue must not be given.
    pub fn deadline_of(&self, thread: T) -> Option<u64> {
        thread.links().is_timed().then(|| deadline(thread))
    }

    /// The earliest deadline in absolute nanoseconds: what the CPU's timer must be set to.
    pub fn earliest(&self) -> Option<u64> {
        self.root.map(deadline)
    }

    /// Takes out one thread whose deadline is `now_ns` or earlier, the earliest first. Call it until it gives
    /// `None`.
    #[must_use = "the thread's deadline is in no queue any more"]
    pub fn pop_expired(&mut self, now_ns: u64) -> Option<T> {
        let thread = self.root?;
        if deadline(thread) > now_ns {
            return None;
        }
        self.remove(thread);
        Some(thread)
    }
}

impl<T: Node> Default for TimerQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn deadline<T: Node>(thread: T) -> u64 {
    thread.links().timer.deadline.load(Ordering::Relaxed)
}

fn rank<T: Node>(thread: Option<T>) -> u32 {
    thread.map_or(0, |t| t.links().timer.rank.load(Ordering::Relaxed))
}

/// Merges two heaps into one whose root has no parent.
///
/// Down along the two right paths, always taking the earlier of the two, then up again over the nodes that were
/// passed, putting ranks right.
fn merge<T: Node>(a: Option<T>, b: Option<T>) -> Option<T> {
    let (mut node, mut other) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (one, None) | (None, one) => {
            if let Some(one) = one {
                one.links().timer.parent.set(None);
            }
            return one;
        }
    };
    if deadline(other) < deadline(node) {
        mem::swap(&mut node, &mut other);
    }
    let root = node;
    root.links().timer.parent.set(None);
    // Invariant: `other` is not earlier than `node` and belongs somewhere on the right of it.
    loop {
        let links = &node.links().timer;
        match links.right.get() {
            Some(right) if deadline(right) <= deadline(other) => node = right,
            right => {
                links.right.set(Some(other));
                other.links().timer.parent.set(Some(node));
                match right {
                    Some(right) => (node, other) = (other, right),
                    None => break,
                }
            }
        }
    }
    loop {
        repair(node);
        if node == root {
            return Some(root);
        }
        match node.links().timer.parent.get() {
            Some(parent) => node = parent,
            None => return Some(root),
        }
    }
}

/// Puts one node in order: the child of higher rank on the left, the rank one above the right child's. Returns
/// whether the rank changed.
fn repair<T: Node>(node: T) -> bool {
    let links = &node.links().timer;
    let (left, right) = (links.left.get(), links.right.get());
    let lower = if rank(left) < rank(right) {
        links.left.set(right);
        links.right.set(left);
        rank(left)
    } else {
        rank(right)
    };
    links.rank.swap(lower + 1, Ordering::Relaxed) != lower + 1
}

/// Puts a node and those above it in order after its subtree shrank.
///
/// It goes on only while ranks change, and a rank that changes is at least the height climbed so far: that is
/// what bounds it to O(log n).
fn repair_upwards<T: Node>(mut node: T) {
    while repair(node) {
        match node.links().timer.parent.get() {
            Some(parent) => node = parent,
            None => return,
        }
    }
}
