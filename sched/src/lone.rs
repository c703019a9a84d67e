//! A place for one who waits alone, in front of a queue under a lock.
//!
//! Most servers have one thread, so at most one receiver waits at an endpoint, and no sender waits while it does. Then this word is all there
//! is: the receiver puts itself in and a sender takes it out by one compare-and-exchange each, and nobody takes the lock. As soon
//! as there is more, whoever has the lock closes the place, moves who is in it into the queue, and leaves it closed until there is no more
//! than one receiver again.
//!
//! | word | meaning |
//! |---|---|
//! | 1 | nobody waits, here or in the queue |
//! | 3 | closed: the queue says who waits |
//! | a thread's | it waits here, and nobody in the queue |
//! | the same with bit 1 | it is about to wait: it has come in, and nobody may touch it until it has *settled* |
//!
//! The last is for a receiver that still needs what a partner would write over (the answer in its registers) when it puts itself in. It settles within a few
//! dozen instructions, during which it waits for nobody; who has the lock waits for that.
//!
//! What may go wrong: two who change the word without a compare-and-exchange. While it is closed it belongs to the lock's holder, and
//! while bit 1 is set to the one who has set it.

use core::marker::PhantomData;
use core::num::NonZeroUsize;

use crate::atomic::{AtomicUsize, Ordering};
use crate::node::Node;

#[cfg(test)]
mod models;

const FREE: usize = 1;
const CLOSED: usize = 3;
const UNSETTLED: usize = 2;
/// No thread that may be touched stands here.
const NOBODY: usize = 3;

/// The place.
///
/// The words of the threads ([`Node::into_word`]) must be multiples of 4.
pub struct Lone<T> {
    word: AtomicUsize,
    _thread: PhantomData<T>,
}

/// What is left in the queue when the lock is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left<T> {
    /// Nobody.
    Nobody,
    /// Only this receiver, which is in the queue no more.
    One(T),
    /// Senders, or more than one receiver.
    More,
}

impl<T: Node> Lone<T> {
    crate::atomic::const_unless_loom! {
        /// A place with nobody in it, of a queue with nobody in it.
        pub fn new() -> Lone<T> {
            Lone { word: AtomicUsize::new(FREE), _thread: PhantomData }
        }
    }

    /// Who waits here and has settled.
    #[inline(always)]
    pub fn waiting(&self) -> Option<T> {
        let word = self.word.load(Ordering::Acquire);
        // The word is never 0; to say so like this is shorter than to ask.
        let thread = NonZeroUsize::new(word).unwrap_or(NonZeroUsize::MIN);
        (word & NOBODY == 0).then(|| T::from_word(thread))
    }

    /// Takes `thread` out, which [waited](Self::waiting) here; false if it does no more.
    #[inline(always)]
    pub fn take(&self, thread: T) -> bool {
        self.word
            .compare_exchange(
                thread.into_word().get(),
                FREE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Puts `thread` in, unsettled; false if anybody waits, here or in the queue, or if somebody has the lock.
    #[inline(always)]
    pub fn enter(&self, thread: T) -> bool {
        self.word
            .compare_exchange(
                FREE,
                thread.into_word().get() | UNSETTLED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Takes the unsettled thread out again. For the one that has put it in.
    #[inline]
    pub fn withdraw(&self) {
        self.word.store(FREE, Ordering::Release);
    }

    /// The thread that was put in has settled. For the one that has put it in.
    #[inline]
    pub fn settle(&self) {
        // Nobody else changes the word now, so that load and store are as good as an exchange.
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word & !UNSETTLED, Ordering::Release);
    }

    /// Where [`settle`](Self::settle) clears bit 1, for code that does so in one instruction.
    #[cfg(not(test))]
    #[inline(always)]
    pub fn settling(&self) -> *mut usize {
        self.word.as_ptr()
    }

    /// Closes the place and gives who waited in it. For the holder of the lock. `relax` is called while somebody settles.
    #[inline]
    pub fn close(&self, mut relax: impl FnMut()) -> Option<T> {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word == CLOSED {
                return None;
            }
            if word & NOBODY == UNSETTLED {
                relax();
                continue;
            }
            if self
                .word
                .compare_exchange(word, CLOSED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return if word == FREE {
                    None
                } else {
                    NonZeroUsize::new(word).map(T::from_word)
                };
            }
        }
    }

    /// The opposite of [`close`](Self::close), just before the lock is given back.
    #[inline]
    pub fn open(&self, left: Left<T>) {
        let word = match left {
            Left::Nobody => FREE,
            Left::One(thread) => thread.into_word().get(),
            Left::More => return,
        };
        self.word.store(word, Ordering::Release);
    }
}

impl<T: Node> Default for Lone<T> {
    fn default() -> Self {
        Self::new()
    }
}
