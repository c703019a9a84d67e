//! What is due on the way out of the kernel.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::info::ThreadState;
use arch::cpu::Pending;

use super::aside::step_aside_if_due;
use super::bare::{abandon, reschedule};
use super::clock::retime;
use super::migrate::shed;
use super::wake::{drain_inbox, nudge};
use crate::cpu::{self, Cpu};
use crate::log_owner;
use crate::object::quiescent;
use crate::process;
use crate::sync;
use crate::thread::{Thread, ThreadPtr};
use crate::trap;

/// Retired objects (or pieces) that one way out destroys.
const RECLAIM_BUDGET: usize = 2;
/// From so many retired objects on, CPUs that hold their end up are interrupted.
const NUDGE_FROM: usize = 32;
/// After so many tries in vain they are, however few objects wait.
const PATIENCE: u32 = 64;

/// Does all that is asked of this CPU, then declares a quiescent point. The last thing before user mode.
pub fn exit_work() {
    sync::assert_none_held();
    debug_assert!(
        entry_stack_is_the_threads_own(),
        "the next entry would come in on another thread's stack"
    );
    let cpu = cpu::this();
    cpu.seen.pass();
    let more_to_reclaim = quiescent::pending() != 0 && {
        // Whatever this entry was for may have taken long by itself.
        let_interrupts_in();
        reclaim()
    };
    while cpu::this().block().has_requests() {
        // A thread may come back on the same CPU only, but the requests of that moment are what counts.
        let cpu = cpu::this();
        let asked = cpu.block().take_requests();
        let has = |what: Pending| asked.0 & what.0 != 0;
        if has(Pending::INBOX) {
            look_around(cpu);
            if !cpu.inbox.is_empty() {
                // There may be any number of them: what is left comes with the next round.
                let_interrupts_in();
            }
        }
        if has(Pending::TIMER) {
            retime();
        }
        if has(Pending::LOG) {
            log_owner::tell();
        }
        if has(Pending::MACHINE_CHECK) {
            trap::tell_of_machine_check();
        }
        if has(Pending::THREAD) && !attend_thread() {
            // It went and came back, perhaps to another CPU: what was asked there is another matter.
            continue;
        }
        if has(Pending::RESCHEDULE) {
            at_border(reschedule);
        }
        cpu::this().seen.pass();
    }
    if more_to_reclaim && !wake_an_idle_cpu() {
        // Nobody else has the time: this CPU comes back here at its next entry.
        cpu::this().block().request(Pending::PASS);
    }
}

/// The running thread; `None` on a CPU that is idle.
pub fn current() -> Option<&'static Thread> {
    cpu::this().current().map(ThreadPtr::get)
}

/// The running thread is to end processes on its way out of the kernel.
pub fn owe(thread: &Thread) {
    thread.marks().owe(true);
    cpu::this().block().request(Pending::THREAD);
}

/// Whether the next entry from user mode begins at the top of the current thread's stack.
fn entry_stack_is_the_threads_own() -> bool {
    let cpu = cpu::this();
    cpu.current()
        .is_none_or(|thread| thread.get().machine.state.stack_top() == cpu.block().entry_stack())
}

/// What other CPUs have sent, and whether an idle one wants a thread.
fn look_around(cpu: &Cpu) {
    drain_inbox(cpu);
    if cpu.shed_asked.load(Ordering::Relaxed) {
        shed(cpu);
    }
}

/// Does what the running thread's marks say. False if it was off the CPU meanwhile.
fn attend_thread() -> bool {
    let Some(current) = cpu::this().current() else {
        return true;
    };
    let before = current.get().switches.get();
    if current.get().marks().is_owing() {
        // Also if it is killed or suspended: nobody else would do it.
        process::settle(current.get());
    }
    trap::deliver_debug_trap(current.get());
    if current.get().marks().is_killed() {
        leave_thread();
    }
    at_border(step_aside_if_due);
    current.get().switches.get() == before
}

/// Lets the running thread leave its CPU at a place where all of its user registers are in its context.
fn at_border(leave: impl FnOnce()) {
    let current = cpu::this().current();
    if let Some(current) = current {
        current.get().at_border.set(true);
    }
    leave();
    if let Some(current) = current {
        current.get().at_border.set(false);
    }
}

/// A place inside long work where other threads may have the CPU. The caller holds counted references only, and no lock.
///
/// A killed thread goes on with its work here and ends on its way out.
pub fn preemption_point() {
    sync::assert_none_held();
    let block = cpu::this().block();
    if block.has_requests() {
        let asked = block.take_requests();
        if asked.0 & Pending::INBOX.0 != 0 {
            look_around(cpu::this());
        }
        if asked.0 & Pending::TIMER.0 != 0 {
            retime();
        }
        // What is left for the way out is asked again.
        block.request(Pending(
            asked.0 & (Pending::THREAD.0 | Pending::LOG.0 | Pending::MACHINE_CHECK.0),
        ));
        if (asked.0 | block.take_requests_of(Pending::RESCHEDULE).0) & Pending::RESCHEDULE.0 != 0 {
            cpu::this().seen.pass();
            reschedule();
        }
    }
    cpu::this().seen.pass();
    let_interrupts_in();
}

/// Serves an interrupt that waits: the kernel runs with interrupts off, so long work must let them in by itself.
fn let_interrupts_in() {
    arch::cpu::allow_pending_interrupts();
}

/// Lets a CPU that has nothing to do go on with the destruction of objects. False if there is none.
fn wake_an_idle_cpu() -> bool {
    let idle = cpu::all().find(|cpu| cpu.seen.is_away());
    if let Some(idle) = idle {
        nudge(idle.index());
    }
    idle.is_some()
}

/// Destroys retired objects whose time has come, a bounded number. Returns whether there is more to do at once.
pub(super) fn reclaim() -> bool {
    let this = cpu::this().index();
    let many = quiescent::pending() >= NUDGE_FROM;
    let mut nudging = None;
    quiescent::reclaim(
        RECLAIM_BUDGET,
        &|visit| cpu::all().for_each(|cpu| visit(cpu.index() as usize, &cpu.seen)),
        &mut |straggler| {
            if straggler as u32 == this {
                return;
            }
            // A short call declares no quiescent point unless it is asked to, and whoever passes last reclaims.
            cpu::by_index(straggler as u32)
                .block()
                .request_from_afar(Pending::PASS);
            if *nudging.get_or_insert_with(|| many || is_patience_over()) {
                nudge(straggler as u32);
            }
        },
    )
}

/// Counts the tries that came to nothing, as some CPU stays in user mode. Few objects can wait for that, but not for ever: whoever waits for what they
/// have may look for it again and again, with no CPU idle.
fn is_patience_over() -> bool {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    // One that is lost by a race is one more.
    let tries = TRIES.load(Ordering::Relaxed).wrapping_add(1);
    TRIES.store(tries, Ordering::Relaxed);
    tries.is_multiple_of(PATIENCE)
}

/// Ends the running thread.
///
/// # Panics
/// If the CPU is idle: a kernel bug.
pub fn leave_thread() -> ! {
    let cpu = cpu::this();
    let current = cpu.current().expect("only threads end");
    let thread = current.get();
    if let Some(notification) = thread.set_bound(None) {
        notification.unbind();
    }
    thread.drop_held();
    thread.listeners.clear();
    thread.end_service();
    // The thread keeps it alive, also over the preemption points that its end may have.
    let process = thread.process();
    // SAFETY: the thread does not go back to user mode.
    unsafe { arch::fpu::forget_current() };
    // The list's reference may be the last; the thread's memory then stays until this CPU has left it.
    thread.set_state(ThreadState::Ended);
    let reference = process.remove_thread(thread);
    // What it has given up, or its process just now. The process's list has let go of it, but we not yet: others may run in between.
    process::settle(thread);
    drop(reference);
    // Again: it was ended before it left the list, so that nobody finds one in no list that has not ended. Then the work that it did may have been preempted, and whoever is
    // preempted is ready, and runs again: the state that is left for good is this one.
    thread.set_state(ThreadState::Ended);
    abandon()
}
