//! Threads that leave their CPU without waiting for anything: suspended ones, ones whose budget is used up, and ones that may
//! not run here any more.
//!
//! A running thread can't be given away, or declared parked, by itself: it still stands on its stack, and its selectors and bases
//! are in the CPU. So it only *steps aside*: it notes that for its home, puts itself into this CPU's own inbox and
//! switches away. The next one to look into the inbox, on another stack, finds out what becomes of it.

use core::sync::atomic::Ordering;

use arch::cpu::Pending;
use arch::time;
use sched::{Allowance, Budget, Slice};

use super::bare::leave_aside;
use super::clock::{arm, arm_for_deadline};
use super::migrate;
use super::wake::{enqueue, send};
use crate::cpu::{self, Cpu};
use crate::thread::{Thread, ThreadPtr, ask};

/// Takes the running thread off its CPU, if it has a reason to leave it. It is on its way out of the kernel. Returns when it
/// goes on, if it went.
pub(super) fn step_aside_if_due() {
    let cpu = cpu::this();
    let Some(current) = cpu.current() else {
        return;
    };
    let marks = current.get().marks();
    if !marks.is_killed() && (marks.is_suspended() || marks.is_misplaced()) {
        step_aside(cpu, current);
    }
}

/// Takes the running thread off its CPU.
pub(super) fn step_aside(cpu: &Cpu, current: ThreadPtr) {
    current.get().asked.fetch_or(ask::ASIDE, Ordering::SeqCst);
    send(cpu, current, cpu.index());
    // Also if it was inside already: that push may have been another CPU's, whose interrupt is still to come.
    cpu.block().request(Pending::INBOX);
    leave_aside(cpu, current);
}

/// On a thread's home, when the thread has stepped aside: finds out what becomes of it.
pub(super) fn settle(cpu: &Cpu, thread: ThreadPtr) {
    debug_assert!(
        cpu.current() != Some(thread),
        "a thread that stepped aside does not run"
    );
    let marks = thread.get().marks();
    // One that left at a preemption point is in the middle of a system call: it is parked at the end of that.
    if marks.is_suspended() && !marks.is_killed() && thread.get().at_border.get() {
        park(thread);
        if marks.is_misplaced() {
            migrate::give_to_allowed(cpu, thread, migrate::Was::Off);
        }
    } else {
        enqueue(cpu, thread);
    }
}

/// Parks a thread that is in no queue and does not run, and tells those who waited for that.
pub(super) fn park(thread: ThreadPtr) {
    thread.get().rest.park(true);
    thread.get().wake_waiters(false);
}

/// Lets a parked thread go on.
pub(super) fn unpark(cpu: &Cpu, thread: ThreadPtr) {
    if thread.get().rest.park(false) {
        enqueue(cpu, thread);
    }
}

/// A thread with marks is about to be queued: true if it must not be, and was put elsewhere.
#[cold]
pub(super) fn keep_back(cpu: &Cpu, thread: ThreadPtr) -> bool {
    let marks = thread.get().marks();
    if marks.is_killed() {
        // It has nothing to do any more but to end, which it can do anywhere.
        return false;
    }
    // One that has not left the CPU yet (it is on its way into a wait that is over already) is seen to when it comes back.
    if cpu.current() == Some(thread) {
        return false;
    }
    if marks.is_misplaced() && migrate::give_to_allowed(cpu, thread, migrate::Was::Ready) {
        return true;
    }
    if is_exhausted(thread.get(), time::ticks()) {
        throttle(cpu, thread);
        return true;
    }
    false
}

/// Lets a thread wait for its budget's next period.
fn throttle(cpu: &Cpu, thread: ThreadPtr) {
    let Some(budget) = thread.get().budget.get() else {
        return;
    };
    thread.get().set_throttled(true);
    // SAFETY: this is the CPU; the borrow ends with the statement.
    unsafe { cpu.timers() }.insert(thread, budget.next_ns());
    arm_for_deadline(cpu);
}

/// Takes back what [`throttle`] did. False if it had done nothing. The thread is nowhere then.
pub(super) fn forget_throttle(cpu: &Cpu, thread: ThreadPtr) -> bool {
    let throttled = thread.get().is_throttled();
    if throttled {
        thread.get().set_throttled(false);
        // SAFETY: this is the CPU; the borrow ends with the statement.
        unsafe { cpu.timers() }.remove(thread);
    }
    throttled
}

/// Ends what [`throttle`] began, as its reason is gone.
pub(super) fn end_throttle(cpu: &Cpu, thread: ThreadPtr) {
    if forget_throttle(cpu, thread) {
        enqueue(cpu, thread);
    }
}

/// Whether a thread has used up its budget for this period. `now` is this CPU's counter.
pub(super) fn is_exhausted(thread: &Thread, now: u64) -> bool {
    thread.marks().is_budgeted() && left(thread, now) == Some(0)
}

/// Ticks that a thread's budget has left, brought up to date; `None` if it has none.
fn left(thread: &Thread, now: u64) -> Option<u64> {
    let mut budget = thread.budget.get()?;
    let ran = thread.run_time.ticks(now);
    budget.refill(ran, time::now_ns());
    thread.budget.set(Some(budget));
    Some(budget.left(ran))
}

/// The running thread has a budget: its turn ends with it, whoever waits.
pub(super) fn bound_turn(cpu: &Cpu, thread: &Thread, now: u64) {
    if let Some(left) = left(thread, now) {
        let end = cpu.turn_end(thread).min(now.saturating_add(left));
        thread.slice.set(Slice::until(end, cpu.turn_began.get()));
        arm(cpu, end);
    }
}

/// Gives a thread the budget that somebody wished for it.
pub(super) fn take_over_budget(cpu: &Cpu, thread: ThreadPtr) {
    let Some(wish) = thread.get().rest.take_wish().map(|wish| wish.0) else {
        return;
    };
    let now = time::ticks();
    let account = |allowance: Allowance| {
        Budget::new(allowance, thread.get().run_time.ticks(now), time::now_ns())
    };
    thread.get().budget.set(wish.map(account));
    thread.get().marks().budget(wish.is_some());
    if cpu.current() == Some(thread) {
        bound_turn(cpu, thread.get(), now);
    } else {
        end_throttle(cpu, thread);
    }
}

/// A thread with marks is about to run: what they say is seen to on its way out of the kernel, at the latest at the end of its
/// budget.
#[cold]
pub(super) fn come(cpu: &Cpu, thread: &Thread, now: u64) {
    let marks = thread.marks();
    if marks.is_killed() || marks.is_suspended() || marks.is_misplaced() || marks.is_owing() {
        cpu.block().request(Pending::THREAD);
    }
    if marks.is_budgeted() {
        bound_turn(cpu, thread, now);
    }
}

/// The same for the running thread, whose marks may have changed.
pub(super) fn notice(cpu: &Cpu, current: ThreadPtr) {
    if current.get().marks().any() {
        come(cpu, current.get(), time::ticks());
    }
}

/// A thread's deadline has passed, and was taken out. True if that was its budget's.
pub(super) fn period_is_over(cpu: &Cpu, thread: ThreadPtr) -> bool {
    let throttled = thread.get().is_throttled();
    end_throttle(cpu, thread);
    throttled
}
