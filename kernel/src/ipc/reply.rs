//! Replies: the one-shot right to answer a call.
//!
//! A reply names the calling thread and the number of its call, the *stamp* of the thread's slot. Slots are never given
//! back and stamps only grow, so a reply whose call has ended (answered, timed out, killed) is recognised without keeping
//! the caller alive and without counting references on the way of every call.
//!
//! The right lies in the process's table, or is held by the thread that received the call (see [`Held`](crate::thread::Held)).

use abi::{Error, Handle, Tag};

use super::report;
use super::transfer::{self, Carried, Posted};
use crate::object::{AnyObject, Borrowed, Capability, HandleTable, Section, stamp_of};
use crate::schedule;
use crate::thread::{Thread, ThreadPtr, is_call};

/// A call that waits for its answer.
#[derive(Clone, Copy)]
pub struct ReplyTarget {
    caller: *const Thread,
    stamp: u64,
}

// SAFETY: the pointer is to a slab slot, which is valid for ever; it is followed under the caller's lock only.
unsafe impl Send for ReplyTarget {}
// SAFETY: as above.
unsafe impl Sync for ReplyTarget {}

impl ReplyTarget {
    /// The right to answer the call `stamp` of `caller`, which points to a thread's slot.
    pub(crate) fn new(caller: *const Thread, stamp: u64) -> ReplyTarget {
        ReplyTarget { caller, stamp }
    }

    /// The right behind a handle, whether the table has it or a thread.
    ///
    /// # Errors
    /// [`Error::WrongObject`]; [`Error::BadHandle`] if it has just been used.
    pub(crate) fn of(object: &AnyObject, handle: Handle) -> Result<ReplyTarget, Error> {
        match object {
            AnyObject::Reply(target) => Ok(*target),
            AnyObject::Held(thread) => thread.get().held.target(handle).ok_or(Error::BadHandle),
            _ => Err(Error::WrongObject),
        }
    }

    /// Does something with the state of the thread that waits for this reply, which it is to say how a report of its goes on.
    ///
    /// # Errors
    /// [`Error::CallerGone`], [`Error::NoRight`] if it waits for the answer to a call of its own, or what `act` gives.
    #[cfg(target_os = "none")]
    pub(crate) fn while_reporting<R>(
        &self,
        act: impl FnOnce(&Thread) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        let caller = self.caller(&section).ok_or(Error::CallerGone)?;
        caller.while_reporting(self.stamp, || act(caller.get()))
    }

    /// The caller, if it still waits for this reply: good until the CPU's next quiescent point.
    pub(crate) fn waiting(&self) -> Option<ThreadPtr> {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        self.caller(&section)
            .map(|caller| ThreadPtr::new(caller.get()))
    }

    /// The slot and the stamp.
    pub(crate) fn parts(&self) -> (*const Thread, u64) {
        (self.caller, self.stamp)
    }

    /// The caller, if it may still wait for this reply.
    fn caller<'s>(&self, section: &'s Section) -> Option<Borrowed<'s, Thread>> {
        // SAFETY: the pointer is to a thread's slot. If the stamp is the call's, the thread waits and is alive, so
        // it was not retired before this section began.
        unsafe {
            is_call(
                stamp_of(self.caller).load(core::sync::atomic::Ordering::Acquire),
                self.stamp,
            )
            .then(|| Borrowed::from_ptr(self.caller, section))
        }
    }

    /// The reply was dropped unused: the caller, if it still waits, gets an error and not a hang.
    pub(crate) fn dropped(&self) {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        if let Some(caller) = self.caller(&section)
            && caller.take_awaiting(Some(self.stamp), None)
        {
            caller.set_status(Err(Error::NoReply));
            schedule::make_ready(ThreadPtr::new(caller.get()));
        }
    }
}

/// Answers the call behind `handle` with the message in `current`'s registers. Returns the caller, which must be made ready.
///
/// The reply is used up by whatever comes of it: if the answer can't be given, the caller gets [`Error::NoReply`].
///
/// # Errors
/// [`Error::BadHandle`], [`Error::WrongObject`]: there was no reply. [`Error::CallerGone`]: the caller waits no more.
/// [`Error::BadArgument`] (tag), [`Error::HandlesRefused`], or what taking the handles gave: no handle has left the table.
pub fn reply(current: &Thread, handle: Handle, section: &Section) -> Result<ThreadPtr, Error> {
    let mut table = current.process().table.lock();
    let target = ReplyTarget::of(table.get(handle)?.object(), handle)?;
    let caller = target.caller(section);
    if let Some(caller) = caller
        && caller.reporting.is_on()
    {
        drop(table);
        return reply_to_report(current, caller, target, handle);
    }
    let mut carried = Carried::nothing();
    let answer = answer(current, &mut table, caller, target.stamp, &mut carried);
    let used = take_reply(current, &mut table, handle);
    drop(table);
    drop(used);
    if answer.is_err() {
        // If the caller still waits, this is what ends its wait, with an error.
        target.dropped();
    }
    let (caller, tag) = answer?;
    transfer::copy_message(current, caller.get(), tag, &mut carried);
    transfer::finish_call(caller.get());
    Ok(ThreadPtr::new(caller.get()))
}

/// [`reply`] to a report. No lock is held, as its thread may have to be waited for.
#[cold]
fn reply_to_report(
    current: &Thread,
    caller: Borrowed<'_, Thread>,
    target: ReplyTarget,
    handle: Handle,
) -> Result<ThreadPtr, Error> {
    let answered = report::answer(current, caller.get(), target.stamp);
    let used = take_reply(current, &mut current.process().table.lock(), handle);
    drop(used);
    if answered.is_err() {
        target.dropped();
    }
    answered.map(|()| ThreadPtr::new(caller.get()))
}

/// Takes a right to answer out of the table, or from the thread that holds it; `None` if it is not there any more.
///
/// From another thread it is taken by a word: that one may be running, and finds in the end that the caller is gone.
pub(super) fn take_reply(
    current: &Thread,
    table: &mut HandleTable,
    handle: Handle,
) -> Option<Capability> {
    let taken = if let AnyObject::Held(thread) = table.get(handle).ok()?.object() {
        let target = thread.get().held.target(handle)?;
        if *thread == ThreadPtr::new(current) {
            current.held.use_up();
        } else {
            thread.get().held.was_taken(handle);
        }
        Some(Capability::of_reply(AnyObject::Reply(target)))
    } else {
        table.remove(handle).ok()
    };
    if let Some(taken) = &taken {
        disowned(taken);
    }
    taken
}

/// A right to answer was taken out of where it was: whoever was to answer is that no more.
pub(super) fn disowned(taken: &Capability) {
    if let AnyObject::Reply(target) = taken.object()
        && let Some(caller) = target.waiting()
    {
        caller.get().disown();
    }
}

/// `handle_close`.
///
/// # Errors
/// [`Error::BadHandle`].
pub(crate) fn close(current: &Thread, handle: Handle) -> Result<(), Error> {
    let removed = take_reply(current, &mut current.process().table.lock(), handle);
    // Only now that the table is open again: its end may take other locks.
    removed.map(Capability::end).ok_or(Error::BadHandle)
}

/// Takes the caller out of its wait and the message's handles out of the table; both or neither.
fn answer<'s>(
    current: &Thread,
    table: &mut HandleTable,
    caller: Option<Borrowed<'s, Thread>>,
    stamp: u64,
    carried: &mut Carried,
) -> Result<(Borrowed<'s, Thread>, Tag), Error> {
    let caller = caller.ok_or(Error::CallerGone)?;
    if !caller.awaits(stamp) {
        return Err(Error::CallerGone);
    }
    let tag = transfer::tag_of(current)?;
    if tag.handles() as u32 > caller.wait.accept() {
        return Err(Error::HandlesRefused);
    }
    let posted = Posted::check(current, table, tag)?;
    // The caller may give up at any moment until here.
    if !caller.take_awaiting(Some(stamp), Some(current)) {
        return Err(Error::CallerGone);
    }
    posted.take(current, table, carried);
    Ok((caller, tag))
}
