//! Where threads go.

use abi::Error;
use abi::info::ThreadState;
use sched::{CpuLoad, CpuPicker, Slice};

use super::wake::make_ready;
use crate::cpu;
use crate::thread::{Thread, ThreadPtr};

static PICKER: CpuPicker = CpuPicker::new();

/// Gives a new thread a home: the least loaded CPU that it may run on.
///
/// # Errors
/// [`Error::OutOfRange`] if it may run on no CPU that there is.
pub fn place(thread: &Thread) -> Result<(), Error> {
    let loads = cpu::all().map(|cpu| CpuLoad {
        cpu: cpu.index(),
        threads: cpu.load.get(),
    });
    let home = PICKER
        .pick(loads, thread.affinity())
        .ok_or(Error::OutOfRange)?;
    thread.set_home(home);
    // Nobody else knows the thread as one that runs yet.
    thread.slice.set(Slice::new(cpu::this().quantum.get()));
    Ok(())
}

/// Lets a new thread run.
///
/// # Errors
/// [`Error::WrongState`] if it was started before; [`Error::Ended`] if its process has ended; [`Error::OutOfRange`] as [`place`].
pub fn start(thread: &Thread) -> Result<(), Error> {
    // Under the process's lock, so that whoever ends the process meanwhile finds the thread either not started, or with the home
    // that it will have.
    thread.process().while_alive(|| {
        if !thread.begin() {
            return Err(Error::WrongState);
        }
        place(thread).inspect_err(|_| thread.set_state(ThreadState::New))
    })?;
    make_ready(ThreadPtr::new(thread));
    Ok(())
}
