//! Starting threads.

use core::sync::atomic::Ordering;

use abi::Error;
use abi::info::ThreadState;
use sched::Slice;

use super::migrate::{PICKER, loads};
use super::wake::{answer, enqueue, send};
use crate::cpu;
use crate::thread::{Thread, ThreadPtr, Transit};
use crate::trace;

/// Lets a new thread run, on the least loaded CPU that it may run on.
///
/// # Errors
/// [`Error::WrongState`] if it was started before; [`Error::Ended`] if its process has ended; [`Error::OutOfRange`] if it may run on
/// no CPU that there is.
pub fn start(thread: &Thread) -> Result<(), Error> {
    let cpu = cpu::this();
    let pointer = ThreadPtr::new(thread);
    // Under the process's lock, so that whoever ends the process meanwhile finds the thread either not started, or with the home
    // that it will have.
    let home = thread.process().while_starting(|| {
        if !thread.begin() {
            return Err(Error::WrongState);
        }
        let Some(home) = PICKER.pick(loads(), |index| thread.affinity.allows(index)) else {
            thread.set_state(ThreadState::New);
            return Err(Error::OutOfRange);
        };
        trace::mark_new(thread);
        // Nobody else knows the thread as one that runs yet.
        thread.slice.set(Slice::new(cpu.quantum.get()));
        if home == cpu.index() {
            thread.home.begin(home);
        } else {
            thread.transit.set(Transit::Started);
            thread.home.leave_for(home);
        }
        Ok(home)
    })?;
    if home == cpu.index() {
        enqueue(cpu, pointer);
        // What was asked before it had a home. Later questions come by the inbox.
        if thread.asked.load(Ordering::SeqCst) != 0 {
            answer(cpu, pointer);
        }
    } else {
        send(cpu, pointer, home);
    }
    Ok(())
}
