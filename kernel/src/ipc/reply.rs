//! Replies: the one-shot right to answer a call.
//!
//! A reply names the calling thread and the number of its call, the *stamp* of the thread's slot. Slots are never given
//! back and stamps only grow, so a reply whose call has ended (answered, timed out, killed) is recognised without keeping
//! the caller alive and without counting references on the way of every call.

use abi::{Error, Handle};

use super::transfer::{self, take_handles};
use crate::object::{AnyObject, Borrowed, Section, stamp_of};
use crate::schedule;
use crate::thread::{Thread, ThreadPtr};

/// A call that waits for its answer.
pub struct ReplyTarget {
    caller: *const Thread,
    stamp: u64,
}

// SAFETY: the pointer is to a slab slot, which is valid for ever; it is followed under the caller's lock only.
unsafe impl Send for ReplyTarget {}
// SAFETY: as above.
unsafe impl Sync for ReplyTarget {}

impl ReplyTarget {
    /// The right to answer the call `stamp` of `caller`.
    pub(super) fn new(caller: ThreadPtr, stamp: u64) -> ReplyTarget {
        ReplyTarget {
            caller: caller.as_ptr(),
            stamp,
        }
    }

    /// The caller, if it may still wait for this reply.
    fn caller<'s>(&self, section: &'s Section) -> Option<Borrowed<'s, Thread>> {
        // SAFETY: the pointer is to a thread's slot. If the stamp is the call's, the thread waits and is alive, so
        // it was not retired before this section began.
        unsafe {
            (stamp_of(self.caller).load(core::sync::atomic::Ordering::Acquire) == self.stamp)
                .then(|| Borrowed::from_ptr(self.caller, section))
        }
    }

    /// The reply was dropped unused: the caller, if it still waits, gets an error and not a hang.
    pub(crate) fn dropped(&self) {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        if let Some(caller) = self.caller(&section)
            && caller.take_awaiting(Some(self.stamp))
        {
            caller.set_status(Err(Error::NoReply));
            schedule::make_ready(ThreadPtr::new(caller.get()));
        }
    }
}

/// Answers the call behind `handle` with the message in `current`'s registers. Returns the caller, which must be made ready.
///
/// # Errors
/// [`Error::BadHandle`], [`Error::WrongObject`], [`Error::BadArgument`] (tag), [`Error::HandlesRefused`], or what taking the handles
/// gave: the reply is still there then. [`Error::CallerGone`]: the caller waits no more, and the reply is gone.
pub fn reply(current: &Thread, handle: Handle, section: &Section) -> Result<ThreadPtr, Error> {
    let tag = transfer::tag_of(current)?;
    let mut table = current.process().table.lock();
    let AnyObject::Reply(target) = table.get(handle)?.object() else {
        return Err(Error::WrongObject);
    };
    let stamp = target.stamp;
    let Some(caller) = target.caller(section) else {
        let stale = table.remove(handle);
        drop(table);
        drop(stale);
        return Err(Error::CallerGone);
    };
    if tag.handles() as u32 > caller.wait.accept() {
        return Err(Error::HandlesRefused);
    }
    // The caller may give up at any moment: whoever ends its wait does it under its lock.
    let mut awaiting = caller.awaiting.lock();
    if *awaiting != Some(stamp) {
        drop(awaiting);
        let stale = table.remove(handle);
        drop(table);
        drop(stale);
        return Err(Error::CallerGone);
    }
    let carried = take_handles(current, &mut table, tag)?;
    caller.end_awaiting(&mut awaiting);
    drop(awaiting);
    let used = table.remove(handle);
    drop(table);
    drop(used);
    transfer::copy_message(current, caller.get(), tag, carried);
    transfer::finish_call(caller.get());
    Ok(ThreadPtr::new(caller.get()))
}
