//! Processes that end because nobody can reach them any more, and who ends them.
//!
//! Such a process has nobody of its own to work off its end, which may take long: thousands of handles, each perhaps the last one to
//! something else. So **whoever gave up the last way to it ends it**: the thread that closed the handle goes on with that, by pieces with
//! preemption points between, before it goes back to user mode ([`settle`], from the way out of the kernel). It does so with its own
//! priority and on its own budget, as if it had killed the process by a call.
//!
//! Why not one worker for all, or a piece by whoever passes: a worker of low priority, or without budget, would hold up what others have given
//! up, and a stream of new ones would never let it go. And what is left to whoever passes is done by nobody while the threads of all CPUs stay in
//! user mode. Here nobody waits for more than the one who gave the process up, and that one can't be kept from it by others' processes.
//! Whoever closes a handle that somebody else has sent pays for what ends with it; that is bounded by the sender's quota.
//!
//! The end of one may give up the last way to another, and so on. The list takes these as well, so they are not worked off one inside the other:
//! a kernel stack is short.
//!
//! A CPU that runs no thread could come upon one only by destroying a process that has handles in its table and was never ended. A process with a
//! handle to it ends before it is destroyed, so there is none; should there be, the idle loop takes a piece a round
//! ([`work_off_a_piece`]).

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use super::Process;
use super::end::End;
use crate::object::Ref;
use crate::schedule;
use crate::sync::{Mutex, level};
use crate::thread::Thread;

/// Processes that one thread is to end. Its own.
pub(crate) struct Doomed {
    /// Linked through `next_to_end`; each has a counted reference here.
    first: Cell<*mut Process>,
}

impl Doomed {
    /// None.
    pub(crate) const fn none() -> Doomed {
        Doomed {
            first: Cell::new(ptr::null_mut()),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    fn push(&self, process: Ref<Process>) {
        process
            .next_to_end
            .store(self.first.get(), Ordering::Relaxed);
        self.first.set(process.into_raw().cast_mut());
    }

    /// Takes one out, which can be put into another list from then on.
    fn pop(&self) -> Option<Ref<Process>> {
        let first = self.first.get();
        if first.is_null() {
            return None;
        }
        // SAFETY: the list's reference, which is taken up once: the process is out of the list now.
        let process = unsafe { Ref::from_raw(first) };
        self.first.set(process.next_to_end.load(Ordering::Relaxed));
        // Whoever found it listed, and so left it to us, has done before what he did with it.
        process.is_doomed.swap(false, Ordering::AcqRel);
        Some(process)
    }
}

/// What no thread has taken upon itself.
struct Orphans {
    all: Doomed,
    /// The one that is being ended, and how far.
    at: Option<(Ref<Process>, End)>,
    /// Another CPU has that in its hands.
    is_taken: bool,
}

// SAFETY: the list's pointers are counted references; the lock hands them on.
unsafe impl Send for Orphans {}

static ORPHANS: Mutex<{ level::DOOMED }, Orphans> = Mutex::new(Orphans {
    all: Doomed::none(),
    at: None,
    is_taken: false,
});
/// Whether a CPU without a thread need look there. Cleared under the lock.
static HAS_ORPHANS: AtomicBool = AtomicBool::new(false);

/// Has a process be ended that nobody can reach, or whose last thread ended before it was started: by the running thread on its way out of
/// the kernel. No lock may be held.
pub(super) fn later(process: Ref<Process>) {
    if process.is_doomed.swap(true, Ordering::AcqRel) {
        // It is in a list: somebody had a reference to it still, made something of it, and gave that up. Whoever ends it ends that as well.
        return;
    }
    if let Some(thread) = schedule::current() {
        thread.doomed.push(process);
        schedule::owe(thread);
    } else {
        let orphans = ORPHANS.lock();
        orphans.all.push(process);
        HAS_ORPHANS.store(true, Ordering::Relaxed);
    }
}

/// Whether there may be something that no thread has taken upon itself.
pub(crate) fn has_orphans() -> bool {
    HAS_ORPHANS.load(Ordering::Relaxed)
}

/// Ends what the running thread has doomed. Others may have the CPU in between; the caller holds counted references only, and no lock.
#[cold]
pub(crate) fn settle(thread: &Thread) {
    while let Some(process) = thread.doomed.pop() {
        let mut end = End::of_unreachable();
        while end.piece(&process) {
            schedule::preemption_point();
        }
        drop(process);
        schedule::preemption_point();
    }
    thread.marks().owe(false);
}

/// Does a piece of what no thread has taken upon itself; true if there may be more. For a CPU that runs no thread.
pub(crate) fn work_off_a_piece() -> bool {
    let (process, mut end) = {
        let mut orphans = ORPHANS.lock();
        if orphans.is_taken {
            return false;
        }
        let Some(next) = orphans
            .at
            .take()
            .or_else(|| Some((orphans.all.pop()?, End::of_unreachable())))
        else {
            HAS_ORPHANS.store(false, Ordering::Relaxed);
            return false;
        };
        orphans.is_taken = true;
        next
    };
    let more = end.piece(&process);
    {
        let mut orphans = ORPHANS.lock();
        orphans.is_taken = false;
        if more {
            orphans.at = Some((process, end));
            return true;
        }
    }
    // The last references go without the lock.
    drop((process, end));
    true
}

/// Ends all that was doomed, as the thread that did so would.
#[cfg(test)]
pub(crate) fn work_off() {
    while work_off_a_piece() {
        schedule::preemption_point();
    }
}
