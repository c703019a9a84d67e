//! A thread's home looks what has changed about the thread: killed, suspended, resumed, priority, affinity, budget.
//!
//! There is one question for all of them, and one answer: the thread's marks and settings as they are now, whoever set them
//! and however often. So changes that come together, or overtake each other, end up right.

use abi::Error;
use arch::cpu::Pending;

use super::wake::{end_wait, look_again};
use super::{aside, migrate};
use crate::cpu::{self, Cpu};
use crate::ipc::{WaitOn, reorder};
use crate::object::Section;
use crate::thread::{ThreadPtr, ask};

/// Where a thread of this CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// On the CPU, in user mode or on its way out of the kernel.
    Running,
    /// On the CPU still, on its way into a wait, which may be over already.
    Leaving,
    /// Waiting for its turn.
    Queued,
    /// Parked.
    Parked,
    /// Waiting for its budget's next period.
    Throttled,
    /// In a wait, or taken out of one by somebody who is about to say so.
    Waiting,
}

fn place(cpu: &Cpu, thread: ThreadPtr) -> Place {
    let listed = thread.get().links.is_listed();
    let waits = thread.get().wait.on() != WaitOn::Nothing;
    if cpu.current() == Some(thread) {
        if listed || waits {
            Place::Leaving
        } else {
            Place::Running
        }
    } else if thread.get().links.is_ready() {
        Place::Queued
    } else if thread.get().rest.is_parked() {
        Place::Parked
    } else if thread.get().is_throttled() {
        Place::Throttled
    } else {
        Place::Waiting
    }
}

/// Acts on all that has changed about a thread of this CPU.
pub(super) fn look(cpu: &Cpu, thread: ThreadPtr) {
    if thread.get().has_ended() {
        return;
    }
    settle_priority(cpu, thread);
    aside::take_over_budget(cpu, thread);
    let marks = thread.get().marks();
    if marks.is_killed() {
        return end(cpu, thread);
    }
    // Before the rest: a parked or throttled thread is given away as such.
    settle_affinity(cpu, thread);
    if !thread.get().home.is(cpu.index()) {
        // Its new home looks at the rest, and tells who waits.
        return super::wake::ask(thread, ask::LOOK);
    }
    if marks.is_suspended() {
        suspend(cpu, thread);
    } else {
        aside::unpark(cpu, thread);
    }
    let still = marks.is_suspended() && thread.get().wait.on() != WaitOn::Nothing;
    thread.get().wake_waiters(still);
}

/// Brings the effective priority of a thread of this CPU up to date, and its place in whatever queue it is in.
pub(super) fn settle_priority(cpu: &Cpu, thread: ThreadPtr) {
    if !thread.get().settle() {
        return;
    }
    let priority = thread.get().priority();
    // SAFETY: this is the CPU; each borrow ends with its statement.
    if !unsafe { cpu.run_queue() }.requeue(thread, priority) {
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        reorder(thread.get(), &section);
    }
    let Some(current) = cpu.current() else {
        return;
    };
    if current != thread {
        settle_current(current);
    }
    compare(cpu, current);
}

/// The running thread, or a ready one, has another priority: whoever is highest shall run.
fn compare(cpu: &Cpu, current: ThreadPtr) {
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    if ready.is_some_and(|ready| ready > current.get().priority()) {
        cpu.block().request(Pending::RESCHEDULE);
    } else {
        super::clock::arm_for_turn(cpu);
    }
}

/// The running thread has another priority, as it has settled it.
#[cold]
pub fn compare_running() {
    let cpu = cpu::this();
    if let Some(current) = cpu.current() {
        compare(cpu, current);
    }
}

/// Brings the priority of this CPU's thread up to date, with which another one is about to be compared: by what a direct call gave it to hold, it may
/// be higher than is noted.
///
/// True if it has changed: if it is lower now, others than the one that it is compared with may be above it.
#[inline]
pub(super) fn settle_current(current: ThreadPtr) -> bool {
    current.get().held.is_some() && settle_on_cpu(current)
}

fn settle_on_cpu(current: ThreadPtr) -> bool {
    let changed = current.get().settle();
    if changed && current.get().wait.on() != WaitOn::Nothing {
        // It is about to leave, and stands in a queue already.
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        reorder(current.get(), &section);
    }
    changed
}

/// The running thread has received or answered something: brings its priority up to date, if anybody could tell.
pub fn settle_running() {
    let cpu = cpu::this();
    let Some(current) = cpu.current() else {
        return;
    };
    let thread = current.get();
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let is_compared =
        || thread.held.is_some() && unsafe { cpu.run_queue() }.has_from(thread.priority());
    if (thread.marks().any() && thread.marks().is_raised() || is_compared()) && thread.settle() {
        compare(cpu, current);
    }
}

/// It was killed: it comes as far as its way out of the kernel, and ends there.
fn end(cpu: &Cpu, thread: ThreadPtr) {
    match place(cpu, thread) {
        Place::Running => cpu.block().request(Pending::THREAD),
        // It notices when it comes.
        Place::Queued => {}
        Place::Parked => aside::unpark(cpu, thread),
        Place::Throttled => aside::end_throttle(cpu, thread),
        Place::Leaving | Place::Waiting => end_wait(cpu, thread, Error::Cancelled),
    }
}

fn suspend(cpu: &Cpu, thread: ThreadPtr) {
    match place(cpu, thread) {
        Place::Running => cpu.block().request(Pending::THREAD),
        Place::Queued if thread.get().at_border.get() => {
            // SAFETY: this is the CPU; the borrow ends with the statement.
            unsafe { cpu.run_queue() }.remove(thread);
            cpu.load.sub(1);
            aside::park(thread);
        }
        Place::Throttled if thread.get().at_border.get() => {
            aside::forget_throttle(cpu, thread);
            aside::park(thread);
        }
        // It has kernel code to run before it is at the border, or is in a wait.
        Place::Queued | Place::Leaving | Place::Parked | Place::Throttled | Place::Waiting => {}
    }
}

fn settle_affinity(cpu: &Cpu, thread: ThreadPtr) {
    let marks = thread.get().marks();
    if thread.get().affinity.allows(cpu.index()) {
        marks.misplace(false);
        return;
    }
    marks.misplace(true);
    match place(cpu, thread) {
        Place::Running => cpu.block().request(Pending::THREAD),
        // Its wait may last, and somebody waits for it to be where it may be: it is looked at again when it has left. That is the next
        // time that this CPU looks into its inbox, which it does on another stack.
        Place::Leaving => look_again(thread),
        Place::Queued => {
            // SAFETY: this is the CPU; the borrow ends with the statement.
            unsafe { cpu.run_queue() }.remove(thread);
            cpu.load.sub(1);
            if !migrate::give_to_allowed(cpu, thread, migrate::Was::Ready) {
                super::wake::enqueue(cpu, thread);
            }
        }
        Place::Parked | Place::Throttled | Place::Waiting => {
            migrate::give_to_allowed(cpu, thread, migrate::Was::Off);
        }
    }
}
