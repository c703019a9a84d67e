//! How a message gets from one thread to another.
//!
//! Six words go from the sender's saved registers to the receiver's, bytes from one IPC area's buffer to the
//! other's, handles from table to table. The areas are pinned, so nothing here can fault. Handles are taken in one piece:
//! first all are checked, then all are taken, both under the sender's table lock and only when the partner is there for
//! certain; the receiver has reserved its slots. So a transfer is all or nothing and never fails half-way.

use core::sync::atomic::Ordering;

use abi::ipc_area::MAX_HANDLES;
use abi::register::{RECEIVED_MESSAGE, RECEIVED_NOTIFICATION};
use abi::{Error, Handle, Rights, Tag};

use super::reply::{self, take_reply};
use super::report;
use crate::object::{AnyObject, Capability, HandleTable};
use crate::thread::Thread;

/// The handles of one message, on their way.
pub(super) struct Carried([Option<Capability>; MAX_HANDLES]);

impl Carried {
    /// None yet. Those that are to carry them make the place, as moving it would cost more than filling it.
    pub(super) const fn nothing() -> Carried {
        Carried([const { None }; MAX_HANDLES])
    }
}

/// The tag in a thread's registers, if it has a meaning.
pub(super) fn tag_of(sender: &Thread) -> Result<Tag, Error> {
    if sender.reporting.is_on() {
        return Ok(report::tag(sender));
    }
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
            if tag.moves(index) {
                if handles[..count]
                    .iter()
                    .enumerate()
                    .any(|(other, &handle)| other != index && handle == posted)
                {
                    return Err(Error::BadArgument);
                }
            } else if capability.object().is_reply() {
                // One-shot: it can be moved only.
                return Err(Error::NoRight);
            }
            capability.demand(Rights::TRANSFER)?;
        }
        Ok(Posted { handles, tag })
    }

    /// Whether this one is among those that are moved.
    #[cfg(target_os = "none")]
    pub(super) fn moves(&self, handle: Handle) -> bool {
        let mut posted = self.handles.iter().take(self.tag.handles()).enumerate();
        posted.any(|(index, &posted)| posted == handle && self.tag.moves(index))
    }

    /// Takes them out of the table in which they were checked, or copies them, as the sender wants it.
    pub(super) fn take(&self, sender: &Thread, table: &mut HandleTable, carried: &mut Carried) {
        let places = carried.0.iter_mut().zip(self.handles);
        for (index, (place, posted)) in places.take(self.tag.handles()).enumerate() {
            *place = if self.tag.moves(index) {
                let entry = table.remove(posted).ok();
                if let Some(entry) = &entry {
                    reply::disowned(entry);
                }
                entry.or_else(|| take_reply(sender, table, posted))
            } else {
                let held = table.get(posted).ok();
                held.and_then(|capability| capability.duplicate(capability.rights()).ok())
            };
        }
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
    carried: &mut Carried,
) -> Result<(), Error> {
    Posted::check(sender, table, tag)?.take(sender, table, carried);
    Ok(())
}

/// Writes a message into a receiver that was taken out of its queue: tag, words, bytes, handles.
///
/// Does not touch the registers that differ between a message and a reply.
pub(super) fn copy_message(sender: &Thread, receiver: &Thread, tag: Tag, carried: &mut Carried) {
    if sender.reporting.is_on() {
        return report::write(sender, receiver);
    }
    let from = sender.registers();
    let to = receiver.registers_mut();
    to.rsi = tag.0;
    to.rdx = from.rdx;
    to.r10 = from.r10;
    to.r8 = from.r8;
    to.r9 = from.r9;
    to.r12 = from.r12;
    to.r13 = from.r13;
    if !tag.is_plain() {
        copy_more(sender, receiver, tag, carried);
    }
}

/// What a message carries beside its words: bytes and handles.
#[inline]
pub(super) fn copy_more(sender: &Thread, receiver: &Thread, tag: Tag, carried: &mut Carried) {
    copy_bytes(sender, receiver, tag);
    if tag.handles() != 0 {
        give_handles(receiver, tag, carried);
    }
}

/// The bytes of a message.
#[inline(always)]
pub(super) fn copy_bytes(sender: &Thread, receiver: &Thread, tag: Tag) {
    // SAFETY: both buffers are whole pinned pages of two different threads, and the tag was checked. Their programs may
    // write to them meanwhile; then the bytes that arrive are theirs to blame.
    unsafe { arch::copy::copy(sender.area.buffer(), receiver.area.buffer(), tag.bytes()) };
}

/// The handles of a message, into slots that the receiver has reserved.
pub(super) fn give_handles(receiver: &Thread, tag: Tag, carried: &mut Carried) {
    let mut table = receiver.process().table.lock();
    for (index, place) in carried.0.iter_mut().take(tag.handles()).enumerate() {
        // One that was used by another thread meanwhile is no handle, and not the one that came here before.
        let mut handle = Handle::NONE;
        if let Some(capability) = place.take() {
            if let AnyObject::Reply(reply) = capability.object() {
                receiver.adopt(reply);
            }
            handle = table.insert_reserved(capability);
            let reserved = &receiver.wait.reserved;
            reserved.store(reserved.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        }
        receiver.area.set_handle_in(index, handle.0);
    }
}

/// The only handle of a message.
#[cfg(target_os = "none")]
#[inline(always)]
pub(super) fn give_handle(receiver: &Thread, capability: Capability) {
    let handle = receiver.process().table.lock().insert_reserved(capability);
    let reserved = &receiver.wait.reserved;
    reserved.store(reserved.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    receiver.area.set_handle_in(0, handle.0);
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
