//! The direct way of messages that carry more than words, or whose sender takes handles with the answer.
//!
//! It is that of [`direct`](super::direct), with what is carried moved in between: bytes from one pinned buffer to the other, handles from
//! table to table. What a partner has not room for, and whatever else is an error, is left to the long way, which names it.
//!
//! What may go wrong: something that fails when the partner is taken out of its wait already. So all is checked before, with the sender's table
//! locked until its handles are out; and the receiver's slots were reserved before it began to wait.

use abi::{Call, Handle, Load, Rights, Tag};
use arch::cpu::CpuBlock;
use arch::switch::{Concerns, Delivery, hand_over};
use core::ptr;
use core::sync::atomic::Ordering;

use super::direct::{change, fits, give_turn, go_the_long_way};
use super::endpoint::Endpoint;
use super::transfer::{self, Carried, Posted};
use crate::cpu;
use crate::object::stamp_of;
use crate::thread::{Thread, ThreadPtr};

/// How many handles a thread takes with the next message; `None` if the long way must look at it.
///
/// Slots for them are reserved: those that a wait has not used are the thread's for the next.
#[inline(always)]
fn accept(thread: &Thread, tag: Tag) -> Option<u32> {
    if !tag.takes_handles() {
        return Some(0);
    }
    let accept = thread.area.accept();
    let reserved = thread.wait.reserved.load(Ordering::Relaxed);
    if accept > reserved {
        let more = accept - reserved;
        thread.process().table.lock().reserve(more).ok()?;
        thread.wait.reserved.store(accept, Ordering::Relaxed);
    }
    Some(accept)
}

/// Kinds of messages, for each of which there is a way of its own: as [`abi::Load`] has them.
const BYTES: u8 = 0;
const ONE_MOVED: u8 = 1;
const OTHER: u8 = 2;

/// Takes the partner out of its wait by `take`, and gives it what the message carries beside its words; all or nothing.
///
/// `needed`: the handle that the thread is about to wait by. A message that moves it away is for the long way, which answers and then finds no handle.
#[inline(always)]
fn take_and_give<const LOAD: u8, R>(
    thread: &Thread,
    partner: &Thread,
    tag: Tag,
    needed: Handle,
    take: impl FnOnce() -> Option<R>,
) -> Option<R> {
    let taken;
    match LOAD {
        BYTES => taken = take()?,
        ONE_MOVED => {
            if partner.wait.accept() == 0 {
                return None;
            }
            let mut end = None;
            let posted = Handle(thread.area.handle_out(0));
            if posted == needed {
                return None;
            }
            let capability = thread.process().table.lock().remove_if(posted, |entry| {
                if entry.object().is_reply() || entry.demand(Rights::TRANSFER).is_err() {
                    return false;
                }
                end = take();
                end.is_some()
            })?;
            taken = end?;
            transfer::give_handle(partner, capability);
            if tag.bytes() == 0 {
                return Some(taken);
            }
        }
        _ => {
            if tag.check().is_err() || tag.handles() as u32 > partner.wait.accept() {
                return None;
            }
            let mut carried = Carried::nothing();
            let mut table = thread.process().table.lock();
            let posted = Posted::check(thread, &table, tag).ok()?;
            if posted.moves(needed) {
                return None;
            }
            taken = take()?;
            posted.take(thread, &mut table, &mut carried);
            drop(table);
            transfer::give_handles(partner, tag, &mut carried);
        }
    }
    transfer::copy_bytes(thread, partner, tag);
    Some(taken)
}

/// `call`.
pub(super) extern "C" fn call(handle: u64, tag: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(block) }.get();
    let (handle, tag) = (Handle(handle), Tag(tag));
    let prepared = match tag.load() {
        Load::Bytes => prepare_call::<BYTES>(block, thread, handle, tag),
        Load::OneMoved => prepare_call::<ONE_MOVED>(block, thread, handle, tag),
        Load::Other => prepare_call::<OTHER>(block, thread, handle, tag),
    };
    let Some((partner, concerns, reply, accept)) = prepared else {
        go_the_long_way(Call::Call)
    };
    change(block, thread, partner, accept);
    give_turn(thread);
    let delivery = Delivery::Call {
        badge: thread.callee.badge().0,
        reply: reply.0,
    };
    // SAFETY: as in `direct::go_to_receiver`.
    unsafe {
        hand_over(
            block,
            &thread.machine.state,
            &partner.machine.state,
            concerns,
            delivery,
        )
    }
}

/// All of a call but the switch. `None`: nothing was done.
fn prepare_call<const LOAD: u8>(
    block: &'static CpuBlock,
    thread: &'static Thread,
    handle: Handle,
    tag: Tag,
) -> Option<(&'static Thread, Concerns, Handle, u32)> {
    let accept = accept(thread, tag)?;
    let endpoint = thread.callee.find(thread, handle, Rights::SEND)?;
    let partner = endpoint.lone_receiver()?;
    let receiver = partner.get();
    let concerns = fits(
        cpu::of(block),
        ptr::from_ref(block).cast(),
        thread,
        receiver,
    )?;
    if !concerns.are_few() {
        return None;
    }
    take_and_give::<LOAD, _>(thread, receiver, tag, Handle::NONE, || {
        endpoint.take_lone_receiver(partner).then_some(())
    })?;
    let stamp = thread.begin_awaiting_here(receiver);
    let reply = receiver.held.deliver(ThreadPtr::new(thread), stamp);
    Some((receiver, concerns, reply, accept))
}

/// `reply_recv`.
pub(super) extern "C" fn reply_recv(handle: u64, tag: u64, reply: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: as in `call`.
    let thread = unsafe { cpu::running(block) }.get();
    let (handle, tag, reply) = (Handle(handle), Tag(tag), Handle(reply));
    let prepared = match tag.load() {
        Load::Bytes => prepare_reply_recv::<BYTES>(block, thread, handle, tag, reply),
        Load::OneMoved => prepare_reply_recv::<ONE_MOVED>(block, thread, handle, tag, reply),
        Load::Other => prepare_reply_recv::<OTHER>(block, thread, handle, tag, reply),
    };
    let Some((partner, concerns, settling, accept)) = prepared else {
        go_the_long_way(Call::ReplyRecv)
    };
    change(block, thread, partner, accept);
    // SAFETY: as in `direct::go_to_caller`.
    unsafe {
        hand_over(
            block,
            &thread.machine.state,
            &partner.machine.state,
            concerns,
            Delivery::Answer { settling },
        )
    }
}

/// Who comes, what the switch has to carry, the word that says when the one that leaves has settled, and how many handles that takes.
type Prepared = (&'static Thread, Concerns, *mut usize, u32);

/// All of it but the switch. `None`: nothing was done.
fn prepare_reply_recv<const LOAD: u8>(
    block: &'static CpuBlock,
    thread: &'static Thread,
    handle: Handle,
    tag: Tag,
    reply: Handle,
) -> Option<Prepared> {
    let accept = accept(thread, tag)?;
    if thread.bound().is_some() {
        return prepare_beside_notification::<LOAD>(block, thread, handle, tag, reply, accept);
    }
    // SAFETY: the thread is this one; all kernel code between two quiescent points is inside a section.
    let endpoint: &Endpoint = if let Some(endpoint) = unsafe { thread.served.look(handle) } {
        endpoint
    } else {
        let endpoint = thread.served.find(thread, handle, Rights::RECEIVE)?;
        endpoint.begin_service(thread);
        endpoint
    };
    answer_and_wait::<LOAD>(block, thread, endpoint, [handle, reply], tag, accept, || ())
}

/// The same for a thread that waits for its bound notification as well.
///
/// No bit is set, and none is until the thread is in its place: the notification is locked. Whoever signals it then takes the thread out of
/// there as it does with every one that waits in `recv`.
#[cold]
#[inline(never)]
fn prepare_beside_notification<const LOAD: u8>(
    block: &'static CpuBlock,
    thread: &'static Thread,
    handle: Handle,
    tag: Tag,
    reply: Handle,
    accept: u32,
) -> Option<Prepared> {
    let endpoint = thread.received_by(handle)?;
    let quiet = thread.bound()?.lock_if_quiet()?;
    answer_and_wait::<LOAD>(
        block,
        thread,
        endpoint,
        [handle, reply],
        tag,
        accept,
        || drop(quiet),
    )
}

/// The rest of it: `then` is called when the thread is in its place.
#[inline(always)]
fn answer_and_wait<const LOAD: u8>(
    block: &'static CpuBlock,
    thread: &'static Thread,
    endpoint: &Endpoint,
    [handle, reply]: [Handle; 2],
    tag: Tag,
    accept: u32,
    then: impl FnOnce(),
) -> Option<Prepared> {
    let (caller, stamp) = thread.held.own(reply)?;
    // SAFETY: a held reply points to a thread's slot, which is valid for ever. If the stamp is still the call's, the thread lives.
    let partner: &'static Thread = unsafe {
        if stamp_of(caller.as_ptr()).load(Ordering::Acquire) != stamp {
            return None;
        }
        caller.as_ref()
    };
    let concerns = fits(cpu::of(block), ptr::from_ref(block).cast(), thread, partner)?;
    if !concerns.are_few() {
        return None;
    }
    // Until it settles, this thread's buffer and registers are its own.
    let settling = take_and_give::<LOAD, _>(thread, partner, tag, handle, || {
        let settling =
            endpoint.receive_alone(ThreadPtr::new(thread), || partner.take_awaiting_here(stamp))?;
        then();
        Some(settling)
    })?;
    thread.held.use_up();
    Some((partner, concerns, settling, accept))
}
