//! Making threads ready, here or on the CPU that they belong to.

use core::sync::atomic::Ordering;

use abi::Error;
use arch::cpu::Pending;
use arch::platform::apic;
use sched::Pushed;

use super::clock::arm;
use crate::cpu::{self, Cpu};
use crate::ipc::cancel;
use crate::object::Section;
use crate::thread::{ThreadPtr, ask};

/// Makes the target look at its inbox.
pub const RESCHEDULE_VECTOR: u8 = 0xFC;
/// Makes the target serve what must be served anywhere.
pub const SERVE_VECTOR: u8 = 0xFB;

/// Makes a thread ready that was taken out of its wait. Any CPU; the caller alone has the right to wake it.
#[inline]
pub fn make_ready(thread: ThreadPtr) {
    let cpu = cpu::this();
    if thread.get().home() == cpu.index() {
        make_ready_here(cpu, thread);
    } else {
        ask(thread, ask::WAKE);
    }
}

/// Asks a thread's home to do something for it. See [`ask`](crate::thread::ask).
pub fn ask(thread: ThreadPtr, what: u32) {
    let cpu = cpu::this();
    let home = thread.get().home();
    thread.get().asked.fetch_or(what, Ordering::SeqCst);
    if home == cpu.index() {
        serve_asked(cpu, thread);
        return;
    }
    let home = cpu::by_index(home);
    match home.inbox.push(thread) {
        Pushed::First => interrupt(cpu, home, RESCHEDULE_VECTOR),
        Pushed::More | Pushed::Already => {}
    }
}

/// Interrupts another CPU so that it passes a quiescent point.
pub fn nudge(index: u32) {
    if let Some(target) = cpu::get(index) {
        interrupt(cpu::this(), target, RESCHEDULE_VECTOR);
    }
}

fn interrupt(from: &Cpu, target: &Cpu, vector: u8) {
    from.ipis_sent.add(1);
    apic::send_ipi(target.apic_id(), vector);
}

/// On a thread's home: what was asked for it.
fn serve_asked(cpu: &Cpu, thread: ThreadPtr) {
    let asked = thread.get().asked.swap(0, Ordering::SeqCst);
    if asked & ask::WAKE != 0 {
        make_ready_here(cpu, thread);
    }
    if asked & ask::LOOK != 0 {
        if cpu.current.get() == Some(thread) {
            cpu.block().request(Pending::THREAD);
        }
        // Also the current thread may wait already: this CPU takes in its inbox on the thread's way into the wait.
        // SAFETY: all kernel code between two quiescent points is inside a section.
        let section = unsafe { Section::enter() };
        if cancel(thread.get(), Error::Cancelled, &section) {
            make_ready_here(cpu, thread);
        }
    }
}

/// Takes in what other CPUs have sent. No lock may be held.
#[inline]
pub(super) fn drain_inbox(cpu: &Cpu) {
    if !cpu.inbox.is_empty() {
        drain(cpu);
    }
}

#[cold]
fn drain(cpu: &Cpu) {
    cpu.inbox.drain(|thread| serve_asked(cpu, thread));
}

/// [`make_ready`] on the thread's home.
#[inline]
pub(super) fn make_ready_here(cpu: &Cpu, thread: ThreadPtr) {
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.timers() }.remove(thread);
    enqueue(cpu, thread);
}

/// Queues a thread of this CPU that was blocked and has no deadline any more.
pub(super) fn enqueue(cpu: &Cpu, thread: ThreadPtr) {
    let priority = thread.get().priority();
    cpu.load.add(1);
    // SAFETY: this is the CPU; the borrow ends here.
    unsafe { cpu.run_queue() }.push_back(thread, priority);
    // An idle CPU looks by itself.
    if let Some(current) = cpu.current.get() {
        let running = current.get().priority();
        if priority > running {
            cpu.block().request(Pending::RESCHEDULE);
        } else if priority == running {
            // It has its turn when the running one's is over.
            arm(cpu, cpu.slice_end.get());
        }
    }
}
