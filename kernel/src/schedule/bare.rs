//! The switch: who leaves the CPU, who comes, on the machine.
//!
//! These are the hottest lines of the kernel. What they touch belongs to this CPU, so it is read and written by plain loads and
//! stores; time is the raw time-stamp counter, read once a switch; the timer is left alone unless something is due
//! earlier than it is set to (see [`clock`](super::clock)).
//!
//! After a switch the code goes on when its thread is switched to again, perhaps on another CPU: a [`Cpu`] that was looked up
//! before must not be used after.

use core::sync::atomic::Ordering;

use abi::Deadline;
use abi::trace::TraceKind;
use arch::cpu::{CpuBlock, Pending};
use arch::switch::{
    Concerns, Switched, ThreadState, concerns, frame_here, switch_by_msrs, switch_plainly,
    switch_to, switch_with_fpu,
};
use arch::time;
use sched::{Slice, Turn};

use super::clock::{arm, arm_for_deadline, arm_for_turn};
use super::look::settle_current;
use super::wake::{drain_inbox, make_ready, make_ready_here};
use super::{aside, migrate};
use crate::cpu::{self, Cpu};
use crate::object::Section;
use crate::sync;
use crate::thread::{MOST_CALLERS, Thread, ThreadPtr};
use crate::trace;

/// The running thread gives its turn to the others of its priority.
///
/// What it returns is a short call's result, so that the short call is nothing but this.
#[inline]
pub fn yield_now() -> Switched {
    let block = arch::cpu::block();
    let cpu = cpu::of(block);
    // SAFETY: a system call is made by a thread.
    let current = unsafe { cpu::running(block) };
    // What other CPUs have sent is taken in on the way out, as after any call. So is a thread of a higher priority: who makes one
    // ready asks the CPU to look.
    let priority = current.get().priority();
    // SAFETY: this is the CPU; the borrow ends before the switch.
    let run = unsafe { cpu.run_queue() };
    // All that is rare is asked for before anything is changed. So the rare cases begin anew elsewhere, and here is nothing to
    // save over a call: no callee-saved register is used.
    let Some(next) = run.front(priority) else {
        frame_here();
        return Switched::NOTHING;
    };
    let concerns = concerns(&current.get().machine.state, &next.get().machine.state);
    if !concerns.are_none() {
        return yield_with(current, next, block, priority, concerns);
    }
    // SAFETY: both are what `yield_by` asks for, and have nothing to carry.
    yield_by(current, next, block, priority, |current, next| unsafe {
        switch_plainly(block, current, next)
    })
}

/// [`yield_now`] if the switch has more to carry than most.
#[inline(never)]
fn yield_with(
    current: ThreadPtr,
    next: ThreadPtr,
    block: &'static CpuBlock,
    priority: sched::EffectivePriority,
    concerns: Concerns,
) -> Switched {
    if concerns.are_fpu_alone() {
        // SAFETY: as in `yield_now`, and floating-point state is all that there is.
        yield_by(current, next, block, priority, |current, next| unsafe {
            switch_with_fpu(block, current, next)
        })
    } else if concerns.are_few() {
        yield_by_msrs(current, next, block, priority, concerns)
    } else {
        yield_with_more_to_do(current, cpu::of(block))
    }
}

/// [`yield_now`] on a CPU without FSGSBASE.
#[inline(never)]
fn yield_by_msrs(
    current: ThreadPtr,
    next: ThreadPtr,
    block: &'static CpuBlock,
    priority: sched::EffectivePriority,
    concerns: Concerns,
) -> Switched {
    // SAFETY: as in `yield_now`, and there is nothing but what `concerns` says.
    yield_by(current, next, block, priority, |current, next| unsafe {
        switch_by_msrs(block, current, next, concerns)
    })
}

/// The running thread and `next`, the first ready one of this priority, change places, by one of the short ways of a switch.
///
/// The turn of `next` begins now. The timer is left as it is: as `next` waited, it comes at the latest when the turn of the running one
/// would have ended, and whoever takes its interrupt sets it for whose turn it is then.
///
/// The short way is given what it needs: interrupts are off and no lock is held, the first is this CPU's current thread, and the second
/// belongs to this CPU and runs nowhere. A thread that ends is reclaimed only after this CPU's next quiescent point.
#[inline(always)]
fn yield_by(
    current: ThreadPtr,
    next: ThreadPtr,
    block: &'static CpuBlock,
    priority: sched::EffectivePriority,
    switch: impl FnOnce(&ThreadState, &ThreadState) -> Switched,
) -> Switched {
    let cpu = cpu::of(block);
    sync::assert_none_held();
    let now = time::ticks();
    debug_assert!(
        cpu.armed.get() <= now.saturating_add(cpu.quantum.get()),
        "somebody waits, and the timer is set too late for that"
    );
    // SAFETY: this is the CPU; the borrow ends with the statement.
    unsafe { cpu.run_queue() }.exchange(current, next, priority);
    cpu.turn_began.set(now);
    current.get().run_time.end(now);
    let thread = next.get();
    thread.run_time.begin(now);
    thread.switches.add(1);
    cpu.switches.add(1);
    switch(&current.get().machine.state, &thread.machine.state)
}

/// A yield when nobody else of the priority is ready, or the switch has more to do than most.
#[cold]
#[inline(never)]
fn yield_with_more_to_do(current: ThreadPtr, cpu: &Cpu) -> Switched {
    let priority = current.get().priority();
    // SAFETY: this is the CPU; the borrow ends before the switch.
    let run = unsafe { cpu.run_queue() };
    if !run.has_from(priority) {
        return Switched::NOTHING;
    }
    // A budget may have shortened its turn.
    current.get().slice.set(Slice::new(cpu.quantum.get()));
    run.push_back(current, priority);
    switch_to_highest(cpu, current, time::ticks())
}

/// Lets the highest ready thread run, if it should before the running one.
pub fn reschedule() {
    let cpu = cpu::this();
    let Some(current) = cpu.current() else {
        return;
    };
    let now = time::ticks();
    if current.get().marks().any() && aside::is_exhausted(current.get(), now) {
        return aside::step_aside(cpu, current);
    }
    let left = Slice::until(cpu.turn_end(current.get()), now);
    settle_current(current);
    let priority = current.get().priority();
    // SAFETY: this is the CPU; the borrow ends before the switch.
    let run = unsafe { cpu.run_queue() };
    match Turn::judge(priority, left, run.peek_priority()) {
        Turn::Continue => return go_on(cpu, current, left, now),
        Turn::Front => {
            keep_turn(cpu, current.get(), now);
            run.push_front(current, priority);
        }
        Turn::Back => {
            set_turn(cpu, current.get(), Slice::new(cpu.quantum.get()));
            run.push_back(current, priority);
        }
    }
    if migrate::has_idle(cpu) {
        // Somebody waits now who did not before: whoever comes gives him away, when he has left the CPU.
        cpu.shed_asked.store(true, Ordering::Relaxed);
        cpu.block().request(Pending::INBOX);
    }
    let _ = switch_to_highest(cpu, current, now);
}

/// The running thread stays after all. What it was to leave for is gone: a waiting thread was given away, or its budget's next period
/// has begun. The timer may have come for that, and is set to nothing more.
fn go_on(cpu: &Cpu, current: ThreadPtr, left: Slice, now: u64) {
    if left.is_spent() {
        cpu.turn_began.set(now);
        current.get().slice.set(Slice::new(cpu.quantum.get()));
    }
    arm_for_turn(cpu);
    aside::notice(cpu, current);
}

/// Blocks the running thread, which is queued somewhere already, until somebody makes it ready.
///
/// The results are in its registers then. The section ends here and a new one begins.
pub fn block(deadline: Deadline, _section: &mut Section) {
    let cpu = cpu::this();
    let now = time::ticks();
    let current = begin_block(cpu, deadline, now);
    drain_inbox(cpu);
    let _ = switch_to_highest(cpu, current, now);
    end_block(current);
}

/// Blocks the running thread as [`block`] does and lets `next`, which was just taken out of its wait, run at once, if it belongs
/// to this CPU and no ready thread is above it. It runs on the caller's turn.
pub fn switch_directly(next: ThreadPtr, deadline: Deadline, section: &mut Section) {
    let cpu = cpu::this();
    if !next.get().home.is(cpu.index()) || next.get().marks().any_but_raised() {
        make_ready(next);
        return block(deadline, section);
    }
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let ready = unsafe { cpu.run_queue() }.peek_priority();
    if ready.is_some_and(|ready| ready >= next.get().priority()) {
        // It may be higher by what it was just given to hold.
        next.get().settle_if_due();
    }
    if ready.is_some_and(|ready| ready > next.get().priority()) {
        make_ready_here(cpu, next);
        return block(deadline, section);
    }
    let now = time::ticks();
    let current = begin_block(cpu, deadline, now);
    // SAFETY: this is the CPU; the borrow ends with the statement.
    unsafe { cpu.timers() }.remove(next);
    next.get().slice.set(current.get().slice.get());
    cpu.load.add(1);
    let _ = switch_threads(cpu, current, next, now);
    end_block(current);
}

#[inline]
fn begin_block(cpu: &Cpu, deadline: Deadline, now: u64) -> ThreadPtr {
    let current = cpu.current().expect("only threads block");
    // A word that was left while it ran was about no wait of its.
    current.get().marks().forget_cancel();
    keep_turn(cpu, current.get(), now);
    cpu.load.sub(1);
    if deadline != Deadline::NEVER {
        // SAFETY: this is the CPU; the borrow ends with the statement.
        unsafe { cpu.timers() }.insert(current, deadline.0);
        arm_for_deadline(cpu);
    }
    current
}

/// Keeps what is left of the running thread's turn for its next one, which is as if it began now.
#[inline]
pub(super) fn keep_turn(cpu: &Cpu, current: &Thread, now: u64) {
    let left = Slice::until(cpu.turn_end(current), now);
    set_turn(cpu, current, left.renewed(cpu.quantum.get()));
    cpu.turn_began.set(now);
}

/// The running thread's next turn, which is not nothing. Those on whose turn it runs, by direct calls, have no more left themselves.
#[inline]
fn set_turn(cpu: &Cpu, current: &Thread, slice: Slice) {
    current.slice.set(slice);
    let mut caller = current.held.caller();
    for _ in 0..MOST_CALLERS {
        let Some(thread) = caller.map(ThreadPtr::get) else {
            return;
        };
        if !thread.slice.get().is_spent() || !thread.home.is(cpu.index()) {
            return;
        }
        thread.slice.set(slice);
        caller = thread.held.caller();
    }
}

/// The running thread goes on after a wait that it began by the direct way (`ipc/direct.rs`, [`doze`](super::doze())).
pub fn after_wait() {
    if let Some(current) = cpu::this().current() {
        current.get().dozes.set(false);
        end_block(current);
    }
}

#[inline]
fn end_block(current: ThreadPtr) {
    current.get().marks().forget_cancel();
}

/// The running thread leaves its CPU, is in no queue, and waits for nothing: see [`aside`]. Returns when it goes on.
pub(super) fn leave_aside(cpu: &Cpu, current: ThreadPtr) {
    let now = time::ticks();
    keep_turn(cpu, current.get(), now);
    cpu.load.sub(1);
    let _ = switch_to_highest(cpu, current, now);
}

/// Leaves the running thread for good.
pub(super) fn abandon() -> ! {
    let cpu = cpu::this();
    let current = cpu.current().expect("only threads end");
    cpu.load.sub(1);
    drain_inbox(cpu);
    let _ = switch_to_highest(cpu, current, time::ticks());
    unreachable!("an ended thread was switched to")
}

/// Leaves `previous`, the running thread, for the highest ready one, or for idleness. Returns when somebody switches back.
#[inline]
fn switch_to_highest(cpu: &Cpu, previous: ThreadPtr, now: u64) -> Switched {
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let next = unsafe { cpu.run_queue() }.pop_highest();
    match next {
        Some(next) if next != previous => switch_threads(cpu, previous, next, now),
        Some(_) => {
            // It was made ready before it had left. What it does next is another turn all the same (see `Thread::wish_cancel`).
            previous.get().switches.add(1);
            cpu.turn_began.set(now);
            arm_for_turn(cpu);
            aside::notice(cpu, previous);
            Switched::NOTHING
        }
        None => switch_to_idle(cpu, previous, now),
    }
}

/// One thread leaves and another comes. `next` is in no queue. Returns when somebody switches back.
#[inline]
pub(super) fn switch_threads(
    cpu: &Cpu,
    previous: ThreadPtr,
    next: ThreadPtr,
    now: u64,
) -> Switched {
    sync::assert_none_held();
    previous.get().run_time.end(now);
    let state = come(cpu, next, now);
    // SAFETY: interrupts are off and no lock is held. The one that leaves is this CPU's current thread; the other belongs to
    // this CPU and runs nowhere. A thread that ends is reclaimed only after this CPU's next quiescent point.
    unsafe { switch_to(&previous.get().machine.state, state) }
}

pub(super) fn switch_to_idle(cpu: &Cpu, previous: ThreadPtr, now: u64) -> Switched {
    sync::assert_none_held();
    previous.get().run_time.end(now);
    cpu.idle_time.begin(now);
    cpu.switches.add(1);
    if trace::is_noted(TraceKind::Switch) {
        trace::idle(cpu);
    }
    // SAFETY: as in `switch_threads`; the idle thread is this CPU's own.
    unsafe { switch_to(&previous.get().machine.state, &cpu.idle) }
}

/// The idle thread lets a thread run. Returns when the CPU is idle again.
pub(super) fn switch_from_idle(cpu: &Cpu, next: ThreadPtr) {
    sync::assert_none_held();
    let now = time::ticks();
    cpu.idle_time.end(now);
    let state = come(cpu, next, now);
    // SAFETY: as in `switch_threads`; the idle thread never ends, and never leaves its CPU.
    let _ = unsafe { switch_to(&cpu.idle, state) };
}

/// Notes that `next` runs from `now` on, and sets the timer for the end of its turn if somebody waits for that.
#[inline]
pub(super) fn come(cpu: &Cpu, next: ThreadPtr, now: u64) -> &'static ThreadState {
    let thread = next.get();
    thread.run_time.begin(now);
    thread.switches.add(1);
    cpu.switches.add(1);
    cpu.turn_began.set(now);
    // SAFETY: this is the CPU; the borrow ends with the condition.
    if unsafe { cpu.run_queue() }.has_from(thread.priority()) {
        arm(cpu, cpu.turn_end(thread));
    }
    if thread.marks().any() {
        trace::switch(cpu, thread);
        aside::come(cpu, thread, now);
    }
    &thread.machine.state
}

/// Whether a thread runs now, for lists: it may have stopped or begun when the answer is there.
pub fn is_running(thread: &Thread) -> bool {
    let home = thread.home.settled().and_then(cpu::get);
    home.is_some_and(|cpu| cpu.current() == Some(ThreadPtr::new(thread)))
}
