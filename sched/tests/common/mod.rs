//! A thread as the kernel would have it: allocated for good, referred to by address.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use sched::{Links, Node};

pub struct Thread {
    links: Links<ThreadRef>,
    pub number: usize,
    pub value: AtomicU64,
}

#[derive(Clone, Copy)]
pub struct ThreadRef(pub &'static Thread);

impl ThreadRef {
    /// A new thread. It is never freed.
    pub fn new(number: usize) -> ThreadRef {
        ThreadRef(Box::leak(Box::new(Thread {
            links: Links::new(),
            number,
            value: AtomicU64::new(0),
        })))
    }

    pub fn many(count: usize) -> Vec<ThreadRef> {
        (0..count).map(ThreadRef::new).collect()
    }
}

impl PartialEq for ThreadRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ThreadRef {}

impl fmt::Debug for ThreadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0.number)
    }
}

impl Node for ThreadRef {
    fn links(&self) -> &Links<Self> {
        &self.0.links
    }
    fn into_word(self) -> NonZeroUsize {
        NonNull::from(self.0).expose_provenance()
    }
    fn from_word(word: NonZeroUsize) -> Self {
        // SAFETY: the word came from `into_word`, so it is the exposed address of a leaked thread.
        ThreadRef(unsafe { &*std::ptr::with_exposed_provenance(word.get()) })
    }
}
