//! Calls of whoever may look into a process: its memory, its threads.

use abi::debug::MOST_BYTES;
use abi::{Error, Rights};

use super::Caller;
use crate::memory::user::{Direction, UserSlice};
use crate::object::{AnyObject, Borrowed, Ref, Section};
use crate::process::Process;
use crate::schedule;
use crate::thread::Thread;

/// `process_read`, `process_write`.
pub(super) fn copy(caller: Caller, direction: Direction) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::DEBUG)?;
    let mut address = caller.argument(1);
    let bytes = caller.argument(3).min(MOST_BYTES);
    let mut rest = UserSlice::new(caller.argument(2), bytes)?;
    let space = process.space()?;
    while !rest.is_empty() {
        match space.copy_piece(address, rest, direction) {
            Ok(copied) => {
                rest = rest.after(copied);
                address = address.wrapping_add(copied as u64);
            }
            Err(error) if rest.len() as u64 == bytes => return Err(error),
            // What was copied before is told.
            Err(_) => break,
        }
        schedule::preemption_point();
    }
    caller.set_result(0, bytes - rest.len() as u64);
    Ok(())
}

/// `process_thread`.
pub(super) fn thread(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::DEBUG)?;
    let after = caller.argument(1);
    let thread = next_thread(&process, after).ok_or(Error::OutOfRange)?;
    let number = thread.id();
    caller.give(AnyObject::Thread(thread), Rights::ALL)?;
    caller.set_result(1, number);
    Ok(())
}

/// The thread of a process with the lowest number above `after`.
fn next_thread(process: &Process, after: u64) -> Option<Ref<Thread>> {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    let mut found: Option<Borrowed<'_, Thread>> = None;
    process.for_each_thread(&mut |thread| {
        let number = thread.id();
        if number > after && found.is_none_or(|found| number < found.id()) {
            // SAFETY: threads in the list are alive under its lock, in this section.
            found = Some(unsafe { Borrowed::from_ptr(thread, &section) });
        }
        true
    });
    found?.to_ref()
}
