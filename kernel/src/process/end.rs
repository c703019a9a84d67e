//! The end of a process: its threads are told, and when the last is gone, or none ever began, what the process held is given up.
//!
//! All of it is done in pieces ([`End`]), with preemption points between, as there may be thousands of threads and handles, and any number of threads
//! that wait for what one handle keeps open. Whoever does it holds the process by a counted reference and no lock. That is who kills
//! it, its last thread, or, if none of its threads runs, who gave up the last way to it ([`doomed`](super::doomed)).

use core::sync::atomic::Ordering;

use abi::UserContext;
use abi::info::{ProcessState, ThreadEnd};

use super::{Left, Process};
use crate::memory::space::Space;
use crate::object::{Ref, Waking};
use crate::schedule;
use crate::thread::{Spares, Thread, ThreadPtr, ask};

/// Handles that one piece of a process's end closes.
const HANDLES_A_PIECE: usize = 32;
/// Slots that are looked at for them.
const LOOKS_A_PIECE: u32 = 256;
/// Threads that are told of their process's end between two preemption points.
const ENDED_AT_ONCE: usize = 32;

/// How a process ends.
#[derive(Clone, Copy)]
pub enum Ending<'a> {
    /// By itself, with this code.
    Exit(u64),
    /// By somebody else, with this code.
    Kill(u64),
    /// By a fault, with these registers.
    Fault(&'a UserContext),
}

impl Process {
    /// Ends the process: all threads are told, unstarted ones end at once. The first ending counts.
    pub fn end(&self, ending: Ending<'_>) {
        let Some(code) = self.begin_end(ending) else {
            return;
        };
        crate::trace::forget(&self.traces);
        // From here on no thread is added.
        let mut end = End(Stage::Threads(code));
        while end.piece(self) {
            schedule::preemption_point();
        }
    }

    /// Begins the process's end, if nobody has before. Gives the code of its threads.
    fn begin_end(&self, ending: Ending<'_>) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.state != ProcessState::Alive {
            return None;
        }
        (inner.state, inner.code) = match ending {
            Ending::Exit(code) => (ProcessState::Exited, code),
            Ending::Kill(code) => (ProcessState::Killed, code),
            Ending::Fault(context) => {
                inner.context = *context;
                (ProcessState::Faulted, context.vector)
            }
        };
        inner.to_end = inner.first;
        Some(inner.code)
    }

    /// Ends the next few threads, from where the last call stopped; false if there are no more. For the one who ends the process.
    ///
    /// Threads that run, are ready or wait are told, and go by themselves. Unstarted ones have nobody to end them but us.
    fn end_some_threads(&self, code: u64) -> bool {
        for _ in 0..ENDED_AT_ONCE {
            let mut inner = self.inner.lock();
            // SAFETY: threads in the list are alive under its lock.
            let Some(thread) = (unsafe { inner.to_end.as_ref() }) else {
                return false;
            };
            inner.to_end = thread.next.load(Ordering::Relaxed);
            thread.rest.note_end(ThreadEnd::Killed, code);
            if thread.end_unstarted() {
                drop(inner);
                // It is still in the list, as only we take an unstarted one out.
                drop(self.take_out(thread, false));
            } else {
                thread.marks().kill();
                schedule::ask(ThreadPtr::new(thread), ask::LOOK);
            }
        }
        true
    }

    /// Ends one thread of the process: at once if it was not started, else at its next way out of the kernel.
    pub fn end_thread(&self, thread: &Thread) {
        if thread.end_unstarted() {
            if let Some(taken) = self.take_out(thread, false) {
                drop(taken.reference);
                if taken.left == Left::Nobody {
                    self.finish();
                }
            }
            return;
        }
        // Its home is asked only while the thread is in the list, under the lock: so the home finds the question before it
        // has left the thread for good, and never a pointer to a thread that is gone.
        let inner = self.inner.lock();
        if inner.lists(thread) {
            thread.rest.note_end(ThreadEnd::Killed, 0);
            thread.marks().kill();
            schedule::ask(ThreadPtr::new(thread), ask::LOOK);
        }
    }

    /// Works off the end of a process without threads: handles, space, watchers.
    pub(super) fn finish(&self) {
        let mut end = End(Stage::Threadless);
        while end.piece(self) {
            schedule::preemption_point();
        }
    }

    /// The last of its end: it is over. Gives those who waited for what it had from the kernel.
    fn is_over(&self, space: Option<Ref<Space>>) -> Option<Waking> {
        self.listeners.clear();
        let waking = crate::log_owner::process_ended(self.id);
        drop(space);
        self.account.close();
        self.inner.lock().finished = true;
        waking
    }

    /// Tells a watcher; false if all were told. Those who waited for that and nothing else are then to be woken.
    fn tell_a_watcher(&self, waking: &mut Option<Waking>) -> bool {
        let watcher = self.inner.lock().watchers.iter_mut().find_map(Option::take);
        let Some((notification, bits)) = watcher else {
            return false;
        };
        notification.signal(bits);
        *waking = notification.give_up();
        true
    }

    /// All have been told.
    #[cfg(target_os = "none")]
    fn was_told(&self) {
        if crate::boot::first_process::is(self.id) {
            let info = self.info();
            crate::boot::give_up(&format_args!(
                "init has ended (state {}, code {})",
                info.state, info.code
            ));
        }
    }

    /// Gives up a piece of what a process held that nobody refers to any more; false if something is left.
    ///
    /// It has ended before, unless there was never a handle to it.
    pub(super) fn tear_down_a_piece(&mut self) -> bool {
        if let Some(waking) = &self.waking {
            if waking.wake_some() {
                return false;
            }
            self.waking = None;
        }
        let mut waking = None;
        while self.tell_a_watcher(&mut waking) {
            if waking.is_some() {
                self.waking = waking;
                return false;
            }
        }
        // Its handles: a few at a time.
        let mut looks = LOOKS_A_PIECE;
        for _ in 0..HANDLES_A_PIECE {
            let table = self.table.get_mut();
            match table.remove_any(&mut self.closed_until, &mut looks) {
                Some(capability) => {
                    self.waking = capability.give_up();
                    if self.waking.is_some() {
                        return false;
                    }
                }
                None => return looks > 0,
            }
        }
        false
    }
}

/// How far somebody is with a process's end.
pub(super) struct End(Stage);

enum Stage {
    /// Nobody can reach it, and nobody may have ended it.
    Unreachable,
    /// Its threads are told; they end with this code.
    Threads(u64),
    /// If it has no thread, and nobody else is at it, what it held is to be given up.
    Threadless,
    /// Its handles are closed, from this slot on.
    Handles {
        from: u32,
        /// Those who waited for what the last one kept open.
        waking: Option<Waking>,
        space: Option<Ref<Space>>,
    },
    Watchers {
        waking: Option<Waking>,
    },
    Over,
}

impl End {
    /// The whole end of a process that nobody can reach.
    pub(super) const fn of_unreachable() -> End {
        End(Stage::Unreachable)
    }

    /// Does the next piece; false if there is none. No lock may be held. To be called with the same process each time.
    pub(super) fn piece(&mut self, process: &Process) -> bool {
        match &mut self.0 {
            Stage::Unreachable => {
                self.0 = process
                    .begin_end(Ending::Kill(0))
                    .map_or(Stage::Threadless, Stage::Threads);
            }
            Stage::Threads(code) => {
                if !process.end_some_threads(*code) {
                    self.0 = Stage::Threadless;
                }
            }
            Stage::Threadless => {
                let mut inner = process.inner.lock();
                if inner.threads != 0 || core::mem::replace(&mut inner.is_finishing, true) {
                    self.0 = Stage::Over;
                } else {
                    // Their stacks; their areas go with the space.
                    inner.spares = Spares::none();
                    self.0 = Stage::Handles {
                        from: 0,
                        waking: None,
                        space: inner.space.take(),
                    };
                    drop(inner);
                    crate::trace::forget(&process.traces);
                }
            }
            Stage::Handles {
                from,
                waking,
                space,
            } => {
                if waking.as_ref().is_some_and(Waking::wake_some) {
                    return true;
                }
                *waking = None;
                // A table may be large. Each is given up when the table is open again, as its end may take other locks.
                let mut looks = LOOKS_A_PIECE;
                let capability = process.table.lock().remove_any(from, &mut looks);
                if let Some(capability) = capability {
                    *waking = capability.give_up();
                } else if looks > 0 {
                    let waking = process.is_over(space.take());
                    self.0 = Stage::Watchers { waking };
                }
            }
            Stage::Watchers { waking } => {
                if waking.as_ref().is_some_and(Waking::wake_some) {
                    return true;
                }
                if !process.tell_a_watcher(waking) {
                    #[cfg(target_os = "none")]
                    process.was_told();
                    self.0 = Stage::Over;
                }
            }
            Stage::Over => {}
        }
        !matches!(self.0, Stage::Over)
    }
}
