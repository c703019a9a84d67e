//! Starting threads.

use abi::Error;
use abi::info::ThreadState;
use sched::Slice;

use super::migrate::{PICKER, loads};
use super::wake::send;
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
    // Under the process's lock, so that whoever ends the process meanwhile finds the thread either not started, or with the home
    // that it will have.
    thread.process().while_starting(|| {
        if !thread.begin() {
            return Err(Error::WrongState);
        }
        let Some(home) = PICKER.pick(loads(), |index| thread.affinity.allows(index)) else {
            thread.set_state(ThreadState::New);
            return Err(Error::OutOfRange);
        };
        thread.marks().trace(trace::marks_threads());
        // Nobody else knows the thread as one that runs yet.
        thread.slice.set(Slice::new(cpu.quantum.get()));
        thread.transit.set(Transit::Started);
        thread.home.leave_for(home);
        send(cpu, ThreadPtr::new(thread), home);
        Ok(())
    })
}
