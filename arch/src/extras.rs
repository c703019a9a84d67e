//! What few threads have, and the switch must carry for those that have it: thread-area segments.
//!
//! A thread's [`Extras`] begin with a word that has a bit for each kind that the thread has. The switch ors the words of
//! the two threads; if nothing is set, which is the rule, it does nothing more. So each kind costs only those that use it, and the
//! thread that runs after them.

use core::cell::Cell;

use crate::cpu::CpuBlock;
use crate::segments::TlsSlots;

/// The thread has thread-area segments.
const TLS: u32 = 1 << 0;

/// A thread's part. It is touched by the CPU that runs the thread, or by whoever holds the thread stopped.
pub struct Extras {
    kinds: Cell<u32>,
    tls: Cell<TlsSlots>,
}

impl Extras {
    /// Nothing of all.
    pub(crate) const fn none() -> Extras {
        Extras {
            kinds: Cell::new(0),
            tls: Cell::new(TlsSlots::EMPTY),
        }
    }

    /// A bit for each kind that the thread has.
    #[inline]
    pub(crate) fn kinds(&self) -> u32 {
        self.kinds.get()
    }

    fn mark(&self, kind: u32, has: bool) {
        let others = self.kinds.get() & !kind;
        self.kinds.set(others | if has { kind } else { 0 });
    }

    /// The thread's slots.
    pub fn tls(&self) -> TlsSlots {
        self.tls.get()
    }

    /// Changes the thread's slots, from its next switch on.
    pub(crate) fn set_tls(&self, slots: TlsSlots) {
        self.tls.set(slots);
        self.mark(TLS, !slots.is_empty());
    }
}

/// Takes from this CPU what `previous` had and `next` has not, and gives it what `next` has. Before selectors are loaded.
///
/// # Safety
/// To be called by the CPU of `block`, in a switch between the two.
#[cold]
#[inline(never)]
pub(crate) unsafe fn switch(block: &CpuBlock, previous: &Extras, next: &Extras) {
    let either = previous.kinds() | next.kinds();
    if either & TLS != 0 {
        // SAFETY: the caller's promise.
        unsafe { load_tls(block, next) };
    }
}

/// Fills this CPU's slots with those of a thread.
///
/// # Safety
/// To be called by the CPU of `block`, for the thread that runs on it or is about to.
pub(crate) unsafe fn load_tls(block: &CpuBlock, thread: &Extras) {
    // SAFETY: the caller's promise.
    unsafe { block.set_tls(thread.tls.get().descriptors()) };
}
