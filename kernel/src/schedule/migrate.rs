//! Threads that go from one CPU to another: because they may not run on the one, or because the other has nothing to run.
//!
//! Only a thread's home gives it away, and only while the thread is not on the CPU (see [`sched::Home`] for the protocol, and
//! [`aside`](super::aside) for a thread that runs). What it leaves behind needs no cleaning up: its FPU registers were
//! saved when it left the CPU and are the CPU's only as long as nobody else's come there *and* it has not been
//! anywhere else; selectors and bases are in its context; its deadline goes with it.

use core::sync::atomic::Ordering;

use abi::trace::TraceKind;
use sched::{CpuLoad, CpuPicker, IdleSet, Slice, busiest};

use super::clock::arm_for_deadline;
use super::look::settle_priority;
use super::wake::{enqueue, interrupt, send};
use crate::cpu::{self, Cpu};
use crate::thread::{ThreadPtr, Transit};
use crate::trace;

/// Ready threads that are looked at to find one that may run on an idle CPU.
const LOOKED_AT: usize = 16;
/// Threads that are given to idle CPUs in one go.
const GIVEN_AT_ONCE: usize = 8;
/// CPUs that an idle CPU looks at between two chances for interrupts.
const SCANNED_AT_ONCE: u32 = 16;

pub(super) static PICKER: CpuPicker = CpuPicker::new();
static IDLE: IdleSet = IdleSet::new();

/// What a thread was that is given away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Was {
    /// Ready to run; it is in no queue now.
    Ready,
    /// Blocked, parked or throttled.
    Off,
}

pub(super) fn loads() -> impl Iterator<Item = CpuLoad> {
    cpu::all().map(|cpu| CpuLoad {
        cpu: cpu.index(),
        threads: cpu.load.get(),
    })
}

/// Gives a thread, which is in no run queue, to the least loaded CPU that it may run on. False if there is none.
pub(super) fn give_to_allowed(cpu: &Cpu, thread: ThreadPtr, was: Was) -> bool {
    let allows = |index| thread.get().affinity.allows(index);
    match PICKER.pick(loads(), allows) {
        Some(to) if to != cpu.index() => {
            let transit = match was {
                Was::Ready => Transit::Ready,
                Was::Off => {
                    // SAFETY: this is the CPU; the borrow ends with the block.
                    let timers = unsafe { cpu.timers() };
                    let deadline = timers.deadline_of(thread);
                    timers.remove(thread);
                    Transit::Off(deadline)
                }
            };
            give(cpu, thread, to, transit);
            true
        }
        _ => false,
    }
}

/// Gives away a thread that is in no queue and has no deadline here.
fn give(cpu: &Cpu, thread: ThreadPtr, to: u32, transit: Transit) {
    debug_assert!(
        cpu.current() != Some(thread),
        "a thread on its CPU can't be given away"
    );
    if trace::is_noted(TraceKind::Migration) {
        let ready = !matches!(transit, Transit::Off(_));
        trace::migration(cpu, thread.get(), to, ready);
    }
    cpu.migrations_out.add(1);
    thread.get().migrations.add(1);
    thread.get().marks().misplace(false);
    if thread.get().slice.get().is_spent() {
        // What is left of its turn stays here.
        thread.get().slice.set(Slice::new(cpu.quantum.get()));
    }
    thread.get().transit.set(transit);
    thread
        .get()
        .poised
        .store(core::ptr::null_mut(), Ordering::Relaxed);
    thread.get().home.leave_for(to);
    send(cpu, thread, to);
}

/// A thread has arrived: puts it where it was taken out, or sends it on if it may not run here either.
pub(super) fn take_in(cpu: &Cpu, thread: ThreadPtr) {
    let transit = thread.get().transit.get();
    if transit != Transit::Started {
        cpu.migrations_in.add(1);
    }
    if !thread.get().affinity.allows(cpu.index())
        && let Some(to) = PICKER.pick(loads(), |index| thread.get().affinity.allows(index))
    {
        let transit = match transit {
            Transit::Off(deadline) => Transit::Off(deadline),
            _ => Transit::Ready,
        };
        return give(cpu, thread, to, transit);
    }
    settle_priority(cpu, thread);
    match transit {
        Transit::Off(deadline) => {
            if let Some(deadline) = deadline {
                // SAFETY: this is the CPU; the borrow ends with the statement.
                unsafe { cpu.timers() }.insert(thread, deadline);
                arm_for_deadline(cpu);
            }
        }
        Transit::Started | Transit::Ready => enqueue(cpu, thread),
        Transit::Pulled => {
            cpu.steals.add(1);
            enqueue(cpu, thread);
        }
    }
    // Those who waited for it to be on a CPU where it may be.
    if thread.get().home.is(cpu.index()) {
        thread.get().wake_waiters(false);
    }
}

/// A thread is about to be queued behind others: gives it to an idle CPU instead, if there is one that it may run on.
#[inline]
pub(super) fn offer(cpu: &Cpu, thread: ThreadPtr) -> bool {
    has_idle(cpu) && cpu.current() != Some(thread) && offer_to_idle(cpu, thread)
}

#[cold]
fn offer_to_idle(cpu: &Cpu, thread: ThreadPtr) -> bool {
    match IDLE.claim(cpu.index(), &thread.get().affinity) {
        Some(to) if to != cpu.index() => {
            give(cpu, thread, to, Transit::Pulled);
            true
        }
        _ => false,
    }
}

/// Gives ready threads of this CPU to idle ones, as far as there are both.
pub(super) fn shed(cpu: &Cpu) {
    cpu.shed_asked.store(false, Ordering::Relaxed);
    for _ in 0..GIVEN_AT_ONCE {
        let mut target = None;
        let current = cpu.current();
        // SAFETY: this is the CPU; the borrow ends with the statement.
        let thread = unsafe { cpu.run_queue() }.take_first(LOOKED_AT, |thread| {
            if Some(thread) != current {
                target = IDLE.claim(cpu.index(), &thread.get().affinity);
            }
            target.is_some()
        });
        let (Some(thread), Some(to)) = (thread, target) else {
            break;
        };
        cpu.load.sub(1);
        give(cpu, thread, to, Transit::Pulled);
    }
    if cpu.load.get() > 1 && has_idle(cpu) {
        // What is left may not run on any of those that are idle: they need not ask again soon.
        cpu.barren_until.store(
            arch::time::ticks().saturating_add(cpu.quantum.get()),
            Ordering::Relaxed,
        );
    }
}

/// [`shed`], if threads wait and some CPU is idle: when a turn ends, and when a thread was pushed aside by a higher one.
#[inline]
pub(super) fn shed_if_some_idle(cpu: &Cpu) {
    // SAFETY: this is the CPU; the borrow ends with the condition.
    if has_idle(cpu) && !unsafe { cpu.run_queue() }.is_empty() {
        shed(cpu);
    }
}

/// Whether some CPU is idle.
#[inline]
pub(super) fn has_idle(cpu: &Cpu) -> bool {
    IDLE.has_any(cpu.index(), cpu::count())
}

/// This CPU has nothing to run: from now on others may give it threads.
pub(super) fn enter_idle(cpu: &Cpu) {
    IDLE.enter(cpu.index());
}

/// This CPU looks for work by itself again.
pub(super) fn leave_idle(cpu: &Cpu) {
    IDLE.leave(cpu.index());
}

/// Looks at some more CPUs, and asks the busiest of them for a thread. True if there are CPUs left to look at.
pub(super) fn pull(cpu: &Cpu) -> bool {
    let (count, scanned) = (cpu::count(), cpu.scanned.get());
    if scanned + 1 >= count {
        return false;
    }
    let more = (count - 1 - scanned).min(SCANNED_AT_ONCE);
    cpu.scanned.set(scanned + more);
    let now = arch::time::ticks();
    let others = (scanned + 1..=scanned + more)
        .filter_map(|step| cpu::get((cpu.index() + step) % count))
        .filter(|other| other.barren_until.load(Ordering::Relaxed) <= now)
        .map(|other| CpuLoad {
            cpu: other.index(),
            threads: other.load.get(),
        });
    if let Some(target) = busiest(others).and_then(cpu::get)
        && !target.shed_asked.swap(true, Ordering::SeqCst)
    {
        interrupt(cpu, target);
    }
    scanned + more + 1 < count
}
