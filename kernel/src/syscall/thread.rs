//! Calls on threads.

use abi::{Badge, Error, Priority, Rights};
use arch::context::is_user_base;

use super::Caller;
use crate::cpu;
use crate::object::{AnyObject, Capability};
use crate::process::Process;
use crate::schedule;
use crate::spawn;
use crate::thread::Thread;

/// `thread_create`.
pub(super) fn create(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    // The handle's place first: a thread that nobody could name must not be made, nor its end be the end of its process.
    caller.process().table.lock().reserve(1)?;
    let made = spawn::thread(
        &process,
        caller.argument(1),
        caller.argument(2),
        caller.argument(3),
        Priority::NORMAL.min(process.highest_priority()),
    );
    let thread = match made {
        Ok(thread) => thread,
        Err(error) => {
            caller.process().table.lock().release(1);
            return Err(error);
        }
    };
    let area = thread.area.user_address();
    let capability = Capability::new(AnyObject::Thread(thread), Rights::ALL, Badge(0));
    let handle = caller.process().table.lock().insert_reserved(capability);
    caller.set_result(0, handle.0);
    caller.set_result(1, area);
    Ok(())
}

/// `thread_start`.
pub(super) fn start(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    if thread.has_ended() {
        return Err(Error::Ended);
    }
    schedule::start(&thread)
}

/// `thread_exit`.
pub(super) fn exit(caller: Caller) {
    caller.thread().mark_killed();
    cpu::this().block().request(arch::cpu::Pending::THREAD);
}

/// `thread_kill`.
pub(super) fn kill(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    thread.process().end_thread(&thread);
    Ok(())
}

/// `thread_set_priority`.
pub(super) fn set_priority(caller: Caller) -> Result<(), Error> {
    let priority = Priority::new(caller.argument(1)).ok_or(Error::OutOfRange)?;
    if priority > caller.process().highest_priority() {
        return Err(Error::NoRight);
    }
    caller
        .hold::<Thread>(caller.handle(0), Rights::MANAGE)?
        .set_priority(priority);
    Ok(())
}

/// `thread_set_affinity`.
pub(super) fn set_affinity(caller: Caller) -> Result<(), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    let wanted = match caller.argument(1) {
        u64::MAX => None,
        index if index < u64::from(cpu::count()) => Some(index as u32),
        _ => return Err(Error::OutOfRange),
    };
    if thread.shown_state() != abi::info::ThreadState::New {
        return Err(Error::WrongState);
    }
    thread.set_affinity(wanted);
    Ok(())
}

/// `thread_set_fs_base`.
pub(super) fn set_fs_base(caller: Caller) -> Result<(), Error> {
    let base = caller.argument(0);
    if !is_user_base(base) {
        return Err(Error::BadArgument);
    }
    // SAFETY: this is a call of the current thread, and the base was checked.
    unsafe { arch::switch::set_current_fs_base(base) };
    Ok(())
}

/// `thread_self`.
pub(super) fn this(caller: Caller) -> Result<(), Error> {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { crate::object::Section::enter() };
    // SAFETY: the thread runs this code.
    let thread = unsafe { crate::object::Borrowed::from_ptr(caller.thread(), &section) };
    let thread = thread.to_ref().ok_or(Error::Ended)?;
    caller.give(AnyObject::Thread(thread), Rights::ALL)
}
