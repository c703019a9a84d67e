//! Calls of whoever may look into a process: its memory, its threads.

use core::ptr;

use abi::debug::MOST_BYTES;
use abi::{Error, Rights};

use super::Caller;
use crate::memory::user::{Direction, UserSlice};
use crate::object::{AnyObject, Ref, Section, Step, Walk};
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

/// Slots of threads that are looked at between two preemption points.
const SLOTS_A_PIECE: usize = 256;

/// The thread of a process with the lowest number above `after`.
///
/// All threads are looked at, not the process's list: that can't be walked in pieces while threads come and go. An ended one is none.
fn next_thread(process: &Process, after: u64) -> Option<Ref<Thread>> {
    let mut found: Option<Ref<Thread>> = None;
    let mut walk = Walk::<Thread>::begin();
    loop {
        let (better, is_end) = look_at_some(&mut walk, process, |number| {
            number > after && found.as_ref().is_none_or(|found| number < found.id())
        });
        if better.is_some() {
            found = better;
        }
        if is_end {
            return found;
        }
        schedule::preemption_point();
    }
}

/// Looks at the next slots: the thread with the lowest number in them that belongs to the process and is `wanted`; and whether they were the last.
fn look_at_some(
    walk: &mut Walk<Thread>,
    process: &Process,
    wanted: impl Fn(u64) -> bool,
) -> (Option<Ref<Thread>>, bool) {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    let mut found: Option<Ref<Thread>> = None;
    for _ in 0..SLOTS_A_PIECE {
        match walk.next(&section) {
            Step::Object(thread) => {
                let number = thread.id();
                // One that is being made is not in the list yet, and must not be ended by whoever gets it.
                if ptr::eq(&raw const **thread.process(), process)
                    && wanted(number)
                    && found.as_ref().is_none_or(|found| number < found.id())
                    && !thread.has_ended()
                    && process.lists(&thread)
                    && let Some(thread) = thread.to_ref()
                {
                    found = Some(thread);
                }
            }
            Step::Free => {}
            Step::End => return (found, true),
        }
    }
    (found, false)
}
