//! Making threads ready, here or on the CPU that they belong to, and looking into the inbox.

use core::sync::atomic::Ordering;

use abi::Error;
use arch::cpu::Pending;
use arch::platform::apic;
use sched::{Arrival, Pushed, Slice};

use super::clock::arm;
use super::look::{look, settle_current};
use super::{aside, migrate};
use crate::cpu::{self, Cpu};
use crate::ipc::{WaitOn, cancel};
use crate::object::Section;
use crate::thread::{ThreadPtr, ask};

/// Makes the target look at its inbox.
pub const RESCHEDULE_VECTOR: u8 = 0xFC;
/// Makes the target serve what must be served anywhere.
pub const SERVE_VECTOR: u8 = 0xFB;

/// Threads from the inbox that are seen to before interrupts have another chance.
const ANSWERED_AT_ONCE: usize = 8;

/// Makes a thread ready that was taken out of its wait. Any CPU; the caller alone has the right to wake it.
#[inline]
pub fn make_ready(thread: ThreadPtr) {
    let cpu = cpu::this();
    if thread.get().home.is(cpu.index()) {
        make_ready_here(cpu, thread);
    } else {
        ask(thread, ask::WAKE);
    }
}

/// Asks a thread's home to do something for it. See [`ask`](crate::thread::ask), and [`sched::Home`] for why no question is lost
/// when the thread changes its home.
pub fn ask(thread: ThreadPtr, what: u32) {
    let cpu = cpu::this();
    thread.get().asked.fetch_or(what, Ordering::SeqCst);
    if thread.get().home.is(cpu.index()) {
        answer(cpu, thread);
    } else if let Some(home) = thread.get().home.cpu() {
        send(cpu, thread, home);
    }
    // Else it was not started: whoever takes it in then answers.
}

/// Asks a thread's home, this CPU, to look at it again, when it looks into its inbox next.
pub fn look_again(thread: ThreadPtr) {
    let cpu = cpu::this();
    thread.get().asked.fetch_or(ask::LOOK, Ordering::SeqCst);
    send(cpu, thread, cpu.index());
    // Also if it was inside already: that push may have been another CPU's, whose interrupt is still to come.
    cpu.block().request(Pending::INBOX);
}

/// Asks a thread's home to look at it, as what it inherits may have changed; never at once, so that locks may be held, and a chain of threads that
/// inherit from each other is followed step by step.
pub fn reconsider(thread: ThreadPtr) {
    let cpu = cpu::this();
    thread.get().asked.fetch_or(ask::LOOK, Ordering::SeqCst);
    if let Some(home) = thread.get().home.cpu() {
        send(cpu, thread, home);
        if home == cpu.index() {
            // As in `look_again`.
            cpu.block().request(Pending::INBOX);
        }
    }
}

/// Pushes a thread into a CPU's inbox, and sees to it that this looks.
pub(super) fn send(cpu: &Cpu, thread: ThreadPtr, to: u32) {
    let target = cpu::by_index(to);
    match target.inbox.push(thread) {
        Pushed::First if to == cpu.index() => cpu.block().request(Pending::INBOX),
        Pushed::First => interrupt(cpu, target),
        Pushed::More | Pushed::Already => {}
    }
}

/// Interrupts another CPU so that it passes a quiescent point.
pub fn nudge(index: u32) {
    if let Some(target) = cpu::get(index) {
        interrupt(cpu::this(), target);
    }
}

pub(super) fn interrupt(from: &Cpu, target: &Cpu) {
    from.ipis_sent.add(1);
    apic::send_ipi(target.apic_id(), RESCHEDULE_VECTOR);
}

/// Takes in what other CPUs have sent, a piece of it: if there is more the CPU asks itself to look again. No lock may be held, and the
/// running thread is in no queue.
#[inline]
pub(super) fn drain_inbox(cpu: &Cpu) {
    if !cpu.inbox.is_empty() {
        drain(cpu);
    }
}

#[cold]
fn drain(cpu: &Cpu) {
    cpu.inbox.drain_some(ANSWERED_AT_ONCE, |thread| {
        match thread.get().home.arrive(cpu.index()) {
            // It has moved on since it was pushed.
            Arrival::Elsewhere(home) => send(cpu, thread, home),
            Arrival::Here => answer(cpu, thread),
            Arrival::Arrived => {
                migrate::take_in(cpu, thread);
                // It may have been sent on at once; what is asked stays for its next home then.
                if thread.get().home.is(cpu.index()) {
                    answer(cpu, thread);
                }
            }
        }
    });
    if !cpu.inbox.is_empty() {
        cpu.block().request(Pending::INBOX);
    }
}

/// On a thread's home: does what was asked for it.
pub(super) fn answer(cpu: &Cpu, thread: ThreadPtr) {
    let mut asked = thread.get().asked.swap(0, Ordering::SeqCst);
    for what in [
        ask::ASIDE,
        ask::WAKE,
        ask::CANCEL,
        ask::CANCEL_THIS,
        ask::LOOK,
    ] {
        if asked & what == 0 {
            continue;
        }
        if !thread.get().home.is(cpu.index()) {
            // What was done first has sent it elsewhere.
            return ask(thread, asked);
        }
        asked &= !what;
        match what {
            ask::ASIDE => aside::settle(cpu, thread),
            ask::WAKE => make_ready_here(cpu, thread),
            ask::CANCEL => end_wait(cpu, thread, Error::Cancelled),
            ask::CANCEL_THIS => cancel_this(cpu, thread),
            _ => look(cpu, thread),
        }
    }
}

/// Ends the wait that somebody wished the end of, if the thread is still in it.
fn cancel_this(cpu: &Cpu, thread: ThreadPtr) {
    // One that runs, or is ready, has left it.
    let waits = thread.get().wait.on() != WaitOn::Nothing;
    let is_gone = thread.get().links.is_ready() || cpu.current() == Some(thread) && !waits;
    if !is_gone && thread.get().is_cancel_due() {
        end_wait(cpu, thread, Error::Cancelled);
    }
}

/// Ends a thread's wait, if it has one.
pub(super) fn end_wait(cpu: &Cpu, thread: ThreadPtr, error: Error) {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    if cancel(thread.get(), error, &section) {
        make_ready_here(cpu, thread);
    }
}

/// [`make_ready`] on the thread's home.
#[inline]
pub(super) fn make_ready_here(cpu: &Cpu, thread: ThreadPtr) {
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.timers() }.remove(thread);
    enqueue(cpu, thread);
}

/// The turn of a thread that gave its own to a server, by a direct call, and is woken by another way than that server's answer: what is left of it. It is
/// the running thread's as long as nobody else has come; whoever came then has left the rest with the caller (`bare::keep_turn`).
#[cold]
fn rest_of_turn(cpu: &Cpu) -> Slice {
    let quantum = cpu.quantum.get();
    cpu.current().map_or(Slice::new(quantum), |current| {
        Slice::until(cpu.turn_end(current.get()), arch::time::ticks()).renewed(quantum)
    })
}

/// Whether some ready thread of this CPU is above the running one.
#[cold]
fn is_behind(cpu: &Cpu, current: ThreadPtr) -> bool {
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    ready.is_some_and(|ready| ready > current.get().priority())
}

/// Queues a thread of this CPU that is in no queue and has no deadline any more; or finds it a better place.
pub(super) fn enqueue(cpu: &Cpu, thread: ThreadPtr) {
    if thread.get().marks().any() && aside::keep_back(cpu, thread) {
        return;
    }
    // The first thread of an idle CPU is its own. Others go to an idle CPU, if there is one.
    if cpu.load.get() != 0 && migrate::offer(cpu, thread) {
        return;
    }
    if thread.get().slice.get().is_spent() {
        thread.get().slice.set(rest_of_turn(cpu));
    }
    // Perhaps it was given something to hold by the direct way, or just now.
    thread.get().settle_if_due();
    let priority = thread.get().priority();
    cpu.load.add(1);
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.run_queue() }.push_back(thread, priority);
    // An idle CPU looks by itself.
    if let Some(current) = cpu.current() {
        let changed = settle_current(current);
        if priority > current.get().priority() || changed && is_behind(cpu, current) {
            cpu.block().request(Pending::RESCHEDULE);
        } else {
            // An equal one has its turn when the running one's is over. A lower one may be pulled then, by a CPU that this one did
            // not see idle just now.
            arm(cpu, cpu.turn_end(current.get()));
        }
    }
}
