//! Which CPU a thread belongs to, and how it is handed over.
//!
//! A thread belongs to one CPU, its *home*: only that CPU queues it, runs it, times it, ends its waits. So those need no
//! lock. What others want of the thread they write into it (its message, a word of questions) and push it into its
//! home's [`Inbox`](crate::Inbox). The home alone gives it away.
//!
//! # The protocol
//!
//! The giver takes the thread out of all that it keeps it in, notes in it what it was ([`Home::leave_for`] publishes that), and
//! pushes it into the taker's inbox. From then on it is *on the way*: it has no home that would do anything with
//! it. The taker is handed it by its inbox, asks [`Home::arrive`], and is the home from there on.
//!
//! A CPU that reads the home and pushes may be late: the thread is gone from there. So whoever is handed a thread
//! asks [`Home::arrive`] first, and pushes one that belongs elsewhere on to where it belongs. Since a thread is in one
//! inbox at a time, a push that is answered with [`Pushed::Already`](crate::Pushed::Already) may speak of *any* inbox; its owner
//! pushes the thread on, and the last to be handed it sees everything that was written before any of the pushes. So no
//! question is lost, and none is answered by a CPU that is not the home.
//!
//! Why a CPU may trust "it is mine": only the home changes the word to another CPU's, so a CPU that reads its own
//! number without the mark of the way has read what only itself can change.
//!
//! A thread that was not started yet has no home, and cannot be pushed: questions stay in its word until it arrives somewhere,
//! where they are looked at in any case. For that to miss nothing, asking is: write the question, then read the home; and
//! starting: write the home, then (on arrival) read the questions; both with sequentially consistent operations.
//!
//! The models at the end are checked by loom.

use crate::atomic::{AtomicU32, Ordering, const_unless_loom};

/// Bit of the word: it is on its way there.
const ON_THE_WAY: u32 = 1 << 31;
/// The word of a thread that was not started.
const NOWHERE: u32 = u32::MAX;

/// A thread's home. Part of the thread.
pub struct Home {
    word: AtomicU32,
}

/// What a CPU that was handed a thread has to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Arrival {
    /// It is this CPU's: answer what was asked.
    Here,
    /// It has just become this CPU's: put it where it was taken out, then answer what was asked.
    Arrived,
    /// It belongs to the CPU with this index, or is on its way there: push it on.
    Elsewhere(u32),
}

impl Home {
    const_unless_loom! {
        /// The home of a thread that was not started.
        pub fn nowhere() -> Home {
            Home { word: AtomicU32::new(NOWHERE) }
        }
    }

    /// Whether the thread is this CPU's own. For the CPU with this index itself, the answer holds until it gives the thread away.
    #[inline]
    pub fn is(&self, cpu: u32) -> bool {
        self.word.load(Ordering::Relaxed) == cpu
    }

    /// The CPU that it belongs to or is on its way to: where to push it. `None` if it was not started.
    #[inline]
    pub fn cpu(&self) -> Option<u32> {
        match self.word.load(Ordering::SeqCst) {
            NOWHERE => None,
            word => Some(word & !ON_THE_WAY),
        }
    }

    /// The CPU that it belongs to; `None` while it is on its way, or was not started.
    pub fn settled(&self) -> Option<u32> {
        match self.word.load(Ordering::SeqCst) {
            word if word & ON_THE_WAY != 0 => None,
            word => Some(word),
        }
    }

    /// Gives the thread to another CPU (or a first one), which must then be handed it by its inbox. To be called by the home,
    /// or by whoever starts the thread.
    pub fn leave_for(&self, cpu: u32) {
        debug_assert!(cpu & ON_THE_WAY == 0, "no such CPU");
        self.word.store(cpu | ON_THE_WAY, Ordering::SeqCst);
    }

    /// Makes the CPU with this index the home of a thread that was not started. To be called by that CPU, which must look at what was asked
    /// for the thread afterwards, as when it arrives.
    pub fn begin(&self, cpu: u32) {
        debug_assert!(
            self.word.load(Ordering::Relaxed) == NOWHERE,
            "it was started"
        );
        self.word.store(cpu, Ordering::SeqCst);
    }

    /// Judges a thread that `cpu` was handed by its inbox. To be called by the CPU with this index only.
    pub fn arrive(&self, cpu: u32) -> Arrival {
        match self.word.load(Ordering::Acquire) {
            word if word == cpu => Arrival::Here,
            word if word == cpu | ON_THE_WAY => {
                self.word.store(cpu, Ordering::SeqCst);
                Arrival::Arrived
            }
            word => Arrival::Elsewhere(word & !ON_THE_WAY),
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::nowhere()
    }
}

#[cfg(test)]
mod models;
