//! The reply that a thread holds: the right to answer the call that it received last.
//!
//! Most servers answer a call before they receive the next, so this right never needs a place in the process's table: the thread
//! has it by itself, and a slot of the table is *lent* to the thread, so that the right has a handle as any other. Each call that the
//! thread receives raises the slot's generation, here and not in the table, so an old handle names nothing. Whoever delivers the call writes the
//! three words below, and whoever answers reads them: no lock, and nothing to be made room for.
//!
//! A thread that receives the next call before it has answered keeps the former right as an ordinary entry of the table, under the same
//! handle ([`keep`](Thread::keep_held)), and is lent another slot.
//!
//! The other threads of the process may use the handle as well, and then say so (`taken`), so that it is used up for all. One that is
//! *moved* by another thread while its holder answers may be answered by either. They read the words while they may change: the name is read first and
//! last, so that they belong together; and what decides who answers is the caller's stamp alone (see `stamp.rs`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::{Error, Handle};

use super::{Thread, ThreadPtr};
use crate::atomics::{Atomic, Atomics, Native};
use crate::ipc::ReplyTarget;
use crate::object::{AnyObject, Capability, HandleTable};

/// One step of the generation in a handle's word.
const GENERATION: u64 = 1 << 32;

/// Whether no later handle than this may be given: in the upper half of all generations a slot is lent to nobody, so that this is the
/// sign. It lasts for two thousand million calls.
#[inline(always)]
const fn is_worn_out(name: u64) -> bool {
    name.cast_signed() < 0
}

/// What a thread holds. Written by the thread itself, or by who has taken it out of its wait.
pub(crate) struct Held<A: Atomics = Native> {
    /// The handle of the reply that was delivered last; 0: no slot is lent.
    name: A::U64,
    /// The stamp of its call.
    stamp: A::U64,
    /// Its caller; null if it was used.
    caller: A::Pointer<Thread>,
    /// The call, kept in the table, whose caller's priority it inherits: its stamp and its caller; null: there is none. Written by the thread itself or
    /// by who has taken it out of its wait; whoever takes that reply away clears it.
    kept_stamp: A::U64,
    pub(super) kept: A::Pointer<Thread>,
    /// The last handle that another thread of the process has used up. Written under the table's lock.
    taken: A::U64,
}

impl Held {
    pub(super) const fn new() -> Held {
        Held {
            name: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            caller: AtomicPtr::new(core::ptr::null_mut()),
            kept_stamp: AtomicU64::new(0),
            kept: AtomicPtr::new(core::ptr::null_mut()),
            taken: AtomicU64::new(0),
        }
    }

    /// Who waits for the reply that is held, if anybody does. From any CPU: what is delivered or used at the same moment may be
    /// seen or not. The caller is good until the CPU's next quiescent point.
    #[inline]
    pub(crate) fn caller(&self) -> Option<ThreadPtr> {
        self.shown()?.waiting()
    }

    /// The caller of the call that is kept, if it still waits. As for [`caller`](Self::caller).
    pub(crate) fn kept_caller(&self) -> Option<ThreadPtr> {
        self.kept()?.waiting()
    }

    /// Forgets what is kept; gives its caller if that still waits for it.
    pub(super) fn forget_kept(&self) -> Option<ThreadPtr> {
        let caller = self.kept_caller();
        self.kept.store(core::ptr::null_mut(), Ordering::SeqCst);
        caller
    }
}

impl<A: Atomics> Held<A> {
    /// As [`Held::new`], of any family, with this slot lent.
    #[cfg(test)]
    pub(super) fn of(name: Handle) -> Held<A> {
        Held {
            name: A::U64::new(name.0),
            stamp: A::U64::new(0),
            caller: A::Pointer::new(core::ptr::null_mut()),
            kept_stamp: A::U64::new(0),
            kept: A::Pointer::new(core::ptr::null_mut()),
            taken: A::U64::new(0),
        }
    }

    /// Whether a slot is lent, so that a reply can be delivered.
    #[inline(always)]
    pub(crate) fn has_slot(&self) -> bool {
        self.name.load(Ordering::Relaxed) != 0
    }

    /// Whether this handle is the name of what is held now.
    pub(crate) fn names(&self, handle: Handle) -> bool {
        self.target(handle).is_some()
    }

    /// The right behind a handle, if it is that. For any thread of the process, under the table's lock.
    pub(crate) fn target(&self, handle: Handle) -> Option<ReplyTarget> {
        let is_named = || self.name.load(Ordering::Acquire) == handle.0;
        if handle.is_none() || !is_named() || self.taken.load(Ordering::Relaxed) == handle.0 {
            return None;
        }
        let caller = self.caller.load(Ordering::Acquire);
        let stamp = self.stamp.load(Ordering::Relaxed);
        A::fence(Ordering::Acquire);
        (!caller.is_null() && is_named()).then(|| ReplyTarget::new(caller, stamp))
    }

    /// The handle of what was delivered last, for the thread itself.
    pub(crate) fn name(&self) -> Handle {
        Handle(self.name.load(Ordering::Relaxed))
    }

    /// The right behind a handle, for the thread itself: its caller and the stamp.
    ///
    /// `None` as well if it is the last of its slot.
    #[inline(always)]
    pub(crate) fn own(&self, handle: Handle) -> Option<(NonNull<Thread>, u64)> {
        if self.name.load(Ordering::Relaxed) != handle.0 || is_worn_out(handle.0) {
            return None;
        }
        let caller = NonNull::new(self.caller.load(Ordering::Relaxed))?;
        Some((caller, self.stamp.load(Ordering::Relaxed)))
    }

    /// Whether the slot has no generation left for another reply.
    #[inline(always)]
    pub(crate) fn is_worn_out(&self) -> bool {
        is_worn_out(self.name.load(Ordering::Relaxed))
    }

    /// Delivers the right to answer the call `stamp` of `caller`. Returns its handle.
    ///
    /// The slot has a generation left, as the thread has seen to before it waited, and nothing is held.
    #[inline(always)]
    pub(crate) fn deliver(&self, caller: ThreadPtr, stamp: u64) -> Handle {
        debug_assert!(self.has_slot() && !self.is_worn_out() && !self.is_some());
        let name = self.name.load(Ordering::Relaxed).wrapping_add(GENERATION);
        // The name first, the caller last: see `target`.
        self.name.store(name, Ordering::Release);
        self.stamp.store(stamp, Ordering::Release);
        self.caller
            .store(caller.as_ptr().cast_mut(), Ordering::Release);
        Handle(name)
    }

    /// Whether something is held.
    #[inline(always)]
    pub(crate) fn is_some(&self) -> bool {
        !self.caller.load(Ordering::Relaxed).is_null()
    }

    /// What is held, to be asked whether anybody waits for it.
    #[inline(always)]
    fn shown(&self) -> Option<ReplyTarget> {
        let caller = self.caller.load(Ordering::Acquire);
        let name = self.name.load(Ordering::Relaxed);
        if caller.is_null() || self.taken.load(Ordering::Relaxed) == name {
            return None;
        }
        Some(ReplyTarget::new(caller, self.stamp.load(Ordering::Acquire)))
    }

    /// What is kept, as [`shown`](Self::shown).
    #[inline(always)]
    pub(super) fn kept(&self) -> Option<ReplyTarget> {
        let caller = self.kept.load(Ordering::SeqCst);
        (!caller.is_null())
            .then(|| ReplyTarget::new(caller, self.kept_stamp.load(Ordering::SeqCst)))
    }

    pub(super) fn keep_caller(&self, reply: &ReplyTarget) {
        let (caller, stamp) = reply.parts();
        self.kept_stamp.store(stamp, Ordering::SeqCst);
        self.kept.store(caller.cast_mut(), Ordering::SeqCst);
    }

    /// Forgets what is kept if it is of this caller.
    pub(super) fn forget_kept_of(&self, caller: &Thread) {
        let caller = core::ptr::from_ref(caller).cast_mut();
        let null = core::ptr::null_mut();
        let _ = self
            .kept
            .compare_exchange(caller, null, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Another thread of the process has used what has this handle, which it has just [looked up](Self::target), and still has the
    /// table's lock. The thread that holds it finds out from the table, or from the caller's stamp.
    pub(crate) fn was_taken(&self, handle: Handle) {
        self.taken.store(handle.0, Ordering::Relaxed);
    }

    /// What is held was used.
    #[inline(always)]
    pub(crate) fn use_up(&self) {
        self.caller.store(core::ptr::null_mut(), Ordering::Release);
    }

    fn take(&self) -> Option<ReplyTarget> {
        let target = self.target(Handle(self.name.load(Ordering::Relaxed)));
        self.use_up();
        target
    }
}

impl Thread {
    /// Sees to it that a reply can be delivered: what is held becomes an ordinary handle, and there is a slot for the next. For the thread
    /// itself.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] or [`Error::NoMemory`]: nothing is lost, but what was held has become an ordinary handle.
    pub(crate) fn expect_reply(&self) -> Result<(), Error> {
        if self.held.has_slot() && !self.held.is_some() && !self.held.is_worn_out() {
            return Ok(());
        }
        let mut table = self.process().table.lock();
        self.keep_held(&mut table);
        if self.held.has_slot() {
            self.return_slot(&mut table);
        }
        loop {
            let (index, generation) = table.lend(ThreadPtr::new(self))?;
            // The first delivery raises it.
            let name = Handle::new(index, generation).0;
            self.held.name.store(name, Ordering::Release);
            if !is_worn_out(name) {
                return Ok(());
            }
            // A slot of which a thread is in no need: it is never used again.
            self.held.name.store(0, Ordering::Release);
            table.take_back(index, u32::MAX);
        }
    }

    /// Makes an ordinary handle of what is held, with the same name.
    fn keep_held(&self, table: &mut HandleTable) {
        let name = Handle(self.held.name.load(Ordering::Relaxed));
        if let Some(target) = self.held.take() {
            let reply = Capability::of_reply(AnyObject::Reply(target));
            table.keep(name.index(), name.generation(), reply);
            self.held.name.store(0, Ordering::Release);
            self.adopt(&target);
        }
    }

    fn return_slot(&self, table: &mut HandleTable) {
        let name = Handle(self.held.name.swap(0, Ordering::AcqRel));
        table.take_back(name.index(), name.generation());
    }

    /// Gives up what is held, its slot, and those reserved for handles. For the thread itself, at its end.
    pub(crate) fn drop_held(&self) {
        self.forget_kept();
        let reserved = self.wait.reserved.swap(0, Ordering::Relaxed);
        if !self.held.has_slot() && reserved == 0 {
            return;
        }
        let mut table = self.process().table.lock();
        table.release(reserved);
        let dropped = self.held.take();
        if self.held.has_slot() {
            self.return_slot(&mut table);
        }
        drop(table);
        if let Some(target) = dropped {
            target.dropped();
        }
    }
}
