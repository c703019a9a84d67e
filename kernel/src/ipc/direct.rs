//! The direct way of a message: from one thread to another on the same CPU that waits for it, and into user mode with it.
//!
//! Nearly every call and every answer is of this kind: words alone (with more, see [`carrying`]), no deadline, and the partner waits already. So all that is rare is
//! asked for first, with nothing changed; whoever finds something rare leaves it to the long way (`syscall/ipc.rs`), which does the
//! same and everything else. What is left are a few dozen loads and stores, one compare-and-exchange on the way there (the receiver is taken out of
//! its [place](sched::Lone)) and two on the way back (the server goes there, and the call ends).
//!
//! A thread that waits so that its partner may go straight into user mode for it is *poised*: it came in by `syscall`, what it
//! takes has reserved slots, it has no deadline, and when it is woken there is nothing to do for it in the kernel. It
//! is poised on one CPU, its home.
//!
//! What may go wrong: a question that was asked and whose answer has changed when it is acted on. Interrupts are off, and what other
//! CPUs may change meanwhile is decided by one of those exchanges, or looked at on the way out (marks of other CPUs come with a
//! request to look).

use core::hint::cold_path;
use core::ptr;
use core::sync::atomic::Ordering;

use abi::{Call, Handle, Rights, Tag};
use arch::cpu::CpuBlock;
use arch::switch::{self, Concerns, Delivery, concerns, frame_here, go_on_in, hand_over};

use super::carrying;
use super::endpoint::Endpoint;
use super::fault;
use crate::cpu::{self, Cpu};
use crate::object::stamp_of;
use crate::sync;
use crate::thread::{Thread, ThreadPtr};

/// Whether `partner`, which waits, may run at once in the place of `thread`, and what the switch has to carry.
///
/// The partner may go away meanwhile, so nothing of the answer holds until it was taken out of its wait here.
#[inline(always)]
pub(super) fn fits(
    cpu: &Cpu,
    here: *const (),
    thread: &Thread,
    partner: &Thread,
) -> Option<Concerns> {
    if partner.poised.load(Ordering::Relaxed).cast_const() != here {
        return None;
    }
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let ready = unsafe { cpu.run_queue() }.ready_from(partner.priority());
    if ready != 0 {
        cold_path();
        // Somebody of its own priority may wait for the end of this turn; but then the timer must be set for that already.
        if ready != 1 || thread.priority() > partner.priority() {
            return None;
        }
    }
    Some(concerns(&thread.machine.state, &partner.machine.state))
}

/// `thread` stops, and takes `accept` handles with what it waits for; `partner` goes on, on what is left of the turn.
#[inline(always)]
pub(super) fn change(block: &'static CpuBlock, thread: &Thread, partner: &Thread, accept: u32) {
    let cpu = cpu::of(block);
    sync::assert_none_held();
    let now = arch::time::ticks();
    thread.run_time.end(now);
    partner.run_time.begin(now);
    partner.switches.add(1);
    cpu.switches.add(1);
    partner.slice.set(thread.slice.get());
    thread.wait.set_accept(accept);
    thread
        .poised
        .store(ptr::from_ref(block).cast_mut().cast(), Ordering::Relaxed);
}

/// A caller's turn is its server's now. It comes back with the answer; should somebody else wake the caller, it gets what is left then.
#[inline(always)]
pub(super) fn give_turn(thread: &Thread) {
    thread.slice.set(sched::Slice::SPENT);
}

/// `call`.
#[unsafe(export_name = "switchyard_direct_call")]
extern "C" fn call(handle: Handle, tag: Tag) -> ! {
    let block = arch::cpu::block();
    let cpu = cpu::of(block);
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(block) }.get();
    if !tag.is_plain() {
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(carrying::call, [handle.0, tag.0, 0]) }
    }
    // SAFETY: the thread is this one; all kernel code between two quiescent points is inside a section.
    let Some(endpoint) = (unsafe { thread.callee.look(handle) }) else {
        frame_here();
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(call_another, [handle.0, tag.0, 0]) }
    };
    let Some(partner) = endpoint.lone_receiver() else {
        go_the_long_way(Call::Call)
    };
    let here = ptr::from_ref(block).cast();
    let Some(concerns) = fits(cpu, here, thread, partner.get()) else {
        go_the_long_way(Call::Call)
    };
    if !concerns.are_none() {
        // SAFETY: nothing here is to be dropped.
        unsafe {
            go_on_in(
                call_with_more,
                [partner.as_ptr() as u64, concerns.bits(), 0],
            )
        }
    }
    go_to_receiver(block, thread, endpoint, partner, Concerns::NONE)
}

/// [`call`] of another endpoint than the last.
extern "C" fn call_another(handle: u64, tag: u64, _: u64) -> ! {
    // SAFETY: as in `call`.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    if thread.callee.learn(thread, Handle(handle), Rights::SEND) {
        call(Handle(handle), Tag(tag))
    }
    go_the_long_way(Call::Call)
}

/// [`call`] with something to carry, from there on.
extern "C" fn call_with_more(partner: u64, concerns: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: as in `call`, from which the concerns and the address of the partner come.
    let (thread, endpoint, partner, concerns) = unsafe {
        let thread = cpu::running(block).get();
        let partner: *const Thread = ptr::with_exposed_provenance(partner as usize);
        (
            thread,
            thread.callee.last(),
            ThreadPtr::new(&*partner),
            Concerns::from_bits(concerns),
        )
    };
    if !concerns.are_few() {
        go_the_long_way(Call::Call)
    }
    go_to_receiver(block, thread, endpoint, partner, concerns)
}

/// The second half of [`call`]: all that is done.
#[inline(always)]
fn go_to_receiver(
    block: &'static CpuBlock,
    thread: &Thread,
    endpoint: &Endpoint,
    partner: ThreadPtr,
    concerns: Concerns,
) -> ! {
    if !endpoint.take_lone_receiver(partner) {
        go_the_long_way(Call::Call)
    }
    let partner = partner.get();
    let stamp = thread.begin_awaiting_here(partner);
    let reply = partner.held.deliver(ThreadPtr::new(thread), stamp);
    change(block, thread, partner, 0);
    give_turn(thread);
    let delivery = Delivery::Call {
        badge: thread.callee.badge().0,
        reply: reply.0,
    };
    // SAFETY: interrupts are off and no lock is held; the first is this CPU's current thread in its entry, and the second waits, is this
    // CPU's, poised, and was just taken out of its wait. They have to carry what was asked.
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

/// `reply_recv`.
#[unsafe(export_name = "switchyard_direct_reply_recv")]
extern "C" fn reply_recv(handle: Handle, tag: Tag, reply: Handle) -> ! {
    let block = arch::cpu::block();
    let cpu = cpu::of(block);
    // SAFETY: as in `call`.
    let thread = unsafe { cpu::running(block) }.get();
    if !tag.is_plain() {
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(carrying::reply_recv, [handle.0, tag.0, reply.0]) }
    }
    let Some((caller, stamp)) = thread.held.own(reply) else {
        go_the_long_way(Call::ReplyRecv)
    };
    // SAFETY: as in `call`.
    let Some(endpoint) = (unsafe { thread.served.look(handle) }) else {
        frame_here();
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(reply_recv_another, [handle.0, tag.0, reply.0]) }
    };
    // SAFETY: a held reply points to a thread's slot, which is valid for ever. If the stamp is still the call's, the thread lives.
    let partner = unsafe {
        if stamp_of(caller.as_ptr()).load(Ordering::Acquire) != stamp {
            go_the_long_way(Call::ReplyRecv)
        }
        caller.as_ref()
    };
    let here = ptr::from_ref(block).cast();
    let Some(concerns) = fits(cpu, here, thread, partner) else {
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(fault::answer, [0; 3]) }
    };
    if !concerns.are_none() {
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(reply_recv_with_more, [concerns.bits(), 0, 0]) }
    }
    go_to_caller(block, thread, endpoint, partner, stamp, Concerns::NONE)
}

/// [`reply_recv`] on another endpoint than the last.
extern "C" fn reply_recv_another(handle: u64, tag: u64, reply: u64) -> ! {
    // SAFETY: as in `call`.
    let thread = unsafe { cpu::running(arch::cpu::block()) }.get();
    let handle = Handle(handle);
    // Whoever binds a notification makes its thread forget the endpoint, and learns none here.
    if thread.bound().is_some() {
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(carrying::reply_recv, [handle.0, tag, reply]) }
    }
    if thread.served.learn(thread, handle, Rights::RECEIVE) {
        // SAFETY: it was just found.
        unsafe { thread.served.last() }.begin_service(thread);
        reply_recv(handle, Tag(tag), Handle(reply))
    }
    go_the_long_way(Call::ReplyRecv)
}

/// [`reply_recv`] with something to carry, from there on.
extern "C" fn reply_recv_with_more(concerns: u64, _: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: as in `reply_recv`, from which the concerns come.
    let (thread, concerns) = unsafe { (cpu::running(block).get(), Concerns::from_bits(concerns)) };
    let Some((caller, stamp)) = thread.held.own(thread.held.name()) else {
        go_the_long_way(Call::ReplyRecv)
    };
    if !concerns.are_few() {
        go_the_long_way(Call::ReplyRecv)
    }
    // SAFETY: as in `reply_recv`, which has found the caller alive and the endpoint in the table.
    let (endpoint, partner) = unsafe { (thread.served.last(), caller.as_ref()) };
    go_to_caller(block, thread, endpoint, partner, stamp, concerns)
}

/// The second half of [`reply_recv`]: all that is done.
#[inline(always)]
fn go_to_caller(
    block: &'static CpuBlock,
    thread: &Thread,
    endpoint: &Endpoint,
    partner: &Thread,
    stamp: u64,
    concerns: Concerns,
) -> ! {
    let answer = || partner.take_awaiting_here(stamp);
    let Some(settling) = endpoint.receive_alone(ThreadPtr::new(thread), answer) else {
        go_the_long_way(Call::ReplyRecv)
    };
    thread.held.use_up();
    change(block, thread, partner, 0);
    // SAFETY: as in `go_to_receiver`.
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

/// Leaves the call to the long way, before anything is done.
#[inline(always)]
pub(super) fn go_the_long_way(call: Call) -> ! {
    // SAFETY: this is in a direct call of the current thread, and nothing was done.
    unsafe { switch::long_way(call) }
}
