//! The wait of a thread that has nothing more to do in the kernel: when it is woken, all that it gets is in its context.
//!
//! Such a thread *dozes*, while it waits and while it is ready again. So whoever leaves its CPU to it, and dozes from then on as well, sends it straight
//! into user mode, and nothing of a kernel stack is kept for either. Everybody else switches to it as to any other thread, and it goes on
//! behind its call, in the entry.
//!
//! What may go wrong: a thread that comes straight into user mode although something is to be done for it first. All of that is in its marks,
//! or asked of its CPU: the first are looked at here, the second on the way out.

use core::hint::cold_path;

use arch::cpu::CpuBlock;
use arch::switch::{Delivery, concerns, frame_here, go_on_in, hand_over, leave_after_wait};
use arch::time;
use sched::Slice;

use super::bare::{come, keep_turn, switch_threads, switch_to_idle};
use super::clock::arm_for_turn;
use super::wake::{drain_inbox, make_ready};
use crate::cpu;
use crate::sync;
use crate::thread::{Thread, ThreadPtr};

/// The running thread waits, somewhere where others find it already, without a deadline. Its whole state is in its context, but what it waits
/// for, which whoever wakes it puts there.
#[inline(always)]
pub fn doze(block: &'static CpuBlock, current: &'static Thread) -> ! {
    let cpu = cpu::of(block);
    sync::assert_none_held();
    // A word that was left while it ran was about no wait of its.
    current.marks().forget_cancel();
    current.dozes.set(true);
    let now = time::ticks();
    keep_turn(cpu, current, now);
    cpu.load.sub(1);
    drain_inbox(cpu);
    // SAFETY: this is the CPU; the borrow ends with the statement.
    if let Some(next) = unsafe { cpu.run_queue() }.pop_highest() {
        let thread = next.get();
        let concerns = concerns(&current.machine.state, &thread.machine.state);
        if !thread.dozes.get() || !concerns.are_few() || next == ThreadPtr::new(current) {
            cold_path();
            // SAFETY: nothing here is to be dropped.
            unsafe { go_on_in(leave_for, [next.as_ptr() as u64, now, 0]) }
        }
        thread.dozes.set(false);
        current.run_time.end(now);
        let state = come(cpu, next, now);
        // SAFETY: interrupts are off and no lock is held; the first is this CPU's current thread in its entry, and the second is this CPU's,
        // runs nowhere, and has dozed, as it said. They have to carry what was asked.
        unsafe {
            hand_over(
                block,
                &current.machine.state,
                state,
                concerns,
                Delivery::Own,
            )
        }
    }
    frame_here();
    // SAFETY: nothing here is to be dropped.
    unsafe { go_on_in(leave_for, [0, now, 0]) }
}

/// [`doze`], behind a signal that has ended the wait of `next`, whose results are in its context: it runs at once if it may, on what is left of the turn.
///
/// Nobody of its priority who is ready has to wait longer than for the end of that turn, and nobody above it waits at all: as with a call and
/// its answer (`ipc/direct.rs`).
#[inline(always)]
pub fn doze_for(block: &'static CpuBlock, current: &'static Thread, next: ThreadPtr) -> ! {
    let cpu = cpu::of(block);
    let thread = next.get();
    // SAFETY: this is the CPU; the borrow ends with the statement.
    let ready = unsafe { cpu.run_queue() }.ready_from(thread.priority());
    let concerns = concerns(&current.machine.state, &thread.machine.state);
    let fits = thread.home.is(cpu.index())
        && thread.dozes.get()
        // The timer is set for the end of the turn already if one of its own priority waits for that.
        && (ready == 0 || ready == 1 && current.priority() <= thread.priority())
        && concerns.are_few();
    if !fits {
        cold_path();
        // SAFETY: nothing here is to be dropped.
        unsafe { go_on_in(doze_behind, [next.as_ptr() as u64, 0, 0]) }
    }
    sync::assert_none_held();
    // Neither has a mark, so no word about a wait was left for either.
    thread.dozes.set(false);
    current.dozes.set(true);
    let now = time::ticks();
    current.run_time.end(now);
    thread.run_time.begin(now);
    thread.switches.add(1);
    cpu.switches.add(1);
    thread.slice.set(current.slice.get());
    // It comes back with a signal of the same kind. Should another wake it, it gets what is left of the running thread's.
    current.slice.set(Slice::SPENT);
    // SAFETY: as in `doze`.
    unsafe {
        hand_over(
            block,
            &current.machine.state,
            &thread.machine.state,
            concerns,
            Delivery::Own,
        )
    }
}

/// [`doze_for`] if the other can't run at once: it is made ready.
extern "C" fn doze_behind(next: u64, _: u64, _: u64) -> ! {
    let block = arch::cpu::block();
    let next: *const Thread = core::ptr::with_exposed_provenance(next as usize);
    // SAFETY: a system call is made by a thread; the other was just taken out of its wait, in this section.
    let (current, next) = unsafe { (cpu::running(block).get(), ThreadPtr::new(&*next)) };
    make_ready(next);
    doze(block, current)
}

/// The running thread, which dozes, leaves for another as in any switch, for idleness if it is null, or for itself: it was made ready before it had left.
/// Goes on behind its call.
extern "C" fn leave_for(next: u64, now: u64, _: u64) -> ! {
    let cpu = cpu::this();
    let next: *const Thread = core::ptr::with_exposed_provenance(next as usize);
    // SAFETY: a system call is made by a thread.
    let current = unsafe { cpu::running(cpu.block()) };
    // SAFETY: it comes from `doze`, which has it from the run queue: this CPU's alone.
    match unsafe { next.as_ref() }.map(ThreadPtr::new) {
        None => {
            let _ = switch_to_idle(cpu, current, now);
        }
        Some(next) if next == current => {
            // As in `bare::switch_to_highest`.
            current.get().switches.add(1);
            cpu.turn_began.set(now);
            arm_for_turn(cpu);
            super::aside::notice(cpu, current);
        }
        Some(next) => {
            let _ = switch_threads(cpu, current, next, now);
        }
    }
    // SAFETY: this is in a direct call of the thread, whose registers are in its context: that was so when it began to doze, but for the
    // results, which whoever woke it has written. Nothing here is to be dropped.
    unsafe { leave_after_wait() }
}
