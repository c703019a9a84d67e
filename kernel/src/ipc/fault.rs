//! The direct way of a fault: to a handler that waits for it on the same CPU, and back with its answer.
//!
//! It is the direct way of a call (`direct.rs`) with two differences. What the thread says lies in its context already, where its entry has put it:
//! the six words are loaded from there. And what it gets back is all of its registers, by `iretq`, as an interrupt would give them back; an answer can
//! change one of them on the way, RIP, which is enough to step over an instruction.
//!
//! So the thread that waits is poised in another way than one that has called, and whoever answers must know that: the word that says where it is
//! poised has bit 0 set. A server's `reply_recv`, which compares that word as a whole, finds another and comes here.

use core::ptr;
use core::sync::atomic::Ordering;

use abi::layout::USER_END;
use abi::report::{Answer, ReportKind, label};
use abi::trace::TraceKind;
use abi::{Call, Tag};
use arch::context::USER_CODE64;
use arch::cpu::CpuBlock;
use arch::switch::{Delivery, hand_over};

use super::direct::{change, fits, go_the_long_way};
use crate::cpu;
use crate::object::{Section, stamp_of};
use crate::thread::{Thread, ThreadPtr};
use crate::trace;

/// Where a thread is poised that waits for the answer to its fault on this CPU.
#[inline(always)]
fn here(block: &'static CpuBlock) -> *const () {
    ptr::from_ref(block).cast::<()>().wrapping_byte_add(1)
}

/// The running thread, whose entry is for a fault that the kernel has no answer to, reports it to a handler that waits on this CPU. Returns
/// if there is none, or anything is unusual; nothing is done then.
#[inline(always)]
pub(crate) fn report_directly(block: &'static CpuBlock, thread: &Thread) {
    // SAFETY: all kernel code between two quiescent points is inside a section, which ends before this entry does.
    let section = unsafe { Section::enter() };
    let kind = ReportKind::Faults;
    let Some(listener) = thread
        .listeners
        .get(kind, &section)
        .or_else(|| thread.process().listeners.get(kind, &section))
    else {
        return;
    };
    let Some(partner) = listener.endpoint.lone_receiver() else {
        return;
    };
    let poised = ptr::from_ref(block).cast();
    let Some(concerns) = fits(cpu::of(block), poised, thread, partner.get()) else {
        return;
    };
    if !concerns.are_few()
        || thread.reporting.is_stepped()
        || trace::is_noted(TraceKind::Fault)
        || !listener.endpoint.take_lone_receiver(partner)
    {
        return;
    }
    // Registers that were set before are no answer to this.
    thread.reporting.note_change(false);
    thread.reporting.begin(label::FAULT);
    let partner = partner.get();
    let stamp = thread.begin_awaiting_here(partner);
    let reply = partner.held.deliver(ThreadPtr::new(thread), stamp);
    change(block, thread, partner, 0);
    thread
        .poised
        .store(here(block).cast_mut(), Ordering::Relaxed);
    let delivery = Delivery::Fault {
        badge: listener.badge.0,
        reply: reply.0,
        thread: thread.id(),
    };
    // SAFETY: interrupts are off and no lock is held; the first is this CPU's current thread in its entry, whose context is whole but for selectors and
    // bases; the second waits, is this CPU's, poised, and was just taken out of its wait. They have to carry what was asked.
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

/// `reply_recv` of the running thread that is not the answer to a call which waits on this CPU: perhaps it is the answer to a fault that does. The
/// endpoint was found, and what it holds was looked at.
pub(super) extern "C" fn answer(_: u64, _: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    // SAFETY: a system call is made by a thread.
    let thread = unsafe { cpu::running(block) }.get();
    let Some((caller, stamp)) = thread.held.own(thread.held.name()) else {
        go_the_long_way(Call::ReplyRecv)
    };
    // SAFETY: a held reply points to a thread's slot, which is valid for ever. If the stamp is still the call's, the thread lives.
    let partner = unsafe {
        if stamp_of(caller.as_ptr()).load(Ordering::Acquire) != stamp {
            go_the_long_way(Call::ReplyRecv)
        }
        caller.as_ref()
    };
    let Some(concerns) = fits(cpu::of(block), here(block), thread, partner) else {
        go_the_long_way(Call::ReplyRecv)
    };
    // The entry has put the message into the context.
    let tag = thread.registers().rsi;
    let goes_on_at = if tag == tag_of(Answer::ResumeAt) {
        let address = thread.registers().rdx;
        if address >= USER_END || partner.registers().cs != u64::from(USER_CODE64) {
            go_the_long_way(Call::ReplyRecv)
        }
        address
    } else if tag == tag_of(Answer::Resume) {
        partner.registers().rip
    } else {
        go_the_long_way(Call::ReplyRecv)
    };
    if !concerns.are_few() {
        go_the_long_way(Call::ReplyRecv)
    }
    // SAFETY: `reply_recv` has found the endpoint in the table.
    let endpoint = unsafe { thread.served.last() };
    let taken = || partner.take_awaiting_here(stamp);
    let Some(settling) = endpoint.receive_alone(ThreadPtr::new(thread), taken) else {
        go_the_long_way(Call::ReplyRecv)
    };
    thread.held.use_up();
    partner.reporting.end();
    partner.registers_mut().rip = goes_on_at;
    change(block, thread, partner, 0);
    // SAFETY: as in `report_directly`. Its context is whole, and the address was checked.
    unsafe {
        hand_over(
            block,
            &thread.machine.state,
            &partner.machine.state,
            concerns,
            Delivery::Registers { settling },
        )
    }
}

const fn tag_of(answer: Answer) -> u64 {
    Tag::new(answer as u32).0
}
