//! A first-in first-out list of threads, linked through the threads themselves.
//!
//! It is the level of a run queue, and as well what those are kept in who wait for a thread's rest or end: a
//! blocked thread is in no run queue, so both use the same links. Every operation is O(1), the removal of a
//! thread from the middle (its deadline passed, it was killed) included.
//!
//! What may go wrong: a thread removed through another list than the one it is in. Debug builds assert what can
//! be seen of that at the ends of the list.

use core::hint::cold_path;

use crate::atomic::Ordering;
use crate::node::{Node, place};

/// A list of threads. Exclusive use is the caller's affair: `&mut` says so.
pub struct List<T> {
    head: Option<T>,
    tail: Option<T>,
}

/// The two ends of a list, wherever they are kept: the work itself.
///
/// The links of a thread that is in no list are `None`; so the usual case of [`exchange`](Self::exchange) needs not write them.
pub(crate) struct Ends<'a, T> {
    pub(crate) head: &'a mut Option<T>,
    pub(crate) tail: &'a mut Option<T>,
}

impl<T: Node> List<T> {
    /// An empty list.
    pub const fn new() -> List<T> {
        List {
            head: None,
            tail: None,
        }
    }

    /// Whether nobody is in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first thread, which stays in the list.
    #[inline]
    pub const fn front(&self) -> Option<T> {
        self.head
    }

    /// The only thread of the list; `None` if there is none, or more than one.
    #[inline]
    pub fn only(&self) -> Option<T> {
        if self.head == self.tail {
            self.head
        } else {
            None
        }
    }

    /// Adds a thread at the end. It must be in no list and no run queue (asserted in debug builds).
    pub fn push_back(&mut self, thread: T) {
        self.ends().link_back(thread, place::PLAIN_LIST);
    }

    /// Adds a thread at the front. It must be in no list and no run queue (asserted in debug builds).
    pub fn push_front(&mut self, thread: T) {
        self.ends().link_front(thread, place::PLAIN_LIST);
    }

    /// Takes the first thread out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        self.ends().unlink_front()
    }

    /// Takes a thread out, wherever it stands; `false` if it is in no list.
    ///
    /// A thread that is in *another* list must not be given.
    pub fn remove(&mut self, thread: T) -> bool {
        if thread.links().list.place.load(Ordering::Relaxed) != place::PLAIN_LIST {
            debug_assert!(
                !thread.links().is_listed(),
                "removing from a list what a run queue holds"
            );
            return false;
        }
        self.ends().unlink(thread);
        true
    }

    /// The threads from first to last.
    pub const fn iter(&self) -> Iter<'_, T> {
        Iter::from(self.head)
    }

    #[inline]
    fn ends(&mut self) -> Ends<'_, T> {
        Ends {
            head: &mut self.head,
            tail: &mut self.tail,
        }
    }
}

impl<T: Node> Ends<'_, T> {
    #[inline]
    pub(crate) fn link_back(self, thread: T, place: u32) {
        enter(thread, place);
        match *self.tail {
            Some(tail) => {
                thread.links().list.previous.set(Some(tail));
                tail.links().list.next.set(Some(thread));
            }
            None => *self.head = Some(thread),
        }
        *self.tail = Some(thread);
    }

    #[inline]
    pub(crate) fn link_front(self, thread: T, place: u32) {
        enter(thread, place);
        match *self.head {
            Some(head) => {
                thread.links().list.next.set(Some(head));
                head.links().list.previous.set(Some(thread));
            }
            None => *self.tail = Some(thread),
        }
        *self.head = Some(thread);
    }

    /// Takes the first thread out.
    #[inline]
    pub(crate) fn unlink_front(self) -> Option<T> {
        let thread = (*self.head)?;
        let links = &thread.links().list;
        let next = links.next.get();
        *self.head = next;
        match next {
            Some(next) => {
                next.links().list.previous.set(None);
                links.next.set(None);
            }
            None => *self.tail = None,
        }
        links.place.store(place::NOWHERE, Ordering::Relaxed);
        Some(thread)
    }

    /// Links a thread at the end and takes `first`, the first one, out. `place` is what both are in: a level of a run queue.
    #[inline(always)]
    pub(crate) fn exchange(self, thread: T, first: T, place: u32) {
        debug_assert!(*self.head == Some(first), "the first is another");
        let links = &first.links().list;
        debug_assert!(
            links.place.load(Ordering::Relaxed) == place,
            "it is elsewhere"
        );
        match links.next.get() {
            // Two that take turns, the usual case, change places.
            None => {
                enter(thread, place);
                *self.head = Some(thread);
                *self.tail = Some(thread);
                links.place.store(place::NOWHERE, Ordering::Relaxed);
            }
            Some(next) => {
                cold_path();
                *self.head = Some(next);
                next.links().list.previous.set(None);
                links.next.set(None);
                links.place.store(place::NOWHERE, Ordering::Relaxed);
                self.link_back(thread, place);
            }
        }
    }

    pub(crate) fn unlink(self, thread: T) {
        let links = &thread.links().list;
        let (previous, next) = (links.previous.get(), links.next.get());
        if let Some(previous) = previous {
            previous.links().list.next.set(next);
        } else {
            debug_assert!(*self.head == Some(thread), "the thread is in another list");
            *self.head = next;
        }
        if let Some(next) = next {
            next.links().list.previous.set(previous);
        } else {
            debug_assert!(*self.tail == Some(thread), "the thread is in another list");
            *self.tail = previous;
        }
        links.previous.set(None);
        links.next.set(None);
        links.place.store(place::NOWHERE, Ordering::Relaxed);
    }
}

#[inline]
fn enter<T: Node>(thread: T, place: u32) {
    let links = thread.links();
    debug_assert!(
        !links.is_listed(),
        "the thread is in a list or run queue already"
    );
    debug_assert!(links.list.next.get().is_none() && links.list.previous.get().is_none());
    links.list.place.store(place, Ordering::Relaxed);
}

impl<T: Node> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, T: Node> IntoIterator for &'a List<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// The threads of a [`List`] from first to last.
pub struct Iter<'a, T> {
    list: core::marker::PhantomData<&'a List<T>>,
    next: Option<T>,
}

impl<T> Iter<'_, T> {
    /// Those from `first` on.
    pub(crate) const fn from(first: Option<T>) -> Self {
        Iter {
            list: core::marker::PhantomData,
            next: first,
        }
    }
}

impl<T: Node> Iterator for Iter<'_, T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        let thread = self.next?;
        self.next = thread.links().list.next.get();
        Some(thread)
    }
}
