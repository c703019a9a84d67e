//! What a CPU does when no thread wants it.
//!
//! It stops until an interrupt. Work is looked for with interrupts off, and `sti; hlt` are adjacent, so a wake-up that
//! comes in between is not slept through.
//!
//! With `idle=poll` on the command line it never stops: it polls its inbox, and nobody has to interrupt it for a wake-up. That is for whoever
//! would rather spend power than the time of an interrupt, and for measuring what that time is.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use arch::cpu::{allow_pending_interrupts, halt_until_interrupt};

use super::bare::switch_from_idle;
use super::clock::{arm_for_deadline, expire};
use super::exit::reclaim;
use super::migrate::{enter_idle, leave_idle, pull};
use super::wake::{drain_inbox, nudge};
use crate::cpu::{self, Cpu};
use crate::log_owner;
use crate::memory::prepared;
use crate::object::quiescent;
use crate::process;

/// An idle CPU polls, and never halts.
static POLLS: AtomicBool = AtomicBool::new(false);

/// Decides what an idle CPU does when there is nothing to be done in advance: it polls, or halts. To be called before any is idle.
pub fn choose_idle(polls: bool) {
    POLLS.store(polls, Ordering::Relaxed);
    if polls {
        ::log::info!("idle CPUs poll, as the command line asks");
    }
}

/// Runs this CPU's threads for ever. The caller is the CPU's idle thread.
pub fn run_idle() -> ! {
    let cpu = cpu::this();
    loop {
        cpu.seen.pass();
        // What was asked of the CPU is looked at here in any case.
        let _ = cpu.block().take_requests();
        cpu.shed_asked.store(false, Ordering::Relaxed);
        log_owner::tell();
        drain_inbox(cpu);
        expire(cpu);
        // Before a thread comes, which may run for ever: the timer has come for one deadline, and the next is to be kept as well.
        arm_for_deadline(cpu);
        let more = (quiescent::pending() != 0 && reclaim())
            | (process::has_orphans() && process::work_off_a_piece());
        // SAFETY: this is the CPU; the borrow ends with the statement.
        if let Some(next) = unsafe { cpu.run_queue() }.pop_highest() {
            switch_from_idle(cpu, next);
            continue;
        }
        if more {
            allow_pending_interrupts();
            continue;
        }
        if quiescent::pending() != 0 {
            hurry_stragglers();
        }
        // The end of an object may have made a thread ready, and here nobody asks the CPU to look.
        // SAFETY: this is the CPU; the borrow ends with the condition.
        if cpu.block().has_requests() || !unsafe { cpu.run_queue() }.is_empty() {
            // It may have been asked for by this CPU itself, any number of times.
            allow_pending_interrupts();
            continue;
        }
        wait_for_work(cpu);
    }
}

/// Looks for work elsewhere, does what can be done in advance, a bit at a time, and halts when there is nothing of that.
fn wait_for_work(cpu: &Cpu) {
    // While this CPU looks into its inbox by itself nobody need interrupt it for that.
    if !cpu.inbox.start_polling() {
        return;
    }
    enter_idle(cpu);
    // One frame at a time, so that a wake-up waits for no more than that.
    let goes_on = pull(cpu) || prepared::prepare_one();
    let polls = POLLS.load(Ordering::Relaxed);
    if goes_on {
        allow_pending_interrupts();
    } else if polls {
        poll(cpu);
    }
    let nothing_came = cpu.inbox.stop_polling() && !cpu.block().has_requests();
    if nothing_came && !goes_on && !polls {
        // A sleeping CPU must not hold up the end of objects. Its interrupts' handlers come back first of all.
        cpu.seen.leave();
        halt_until_interrupt();
        cpu.seen.return_to();
        cpu.scanned.set(0);
    }
    leave_idle(cpu);
}

/// Waits until there is something in the inbox, or an interrupt has asked for something, or has made a thread of this CPU ready.
fn poll(cpu: &Cpu) {
    // SAFETY: this is the CPU; the borrow ends with the call.
    let nobody_is_ready = || unsafe { cpu.run_queue() }.is_empty();
    while cpu.inbox.is_empty() && !cpu.block().has_requests() && nobody_is_ready() {
        // As when it sleeps: it holds nothing, and whoever looks for an idle CPU finds it. An interrupt's handler takes that back.
        cpu.seen.leave();
        allow_pending_interrupts();
        spin_loop();
    }
    cpu.seen.return_to();
    cpu.scanned.set(0);
}

/// An idle CPU has the time to see to it that dead objects do not wait for long: it interrupts CPUs that stay in user mode.
fn hurry_stragglers() {
    let this = cpu::this().index();
    quiescent::reclaim(
        1,
        &|visit| cpu::all().for_each(|cpu| visit(cpu.index() as usize, &cpu.seen)),
        &mut |straggler| {
            if straggler as u32 != this {
                nudge(straggler as u32);
            }
        },
    );
}
