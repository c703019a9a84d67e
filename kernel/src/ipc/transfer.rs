//! How a message gets from one thread to another.
//!
//! Six words go from the sender's saved registers to the receiver's, bytes from one IPC area's buffer to the
//! other's, handles from table to table. The areas are pinned, so nothing here can fault. Handles are taken in one piece:
//! first all are checked, then all are taken, both under the sender's table lock and only when the partner is there for
//! certain; the receiver has reserved its slots. So a transfer is all or nothing and never fails half-way.

use core::ptr;

use abi::ipc_area::MAX_HANDLES;
use abi::register::{RECEIVED_MESSAGE, RECEIVED_NOTIFICATION};
use abi::{Error, Handle, Rights, Tag};

use super::reply::take_reply;
use crate::object::{AnyObject, Capability, HandleTable};
use crate::thread::Thread;

/// The handles of one message, on their way.
pub(super) struct Carried {
    capabilities: [Option<Capability>; MAX_HANDLES],
}

impl Carried {
    pub(super) const NONE: Carried = Carried {
        capabilities: [const { None }; MAX_HANDLES],
    };
}

/// The tag in a thread's registers, if it has a meaning.
pub(super) fn tag_of(sender: &Thread) -> Result<Tag, Error> {
    Tag(sender.registers().rsi)
        .check()
        .map_err(|_| Error::BadArgument)
}

/// The handles that a sender has posted, all of them good. They stay good as long as its table is locked.
pub(super) struct Posted {
    handles: [Handle; MAX_HANDLES],
    tag: Tag,
}

impl Posted {
    /// Reads and checks what `sender` has posted.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NoRight`], or [`Error::BadArgument`] for one that is moved twice.
    pub(super) fn check(sender: &Thread, table: &HandleTable, tag: Tag) -> Result<Posted, Error> {
        let count = tag.handles();
        let mut handles = [Handle::NONE; MAX_HANDLES];
        for (index, handle) in handles.iter_mut().enumerate().take(count) {
            *handle = Handle(sender.area.handle_out(index));
        }
        for (index, &posted) in handles[..count].iter().enumerate() {
            let capability = table.get(posted)?;
            let is_reply = matches!(
                capability.object(),
                AnyObject::Reply(_) | AnyObject::Held(_)
            );
            if tag.moves(index) {
                if handles[..count]
                    .iter()
                    .enumerate()
                    .any(|(other, &handle)| other != index && handle == posted)
                {
                    return Err(Error::BadArgument);
                }
            } else if is_reply {
                // One-shot: it can be moved only.
                return Err(Error::NoRight);
            }
            capability.demand(Rights::TRANSFER)?;
        }
        Ok(Posted { handles, tag })
    }

    /// Takes them out of the table in which they were checked, or copies them, as the sender wants it.
    pub(super) fn take(self, sender: &Thread, table: &mut HandleTable) -> Carried {
        let mut carried = Carried::NONE;
        for (index, &posted) in self.handles[..self.tag.handles()].iter().enumerate() {
            carried.capabilities[index] = if self.tag.moves(index) {
                take_reply(sender, table, posted)
            } else {
                let held = table.get(posted).ok();
                held.and_then(|capability| capability.duplicate(capability.rights()).ok())
            };
        }
        carried
    }
}

/// Takes the handles that `sender` has posted, from its table.
///
/// # Errors
/// As [`Posted::check`]. Nothing has changed then.
pub(super) fn take_handles(
    sender: &Thread,
    table: &mut HandleTable,
    tag: Tag,
) -> Result<Carried, Error> {
    Ok(Posted::check(sender, table, tag)?.take(sender, table))
}

/// Writes a message into a receiver that was taken out of its queue: tag, words, bytes, handles.
///
/// Does not touch the registers that differ between a message and a reply.
pub(super) fn copy_message(sender: &Thread, receiver: &Thread, tag: Tag, carried: Carried) {
    let from = sender.registers();
    let to = receiver.registers_mut();
    to.rsi = tag.received().0;
    to.rdx = from.rdx;
    to.r10 = from.r10;
    to.r8 = from.r8;
    to.r9 = from.r9;
    to.r12 = from.r12;
    to.r13 = from.r13;
    if tag.is_plain() {
        return;
    }
    if tag.bytes() != 0 {
        // SAFETY: both buffers are whole pinned pages of two different threads, and the tag was checked. Their programs may
        // write to them meanwhile; then the bytes that arrive are theirs to blame.
        unsafe {
            ptr::copy_nonoverlapping(sender.area.buffer(), receiver.area.buffer(), tag.bytes());
        };
    }
    if tag.handles() != 0 {
        let mut table = receiver.process().table.lock();
        let carried = carried.capabilities.into_iter().enumerate();
        for (index, capability) in carried.take(tag.handles()) {
            // One that was used by another thread meanwhile is no handle, and not the one that came here before.
            receiver.area.set_handle_in(index, Handle::NONE.0);
            if let Some(capability) = capability {
                let handle = table.insert_reserved(capability);
                receiver.area.set_handle_in(index, handle.0);
                receiver
                    .wait
                    .reserved
                    .fetch_sub(1, core::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

/// Completes a receive: what came, from whom, and whom to answer.
pub(super) fn finish_receive(receiver: &Thread, badge: u64, reply: Handle) {
    let to = receiver.registers_mut();
    to.rax = 0;
    to.rdi = badge;
    to.r14 = RECEIVED_MESSAGE;
    to.r15 = reply.0;
}

/// Completes a call by its answer.
pub(super) fn finish_call(caller: &Thread) {
    let to = caller.registers_mut();
    to.rax = 0;
    to.rdi = 0;
    to.r14 = RECEIVED_MESSAGE;
    to.r15 = 0;
}

/// Completes a receive by the bound notification.
pub(super) fn finish_notified(receiver: &Thread, bits: u64) {
    let to = receiver.registers_mut();
    to.rax = 0;
    to.rdi = 0;
    to.rsi = 0;
    to.rdx = bits;
    to.r14 = RECEIVED_NOTIFICATION;
    to.r15 = 0;
}
