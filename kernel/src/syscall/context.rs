//! Calls on the state that a thread has in a CPU: registers, floating-point state, debug registers, descriptors of its own.
//!
//! Whoever manages a thread may look at it and change it while it does not run. What comes in is an allegation like any other
//! argument: each part has its check in `arch`, and what passes could have been set by the thread's own user code, or stops
//! that code and nothing else.

use abi::segment::{TLS_SLOTS, tls_selector};
use abi::{ContextPart, DebugRegisters, Error, Rights, UserContext};
use arch::fpu;
use arch::segments::BadDescriptor;
use arch::switch::set_current_tls;

use super::Caller;
use crate::memory::user::{self, UserSlice};
use crate::object::Ref;
use crate::thread::{Machine, Thread};

/// `thread_set_tls`.
pub(super) fn set_tls(caller: Caller) -> Result<(), Error> {
    let slot = usize::try_from(caller.argument(1)).map_err(|_| Error::OutOfRange)?;
    let selector = tls_selector(slot).ok_or(Error::OutOfRange)?;
    let descriptor = caller.argument(2);
    if caller.handle(0).is_none() {
        // SAFETY: the caller is this CPU's current thread.
        unsafe { set_current_tls(&caller.thread().machine.state, slot, descriptor) }
            .map_err(bad_descriptor)?;
    } else {
        let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
        thread.while_stopped(|machine| {
            // SAFETY: the thread is held stopped.
            unsafe { machine.state.set_tls(slot, descriptor) }.map_err(bad_descriptor)
        })?;
    }
    caller.set_result(0, u64::from(selector));
    Ok(())
}

fn bad_descriptor(_: BadDescriptor) -> Error {
    Error::BadArgument
}

/// `thread_get_context`.
pub(super) fn get(caller: Caller) -> Result<(), Error> {
    let (thread, part, at) = arguments(caller)?;
    match part {
        ContextPart::Registers => user::write(at, &thread.while_stopped(|m| Ok(registers(m)))?),
        ContextPart::Debug => {
            let registers = thread.while_stopped(|machine| Ok(machine.state.debug_registers()))?;
            user::write(at, &registers)
        }
        ContextPart::Tls => {
            let slots = thread.while_stopped(|machine| Ok(machine.state.extras().tls()))?;
            user::write(at, slots.descriptors())
        }
        ContextPart::Fpu => {
            let mut room = [0; fpu::IMAGE_ROOM];
            let image = &mut room[..fpu::image_bytes()];
            // SAFETY: the thread is held stopped.
            thread.while_stopped(|machine| unsafe { machine.read_fpu(image) })?;
            UserSlice::new(at, image.len() as u64)?.copy_out(image)
        }
    }
}

/// `thread_set_context`.
pub(super) fn set(caller: Caller) -> Result<(), Error> {
    let (thread, part, at) = arguments(caller)?;
    // Read before the thread is held: the caller's memory may have to be brought in.
    match part {
        ContextPart::Registers => {
            let registers: UserContext = user::read(at)?;
            thread.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.set_registers(&registers) }.map_err(|_| Error::BadArgument)
            })
        }
        ContextPart::Debug => {
            let registers: DebugRegisters = user::read(at)?;
            thread.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.set_debug_registers(&registers) }
                    .map_err(|_| Error::BadArgument)
            })
        }
        ContextPart::Tls => {
            let descriptors: [u64; TLS_SLOTS] = user::read(at)?;
            thread.while_stopped(|machine| {
                // SAFETY: the thread is held stopped.
                unsafe { machine.state.set_all_tls(&descriptors) }.map_err(bad_descriptor)
            })
        }
        ContextPart::Fpu => {
            let mut room = [0; fpu::IMAGE_ROOM];
            let image = &mut room[..fpu::image_bytes()];
            UserSlice::new(at, image.len() as u64)?.copy_in(image)?;
            // SAFETY: the thread is held stopped.
            thread.while_stopped(|machine| unsafe { machine.write_fpu(image) })
        }
    }
}

/// The thread, the part, and where its bytes are in the caller's memory.
fn arguments(caller: Caller) -> Result<(Ref<Thread>, ContextPart, u64), Error> {
    let thread = caller.hold::<Thread>(caller.handle(0), Rights::MANAGE)?;
    let part = ContextPart::from_number(caller.argument(1)).ok_or(Error::BadArgument)?;
    let bytes = part.bytes().unwrap_or_else(fpu::image_bytes);
    if caller.argument(3) != bytes as u64 {
        return Err(Error::OutOfRange);
    }
    Ok((thread, part, caller.argument(2)))
}

fn registers(machine: &Machine) -> UserContext {
    // SAFETY: the context lives as long as the thread, which is held stopped.
    unsafe { *machine.context() }
}
