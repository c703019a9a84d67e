//! That nobody is raised by a call that is over, nor left behind by one that waits.
//!
//! A thread inherits by what it reads of others without a lock, so who changes something and who reads it must not both come too early. There are
//! two such pairs, and in each both sides write first and read then, with a fence in between:
//!
//! | who changes | who reads |
//! |---|---|
//! | ends a call; then looks whether its holder is marked as raised | marks itself as raised; then computes what it inherits ([`settle`]) |
//! | stores another priority; then looks who holds its reply ([`after_new_priority`]) | becomes the one who holds it ([`take_over`](Held::take_over)); then reads the priority |
//!
//! The models (`raise/models.rs`) try them in every interleaving.

use core::ptr;
use core::sync::atomic::Ordering;

use sched::EffectivePriority;

use super::{Held, Marks, Thread};
use crate::atomics::{Atomic, Atomics};
use crate::ipc::{OnWord, ReplyTarget, WaitOn};

#[cfg(test)]
mod models;

/// Brings what a thread inherits up to date: `store` is given it, and says whether its priority has changed. For its home.
#[inline(always)]
pub(super) fn settle<A: Atomics>(
    marks: Marks<'_, A>,
    base: EffectivePriority,
    inherited: impl Fn() -> EffectivePriority,
    store: impl FnOnce(EffectivePriority) -> bool,
) -> bool {
    let mut highest = inherited();
    let is_marked = marks.is_raised();
    if highest > base && !is_marked {
        marks.raise(true);
        // Whoever ends a call and sees no mark has ended it before this.
        A::fence(Ordering::SeqCst);
        highest = inherited();
    }
    let changed = store(highest);
    if highest <= base && marks.is_raised() {
        marks.raise(false);
    }
    changed
}

/// What a thread waits for, whose priority was stored just now. For its home.
#[inline(always)]
pub(crate) fn after_new_priority<A: Atomics>(on: &OnWord<A>) -> WaitOn {
    // Whoever writes the word, and computes what it inherits after that, sees the priority; or is seen here.
    A::fence(Ordering::SeqCst);
    on.read()
}

impl<A: Atomics> Held<A> {
    /// The thread `me`, whose this is, becomes the one to answer `reply`, whose caller waits by `on`; false if that `waits` no more. What it
    /// inherits is to be computed after this.
    #[inline(always)]
    pub(super) fn take_over(
        &self,
        me: *const Thread,
        reply: &ReplyTarget,
        on: &OnWord<A>,
        waits: impl FnOnce() -> bool,
    ) -> bool {
        self.keep_caller(reply);
        let former = on.read();
        if !matches!(former, WaitOn::Reply(_)) {
            return false;
        }
        on.hand_on(former, me);
        if !waits() {
            // It has ended meanwhile; another call of that thread may have begun, which is not this one's to answer.
            self.kept.store(ptr::null_mut(), Ordering::SeqCst);
            on.hand_on(WaitOn::Reply(me), ptr::null());
            return false;
        }
        true
    }
}
