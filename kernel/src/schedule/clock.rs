//! The CPU's timer: ends of turns, and deadlines.
//!
//! The timer is armed *lazily*: it is set anew only if something is due earlier than what it is set to. What is no longer due
//! (a wait that ended before its deadline, a turn that was given up) leaves it as it is. So it may come too early, and whoever
//! takes its interrupt looks what is due and sets it again. A switch thereby touches the timer at most once a quantum, and
//! a CPU with one runnable thread and no deadline is not interrupted at all.

use abi::Error;
use arch::cpu::Pending;
use arch::time;
use sched::Slice;

use super::aside;
use super::migrate;
use super::wake::end_wait;
use crate::cpu::{self, Cpu};
use crate::irq;

/// Deadlines that are taken in between two chances for interrupts.
const EXPIRED_AT_ONCE: usize = 32;

/// The local APIC's timer came.
pub fn timer_interrupt() {
    let cpu = cpu::this();
    cpu.armed.set(u64::MAX);
    cpu.timer_ticks.add(1);
    cpu.block().request(Pending::TIMER);
}

/// Lets the timer come at `at`, a value of this CPU's time-stamp counter, if nothing earlier is due.
#[inline]
pub(super) fn arm(cpu: &Cpu, at: u64) {
    if at < cpu.armed.get() {
        arm_earlier(cpu, at);
    }
}

#[cold]
fn arm_earlier(cpu: &Cpu, at: u64) {
    cpu.armed.set(at);
    time::arm_at(at);
}

/// Lets the timer come when the earliest deadline is due.
pub(super) fn arm_for_deadline(cpu: &Cpu) {
    // SAFETY: this is the CPU; the borrow ends with the statement.
    if let Some(deadline) = unsafe { cpu.timers() }.earliest() {
        arm(cpu, time::ticks_at(deadline));
    }
}

/// Lets the timer come when the running thread has had its turn, if somebody waits for that.
pub(super) fn arm_for_turn(cpu: &Cpu) {
    if let Some(current) = cpu.current()
        // SAFETY: this is the CPU; the borrow ends with the condition.
        && unsafe { cpu.run_queue() }.has_from(current.get().priority())
    {
        arm(cpu, cpu.turn_end(current.get()));
    }
}

/// Lets interrupts in again, that are held back, at `ns`. This CPU sees to it.
pub fn open_gates_at(ns: u64) {
    let cpu = cpu::this();
    if ns < cpu.gates_open_ns.get() {
        cpu.gates_open_ns.set(ns);
        arm(cpu, time::ticks_at(ns));
    }
}

/// Opens the gates whose time has come, and sets the timer for others.
#[cold]
fn open_gates(cpu: &Cpu) {
    let now = time::now_ns();
    if now < cpu.gates_open_ns.get() {
        // The timer came for something else.
        return arm(cpu, time::ticks_at(cpu.gates_open_ns.get()));
    }
    cpu.gates_open_ns.set(u64::MAX);
    if let Some(next) = irq::open_gates(now) {
        open_gates_at(next);
    }
}

/// Takes in deadlines that have passed, a bounded number; what is left is asked for again.
pub(super) fn expire(cpu: &Cpu) {
    if cpu.gates_open_ns.get() != u64::MAX {
        open_gates(cpu);
    }
    // SAFETY: this is the CPU; the borrow ends with the condition.
    if unsafe { cpu.timers() }.is_empty() {
        return;
    }
    let now = time::now_ns();
    for _ in 0..EXPIRED_AT_ONCE {
        // SAFETY: this is the CPU; the borrow ends with the statement.
        let Some(thread) = (unsafe { cpu.timers() }).pop_expired(now) else {
            return;
        };
        if !aside::period_is_over(cpu, thread) {
            end_wait(cpu, thread, Error::TimedOut);
        }
    }
    cpu.block().request(Pending::TIMER);
}

/// A deadline may have passed, or the running thread's turn may be over.
pub fn retime() {
    let cpu = cpu::this();
    expire(cpu);
    migrate::shed_if_some_idle(cpu);
    if let Some(current) = cpu.current() {
        let now = time::ticks();
        if Slice::until(cpu.turn_end(current.get()), now).is_spent() {
            // SAFETY: this is the CPU; the borrow ends with the condition.
            let waited_for = unsafe { cpu.run_queue() }.has_from(current.get().priority());
            if waited_for || aside::is_exhausted(current.get(), now) {
                cpu.block().request(Pending::RESCHEDULE);
            } else {
                cpu.turn_began.set(now);
                current.get().slice.set(Slice::new(cpu.quantum.get()));
                aside::notice(cpu, current);
            }
        } else {
            // The timer came for something else, or for nothing any more: it is to come for the turn's end, or the budget's, again.
            arm_for_turn(cpu);
            aside::notice(cpu, current);
        }
    }
    arm_for_deadline(cpu);
}
