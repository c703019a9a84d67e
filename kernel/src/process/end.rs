//! The end of a process: its threads are told, and when the last is gone, or none ever began, what the process held is given up.
//!
//! All of it is done in pieces, with preemption points between, as there may be thousands of threads and handles. Whoever does it
//! holds the process by a counted reference and no lock.

use core::ptr;
use core::sync::atomic::Ordering;

use abi::UserContext;
use abi::info::{ProcessState, ThreadEnd};

use super::{MAX_WATCHERS, Process};
use crate::object::Ref;
use crate::schedule;
use crate::sync::{Mutex, level};
use crate::thread::{Thread, ThreadPtr, ask};

/// Handles that one piece of a process's destruction closes.
const HANDLES_A_PIECE: usize = 32;
/// Slots that are looked at for them.
const LOOKS_A_PIECE: u32 = 256;
/// Threads that are told of their process's end between two preemption points.
const ENDED_AT_ONCE: usize = 32;

/// Processes that are to be ended, by whoever has begun with it. The end of one may close the last handle to another, and so
/// on: a row of them must not be worked off one inside the other, as a kernel stack is short.
struct Doomed {
    /// Linked through `next_to_end`; each has a counted reference here.
    first: *mut Process,
    /// Somebody is at it, and goes on until there is none.
    is_worked_off: bool,
}

// SAFETY: the pointers are counted references; the lock hands them on.
unsafe impl Send for Doomed {}

static DOOMED: Mutex<{ level::DOOMED }, Doomed> = Mutex::new(Doomed {
    first: ptr::null_mut(),
    is_worked_off: false,
});

/// Ends a process that nobody can reach, or whose last thread ended before it was started: now, or when who is at such work
/// comes to it. No lock may be held.
pub(super) fn later(process: Ref<Process>) {
    {
        let mut doomed = DOOMED.lock();
        if process.is_doomed.swap(true, Ordering::Relaxed) {
            // It is in the list: somebody had a reference to it still, made something of it, and gave that up. Whoever ends it ends that as well.
            drop(doomed);
            return;
        }
        process.next_to_end.store(doomed.first, Ordering::Relaxed);
        doomed.first = process.into_raw().cast_mut();
        if core::mem::replace(&mut doomed.is_worked_off, true) {
            return;
        }
    }
    loop {
        let process = {
            let mut doomed = DOOMED.lock();
            let first = doomed.first;
            if first.is_null() {
                doomed.is_worked_off = false;
                return;
            }
            // SAFETY: the list's reference, which is taken up once: the process is out of the list now.
            let process = unsafe { Ref::from_raw(first) };
            doomed.first = process.next_to_end.load(Ordering::Relaxed);
            process.is_doomed.store(false, Ordering::Relaxed);
            process
        };
        process.end(Ending::Kill(0));
        if process.inner.lock().threads == 0 {
            process.finish();
        }
    }
}

/// As if somebody were at it, or no more. Says how many are in the list, as far as a hundred.
#[cfg(test)]
pub(super) fn set_worked_off(on: bool) -> usize {
    let mut doomed = DOOMED.lock();
    doomed.is_worked_off = on;
    let mut next = doomed.first;
    let mut count = 0;
    // SAFETY: the list's references, under its lock.
    while let Some(process) = unsafe { next.as_ref() } {
        next = process.next_to_end.load(Ordering::Relaxed);
        count += 1;
        if count == 100 {
            break;
        }
    }
    count
}

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
    /// Begins the process's end: all threads are told, unstarted ones end at once. The first ending counts.
    pub fn end(&self, ending: Ending<'_>) {
        let code = {
            let mut inner = self.inner.lock();
            if inner.state != ProcessState::Alive {
                return;
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
            inner.code
        };
        // From here on no thread is added.
        while self.end_some_threads(code) {
            schedule::preemption_point();
        }
        let none_left = self.inner.lock().threads == 0;
        if none_left {
            self.finish();
        }
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
                drop(self.remove_thread(thread));
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
            drop(self.remove_thread(thread));
            return;
        }
        // Its home is asked only while the thread is in the list, under the lock: so the home finds the question before it
        // has left the thread for good, and never a pointer to a thread that is gone.
        let inner = self.inner.lock();
        let mut next = inner.first;
        // SAFETY: threads in the list are alive under its lock.
        while let Some(listed) = unsafe { next.as_ref() } {
            if ptr::eq(listed, thread) {
                thread.rest.note_end(ThreadEnd::Killed, 0);
                thread.marks().kill();
                schedule::ask(ThreadPtr::new(thread), ask::LOOK);
                return;
            }
            next = listed.next.load(Ordering::Relaxed);
        }
    }

    /// Works off the end of a process without threads: handles, space, watchers.
    pub(super) fn finish(&self) {
        let (space, watchers) = {
            let mut inner = self.inner.lock();
            if core::mem::replace(&mut inner.finished, true) {
                return;
            }
            (
                inner.space.take(),
                core::mem::replace(&mut inner.watchers, [const { None }; MAX_WATCHERS]),
            )
        };
        let mut from = 0;
        loop {
            // Each is dropped when the table is open again, as its end may take other locks.
            let mut looks = LOOKS_A_PIECE;
            let capability = self.table.lock().remove_any(&mut from, &mut looks);
            if capability.is_none() && looks > 0 {
                break;
            }
            // A table may be large. Whoever works off the end holds the process by a counted reference and has no lock.
            if let Some(capability) = capability {
                capability.end();
            }
            schedule::preemption_point();
        }
        self.listeners.clear();
        crate::log_owner::process_ended(self.id);
        drop(space);
        self.account.close();
        for (notification, bits) in watchers.into_iter().flatten() {
            notification.signal(bits);
        }
        #[cfg(target_os = "none")]
        if crate::boot::first_process::is(self.id) {
            let info = self.info();
            crate::boot::give_up(&format_args!(
                "init has ended (state {}, code {})",
                info.state, info.code
            ));
        }
    }

    /// Gives up a piece of what a process held that nobody refers to any more; false if something is left.
    pub(super) fn tear_down_a_piece(&mut self) -> bool {
        // If it never ran, nobody has worked off its end yet.
        for (notification, bits) in self
            .inner
            .get_mut()
            .watchers
            .iter_mut()
            .filter_map(Option::take)
        {
            notification.signal(bits);
        }
        // Its handles: a few at a time.
        let mut looks = LOOKS_A_PIECE;
        for _ in 0..HANDLES_A_PIECE {
            let table = self.table.get_mut();
            match table.remove_any(&mut self.closed_until, &mut looks) {
                Some(capability) => drop(capability),
                None => return looks > 0,
            }
        }
        false
    }
}
